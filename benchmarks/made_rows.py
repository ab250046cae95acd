"""Rows shaped like a large instruction data set, made from a few real ones by realistic edits.

A made row joins halves of two real answers, gives them other literals and other names from
outside (which no renaming folds) and asks for it in edited words; new words keep coming as in
any growing corpus, and an answer of a few words gets some more.  So many rows of one original
are no near-copies of each other, or each original's family would grow with the number of rows.
A fixed share of the rows are near-copies of earlier ones (a word, a name or a line changed),
and the whole is given twice, so the duplicate rate is the same at every size.
"""

from __future__ import annotations

import builtins
import json
import keyword
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

NEAR_COPIES = 0.08
_STRING = re.compile(r"'[^'\\\n{}]*'")
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.])")
_ATTRIBUTE = re.compile(r"\.([a-z_]{3,})\b")
_STATEMENT = re.compile(r"(?!el(?:se|if)\b|except\b|finally\b)[a-zA-Z@]")
_LONG_WORD = re.compile(r"\b[a-zA-Z]{4,}\b")
_KEPT_WORDS = frozenset((*keyword.kwlist, *keyword.softkwlist, *dir(builtins)))
_OTHER_WORDS = 0.35
_FEW_WORDS = 40
_FENCE = re.compile(r"^```\w*\n?|\n?```\s*$")
_LEXEME = re.compile(r"\w+|[^\w\s]")
_SYLLABLES = [f"{c}{v}" for c in "bdfgklmnprstvz" for v in "aeiou"]
_OPENINGS = ("Write code to", "Create a script that can", "Please", "How do I", "Show me how to")

Row = dict[str, str]


def write_made_rows(path: Path, sources: Sequence[Row], n_rows: int, seed: int = 0) -> None:
    """Write ``n_rows`` rows as JSON lines: a first half, and the same rows once more."""
    half = n_rows // 2
    with path.open("w", encoding="utf-8") as file:
        for row in made_rows(sources, half, seed):
            file.write(json.dumps(row) + "\n")
        for row in made_rows(sources, n_rows - half, seed):
            file.write(json.dumps(row) + "\n")


def made_rows(sources: Sequence[Row], count: int, seed: int = 0) -> Iterator[Row]:
    """``count`` rows, the first ones the same whatever the count."""
    pieces = [(row, _FENCE.sub("", row["output"]).split("\n")) for row in sources]
    for number in range(count):
        chance = random.Random(f"{seed}:{number}")
        if number > 100 and chance.random() < NEAR_COPIES:
            origin = _fresh(pieces, random.Random(f"{seed}:{chance.randrange(number)}"))
            yield _near_copy(origin, chance)
        else:
            chance.random()
            yield _fresh(pieces, random.Random(f"{seed}:{number}"))


def _fresh(pieces: Sequence[tuple[Row, list[str]]], chance: random.Random) -> Row:
    chance.random()
    (first, lines), (_, others) = chance.choice(pieces), chance.choice(pieces)
    kept = lines[: _statement(lines, chance.randint(max(1, len(lines) // 2), len(lines)))]
    code = "\n".join([*kept, *others[_statement(others, len(others) // 2) :]])
    code = _STRING.sub(lambda _: f"'{_phrase(chance)}'", code)
    code = _NUMBER.sub(lambda _: str(chance.randrange(10 ** chance.randint(1, 5))), code)
    code = _ATTRIBUTE.sub(
        lambda found: f".{_word(chance)}" if chance.random() < 0.4 else found[0], code
    )
    code = _LONG_WORD.sub(lambda found: _other(found[0], chance), code)
    if len(_LEXEME.findall(code)) < _FEW_WORDS:
        code += f"\nprint({', '.join(str(chance.randrange(10**6)) for _ in range(6))})"
    words = first["instruction"].split()
    for _ in range(max(2, len(words) // 3)):
        words[chance.randrange(len(words))] = _word(chance)
    if chance.random() < 0.3:
        words = [*chance.choice(_OPENINGS).split(), *words]
    question = " ".join([*words, "for", "the", _word(chance), _word(chance)])
    given = f"{_phrase(chance)}..." if first.get("input") else ""
    return {"instruction": question, "input": given, "output": f"```python\n{code}\n```"}


def _other(word: str, chance: random.Random) -> str:
    """Now and then another word, unless the language needs this one."""
    return _word(chance) if word not in _KEPT_WORDS and chance.random() < _OTHER_WORDS else word


def _statement(lines: Sequence[str], start: int) -> int:
    """The first line from ``start`` on that begins a statement of the module."""
    for place in range(start, len(lines)):
        if _STATEMENT.match(lines[place]):
            return place
    return len(lines)


def _near_copy(row: Row, chance: random.Random) -> Row:
    words = row["instruction"].split()
    words[chance.randrange(len(words))] = _word(chance)
    lines = row["output"].split("\n")
    kind = chance.randrange(3)
    if kind == 0:
        lines.insert(-1, f"print('{_phrase(chance)}')")
    elif kind == 1:
        lines[1:-1] = [re.sub(r"\bdata\b|\bresult\b", "value", line) for line in lines[1:-1]]
    else:
        lines[1:1] = [f"# {_phrase(chance)}"]
    return {**row, "instruction": " ".join(words), "output": "\n".join(lines)}


def _phrase(chance: random.Random) -> str:
    return " ".join(_word(chance) for _ in range(chance.randint(1, 4)))


def _word(chance: random.Random) -> str:
    """A word by rank in a heavy-tailed vocabulary: frequent ones return, rare ones keep coming."""
    rank = min(int(chance.paretovariate(0.35)), 10**7) + 70
    text = ""
    while rank:
        rank, place = divmod(rank, len(_SYLLABLES))
        text += _SYLLABLES[place]
    return text
