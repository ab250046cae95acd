"""Programs that parse, and that Python still refuses to compile.  Nothing is ever run."""

from __future__ import annotations

import re
import warnings

_FAULTS_OF_COMPILER = (ValueError, RecursionError, MemoryError, OverflowError)
_MAX_FINALLY = 4
_MAX_CHARACTERS_WITH_FINALLY = 4000

OTHER = "another fault of the compiler"
_KINDS = (
    (re.compile(r"outside (?:async )?function"), "return, yield or await outside a function"),
    (re.compile(r"outside loop|not properly in loop"), "break or continue outside a loop"),
    (re.compile(r"global|nonlocal"), "global or nonlocal in the wrong place"),
    (re.compile(r"duplicate argument"), "an argument named twice"),
    (re.compile(r"__future__|import \* only"), "an import in the wrong place"),
    (re.compile(r"starred|unpack"), "a starred expression in the wrong place"),
)


def compile_fault(code: str, n_finally: int = 0) -> tuple[str, str] | None:
    """(kind, what the compiler says) of a program that parses, or None if it compiles.

    The compiler copies ``finally`` blocks to every way out of them, nested ones twice each:
    programs where that could take long are taken to compile.
    """
    is_dear = n_finally > _MAX_FINALLY or len(code) > _MAX_CHARACTERS_WITH_FINALLY
    if n_finally and is_dear:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<answer>", "exec", dont_inherit=True)
    except SyntaxError as error:
        where = "" if error.lineno is None else f" (line {error.lineno})"
        kind = next((kind for pattern, kind in _KINDS if pattern.search(error.msg)), OTHER)
        return kind, f"{error.msg}{where}".partition("\n")[0][:200]
    except _FAULTS_OF_COMPILER as error:
        return OTHER, f"{type(error).__name__}: {error}".partition("\n")[0][:200]
    return None
