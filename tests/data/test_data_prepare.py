import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from veritune.config import CleanSection, DataSection, SplitSection
from veritune.data.card_page import render_card
from veritune.data.lengths import drop_too_long, length_statistics
from veritune.data.prepare import prepare, write_prepared
from veritune.data.raw_rows import RawRow
from veritune.errors import DataError
from veritune.rows import SPLITS, read_examples

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }} \"'&"


@pytest.fixture
def source(tmp_path):
    subjects = ["lists", "files", "sockets", "dates", "trees", "colours", "words", "prices"]
    rows = [
        {
            "instruction": f"How do I handle {subject} of kind {kind}?",
            "input": f"case {kind}",
            "output": f"```python\nimport {subject}_{kind}\n{subject}_{kind}.run({place})\n```",
            "tests": ["assert True"] if place % 2 else [],
        }
        for place, (subject, kind) in enumerate((s, k) for s in subjects for k in "abcde")
    ]
    rows[3]["output"] = "print 'no'"
    rows[4]["instruction"] = HOSTILE
    rows.append(dict(rows[0]))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def section(source, **settings):
    return DataSection(source=str(source), **settings)


def count_words(rows):
    return [(len(row.instruction.split()), len(row.output.split())) for row in rows]


def test_prepared_rows_come_back_from_the_files(source, tmp_path):
    prepared = prepare(section(source), seed=0)
    folder = tmp_path / "run" / "data"
    write_prepared(prepared, folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        "card.html",
        "card.json",
        "test.parquet",
        "train.parquet",
        "validation.parquet",
    ]
    read = {split: read_examples(folder / f"{split}.parquet") for split in SPLITS}
    assert all(row.split == split for split in SPLITS for row in read[split])
    assert sorted(
        (row for rows in read.values() for row in rows), key=lambda row: row.example_id
    ) == sorted(prepared.examples, key=lambda row: row.example_id)
    assert json.loads((folder / "card.json").read_text(encoding="utf-8")) == prepared.card


def test_preparing_again_gives_the_same_and_ids_survive_another_order(source, tmp_path):
    first = prepare(section(source), seed=0)
    assert prepare(section(source), seed=0) == first
    ids = [row.example_id for row in first.examples]
    assert len(set(ids)) == len(ids) == 40
    turned = tmp_path / "turned.jsonl"
    lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
    turned.write_text("".join(reversed(lines)), encoding="utf-8")
    other = prepare(section(turned), seed=0)
    assert {row.example_id: row.reference for row in other.examples} == {
        row.example_id: row.reference for row in first.examples
    }


def test_no_cluster_is_torn_and_torn_ones_are_counted(source):
    prepared = prepare(section(source), seed=0)
    homes = {}
    for row in prepared.examples:
        assert homes.setdefault(row.cluster_id, row.split) == row.split
    assert prepared.card["leaked_clusters"] == 0
    keep_twins = CleanSection(drop_exact_duplicates=False)
    torn = SplitSection(method="head", train=1, validation=39, test=1)
    card = prepare(section(source, clean=keep_twins, split=torn), seed=0).card
    assert card["leaked_clusters"] >= 1


def test_the_card_says_what_happened(source):
    prepared = prepare(section(source), seed=0, count_tokens=count_words)
    card = prepared.card
    assert card["origin"]["name"] == str(source)
    assert (card["rows_in"], card["rows_out"], card["n_exact_duplicates"]) == (41, 40, 1)
    steps = {step["name"]: step for step in card["steps"]}
    assert steps["unfence"]["changed"] == 40
    assert steps["drop_exact_duplicates"]["dropped"] == 1
    assert card["unique"] == {"instruction": 40, "input": 5, "output": 40}
    assert card["splits"] == {
        split: sum(row.split == split for row in prepared.examples) for split in SPLITS
    }
    assert sum(card["splits"].values()) == 40
    assert card["parse_rate"]["all"] == 97.5
    (reason,) = card["parse_failures"]
    assert reason.startswith("SyntaxError: Missing parentheses")
    assert card["n_with_tests"] == 20
    assert card["n_clusters"] == len({row.cluster_id for row in prepared.examples})
    assert len(card["examples"]) == 10
    counts = card["token_lengths"]["histogram"]
    assert sum(counts["source"]) == sum(counts["target"]) == 40
    assert len(counts["edges"]) == len(counts["source"]) + 1
    assert card["character_lengths"]["target"]["max"] == max(
        len(row.reference) for row in prepared.examples
    )
    assert prepare(section(source), seed=0).card["token_lengths"] is None


def test_pairs_over_a_limit_are_dropped_never_cut(source):
    limits = {"max_target_tokens": 3}
    card = prepare(section(source, **limits), seed=0, count_tokens=count_words).card
    step = next(step for step in card["steps"] if step["name"] == "drop_too_long")
    assert step["enabled"] and step["description"].endswith("max_target_tokens=3")
    assert step["dropped"] == 0
    rows = [RawRow("a b c", "", "d"), RawRow("a", "", "d e f"), RawRow("a", "", "d")]
    for name, limit, left in [
        ("max_source_tokens", 2, rows[1:]),
        ("max_target_tokens", 2, [rows[0], rows[2]]),
        ("max_pair_tokens", 3, rows[2:]),
        ("max_pair_tokens", 4, rows),
    ]:
        kept, counts, _ = drop_too_long(rows, count_words, section(source, **{name: limit}))
        assert kept == left and counts == count_words(left)
    with pytest.raises(DataError, match="tokenizer"):
        prepare(section(source, **limits), seed=0)


def test_nothing_left_names_the_step_that_dropped_it(source):
    with pytest.raises(DataError) as caught:
        prepare(section(source, max_source_tokens=1), seed=0, count_tokens=count_words)
    assert "drop_too_long dropped 40" in caught.value.received


def test_an_ignored_input_takes_no_part_in_anything(source):
    examples = prepare(section(source, input="ignore"), seed=0).examples
    assert {row.input for row in examples} == {""}


def test_max_rows_and_unused_rows_are_counted(source):
    split = SplitSection(method="head", train=10, validation=3, test=4)
    prepared = prepare(section(source, max_rows=20, split=split), seed=0)
    assert prepared.card["rows_in"] == 20
    assert prepared.card["splits"] == {"train": 10, "validation": 3, "test": 4}
    assert prepared.card["steps"][-1]["dropped"] == 3
    assert [row.source for row in prepared.examples] == [f"row {n}" for n in range(1, 18)]


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_escapes_hostile_text_and_loads_nothing(source):
    prepared = prepare(section(source), seed=0, count_tokens=count_words)
    row = next(row for row in prepared.examples if row.instruction == HOSTILE)
    prepared.card["examples"][0].update(
        instruction=row.instruction, reference=HOSTILE, input=HOSTILE, example_id=HOSTILE
    )
    prepared.card["parse_failures"][HOSTILE] = 1
    prepared.card["origin"].update(notices=[HOSTILE], columns=[HOSTILE], left_out={HOSTILE: 3})
    prepared.card["licence"]["name"] = HOSTILE
    page = render_card(prepared.card)
    parser = Tags()
    parser.feed(page)
    tags = {tag for tag, _ in parser.seen}
    assert not tags & {"script", "link", "img", "iframe"}
    links = [attrs[name] for _, attrs in parser.seen for name in attrs if name in ("src", "href")]
    assert all(link.startswith("#") for link in links)
    assert sum(HOSTILE in text for text in parser.text) >= 6
    assert "width=device-width" in page and "prefers-color-scheme" in page
    assert len(page) < 200_000


def test_names_that_no_file_can_hold_do_not_stop_the_files(source, tmp_path):
    lines = source.read_text(encoding="utf-8").replace('"input":', '"\\ud800": 1, "input":')
    odd = tmp_path / "odd.jsonl"
    odd.write_text(lines, encoding="utf-8")
    write_prepared(prepare(section(odd), seed=0), tmp_path / "out")
    assert (tmp_path / "out" / "card.html").read_text(encoding="utf-8")


def test_length_statistics_of_constant_and_of_wild_lengths():
    flat = length_statistics([(5, 5)] * 3)
    assert flat["source"] == {"p50": 5, "p90": 5, "p99": 5, "max": 5, "mean": 5}
    wild = length_statistics([(0, 0), (1, 10**6), *[(3, 4)] * 500])
    for name in ("source", "target"):
        assert sum(wild["histogram"][name]) == 502
    edges = wild["histogram"]["edges"]
    assert edges == sorted(set(edges)) and edges[-1] > 10**6
    assert length_statistics([]) is None


def test_nothing_of_the_layer_imports_a_model_library():
    program = (
        "import sys, veritune.data.prepare, veritune.data.hub\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_real_rows_parse_as_often_as_is_known():
    path = SHARED / "python-codes-260.jsonl"
    if not path.exists():
        pytest.skip("needs the shared data")
    prepared = prepare(section(path), seed=0)
    assert prepared.card["rows_out"] == 260
    assert prepared.card["parse_rate"]["all"] == 75.0
    assert not any("```" in row.reference for row in prepared.examples)
    assert sum(prepared.card["splits"].values()) == 260
    assert prepared.card["splits"]["test"] == prepared.card["splits"]["validation"] == 26
