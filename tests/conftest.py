"""Fixtures every test may use: no network, one thread, tiny models, the shared data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

# Read by the hub's client when it is imported, so set before anything imports it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail an example for its time, nor a new draw a change that has
# nothing to do with it; `--hypothesis-profile=explore` draws anew.
_STEADY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("explore", **_STEADY)
settings.register_profile("steady", **_STEADY, derandomize=True)
settings.load_profile("steady")

SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models gain nothing from threads, and waiting ones slow everybody."""
    import torch

    torch.set_num_threads(1)
    yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real rows that is never copied into the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the shared data folder is not beside this checkout")
    return SHARED_DATA


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Skip where generated code cannot be run."""
    from veritune.sandbox.canaries import sandbox_here

    found = sandbox_here()
    if not found.available:
        pytest.skip(f"no sandbox: {found.missing}")


@pytest.fixture(scope="session")
def tiny_llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama with a ChatML tokenizer."""
    return _build("llama", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_qwen2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Qwen2 with a ChatML tokenizer."""
    return _build("qwen2", tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer T5 with a tokenizer without a chat template."""
    return _build("t5", tmp_path_factory)


def _build(architecture: str, factory: pytest.TempPathFactory) -> Path:
    from tiny_models import build_model

    return build_model(architecture, factory.mktemp("models") / architecture)  # type: ignore[arg-type]
