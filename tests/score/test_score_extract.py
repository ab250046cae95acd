from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpu_time import cpu_seconds
from veritune.score import extract_code


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("x = 1", "x = 1"),
        ("", ""),
        ("```python\nx = 1\n```", "x = 1"),
        ("```py\nx = 1\n```\n", "x = 1"),
        ("Sure!\n\n```Python\nx = 1\n\ny = 2\n```\nDone.", "x = 1\n\ny = 2"),
        ("```\na\n```\n```python\nb\n```\n```python\nc\n```", "b"),
        ("```bash\npip\n```\n```text\nb\n```", "pip"),
        ("```text\na\n```\n```python\nnever closed", "a"),
        ("Look:\n```python\nx = 1\ny =", "x = 1\ny ="),
        ("```", ""),
        ("```python\n```", ""),
        ("Here it is: ```python\nx = 1\n```", "x = 1"),
        ("it's ```x = 1```, see", "it's ```x = 1```, see"),
        ("~~~python\nx = '```'\n```\n~~~", "x = '```'\n```"),
        ("````python\n```\n````", "```"),
        ("1. So\n   ```python\n   if a:\n       b\n  c\n   ```", "if a:\n    b\nc"),
        ("```python title='x'\na\n```", "a"),
        ("```python\r\na\r\n```\r\n", "a\r"),
        ('```python\ns = """\n```python\n"""\n```', 's = """\n```python\n"""'),
        ("def f(:\n  return", "def f(:\n  return"),
    ],
)
def test_the_rule(raw: str, code: str) -> None:
    assert extract_code(raw) == code


@given(st.text())
def test_text_without_fences_is_left_alone(text: str) -> None:
    if "```" not in text and "~~~" not in text:
        assert extract_code(text) == text


@given(st.text(alphabet="ab \n`~py\t"))
def test_only_whole_pieces_of_the_text_come_out(raw: str) -> None:
    code = extract_code(raw)
    lines = [line.strip() for line in raw.split("\n")]
    assert code == raw or all(line.strip() in lines for line in code.split("\n") if line.strip())


@given(st.text(alphabet="ab =\n(").filter(lambda text: "\r" not in text))
def test_a_fenced_program_comes_out_whole(code: str) -> None:
    assert extract_code(f"Sure.\n```python\n{code}\n```\nBye.") == code


@pytest.mark.parametrize("piece", ["a", " ", "`", "``` ", "```x\n", "~~~\n", "a```b", "`` "])
def test_hostile_text_is_read_in_time(piece: str) -> None:
    started = cpu_seconds()
    extract_code(piece * (200_000 // len(piece)))
    assert cpu_seconds() - started < 5
