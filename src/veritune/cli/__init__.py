"""The command line: results on stdout, news on stderr, one exit code per kind of fault.

The verbs are imported when they are needed: their libraries read settings that ``main`` makes
first, and a verb that begins with torch has it read from disk meanwhile.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

__all__ = ["app", "main"]

_NEED_TORCH_AT_ONCE = frozenset({"ask"})


def __getattr__(name: str) -> Any:
    if name == "app":
        from veritune.cli.verbs import app

        return app
    raise AttributeError(name)


def main() -> None:
    """Entry point of the ``veritune`` command."""
    _settle_environment()
    if _NEED_TORCH_AT_ONCE.intersection(sys.argv[1:2]):
        from veritune.head_start import read_torch_ahead

        read_torch_ahead()
    from veritune.cli.verbs import app

    app()


def _settle_environment() -> None:
    """Settings that libraries read when they are imported.

    Threads that wait by spinning hold back the ones they wait for as soon as another
    process wants a core, so they spin for 20 microseconds only; and other libraries' bars
    would drown the lines that matter here.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
