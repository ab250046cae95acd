import json

import pytest

from veritune.config import DataSection
from veritune.data.findings import find_all
from veritune.data.findings.broken import (
    CUT_OFF,
    FENCE,
    INDENTATION,
    LINE_END,
    NOTEBOOK,
    OTHER,
    OTHER_LANGUAGE,
    PROSE,
    PYTHON_2,
    QUOTES,
    SESSION,
    SHELL,
    kind_of_fault,
)
from veritune.data.findings.needs import FILES, KEYBOARD, NETWORK
from veritune.data.prepare import prepare, write_prepared
from veritune.data.syntax import parse
from veritune.rows import Example


def row(number, instruction, reference, given=""):
    return Example(f"e{number}", f"c{number}", "train", instruction, given, reference)


def rows(*pairs):
    return [row(number, *pair) for number, pair in enumerate(pairs)]


def by_name(examples, **options):
    found, _, _ = find_all(examples, **options)
    return {item.name: item.to_json() for item in found}


def modules_of(examples):
    return find_all(examples)[1].modules_found()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("task = input('Enter 'done' to finish: ')", QUOTES),
        ('print("say "hello" twice")', QUOTES),
        ("print(f'OS: {system}\n')", LINE_END),
        ("if x:\nprint(1)", INDENTATION),
        ("  x = 1\n y = 2", INDENTATION),
        ("print 'hello'", PYTHON_2),
        ("try:\n    f()\nexcept ValueError, error:\n    pass", PYTHON_2),
        ("if a <> b: pass", PYTHON_2),
        ("sudo apt update && sudo apt upgrade", SHELL),
        ("pip install requests", SHELL),
        ("nmap -p 1-100 host", SHELL),
        ("scp /path/to/file me@host:/tmp", SHELL),
        ("!pip install x\nimport x", NOTEBOOK),
        ("%matplotlib inline", NOTEBOOK),
        (">>> 1 + 1\n2", SESSION),
        ("function f() { return 1; }", OTHER_LANGUAGE),
        ("#include <stdio.h>\nint main() { return 0; }", OTHER_LANGUAGE),
        ("<html><body></body></html>", OTHER_LANGUAGE),
        ("```python\nprint(1)", FENCE),
        ("print((1, 2)\n", CUT_OFF),
        ('x = """never closed', CUT_OFF),
        ("You should check your internet connection first", PROSE),
        ("- Real-time status", PROSE),
        ("x = = 1", OTHER),
    ],
)
def test_the_kind_of_a_fault_says_what_happened(code, kind):
    reason = parse(code, with_line=True)
    assert isinstance(reason, str), "the example must not parse"
    assert kind_of_fault(code, reason) == kind


def test_answers_that_do_not_parse_are_shown_by_their_line():
    found = by_name(rows(("a", "x = 1\nprint('it's')"), ("b", "print(1)")))["does_not_parse"]
    assert found["n_rows"] == 1 and found["kinds"] == {QUOTES: 1}
    assert found["examples"] == [
        {"example_id": "e0", "kind": QUOTES, "text": "line 2: print('it's')"}
    ]
    assert found["setting"] == "data.clean.drop_unparseable=true"


def test_one_question_with_several_answers_and_one_answer_with_many_questions():
    examples = rows(
        ("Add it", "a"), ("add  IT", "b"), ("Add it", "a"), ("Other", "same"), ("Next", "same"),
        ("Third", "same"), ("Third", "same"),
    )  # fmt: skip
    found = by_name(examples)
    assert found["several_answers"]["n_rows"] == 3 and not found["several_answers"]["setting"]
    assert found["several_answers"]["kinds"] == {"2 answers to one question": 3}
    assert found["many_questions"]["n_rows"] == 4
    ignoring = by_name(examples, source_has_inputs=True)["several_answers"]
    assert ignoring["setting"] == "data.input=join"
    told_apart = [row(0, "Add", "a", "1"), row(1, "Add", "b", "2")]
    assert "several_answers" not in by_name(told_apart)


@pytest.mark.parametrize(
    ("code", "needs"),
    [
        ("x = input()", [KEYBOARD]),
        ("import sys\nfor line in sys.stdin: print(line)", [KEYBOARD]),
        ("import requests\nrequests.get('x')", [NETWORK]),
        ("from urllib.request import urlopen", [NETWORK]),
        ("open('x').read()", [FILES]),
        ("import os\nos.remove('x')", [FILES]),
        ("from pathlib import Path\nPath('x').read_text()", [FILES]),
        ("import shutil, socket\ninput()", [KEYBOARD, FILES, NETWORK]),
        ("items = [1]\nitems.remove(1)", []),
        ("self._labels.remove(1)", []),
        ("self.path.unlink()", [FILES]),
        ("def input_of(x): return x", []),
        ("from . import requests", []),
    ],
)
def test_what_an_answer_needs_from_outside(code, needs):
    found = by_name(rows(("a", code))).get("needs_the_outside", {"kinds": {}})
    assert set(found["kinds"]) == set(needs)


def test_modules_are_looked_up_and_not_imported(monkeypatch):
    examples = rows(
        ("a", "import json, no_such_module_x.inner"),
        ("b", "from no_such_module_x import y\nimport pyarrow"),
    )
    assert modules_of(examples) == [
        {"module": "no_such_module_x", "n_rows": 2, "state": "not installed"},
        {"module": "json", "n_rows": 1, "state": "standard library"},
        {"module": "pyarrow", "n_rows": 1, "state": "installed"},
    ]
    found = by_name(examples)["missing_modules"]
    assert found["n_rows"] == 2 and found["kinds"] == {"no_such_module_x": 2}


def test_sound_rows_have_no_findings():
    assert by_name(rows(("a", "print(1)"), ("b", "print(2)"))) == {}
    assert by_name([]) == {}


def test_the_card_shows_findings_escaped(tmp_path):
    written = [
        {"instruction": f"Print {n * n} in words", "output": f"print({n})"} for n in range(30)
    ]
    written.append({"instruction": "Close", "output": "print('<script>' if 'x')"})
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(written))
    prepared = prepare(DataSection(source=str(path)), 0)
    write_prepared(prepared, tmp_path / "data")
    card = json.loads((tmp_path / "data" / "card.json").read_text())
    names = [item["name"] for item in card["findings"] if item["level"] != "know"]
    assert names == ["does_not_parse", "small_test", "licence"]
    page = (tmp_path / "data" / "card.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "data.clean.drop_unparseable=true" in page


def test_findings_about_the_real_rows(shared_data):
    prepared = prepare(DataSection(source=str(shared_data / "python-codes-260.jsonl")), 0)
    found = {item["name"]: item for item in prepared.card["findings"]}
    assert found["does_not_parse"]["n_rows"] == 65
    kinds = found["does_not_parse"]["kinds"]
    assert kinds[QUOTES] >= 20 and kinds.get(OTHER, 0) <= 5
    assert found["needs_the_outside"]["kinds"][KEYBOARD] == 62
