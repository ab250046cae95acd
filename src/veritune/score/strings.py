"""Where a Python string ends, f-strings with nested quotes included (PEP 701)."""

from __future__ import annotations

import re

OPENING_QUOTE = r"(?P<prefix>(?i:[rbuft]|[bft]r|r[bft])?)(?P<mark>'''|\"\"\"|'|\")"

_OPENING_QUOTE = re.compile(OPENING_QUOTE)
_REST_OF_PLAIN = {
    "'": re.compile(r"[^\n'\\]*(?:\\.[^\n'\\]*)*'", re.DOTALL),
    '"': re.compile(r'[^\n"\\]*(?:\\.[^\n"\\]*)*"', re.DOTALL),
    "'''": re.compile(r"[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'''", re.DOTALL),
    '"""': re.compile(r'[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""', re.DOTALL),
}
_REST_OF_LINE = re.compile(r"[^\n\\]*(?:\\.[^\n\\]*)*", re.DOTALL)
_NAMED_CHARACTER = re.compile(r"\\N\{[^}\n]*\}")
_WORD = re.compile(r"\w+")
_MAX_NESTING = 20


class StringEnds:
    """Finds the ends of the strings of one text, in time linear in its length.

    Two facts are remembered to that end: where a mark is known not to close, and that an
    f-string has run off the end of the text (the later ones are then read as plain strings).
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._unclosed: dict[str, tuple[int, int]] = {}
        self._fields_run_off = False

    def end(self, prefix: str, mark: str, position: int) -> int:
        """Where the string ends whose body starts at ``position``; there if it never closes.

        A malformed f-string is read as a plain string.
        """
        end = None
        if _has_fields(prefix) and not self._fields_run_off:
            end = self._literal_end(position, mark, "r" in prefix.lower(), 0)
        if end is None:
            end = self._plain_end(position, mark)
        return position if end is None else end

    def _plain_end(self, position: int, mark: str) -> int | None:
        start, stop = self._unclosed.get(mark, (0, -1))
        if start <= position <= stop:
            return None
        if match := _REST_OF_PLAIN[mark].match(self._text, position):
            return match.end()
        line = _REST_OF_LINE.match(self._text, position)
        stop = line.end() if line and len(mark) == 1 else len(self._text)
        self._unclosed[mark] = (position, stop)
        return None

    def _literal_end(
        self, position: int, mark: str, raw: bool, level: int, *, is_format: bool = False
    ) -> int | None:
        """End of the literal part of an f-string, or of a format inside one; None: malformed."""
        text = self._text
        while position < len(text):
            character = text[position]
            if text.startswith(mark, position):
                return None if is_format else position + len(mark)
            if character == "\n" and len(mark) == 1:
                return None
            if character == "\\":
                position = self._escape_end(position, raw)
            elif character == "}" and is_format:
                return position + 1
            elif character == "{" and not is_format and text.startswith("{{", position):
                position += 2
            elif character == "{":
                end = self._field_end(position + 1, mark, raw, level + 1)
                if end is None:
                    return None
                position = end
            else:
                position += 1
        self._fields_run_off = True
        return None

    def _escape_end(self, position: int, raw: bool) -> int:
        if not raw and (named := _NAMED_CHARACTER.match(self._text, position)):
            return named.end()
        return position + (1 if self._text[position + 1 : position + 2] in ("{", "}") else 2)

    def _field_end(self, position: int, mark: str, raw: bool, level: int) -> int | None:
        """End of a replacement field whose expression starts at ``position``; None: malformed."""
        text, depth = self._text, 0
        while position < len(text) and level <= _MAX_NESTING:
            character = text[position]
            if quote := _OPENING_QUOTE.match(text, position):
                end = self._nested_end(quote, level)
                if end is None:
                    return None
                position = end
                continue
            if word := _WORD.match(text, position):
                position = word.end()
                continue
            if character == "#":
                line_end = text.find("\n", position)
                position = len(text) if line_end < 0 else line_end
                continue
            if character in "([{":
                depth += 1
            elif character in ")]}":
                if not depth:
                    return position + 1 if character == "}" else None
                depth -= 1
            elif character == ":" and not depth:
                return self._literal_end(position + 1, mark, raw, level, is_format=True)
            position += 1
        self._fields_run_off |= level <= _MAX_NESTING
        return None

    def _nested_end(self, quote: re.Match[str], level: int) -> int | None:
        prefix, mark = quote["prefix"], quote["mark"]
        if _has_fields(prefix):
            return self._literal_end(quote.end(), mark, "r" in prefix.lower(), level)
        return self._plain_end(quote.end(), mark)


def _has_fields(prefix: str) -> bool:
    return bool(set(prefix.lower()) & set("ft"))
