"""Tiny trained runs; tests do not write into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trained_run import make_trained_run


@pytest.fixture(scope="session")
def llama_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with an adapter, trained and not evaluated."""
    return make_trained_run("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def qwen2_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 with an adapter."""
    return make_trained_run("qwen2", tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="session")
def t5_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 with an adapter, which has no chat template."""
    return make_trained_run("t5", tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def evaluated_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with an adapter and a report."""
    return make_trained_run("llama", tmp_path_factory.mktemp("evaluated"), verb="run")
