import builtins
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cpu_time import cpu_seconds
from veritune.config import DataSection, DuplicatesSection, SplitSection
from veritune.data.card_page import render_card
from veritune.data.compared import Compared
from veritune.data.leak_audit import audit, leaking_rows, nearest_rows
from veritune.data.prepare import prepare
from veritune.data.raw_rows import RawRow
from veritune.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
VOCABULARY = [f"w{number}" for number in range(12)]


def shingles_of(words, size):
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def brute_similarity(one, two):
    """Jaccard over runs of five words, of two where one text has under forty."""
    if one.key == two.key:
        return 1.0
    size = 5 if min(len(one.words), len(two.words)) >= 40 else 2
    first, second = shingles_of(one.words, size), shingles_of(two.words, size)
    return len(first & second) / len(first | second) if first and second else 0.0


def renamed(code, marker):
    """Every identifier that the code assigns or defines, under another name."""
    names = set(re.findall(r"^\s*(?:def |for )?([a-z_]\w+)(?: =| in|\()", code, re.MULTILINE))
    for name in sorted(names - set(dir(builtins)) - {"if", "for", "while", "print"}):
        code = re.sub(rf"(?<![\w.'\"]){name}(?![\w'\"])", f"{name}_{marker}", code)
    return code


def write_rows(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(VOCABULARY), max_size=60),
            st.lists(st.sampled_from(VOCABULARY), max_size=60),
        ),
        min_size=2,
        max_size=12,
    ),
    st.integers(1, 11),
)
def test_the_nearest_row_is_the_brute_force_one(pairs, n_train):
    rows = [RawRow(" ".join(question), "", " ".join(answer)) for question, answer in pairs]
    texts = Compared.of(rows)
    n_train = min(n_train, len(rows) - 1)
    train, held_out = range(n_train), range(n_train, len(rows))
    for side, canonical in (("question", texts.questions), ("answer", texts.answers)):
        for pair in nearest_rows(rows, texts, train, held_out, side=side):
            similarities = [
                brute_similarity(canonical[pair.held_out], canonical[other]) for other in train
            ]
            assert pair.similarity == pytest.approx(max(similarities))
            if pair.similarity:
                assert similarities[pair.train] == pytest.approx(pair.similarity)
            texts_of = [row.instruction if side == "question" else row.output for row in rows]
            assert pair.exact == (texts_of[pair.held_out] in [texts_of[place] for place in train])


def test_shares_and_worst_pairs_are_those_of_a_split_made_by_hand():
    copied = "def total(values):\n    return sum(values) / len(values) + max(values)"
    rows = [
        RawRow("How do I add these values up quickly?", "", copied, source="row 1"),
        RawRow("Open a socket", "", "import socket", source="row 2"),
        RawRow("Something else entirely", "", copied.replace("values", "items"), source="row 3"),
        RawRow("Nothing like it", "", "import re", source="row 4"),
    ]
    splits = ["train", "train", "test", "test"]
    result = audit(rows, Compared.of(rows), splits, ["a", "b", "c", "d"])
    assert result["test"]["n_rows"] == 2
    assert result["test"]["answer"]["percent_ge_0.7"] == 50.0
    assert result["test"]["answer"]["n_ge_0.9"] == 1
    assert result["test"]["answer"]["n_exact"] == 0
    assert result["test"]["question"]["percent_ge_0.7"] == 0.0
    assert result["validation"]["n_rows"] == 0
    assert result["validation"]["answer"]["percent_exact"] is None
    worst = result["worst"][0]
    assert (worst["held_out"]["example_id"], worst["train"]["example_id"]) == ("c", "a")
    assert worst["similarity"] == 1.0 and not worst["exact"] and worst["side"] == "answer"
    assert worst["train"]["source"] == "row 1"


def test_an_audit_of_thousands_takes_seconds():
    rows = [
        RawRow(f"question {n} about {n % 97} and {n % 89}", "", f"x = [{n}, {n % 53}, {n % 31}]")
        for n in range(5500)
    ]
    texts = Compared.of(rows)
    started = cpu_seconds()
    audit(rows, texts, ["train"] * 5000 + ["test"] * 500, [str(n) for n in range(5500)])
    assert cpu_seconds() - started < 10


def distinct_rows(n, offset=0):
    subjects = ["lists", "files", "sockets", "dates", "trees", "colours", "words", "prices"]
    return [
        {
            "instruction": f"Handle {subjects[n % 8]} of shape {n} please",
            "input": "",
            "output": f"import {subjects[n % 8]}_{n}\n{subjects[(n * 3) % 8]}_{n}.run({n * 7})",
        }
        for n in range(offset, offset + n)
    ]


def test_a_given_test_split_is_used_as_it_is_and_its_leaks_are_reported(tmp_path):
    rows = distinct_rows(40)
    other = distinct_rows(10, offset=100)
    train = write_rows(tmp_path / "train.jsonl", rows)
    test = write_rows(tmp_path / "test.jsonl", [*other, rows[0], rows[1]])
    section = DataSection(source=str(train), test_source=str(test))
    prepared = prepare(section, seed=0)
    held_out = [row for row in prepared.examples if row.split == "test"]
    assert [row.reference for row in held_out] == [r["output"] for r in [*other, *rows[:2]]]
    assert prepared.card["splits"] == {"train": 36, "validation": 4, "test": 12}
    assert prepared.card["rows_in"] == 52
    assert prepared.card["leaked_clusters"] >= 1
    in_train = {row.reference for row in prepared.examples if row.split == "train"}
    n_leaks = sum(row["output"] in in_train for row in rows[:2])
    assert n_leaks
    assert prepared.card["leak_audit"]["test"]["answer"]["n_exact"] == n_leaks
    assert prepared.card["origin"]["given_splits"]["test"]["name"] == str(test)

    validation = write_rows(tmp_path / "validation.jsonl", distinct_rows(5, offset=200))
    section = section.model_copy(
        update={
            "validation_source": str(validation),
            "split": SplitSection(on_leak="drop", method="head"),
        }
    )
    prepared = prepare(section, seed=0)
    assert prepared.card["splits"] == {"train": 38, "validation": 5, "test": 12}
    step = next(step for step in prepared.card["steps"] if step["name"] == "drop_leaks")
    assert (step["dropped"], step["rows_after"]) == (2, 55)
    assert prepared.card["leaked_clusters"] == 0
    assert prepared.card["leak_audit"]["test"]["answer"]["n_ge_0.7"] == 0


def test_the_same_rows_as_training_and_test_are_refused(tmp_path):
    rows = distinct_rows(12)
    train = write_rows(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError, match="same rows"):
        prepare(DataSection(source=str(train), test_source=str(train)), seed=0)
    copy = write_rows(tmp_path / "copy.jsonl", rows)
    section = DataSection(
        source=str(train), test_source=str(copy), split=SplitSection(on_leak="drop")
    )
    with pytest.raises(DataError, match="every training row"):
        prepare(section, seed=0)


def test_leaking_rows_are_found_without_clusters_too():
    words = " ".join(f"v{n}" for n in range(60))
    rows = [RawRow("a b c", "", words), RawRow("d e f", "", f"{words} v1 v2 v3")]
    ids = ["one", "two"]
    found = leaking_rows(Compared.of(rows), ["train", "test"], ids, DuplicatesSection())
    assert found == {0}
    strict = DuplicatesSection(answer_jaccard=0.99, instruction_jaccard=0.99)
    assert leaking_rows(Compared.of(rows), ["train", "test"], ids, strict) == set()


def test_thresholds_decide_what_a_cluster_is(tmp_path):
    rows = distinct_rows(30)
    shared = [f"value_{n} = compute_{n}(data_{n})" for n in range(10)]
    rows[0]["output"] = "\n".join([*shared, "alpha()", "beta()"])
    rows[1]["output"] = "\n".join([*shared, "gamma(1, 2)", "delta[3] = 4", "del epsilon.zeta"])
    source = write_rows(tmp_path / "rows.jsonl", rows)

    def n_clusters(**duplicates):
        section = DataSection(source=str(source), duplicates=DuplicatesSection(**duplicates))
        return prepare(section, seed=0).card["n_clusters"]

    assert n_clusters(answer_jaccard=0.95) == n_clusters(answer_jaccard=0.6) + 1


def test_renamed_copies_are_strangers_only_if_names_count(tmp_path):
    rows = distinct_rows(30)
    body = "def total({0}):\n    {1} = 0\n    for {2} in {0}:\n        {1} += {2}\n    return {1}"
    rows[0]["output"] = body.format("values", "result", "value")
    rows[1]["output"] = body.format("prices", "amount", "price")
    source = write_rows(tmp_path / "rows.jsonl", rows)

    def n_clusters(**duplicates):
        section = DataSection(source=str(source), duplicates=DuplicatesSection(**duplicates))
        return prepare(section, seed=0).card["n_clusters"]

    assert n_clusters(rename_identifiers=False) == n_clusters() + 1


def test_the_page_shows_shares_and_pairs_side_by_side(tmp_path):
    hostile = "<script>alert(1)</script>"
    rows = distinct_rows(30)
    train = write_rows(tmp_path / "train.jsonl", rows)
    twin = {**rows[0], "instruction": f"{hostile} {rows[0]['instruction']}"}
    test = write_rows(tmp_path / "test.jsonl", [twin, *distinct_rows(4, offset=90)])
    split = SplitSection(validation=3)
    card = prepare(DataSection(source=str(train), test_source=str(test), split=split), seed=0).card
    page = render_card(card)
    assert "Leak audit" in page and hostile not in page
    assert "20.0 %" in page and page.count("import lists_0") >= 2


def test_no_cluster_of_the_real_rows_and_their_copies_is_split(tmp_path):
    path = SHARED / "python-codes-260.jsonl"
    if not path.exists():
        pytest.skip("needs the shared data")
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    copies = []
    for place, row in enumerate(rows[:50]):
        words = row["instruction"].split()
        words[place % len(words)] = "please"
        output = renamed(row["output"], "copy")
        copies.append({**row, "instruction": " ".join(words), "output": output})
    assert (
        sum(copy["output"] != row["output"] for copy, row in zip(copies, rows, strict=False)) > 25
    )
    source = write_rows(tmp_path / "rows.jsonl", [*rows, *rows, *copies])
    prepared = prepare(DataSection(source=str(source)), seed=0)
    assert prepared.card["n_exact_duplicates"] >= 260
    raw = [RawRow(r.instruction, r.input, r.reference) for r in prepared.examples]
    texts = Compared.of(raw)
    train = [n for n, row in enumerate(prepared.examples) if row.split == "train"]
    for split in ("validation", "test"):
        held_out = [n for n, row in enumerate(prepared.examples) if row.split == split]
        for canonical in (texts.questions, texts.answers):
            worst = max(
                brute_similarity(canonical[one], canonical[two])
                for one in held_out
                for two in train
            )
            assert worst < 0.7
        shares = prepared.card["leak_audit"][split]
        assert shares["question"]["n_ge_0.7"] == shares["answer"]["n_ge_0.7"] == 0
