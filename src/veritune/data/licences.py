"""The licence of a code base, from the files that may name it."""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Mapping
from email.parser import HeaderParser

_UNKNOWN = "see {}"
_CLAUSE_CHARACTERS = 600
_SPDX = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]{2,80}?)[ \t]*(?:\*/)?$", re.M)
_CLASSIFIER = re.compile(r"^License :: (?:OSI Approved :: )?(.+)$")
# Of each licence a passage of its own, white space folded; the first in the text names it, for
# the licences of bundled parts come after the package's.
_PASSAGES: tuple[tuple[str, str], ...] = (
    ("Apache-2.0", "apache license version 2.0"),
    ("AGPL-3.0", "gnu affero general public license version 3"),
    ("LGPL-3.0", "gnu lesser general public license version 3"),
    ("LGPL-2.1", "gnu lesser general public license version 2.1"),
    ("GPL-3.0", "gnu general public license version 3"),
    ("GPL-2.0", "gnu general public license version 2"),
    ("MPL-2.0", "mozilla public license version 2.0"),
    ("PSF-2.0", "python software foundation license version 2"),
    ("Unlicense", "this is free and unencumbered software released into the public domain"),
    ("ISC", "permission to use, copy, modify, and/or distribute this software for any purpose"),
    ("BSD-2-Clause", "redistributions in binary form must reproduce"),
    ("MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"),
)


def licence_of(texts: Mapping[str, str]) -> str | None:
    """What the files say, the most exact first; None where nothing is said.

    Args:
        texts: ``pyproject.toml``, ``setup.cfg``, a wheel's ``METADATA`` and licence files, by
            name.
    """
    named = None
    for name, text in texts.items():
        if name.endswith("METADATA"):
            named = named or _in_metadata(text)
        elif name.endswith("pyproject.toml"):
            named = named or _in_pyproject(text)
        elif name.endswith("setup.cfg"):
            named = named or _in_setup_cfg(text)
    if named:
        return named
    for name, text in texts.items():
        if name.upper().rpartition("/")[2].startswith(("LICENSE", "LICENCE", "COPYING")):
            return recognised(text) or _UNKNOWN.format(name)
    return None


def recognised(text: str) -> str | None:
    """The SPDX name of a licence's text, where it is one of the common ones."""
    spdx = spdx_of(text)
    if spdx:
        return spdx
    folded = " ".join(text[:30_000].replace(",", ", ").casefold().split()).replace(" ,", ",")
    folded = folded.replace("license, version", "license version")
    places = {name: folded.find(passage) for name, passage in _PASSAGES}
    found = {place: name for name, place in places.items() if place >= 0}
    if not found:
        return None
    first = min(found)
    is_longer_bsd = "neither the name of" in folded[first : first + _CLAUSE_CHARACTERS]
    return "BSD-3-Clause" if found[first] == "BSD-2-Clause" and is_longer_bsd else found[first]


def spdx_of(text: str) -> str | None:
    """The expression of an ``SPDX-License-Identifier`` line."""
    found = _SPDX.search(text)
    return found[1].strip() if found else None


def _in_metadata(text: str) -> str | None:
    headers = HeaderParser().parsestr(text.partition("\n\n")[0])
    expression = headers.get("License-Expression") or headers.get("License")
    if expression and expression.strip() not in ("", "UNKNOWN"):
        return _short(expression)
    return _of_classifiers([str(item) for item in headers.get_all("Classifier", [])])


def _in_pyproject(text: str) -> str | None:
    try:
        project = tomllib.loads(text).get("project", {})
    except (tomllib.TOMLDecodeError, RecursionError):
        return None
    if not isinstance(project, dict):
        return None
    named = project.get("license")
    if isinstance(named, dict):
        named = named.get("text")
    if isinstance(named, str) and named.strip():
        return _short(named)
    classifiers = project.get("classifiers")
    return _of_classifiers([str(item) for item in classifiers] if classifiers else [])


def _in_setup_cfg(text: str) -> str | None:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return None
    named = parser.get("metadata", "license", fallback="")
    return _short(named) if named.strip() else None


def _of_classifiers(classifiers: list[str]) -> str | None:
    found = (_CLASSIFIER.match(item.strip()) for item in classifiers)
    return next((match[1] for match in found if match), None)


def _short(named: str) -> str:
    """One line; a whole licence in the place of its name is recognised."""
    if "\n" in named.strip() or len(named) > 100:
        return recognised(named) or named.strip().split("\n")[0][:100]
    return named.strip()
