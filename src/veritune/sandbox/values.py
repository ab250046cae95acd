"""Plain data across the border of the sandbox, as text that is safe to read.

Values travel as JSON trees: ``null``, booleans, small whole numbers and text as they are,
everything else as ``[tag, …]``.  A subclass travels as its builtin base and anything else by
its name only, so what arrives has no behaviour of its own: no ``__eq__``, no hidden state.
Runs on both sides of the border, and must start fast.
"""

from __future__ import annotations

from _json import encode_basestring_ascii as _quoted

# Importing ``typing`` would take longer than everything else the child does to start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_DEPTH = 60
MAX_ITEMS = 1_000_000
_SMALL = 2**53
_MAX_BITS = 4_000_000


class Opaque:
    """Something that is not plain data: only the name of its type is known."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


class Unreadable(ValueError):
    """A tree that ``encode`` never makes."""


def encode(value: Any) -> str:
    """The JSON text of a value; never fails, whatever the value is made of."""
    budget = [MAX_ITEMS]
    try:
        return _encode(value, MAX_DEPTH, budget)
    except BaseException as error:
        return _opaque(type(error).__name__)


def _encode(value: Any, depth: int, budget: list[int]) -> str:
    budget[0] -= 1
    if depth == 0 or budget[0] < 0:
        raise OverflowError
    if value is None:
        return "null"
    if value is True or value is False:
        return "true" if value else "false"
    kinds = type.mro(type(value)) if isinstance(value, type) is False else ()
    for base in kinds:
        how = _BY_TYPE.get(base)
        if how is not None:
            return str(how(value, depth - 1, budget))
    return _opaque(type(value).__name__)


def _integer(value: Any, _depth: int, _budget: list[int]) -> str:
    exact = int.__add__(value, 0)
    if -_SMALL < exact < _SMALL:
        return int.__repr__(exact)
    if exact.bit_length() > _MAX_BITS:
        return _opaque("int")
    return f'["i","{exact:x}"]'


def _real(value: Any, _depth: int, _budget: list[int]) -> str:
    return f'["f","{float.hex(value)}"]'


def _complex(value: Any, _depth: int, _budget: list[int]) -> str:
    return f'["c","{float.hex(value.real)}","{float.hex(value.imag)}"]'


def _text(value: Any, _depth: int, _budget: list[int]) -> str:
    return _quoted(str.__str__(value))


def _bytes(value: Any, _depth: int, _budget: list[int]) -> str:
    return f'["b","{bytes.hex(value)}"]'


def _byte_array(value: Any, _depth: int, _budget: list[int]) -> str:
    return f'["ba","{bytearray.hex(value)}"]'


def _range(value: Any, depth: int, budget: list[int]) -> str:
    return _tagged("r", (value.start, value.stop, value.step), depth, budget)


def _mapping(value: Any, depth: int, budget: list[int]) -> str:
    pairs = [part for pair in dict.items(value) for part in pair]
    return _tagged("d", pairs, depth, budget)


def _tagged(tag: str, parts: Any, depth: int, budget: list[int]) -> str:
    return ",".join([f'["{tag}"', *(_encode(part, depth, budget) for part in parts)]) + "]"


def _opaque(name: Any) -> str:
    return f'["o",{_quoted(str(name)[:100])}]'


_BY_TYPE: dict[Any, Any] = {
    int: _integer,
    float: _real,
    complex: _complex,
    str: _text,
    bytes: _bytes,
    bytearray: _byte_array,
    range: _range,
    dict: _mapping,
    list: lambda value, *rest: _tagged("l", list.__iter__(value), *rest),
    tuple: lambda value, *rest: _tagged("t", tuple.__iter__(value), *rest),
    set: lambda value, *rest: _tagged("s", set.__iter__(value), *rest),
    frozenset: lambda value, *rest: _tagged("fs", frozenset.__iter__(value), *rest),
    type(Ellipsis): lambda *_: '["e"]',
}


def decode(tree: Any) -> Any:
    """The value of a tree.

    Raises:
        Unreadable: the tree was not made by ``encode``.
    """
    try:
        return _decode(tree, MAX_DEPTH + 2)
    except Unreadable:
        raise
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise Unreadable(str(error)) from None


def _decode(tree: Any, depth: int) -> Any:
    if tree is None or type(tree) in (bool, int, str):
        return tree
    if type(tree) is not list or depth == 0:
        raise Unreadable("not a tagged list")
    tag, *parts = tree
    if tag in _LEAVES:
        return _LEAVES[tag](*parts)
    children = [_decode(part, depth - 1) for part in parts]
    if tag == "d":
        return dict(zip(children[::2], children[1::2], strict=True))
    if tag == "r":
        return range(*children)
    return _CONTAINERS[tag](children)


_LEAVES: dict[Any, Any] = {
    "i": lambda text: int(text, 16),
    "f": float.fromhex,
    "c": lambda real, imag: complex(float.fromhex(real), float.fromhex(imag)),
    "b": bytes.fromhex,
    "ba": bytearray.fromhex,
    "o": lambda name: Opaque(str(name)),
    "e": lambda: ...,
}
_CONTAINERS: dict[Any, Any] = {"l": list, "t": tuple, "s": set, "fs": frozenset}
