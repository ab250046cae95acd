"""Python files that come with a model are never run unless the recipe says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from veritune.config import ModelSection
from veritune.errors import ModelReferenceError
from veritune.model.hardware import Placement
from veritune.model.load import load_model, load_tokenizer

CPU = Placement(torch.device("cpu"), torch.float32)
CODE = """
from pathlib import Path
Path(__file__).parent.joinpath("ran").write_text("")
Path({proof!r}).write_text("")
from transformers import LlamaConfig as Config, LlamaForCausalLM as Model
from transformers import PreTrainedTokenizerFast as Tokenizer
"""
MAPPED = {
    "config.json": {
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"}
    },
    "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["theirs.Tokenizer", None]}},
}


@pytest.mark.parametrize("model_type", ["llama", "theirs"])
def test_code_beside_the_weights_does_not_run(
    model_type: str, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    folder, proof = tmp_path / "model", tmp_path / "proof"
    shutil.copytree(tiny_llama_folder, folder)
    (folder / "theirs.py").write_text(CODE.format(proof=str(proof)))
    for name, changes in MAPPED.items():
        content = json.loads((folder / name).read_text()) | changes
        if name == "config.json":
            content["model_type"] = model_type
        (folder / name).write_text(json.dumps(content))
    section = ModelSection(name_or_path=str(folder))
    if model_type == "llama":
        # Known here: the architecture's own code loads it, and theirs is left alone.
        load_model(section, CPU)
        load_tokenizer(section)
    else:
        with pytest.raises(ModelReferenceError):
            load_model(section, CPU)
    assert not proof.exists() and not (folder / "ran").exists()
