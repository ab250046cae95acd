from __future__ import annotations

import ast
import io
import sysconfig
import tokenize
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpu_time import cpu_seconds
from veritune.score.lexer import DEDENT, INDENT, NEWLINE, bleu_tokens, lex

SYMBOLS = {tokenize.NEWLINE: NEWLINE, tokenize.INDENT: INDENT, tokenize.DEDENT: DEDENT}
NOTHING = {tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
STARTS = {getattr(tokenize, n, -1) for n in ("FSTRING_START", "TSTRING_START")} - {-1}
ENDS = {getattr(tokenize, n, -1) for n in ("FSTRING_END", "TSTRING_END")} - {-1}


def standard_tokens(code: str) -> list[str]:
    """The oracle: ``tokenize``, with the f-strings of Python 3.12 put together again."""
    lines = io.StringIO(code).readlines()
    tokens: list[str] = []
    depth, start = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type in STARTS:
            depth += 1
            if depth == 1:
                start = token.start
        elif token.type in ENDS:
            depth -= 1
            if depth == 0:
                tokens.append(between(lines, start, token.end))
        elif depth == 0 and token.type not in NOTHING:
            tokens.append(SYMBOLS.get(token.type, token.string))
    return tokens


def between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    (first, begin), (last, stop) = start, end
    if first == last:
        return lines[first - 1][begin:stop]
    middle = lines[first : last - 1]
    return "".join([lines[first - 1][begin:], *middle, lines[last - 1][:stop]])


def standard_library() -> list[Path]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in folder.glob("*.py") if path.stat().st_size < 60_000)


@pytest.mark.parametrize("part", range(6))
def test_lexer_gives_the_tokens_of_tokenize_on_the_standard_library(part: int) -> None:
    files = standard_library()[part::12]
    assert len(files) > 5
    for path in files:
        code = path.read_text(encoding="utf-8")
        assert lex(code) == standard_tokens(code), path.name


@pytest.mark.slow
def test_lexer_gives_the_tokens_of_tokenize_on_everything_installed() -> None:
    paths = sysconfig.get_paths()
    compared = 0
    for folder in (paths["stdlib"], paths["purelib"]):
        for path in sorted(Path(folder).rglob("*.py"))[::30]:
            try:
                code = path.read_text(encoding="utf-8")
                ast.parse(code)
                expected = standard_tokens(code)
            except (SyntaxError, ValueError, tokenize.TokenError, Warning, RecursionError):
                continue
            if "\r" in code or not code.endswith("\n"):
                continue
            compared += 1
            assert lex(code) == expected, path
    assert compared > 100


FRAGMENTS = st.sampled_from(
    [
        "a",
        "b1",
        "Ⅷ",
        "0x1F",
        "1_000",
        "1.5e-3j",
        ".5",
        "1.",
        "007",
        "'x'",
        '"it\'s"',
        "f'{a!r:>{b}}'",
        "rb'\\''",
        "'''a\nb'''",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ":",
        ";",
        ",",
        ".",
        "->",
        ":=",
        "**=",
        "//=",
        "!=",
        "==",
        "<<=",
        "...",
        "@",
        "~",
        "#",
        "$",
        "?",
        "!",
        "`",
        "\\",
        "'",
        '"',
        "'''",
        '"""',
        "f'",
        'f"',
        "{{",
        "}}",
        "\\\n",
        "def",
        "return",
        "if",
    ]
)
PROGRAM_LIKE = st.lists(
    st.one_of(FRAGMENTS, st.sampled_from([" ", "\n", "    ", "\t", "\n  ", "\f", "\r\n", "\xa0"])),
    max_size=60,
).map("".join)


@given(st.one_of(st.text(), PROGRAM_LIKE))
@settings(max_examples=400)
def test_nothing_but_white_space_is_lost_and_indents_balance(text: str) -> None:
    tokens = lex(text)
    symbols = {NEWLINE, INDENT, DEDENT}
    assert tokens.count(INDENT) == tokens.count(DEDENT)
    kept = "".join("".join(t.split()) for t in tokens if t not in symbols)
    source = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    source = source.replace("\\\n", "")
    kept = kept.replace("\\\n", "")
    assert kept.replace("\\", "") == "".join(source.split()).replace("\\", "")
    assert all(tokens)


@given(PROGRAM_LIKE)
@settings(max_examples=400)
def test_whatever_parses_is_lexed_like_tokenize(text: str) -> None:
    code = text.replace("\f", " ").replace("\r\n", "\n") + "\n"
    try:
        ast.parse(code)
        expected = standard_tokens(code)
    except (SyntaxError, ValueError, Warning, tokenize.TokenError):
        return
    if "\\\n" not in code:
        assert lex(code) == expected


@given(st.one_of(st.text(), PROGRAM_LIKE))
def test_bleu_tokens_split_into_as_many_distinct_tokens(text: str) -> None:
    tokens = lex(text)
    parts = bleu_tokens(text).split()
    assert len(parts) == len(tokens)
    assert len(set(parts)) == len(set(tokens))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("  \n\t\n", []),
        ("a\n", ["a", NEWLINE]),
        (
            "if a:\n  b\nc",
            [
                "if",
                "a",
                ":",
                "<NEWLINE>",
                "<INDENT>",
                "b",
                "<NEWLINE>",
                "<DEDENT>",
                "c",
                "<NEWLINE>",
            ],
        ),
        ("NEWLINE", ["NEWLINE", NEWLINE]),
        ("f(\n\n1,\n)\n", ["f", "(", "1", ",", ")", NEWLINE]),
        ('x = f"{d["k"]:{\'>\'}{w}}" + 1', ["x", "=", 'f"{d["k"]:{\'>\'}{w}}"', "+", "1", NEWLINE]),
        ("f'{x # }\n}'", ["f'{x # }\n}'", NEWLINE]),
        ("f'\\N{DASH}{x:}}'", ["f'\\N{DASH}{x:}}'", NEWLINE]),
        ('f"{x " + y', ['f"{x "', "+", "y", NEWLINE]),
        ("print('a", ["print", "(", "'", "a", NEWLINE]),
        ("don't 'x'", ["don", "'t '", "x", "'", NEWLINE]),
        ('"""never\nclosed', ['"""', "never", NEWLINE, "closed", NEWLINE]),
        ("  a\n b", f"{INDENT} a {NEWLINE} {DEDENT} {INDENT} b {NEWLINE} {DEDENT}".split()),
        (") ] x\n", [")", "]", "x", NEWLINE]),
        ("a\r\nb\rc", ["a", NEWLINE, "b", NEWLINE, "c", NEWLINE]),
        (
            "if a:\n  if b:\n\tc\n        d",
            # a tab reaches column 8, so do eight spaces
            [
                "if",
                "a",
                ":",
                "<NEWLINE>",
                "<INDENT>",
                "if",
                "b",
                ":",
                "<NEWLINE>",
                "<INDENT>",
                "c",
                "<NEWLINE>",
                "d",
                "<NEWLINE>",
                "<DEDENT>",
                "<DEDENT>",
            ],
        ),
        ("# only a comment", ["# only a comment"]),
        ("עִברִית = 1", ["עִברִית", "=", "1", NEWLINE]),
        ("\ufeffx", ["x", NEWLINE]),
        ("a \x00 b", ["a", "\x00", "b", NEWLINE]),
    ],
)
def test_decisions_on_odd_text(text: str, tokens: list[str]) -> None:
    assert lex(text) == tokens


def test_white_space_in_strings_is_escaped_without_collisions() -> None:
    assert bleu_tokens("'a b'") == "'a\\x20;b' <NEWLINE>"
    assert bleu_tokens("'a\\x20;b'") != bleu_tokens("'a b'")


HOSTILE = {
    "open fields": 'f"{',
    "nested fields": "f'{a:",
    "escaped quotes": "'\\",
    "escaped triple quotes": '"""\\',
    "triple fields": 'f"""{x:',
    "brackets in fields": "f'{(",
    "indents": "\n  ",
    "alternating": "f'{f\"{",
    "broken field": "f'{x ) ' ",
    "backslashes": "\\",
    "digits": "1_",
    "underscores": "_'",
}


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_lexed_in_time(piece: str) -> None:
    started = cpu_seconds()
    lex(piece * (200_000 // len(piece)))
    assert cpu_seconds() - started < 10
