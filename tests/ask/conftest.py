"""A tiny trained run to ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from trained_run import make_trained_run


@pytest.fixture(scope="session")
def llama_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with an adapter, trained and not evaluated."""
    return make_trained_run("llama", tmp_path_factory.mktemp("llama"))
