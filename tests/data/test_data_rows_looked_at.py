"""What single rows tell, against independent tools and hand-made rows with one of each kind."""

import ast
import fnmatch
import posixpath
import shlex
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from radon.visitors import ComplexityVisitor

from veritune.data.findings import facts_of
from veritune.data.findings.compiles import compile_fault
from veritune.data.findings.facts import BROKEN_PYTHON
from veritune.data.findings.languages import UNKNOWN, guess_language
from veritune.data.findings.personal import (
    CARD,
    EMAIL,
    HOME,
    IP,
    PHONE,
    passes_luhn,
    personal_spans,
)
from veritune.data.findings.program import (
    CLASS,
    FUNCTION,
    FUNCTIONS,
    SCRIPT,
    VALUES,
    look_into,
)
from veritune.data.findings.secrets import secret_spans
from veritune.data.findings.tasks import COMPLETE, action_of, subject_of
from veritune.rows import Example


def row(instruction, reference, given=""):
    return Example("e", "c", "train", instruction, given, reference)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("return 1", "return, yield or await outside a function"),
        ("yield 1", "return, yield or await outside a function"),
        ("x = await f()", "return, yield or await outside a function"),
        ("break", "break or continue outside a loop"),
        ("if True:\n    continue", "break or continue outside a loop"),
        ("def f():\n    x = 1\n    global x", "global or nonlocal in the wrong place"),
        ("nonlocal x", "global or nonlocal in the wrong place"),
        ("def f(a, a): pass", "an argument named twice"),
        ("x = 1\nfrom __future__ import annotations", "an import in the wrong place"),
        ("def f():\n    from os import *", "an import in the wrong place"),
        ("*a", "a starred expression in the wrong place"),
        ("def f():\n    return 1", None),
        ("x = 1", None),
    ],
)
def test_what_parses_and_does_not_compile(code, kind):
    ast.parse(code)
    found = compile_fault(code)
    assert (found and found[0]) == kind
    assert (facts_of(row("a", code)).refused is not None) == (kind is not None)


def test_compiling_never_runs_and_nested_finally_blocks_take_no_time(tmp_path):
    target = tmp_path / "written"
    assert compile_fault(f"open({str(target)!r}, 'w').write('ran')") is None
    assert not target.exists()
    depth = 19
    code = "\n".join(
        [*(f"{' ' * d}try: f()\n{' ' * d}finally:" for d in range(depth)), f"{' ' * depth}f()"]
    )
    ast.parse(code)
    started = time.process_time()
    assert facts_of(row("a", code)).refused is None
    assert time.process_time() - started < 0.5


BODIES = [
    "return x",
    """\
if x and x > 1 or x < 0:
    return 1
elif x:
    return 2
return 3""",
    """\
for y in x:
    while y:
        y -= 1
else:
    pass""",
    """\
try:
    x()
except ValueError:
    pass
except KeyError:
    pass
else:
    x()
finally:
    pass""",
    "return [y for y in x if y if y > 1 for z in y] + [0 if x else 1]",
    """\
assert x
with x:
    return lambda y: y if y else 0""",
    """\
match x:
    case 1:
        return 1
    case [a, b]:
        return a
    case _:
        return 0""",
    """\
match x:
    case 1 | 2:
        return 1
    case str():
        return 2""",
    """\
async for y in x:
    if y:
        return {a: b for a, b in y}""",
]


@pytest.mark.parametrize("body", BODIES)
def test_complexity_is_what_radon_counts(body):
    code = f"async def f(x):\n{textwrap.indent(body, '    ')}"
    (function,) = ComplexityVisitor.from_code(code).functions
    assert look_into(ast.parse(code)).complexity == function.complexity


def test_complexity_of_the_standard_library_is_what_radon_counts():
    counted = 0
    for module in (ast, textwrap, shlex, fnmatch, posixpath):
        for node in ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body:
            kinds = [type(inner) for inner in ast.walk(node)]
            # radon counts closures apart and does not look into assertions.
            is_plain = kinds.count(ast.FunctionDef) == 1 and ast.Assert not in kinds
            if isinstance(node, ast.FunctionDef) and is_plain:
                code = ast.unparse(ast.Module([node], []))
                (function,) = ComplexityVisitor.from_code(code).functions
                assert look_into(ast.parse(code)).complexity == function.complexity
                counted += 1
    assert counted > 30


@pytest.mark.parametrize(
    ("code", "shape"),
    [
        ("def f(): pass", FUNCTION),
        ("import os\ndef f(): pass\ndef g(): pass", FUNCTIONS),
        ("class A: pass\ndef f(): pass", CLASS),
        ("def f(): pass\nf()", SCRIPT),
        ("import os", SCRIPT),
        ("hello", VALUES),
        ("'just words'", VALUES),
        ("", VALUES),
    ],
)
def test_what_an_answer_is(code, shape):
    assert look_into(ast.parse(code)).shape == shape


@pytest.mark.parametrize(
    ("code", "language"),
    [
        ("const x = 1;\nconsole.log(x);", "JavaScript"),
        ("interface A {\n  name: string\n}\nconst a: A = f();", "TypeScript"),
        ("public class A {\n  public static void main(String[] args) {}\n}", "Java"),
        ('#include <stdio.h>\nint main() { printf("x"); }', "C or C++"),
        ("using System;\nclass A { static void Main(string[] args) {} }", "C#"),
        ('package main\nfunc main() { fmt.Println("x") }', "Go"),
        ("fn main() {\n let mut x = 1; println!(x); }", "Rust"),
        ("<?php\n$x = 1;\necho $x;", "PHP"),
        ("require 'set'\n[1].each do |x|\n  puts x\nend", "Ruby"),
        ("SELECT a FROM b WHERE c = 1", "SQL"),
        ("<!DOCTYPE html>\n<html><body></body></html>", "HTML"),
        ("#!/bin/bash\nsudo apt update", "shell"),
        ("Get-Process | Where-Object { $_.Id }", "PowerShell"),
        ("You should do that", UNKNOWN),
    ],
)
def test_the_language_of_an_answer(code, language):
    assert guess_language(code) == language


def test_only_answers_that_do_not_parse_get_a_language():
    assert facts_of(row("a", "x = 1")).language is None
    assert facts_of(row("a", "print 'x'")).language == "Python 2"
    assert facts_of(row("a", "x = = 1")).language == BROKEN_PYTHON
    assert facts_of(row("a", "sudo apt update && ls")).language == "shell"
    assert facts_of(row("a", "function f() { return 1; }")).language == "JavaScript"


@pytest.mark.parametrize(
    ("question", "action", "subject"),
    [
        ("Write a function that reverses a string", "write new code", "text"),
        ("How do I sort a list of tuples?", "change data", "lists and dictionaries"),
        ("Calculate the factorial of a number", "compute a value", "numbers"),
        ("Fix the following code", "repair", "other"),
        ("Train a neural network", "other", "machine learning"),
        ("def area(radius):", COMPLETE, "numbers"),
        ("", "other", "other"),
    ],
)
def test_what_a_question_asks_for(question, action, subject):
    assert (action_of(question), subject_of(question)) == (action, subject)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("write to anna.berg@posteo.de, please", EMAIL, "anna.berg@posteo.de"),
        ("(anna@uni.kiel.de)...", EMAIL, "anna@uni.kiel.de"),
        ("call +49 170 9417236 now", PHONE, "+49 170 9417236"),
        ("call (212) 736-5000", PHONE, "(212) 736-5000"),
        ("tel='212-736-5000'", PHONE, "212-736-5000"),
        ("pay 4539 1488 0343 6467", CARD, "4539 1488 0343 6467"),
        ("card = '4539148803436467'", CARD, "4539148803436467"),
        ("ssh root@81.2.69.142", IP, "81.2.69.142"),
        ("ping 2a00:1450:4001:81b::200e", IP, "2a00:1450:4001:81b::200e"),
        ("open('/home/annaberg/notes.txt')", HOME, "annaberg"),
        (r"C:\Users\annaberg\notes.txt", HOME, "annaberg"),
    ],
)
def test_personal_data_are_found_and_nothing_beside_them(text, kind, value):
    assert [(span.kind, text[span.start : span.end]) for span in personal_spans(text)] == [
        (kind, value)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "me@example.com your_email@gmail.com user@localhost name@test.org",
        "4111 1111 1111 1111 and 4539 1488 0343 6468",
        "192.168.0.1 10.0.0.1 127.0.0.1 8.8.8.8 1.2.3.4 version 3.11.7.1",
        "555-0100 +1 555-010-1234 123-456-7890 (123) 456-7890 000-000-0000",
        "/home/user/x C:\\Users\\Public\\x",
        "x = 1234567890123456",
        "2024-01-15 10:30:00 3.14159265358979 range(1000000, 2000000)",
        "aa:bb:cc:dd:ee:ff 12:30:45 a[1:2:3]",
        "@decorator\ndef f(a@b): pass",
        "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
        "d = 0.1234567891234567, 1700000000, 2**31 - 2147483648",
    ],
)
def test_placeholders_and_plain_numbers_are_no_personal_data(text):
    assert personal_spans(text) == []


@given(st.integers(10**11, 10**18))
def test_a_check_digit_makes_exactly_one_number_valid(number):
    assert sum(passes_luhn(f"{number}{digit}") for digit in range(10)) == 1


SECRETS = [
    "aws_key = 'AKIAIOSFODNN7QWERTYU'",
    "token = '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'",
    "password = 'Tr0ub4dor&3'",
    "-----BEGIN RSA PRIVATE KEY-----",
    "requests.get('https://anna:s3cr3tpw@internal.net/')",
    "server.login('anna@posteo.de', 'orsadafhjdaf')",
]


@pytest.mark.parametrize("line", SECRETS)
def test_secrets_are_found(line):
    assert secret_spans(f"import os\n{line}\n", is_code=True)


def test_what_detect_secrets_itself_finds_is_found(tmp_path):
    from detect_secrets import SecretsCollection
    from detect_secrets.settings import default_settings

    path = tmp_path / "answer.py"
    path.write_text("\n".join(SECRETS), encoding="utf-8")
    collection = SecretsCollection()
    with default_settings():
        collection.scan_file(str(path))
    lines = {secret.line_number for _, secret in collection}
    ours = {number for number, line in enumerate(SECRETS, 1) if secret_spans(line, is_code=True)}
    assert len(lines) >= 4 and lines <= ours


@pytest.mark.parametrize(
    "line",
    [
        "password = 'your_password'",
        "api_key = 'YOUR_API_KEY'",
        "password = input('Enter your password: ')",
        "token = tokenizer.next_token()",
        "secret = os.environ['SECRET']",
        "password = getpass.getpass('Password: ')",
        "key = 'name'",
        "server.login(user, password)",
    ],
)
def test_placeholders_are_no_secrets(line):
    assert secret_spans(line, is_code=True) == []


def test_passwords_in_plain_words():
    text = "Log in with email anna@posteo.de and password: helazaqw"
    (span,) = secret_spans(text, is_code=False)
    assert text[span.start : span.end] == "helazaqw"
    assert secret_spans("Reset the password: then mail it", is_code=False) == []
    assert secret_spans("Write a password manager", is_code=False) == []


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_can_be_looked_at(question, answer):
    facts = facts_of(row(question, answer))
    assert (facts.reason is None) == (facts.program is not None)
    for text in (question, answer):
        spans = [*personal_spans(text), *secret_spans(text, is_code=True)]
        assert all(0 <= span.start < span.end <= len(text) for span in spans)


HUGE = [
    "a@" * 50_000,
    "1 " * 50_000,
    "(1-" * 40_000,
    "1.1.1." * 20_000,
    "a:" * 50_000,
    "'" * 100_000,
    "'\"" * 50_000,
    "password=" * 12_000,
    " " * 100_000,
    "\\" * 100_000,
    "a.b@a.b." * 12_000,
    "def f" * 20_000,
    "SELECT " * 15_000,
    "<" * 100_000,
    "/home/" * 16_000,
    "x = 1\n" * 16_000,
]


@pytest.mark.parametrize("text", HUGE, ids=range(len(HUGE)))
def test_long_and_hostile_cells_take_no_time(text):
    secret_spans("warm up", is_code=True)
    started = time.process_time()
    facts_of(row(text, text))
    secret_spans(text, is_code=False)
    secret_spans(text, is_code=True)
    assert time.process_time() - started < 2
