"""vLLM as an engine, against a stand-in with the same interface; the real one needs a GPU."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trained_run import make_trained_run
from veritune.errors import DataError, EnvironmentFault, ModelReferenceError
from veritune.generate.engine import Emitted, Engine, Request
from veritune.progress import Silent
from veritune.serve import engines
from veritune.serve.engines import load_engine

pytestmark = pytest.mark.slow
PROMPT = (5, 60, 91, 30, 200)
# The names and meanings of vLLM 0.33; two tokens a step, so that nothing relies on one.
STAND_IN = """
import sys
from pathlib import Path
from types import SimpleNamespace
from transformers import AutoModelForCausalLM
from vllm.sampling_params import RequestOutputKind, SamplingParams
from veritune.generate.engine import Request
from veritune.generate.plain import PlainEngine
from veritune.model.adapter import load_adapter
from veritune.model.merged import share_weights

class EngineArgs(SimpleNamespace):
    pass

class LLMEngine:
    @classmethod
    def from_engine_args(cls, args):
        assert args.enable_lora and args.max_lora_rank in (1, 8, 16, 32), args
        if args.model.endswith("unknown"):
            raise ValueError("no such architecture")
        made = cls()
        made.args, made.params, made.aborted = args, {}, []
        made.base = AutoModelForCausalLM.from_pretrained(args.model, dtype=args.dtype).eval()
        made.plain = PlainEngine({"base": share_weights(made.base)}, context_tokens=None)
        return made

    def add_request(self, request_id, prompt, params, *, lora_request=None):
        system = "base"
        if lora_request is not None:
            assert lora_request.lora_int_id >= 1
            system = lora_request.lora_name
            if system not in self.plain._models:
                self.plain._models[system] = load_adapter(
                    share_weights(self.base), Path(lora_request.lora_path)
                )
        self.params[request_id] = params
        assert params.ignore_eos and params.output_kind is RequestOutputKind.DELTA
        self.plain.add(Request(
            request_id, tuple(prompt["prompt_token_ids"]), system, params.max_tokens,
            frozenset(params.stop_token_ids), params.temperature, params.top_p, params.seed,
            params.logprobs or 0,
        ))

    def abort_request(self, names):
        self.aborted += names
        for name in names:
            self.plain.cancel(name)

    def step(self):
        made = {}
        for _ in range(2):
            for row in self.plain.step():
                made.setdefault(row.request_id, []).append(row)
        return [self.output(name, rows) for name, rows in made.items()]

    def output(self, name, rows):
        wanted = self.params[name].logprobs
        return SimpleNamespace(request_id=name, outputs=[SimpleNamespace(
            token_ids=[row.token_id for row in rows],
            finish_reason=rows[-1].finish_reason,
            logprobs=None if wanted is None else [
                {token: SimpleNamespace(logprob=value)
                 for token, value in ((row.token_id, row.logprob), *row.top_logprobs)}
                for row in rows
            ],
        )])
"""


def write_stand_in(folder: Path) -> None:
    (folder / "vllm/lora").mkdir(parents=True)
    (folder / "vllm/__init__.py").write_text(STAND_IN)
    (folder / "vllm/lora/__init__.py").write_text("")
    (folder / "vllm/lora/request.py").write_text(
        "from dataclasses import dataclass\n\n@dataclass\nclass LoRARequest:\n"
        "    lora_name: str\n    lora_int_id: int\n    lora_path: str = ''\n"
    )
    (folder / "vllm/sampling_params.py").write_text(
        "from enum import Enum\nfrom types import SimpleNamespace\n"
        "class SamplingParams(SimpleNamespace):\n    pass\n"
        "class RequestOutputKind(Enum):\n    DELTA = 1\n"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trained_run("llama", tmp_path_factory.mktemp("vllm"))


@pytest.fixture
def gpu_with_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stand_in(tmp_path / "packages")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setattr(engines, "_has_cuda", lambda: True)
    for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)


def answers(engine: Engine) -> dict[str, list[Emitted]]:
    found: dict[str, list[Emitted]] = {}
    for system in engine.systems:
        for n_logprobs in (0, 3):
            name = f"{system}-{n_logprobs}"
            found[name] = []
            engine.add(Request(name, PROMPT, system, 13, frozenset({2, 3}), n_logprobs=n_logprobs))
    while engine.n_active:
        for row in engine.step():
            found[row.request_id].append(row)
    return found


@pytest.mark.usefixtures("gpu_with_vllm")
def test_base_and_adapters_answer_together_as_plain_decoding_does(run: Path) -> None:
    engine, name, catalog = load_engine("vllm", [run, run], Silent())
    assert name == "vllm" and catalog.names == engine.systems == ("base", "run", "run-2")
    plain, _, _ = load_engine("plain", [run, run], Silent())
    found, expected = answers(engine), answers(plain)
    tokens = {key: [row.token_id for row in rows] for key, rows in found.items()}
    assert tokens == {key: [row.token_id for row in rows] for key, rows in expected.items()}
    assert tokens["base-0"] != tokens["run-0"] == tokens["run-2-0"]
    for key, rows in found.items():
        reasons = [row.finish_reason for row in rows]
        assert reasons == [row.finish_reason for row in expected[key]]
        if key.endswith("-3"):
            top = [row.top_logprobs for row in rows if row.finish_reason != "stop"]
            assert top == [row.top_logprobs for row in expected[key] if row.finish_reason != "stop"]


@pytest.mark.usefixtures("gpu_with_vllm")
def test_a_cancelled_request_is_forgotten_and_a_long_one_refused(run: Path) -> None:
    engine, _, _ = load_engine("vllm", [run], Silent())
    engine.add(Request("one", PROMPT, "run", 400, frozenset({3})))
    engine.step()
    engine.cancel("one")
    engine.cancel("one")
    assert engine.n_active == 0 and engine.step() == []
    with pytest.raises(ModelReferenceError, match="no such system"):
        engine.add(Request("two", PROMPT, "nobody", 4, frozenset({3})))
    limit = engine.context_tokens
    assert limit is not None
    with pytest.raises(DataError, match="no room"):
        engine.add(Request("two", (5,) * limit, "run", 4, frozenset({3})))


def test_without_vllm_or_without_a_gpu_it_is_refused(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_has_cuda", lambda: False)
    with pytest.raises(EnvironmentFault, match="CUDA device") as caught:
        load_engine("vllm", [run], Silent())
    assert "--to vllm" in str(caught.value)
    write_stand_in(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EnvironmentFault, match="needs a CUDA device"):
        load_engine("vllm", [run], Silent())
