"""Text of data or models in a form that people can see whole."""

from __future__ import annotations

from rich.markup import escape

# Characters that act instead of being seen: they move text (bidirectional controls), hide
# it (zero width) or drive a terminal (C0, C1).  Shown by their number.
_VISIBLE: dict[int, str] = {
    code: f"[U+{code:04X}]"
    for code in (
        *(code for code in range(0x20) if chr(code) not in "\n\t"),
        *range(0x7F, 0xA0),
        0x061C,
        *range(0x200B, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2060, 0x2070),
        0xFEFF,
    )
}


def visible(text: object) -> str:
    """Text without characters that act unseen; lone surrogates replaced."""
    shown = str(text).replace("\r\n", "\n").translate(_VISIBLE)
    return shown.encode("utf-8", "replace").decode("utf-8")


def escaped(text: object) -> str:
    """Text that a console prints as it is: its markup means nothing, it drives no terminal."""
    return escape(visible(text))
