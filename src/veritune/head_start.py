"""A head start for torch, whose import is most of the time to a first token.

Two halves, both without effect on what torch computes: its shared libraries are mapped and
relocated in a thread while Python imports other things, and one of its modules is left for
whoever needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_META = "torch._meta_registrations"


def read_torch_ahead() -> None:
    """Begin to load torch's libraries in a thread; ``import torch`` then finds them loaded."""
    spec = None if "torch" in sys.modules else importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return
    libraries = Path(spec.submodule_search_locations[0]) / "lib"
    library = libraries / "libtorch_python.so"
    # With CUDA, torch itself looks for further libraries first.
    if library.is_file() and not (libraries / "libtorch_cuda.so").exists():
        threading.Thread(target=_load, args=(library,), daemon=True).start()


def _load(library: Path) -> None:
    # `ctypes.CDLL(library)` would hold Python back until it is done; a call of the C library's
    # own function does not.  A failure is torch's to report, when it is imported.
    with contextlib.suppress(OSError, AttributeError):
        dlopen = ctypes.CDLL(None).dlopen
        dlopen.restype = ctypes.c_void_p
        dlopen.argtypes = (ctypes.c_char_p, ctypes.c_int)
        dlopen(os.fsencode(library), os.RTLD_NOW)


@contextlib.contextmanager
def without_meta_kernels() -> Iterator[None]:
    """Import torch in here without its kernels for tensors that have no values.

    They take a third of the import and are needed for compiling and for models without
    weights.  Whoever asks for that module afterwards gets it: see ``with_meta_kernels``.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules[_META] = _Later(_META)
    try:
        yield
    except ImportError:
        # A torch that cannot be imported without them; the usual way says what is wrong.
        with_meta_kernels()
        raise


def with_meta_kernels() -> None:
    """Make up for what ``without_meta_kernels`` left out; without effect otherwise."""
    if isinstance(sys.modules.get(_META), _Later):
        del sys.modules[_META]
        importlib.import_module(_META)


class _Later(types.ModuleType):
    """Stands for a module until somebody asks for something in it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        with_meta_kernels()
        return getattr(sys.modules[_META], name)
