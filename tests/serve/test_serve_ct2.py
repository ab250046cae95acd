"""CTranslate2 as an engine answers as plain decoding does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from veritune.errors import DataError, ModelReferenceError
from veritune.generate.engine import Emitted, Engine, Request
from veritune.generate.plain import PlainEngine
from veritune.model.adapter import load_adapter, save_adapter
from veritune.model.merged import share_weights

pytestmark = pytest.mark.slow
PROMPT = (5, 60, 91, 30, 200)


def drained(engine: Engine, requests: list[Request]) -> dict[str, list[Emitted]]:
    found: dict[str, list[Emitted]] = {request.request_id: [] for request in requests}
    for request in requests:
        engine.add(request)
    while engine.n_active:
        for row in engine.step():
            found[row.request_id].append(row)
    return found


def asking(name: str, system: str, **changes: Any) -> Request:
    settings = {"max_new_tokens": 12, "end_ids": frozenset({3}), **changes}
    return Request(name, PROMPT, system, **settings)


@pytest.fixture(scope="module")
def engines(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Engine]:
    pytest.importorskip("ctranslate2")
    import peft
    import transformers

    from veritune.serve.ct2_engine import load_ct2

    model: Any = transformers.AutoModelForCausalLM.from_pretrained(tiny_llama_folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_llama_folder)
    adapted: Any = peft.get_peft_model(
        share_weights(model), peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"])
    )
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=1.0)
    folder = tmp_path_factory.mktemp("ct2") / "adapter"
    save_adapter(adapted, folder, base_name=str(tiny_llama_folder))
    model.eval()
    plain = PlainEngine(
        {"base": share_weights(model), "run": load_adapter(share_weights(model), folder)},
        context_tokens=1024,
    )
    return [load_ct2("base", "run", model, folder, tokenizer, context_tokens=1024), plain]


def test_greedy_answers_are_those_of_plain_decoding(engines: list[Engine]) -> None:
    requests = [asking("a", "base", n_logprobs=1), asking("b", "run"), asking("c", "base")]
    ours, plain = (drained(engine, requests) for engine in engines)
    for name in "abc":
        assert [row.token_id for row in ours[name]] == [row.token_id for row in plain[name]]
        assert ours[name][-1].finish_reason == plain[name][-1].finish_reason
        assert len(ours[name]) <= 12
    assert ours["a"] != ours["b"]
    for mine, theirs in zip(ours["a"], plain["a"], strict=True):
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-3)


def test_an_end_token_ends_and_a_cancelled_request_is_forgotten(engines: list[Engine]) -> None:
    engine = engines[0]
    (row,) = drained(engine, [asking("x", "base", max_new_tokens=1)])["x"]
    (end,) = drained(engine, [asking("y", "base", end_ids=frozenset({row.token_id}))])["y"]
    assert end.finish_reason == "stop"
    engine.add(asking("z", "base", temperature=1.0, max_new_tokens=500))
    engine.step()
    engine.cancel("z")
    assert engine.n_active == 0 and engine.step() == []
    assert drained(engine, [asking("w", "run")])["w"]


def test_what_it_cannot_do_is_said(engines: list[Engine]) -> None:
    with pytest.raises(ModelReferenceError):
        engines[0].add(asking("a", "nobody"))
    with pytest.raises(DataError, match="seed"):
        engines[0].add(asking("a", "base", temperature=1.0, seed=3))
    assert engines[0].n_active == 0
