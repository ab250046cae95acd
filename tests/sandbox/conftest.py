"""Sandbox tests run code only where the sandbox holds."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def sandbox() -> None:
    """Skip where generated code cannot be run."""
    from veritune.sandbox.canaries import sandbox_here

    found = sandbox_here()
    if not found.available:
        pytest.skip(f"no sandbox: {found.missing}")
