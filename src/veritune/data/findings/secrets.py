"""Passwords, keys and tokens, found by detect-secrets; nothing is verified over the network."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from veritune.data.findings.personal import Span, without_overlaps

_MAX_LINE_CHARACTERS = 500
_MAX_LINES = 400
_MAX_FOUND_IN_LINE = 20
_LINES_KEPT = 1 << 13
_MIN_CHARACTERS = 4
# Public addresses are personal data and looked for there; the others found need no network.
_LEFT_OUT = frozenset({"IPPublicDetector"})
_PLACEHOLDER = re.compile(
    r"your|example|placeholder|change.?me|dummy|sample|insert|replace|redacted|\.\.\.|\*\*\*|xxx|"
    r"<.*>|\{.*\}|%s|_here\b|\bhere\b|12345|^(?:my_?|the_?|a_?|new_?|old_?|test_?|some_?|secure_?)*"
    r"(?:password|passwd|pwd|passphrase|secret|token|key|api_?key|secret_?key|pass|none|null|true|"
    r"false|test|string|user)\d{0,3}$",
    re.IGNORECASE,
)
# What detect-secrets has no rule for.
_LOGIN = "Password of a login"
_LOGINS = (
    re.compile(r"\.login\([^,()\n]{1,80}, ?(?:password ?= ?)?(['\"])([^'\"\n]{4,80})\1"),
    re.compile(
        r"@[\w.-]{3,60}(['\",;]?) {0,2}(?:and |with )?(?:my |the )?(?:password|passwd|pw)[ :=]{1,3}"
        r"['\"]?([^\s'\",;]{4,64})"
    ),
)
_AS_CODE, _AS_PROSE = "answer.py", "question.yaml"


def secret_spans(text: str, *, is_code: bool) -> list[Span]:
    """Where secrets are in the first 400 lines of a text, 500 characters of each.

    Args:
        is_code: values must be quoted; in prose ``password: hunter2`` is one too.
    """
    found: list[Span] = []
    start = 0
    for line in text.split("\n", _MAX_LINES)[:_MAX_LINES]:
        head = line[:_MAX_LINE_CHARACTERS]
        if len(head) >= _MIN_CHARACTERS:
            found += [
                Span(start + place, start + place + len(value), kind)
                for kind, value in _in_line(head, is_code=is_code)
                if (place := head.find(value)) >= 0
            ]
        start += len(line) + 1
    return without_overlaps(found)


@functools.lru_cache(_LINES_KEPT)
def _in_line(line: str, *, is_code: bool) -> tuple[tuple[str, str], ...]:
    """(kind, value) of each secret in a line."""
    found: list[tuple[str, str]] = []
    for plugin, patterns in _plugins():
        # Most lines match no pattern at all, and asking the pattern is what costs least.
        if patterns and not any(pattern.search(line) for pattern in patterns):
            continue
        name = _AS_CODE if is_code else _AS_PROSE
        for secret in plugin.analyze_line(filename=name, line=line, line_number=1):
            value = secret.secret_value
            if value and _is_meant(value, is_code):
                found.append((secret.type, value))
            if len(found) >= _MAX_FOUND_IN_LINE:
                return tuple(found)
    logins = (match[2] for pattern in _LOGINS for match in pattern.finditer(line))
    found += [(_LOGIN, value) for value in logins if _is_meant(value, is_code)]
    return tuple(found)


def _is_meant(value: str, is_code: bool) -> bool:
    """Not a placeholder, a variable or the rest of a sentence."""
    if len(value) < _MIN_CHARACTERS or _PLACEHOLDER.search(value):
        return False
    if not is_code and re.search(r"[\s'\",;(]", value):
        return False
    return not any(is_harmless(value) for is_harmless in _filters())


@functools.cache
def _plugins() -> Sequence[tuple[Any, tuple[re.Pattern[str], ...]]]:
    """Each detector, and the patterns one of which a line has to match; none where not known."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    found: dict[str, Any] = get_mapping_from_secret_type_to_class()
    plugins = [found[kind]() for kind in sorted(found) if found[kind].__name__ not in _LEFT_OUT]
    return [(plugin, _patterns(plugin)) for plugin in plugins]


def _patterns(plugin: Any) -> tuple[re.Pattern[str], ...]:
    from detect_secrets.plugins.base import RegexBasedDetector
    from detect_secrets.plugins.high_entropy_strings import HighEntropyStringsPlugin

    if isinstance(plugin, RegexBasedDetector):
        return tuple(plugin.denylist)
    return (plugin.regex,) if isinstance(plugin, HighEntropyStringsPlugin) else ()


@functools.cache
def _filters() -> Sequence[Any]:
    from detect_secrets.filters import heuristic

    return (
        heuristic.is_sequential_string,
        heuristic.is_potential_uuid,
        heuristic.is_templated_secret,
        heuristic.is_prefixed_with_dollar_sign,
        heuristic.is_not_alphanumeric_string,
    )
