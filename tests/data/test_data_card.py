"""The whole card: what a user sees of one row of each kind, and what nobody may see."""

import json
import random
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import escape

from veritune.config import CleanSection, DataSection, SplitSection
from veritune.data.card_page import render_card
from veritune.data.charts import columns, curves
from veritune.data.differences import side_by_side
from veritune.data.findings import facts_of, find_all
from veritune.data.findings.masked import cut
from veritune.data.licence import licence_of
from veritune.data.prepare import prepare, write_prepared
from veritune.data.vocabulary import vocabulary
from veritune.recipe_file import load_recipe
from veritune.rows import Example

HIDDEN = ["helazaqwsxqwe", "anna.berg@posteo.de", "4539 1488 0343 6467", "81.2.69.142"]
ODD = {
    "does_not_parse": ("Ask the user", "print('it's')"),
    "does_not_compile": ("Give it back", "return 1"),
    "no_code": ("Say it", "nothing"),
    "missing_modules": ("Import it", "import no_such_module_x\nno_such_module_x.run()"),
    "needs_the_outside": ("Type a name", "name = input()\nprint(name)"),
    "secrets": (
        "Log in as anna.berg@posteo.de with password: helazaqwsxqwe",
        "field.send_keys('helazaqwsxqwe')",
    ),
    "personal_data": ("Pay by 4539 1488 0343 6467", "connect('81.2.69.142')"),
}


def distinct_rows(n_rows):
    """Rows with words of their own, so that none is a near-copy of another."""
    draw = random.Random(5)
    rows = []
    for _ in range(n_rows):
        words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(9)]
        question = f"Write {words[0]} {words[1]} with {words[2]} of {words[3]}"
        answer = f"{words[4]} = {words[5]}({words[6]!r})\nprint({words[7]!r}, {words[8]!r})"
        rows.append({"instruction": question, "output": answer})
    return rows


def count_words(rows):
    return [(len(row.instruction.split()), len(row.output.split())) for row in rows]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rows = distinct_rows(60)
    rows += [{"instruction": question, "output": answer} for question, answer in ODD.values()]
    rows += [{"instruction": "Sort the shelf", "output": f"sort({n})"} for n in range(2)]
    rows += [{"instruction": f"Greet guest {n}", "output": "print('welcome')"} for n in range(3)]
    rows.append(dict(rows[0]))
    path = tmp_path_factory.mktemp("card") / "rows.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def prepared(source):
    return prepare(DataSection(source=str(source)), 0, count_words)


def test_each_kind_of_row_is_found_with_an_example(prepared):
    found = {item["name"]: item for item in prepared.card["findings"]}
    for name in (*ODD, "several_answers", "many_questions"):
        assert found[name]["n_rows"] >= 1, name
        assert found[name]["examples"], name
        assert found[name]["sentence"].startswith(f"{found[name]['n_rows']} of "), name
    assert found["secrets"]["n_rows"] == 1
    assert found["does_not_compile"]["kinds"] == {"return, yield or await outside a function": 1}
    assert found["several_answers"]["n_rows"] == 2 and found["many_questions"]["n_rows"] == 3
    levels = [item["level"] for item in prepared.card["findings"]]
    assert levels == sorted(levels, key=["act", "look", "know"].index)
    assert prepared.card["findings"][0]["name"] == "secrets"


def test_what_is_found_is_hidden_in_every_file_that_is_shown(prepared, tmp_path):
    write_prepared(prepared, tmp_path)
    for name in ("card.json", "card.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert not [value for value in HIDDEN if value in text], name
        assert "[hidden: e-mail address, 19 characters]" in text
    kept = {row.reference for row in prepared.examples}
    assert ODD["secrets"][1] in kept, "the rows themselves are not changed"


def test_a_cut_does_not_leave_half_an_address():
    text = f"{'word ' * 20}anna.berg@posteo.de and more"
    for limit in range(95, 125):
        shown = cut(text, limit)
        assert "anna" not in shown or "anna.berg@posteo.de" in shown
    assert cut("short", 100) == "short"
    assert cut(f"{'a' * 90}\n{'b' * 50}", 100) == f"{'a' * 90} …"
    assert len(cut("x" * 1000, 100)) <= 102


def test_every_setting_that_is_proposed_is_one_that_a_recipe_takes(source, tmp_path):
    loose = DataSection(
        source=str(source),
        clean=CleanSection(drop_exact_duplicates=False, unfence=False),
        split=SplitSection(method="head", train=30, validation=20, test=23),
    )
    tight = DataSection(source=str(source), max_target_tokens=4)
    wordy = tmp_path / "wordy.json"
    rows = distinct_rows(450)
    rows[7]["output"] = "x = [\n" + "1, \n" * 2000 + "]"
    wordy.write_text(json.dumps(rows), encoding="utf-8")
    few_tests = DataSection(source=str(wordy), split=SplitSection(test=20))
    settings_of = {
        item["name"]: item["setting"]
        for section in (loose, tight, few_tests)
        for item in prepare(section, 0, count_words).card["findings"]
        if item["setting"]
    }
    assert settings_of.keys() >= {
        *("does_not_parse", "copies_kept", "torn_clusters", "leaks", "dropped_too_long"),
        *("answers_cut", "long_pairs", "few_rows", "small_test"),
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {source: rows.json}\n", encoding="utf-8")
    for setting in settings_of.values():
        load_recipe(recipe, [setting])
    assert settings_of["dropped_too_long"] == "data.max_target_tokens=8"


def test_following_a_proposal_ends_the_finding(source):
    def names(section):
        return {item["name"] for item in prepare(section, 0).card["findings"]}

    kept = CleanSection(drop_exact_duplicates=False)
    head = SplitSection(method="head", train=30, validation=20, test=23)
    assert {"copies_kept", "torn_clusters", "leaks", "does_not_parse"} <= names(
        DataSection(source=str(source), clean=kept, split=head)
    )
    parsing = CleanSection(drop_unparseable=True)
    assert not {"copies_kept", "torn_clusters", "does_not_parse"} & names(
        DataSection(source=str(source), clean=parsing)
    )


def test_duplicates_and_clusters_add_up(prepared):
    card = prepared.card
    sizes = Counter(Counter(row.cluster_id for row in prepared.examples).values())
    assert sum(item["n_clusters"] for item in card["clusters"]["sizes"]) == card["n_clusters"]
    assert sum(item["n_rows"] for item in card["clusters"]["sizes"]) == card["rows_out"]
    by_size = {item["size"]: item["n_clusters"] for item in card["clusters"]["sizes"]}
    assert by_size["1"] == sizes[1]
    largest = card["clusters"]["largest"][0]
    assert largest["n_rows"] == card["largest_cluster"] == max(sizes)
    assert card["copies"] == [
        {"n_copies": 1, "n_texts": card["rows_in"] - 2},
        {"n_copies": 2, "n_texts": 1},
    ]


def test_counts_of_tasks_shapes_and_words_are_of_all_rows(prepared):
    card = prepared.card
    for name in ("actions", "subjects"):
        assert sum(item["n_rows"] for item in card["tasks"][name]) == card["rows_out"]
        assert all(1 <= len(item["questions"]) <= 3 for item in card["tasks"][name])
    n_parsed = sum(card["shapes"].values())
    assert n_parsed + sum(card["languages"].values()) == card["rows_out"]
    assert sum(card["complexity"]["histogram"]["counts"]) == n_parsed
    assert sum(card["lines"]["histogram"]["counts"]) == card["rows_out"]
    assert card["compile_rate"]["all"] < card["parse_rate"]["all"]
    words = Counter(
        word for row in prepared.examples for word in re.findall(r"[^\W\d]\w*", row.reference)
    )
    found = card["vocabulary"]["target"]
    assert found["n_words"] == words.total() and found["n_different"] == len(words)
    assert found["n_once"] == sum(count == 1 for count in words.values())
    assert found["ranks"][0] == [1, max(words.values())] and found["ranks"][-1][1] == 1
    assert found["growth"][-1] == [words.total(), len(words)]
    assert dict(found["most_frequent"])["print"] == words["print"]


def test_facts_found_elsewhere_give_the_same_findings(prepared):
    examples = prepared.examples
    elsewhere = find_all(examples, map(facts_of, examples))
    here = find_all(examples)
    assert elsewhere[0] == here[0] and elsewhere[2] == here[2]


def test_dear_findings_are_of_a_sample_and_say_so():
    examples = [
        Example(f"e{n}", f"c{n}", "train", f"Ask {n}", "", f"password = 'kT9x{n:06}wq'")
        for n in range(2500)
    ]
    (secrets,) = [item for item in find_all(examples)[0] if item.name == "secrets"]
    assert secrets.sampled and (secrets.n_rows, secrets.of_rows) == (2000, 2000)
    assert "of 2,000 sampled rows" in secrets.sentence
    assert vocabulary(examples)["n_rows"] == 2500


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text, self.headings = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_can_be_read_by_everyone_and_acts_by_itself_nowhere(prepared):
    page = Page()
    page.feed(render_card(prepared.card))
    names = Counter(tag for tag, _ in page.tags)
    assert names["h1"] == names["main"] == 1 and not names["script"]
    assert all(after - before <= 1 for before, after in pairwise(page.headings))
    assert not any("style" in attrs or "onclick" in attrs for _, attrs in page.tags)
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"} <= ids
    figures = [attrs for _, attrs in page.tags if attrs.get("role") == "img"]
    assert len(figures) >= 8 and all(attrs["aria-label"] for attrs in figures)
    tables = [attrs for tag, attrs in page.tags if tag == "table"]
    assert all(attrs.get("aria-label") for attrs in tables)
    assert all(attrs.get("scope") for tag, attrs in page.tags if tag == "th")
    text = " ".join(page.text)
    for item in prepared.card["findings"]:
        assert item["sentence"] in text
        assert not item["setting"] or f"--set {item['setting']}" in text


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "a\u202eb", "a\ud800b", "\x1b[2J"]
)
def test_hostile_text_is_shown_and_does_nothing(prepared, hostile):
    def poisoned(item):
        if isinstance(item, dict):
            return {name: poisoned(value) for name, value in item.items()}
        if isinstance(item, list):
            return [poisoned(value) for value in item]
        return f"{item}{hostile}" if isinstance(item, str) else item

    card = {**prepared.card, "licence": {"name": "MIT", "said_by": "its file"}}
    names = {"findings", "examples", "clusters", "leak_audit", "origin", "licence", "modules"}
    for name in names:
        card[name] = poisoned(card[name])
    for finding, sound in zip(card["findings"], prepared.card["findings"], strict=True):
        finding["level"] = sound["level"]
    for pair, sound in zip(
        card["leak_audit"]["worst"], prepared.card["leak_audit"]["worst"], strict=True
    ):
        pair["split"] = sound["split"]
    text = render_card(card)
    assert hostile not in text
    text.encode("utf-8")
    page = Page()
    page.feed(text)
    assert "script" not in {tag for tag, _ in page.tags}


TEXTS = st.text(st.sampled_from("ab <>&'\n\t\u202e1(é"), max_size=60)


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
def test_side_by_side_shows_both_texts_whole(left, right):
    shown = side_by_side(left, right)
    for text, html in zip((left, right), shown, strict=True):
        assert re.sub("</?mark>", "", html) == escape(text)


def test_side_by_side_marks_what_differs():
    left, right = side_by_side("def f(a):\n    return a + 1", "def f(a):\n    return a + 2")
    assert left == "def f(a):\n    return a + <mark>1</mark>"
    assert right == "def f(a):\n    return a + <mark>2</mark>"
    unlike = side_by_side("one two three", "x = y * z")
    assert not any("<mark>" in text for text in unlike)
    long = side_by_side("a " * 5000, "a " * 4999 + "b")
    assert not any("<mark>" in text for text in long)


@given(st.lists(st.integers(0, 10**9), max_size=30))
def test_plots_are_well_formed(counts):
    drawn = columns(list(map(str, counts)), counts, "target", "a <b>")
    assert len(ElementTree.fromstring(drawn).findall(".//rect")) == len(counts)
    points = list(enumerate(counts))
    for logarithmic in (True, False):
        ElementTree.fromstring(
            curves([("source", points)], logarithmic=logarithmic, description="'\"&")
        )


def test_the_licence_of_a_code_base(tmp_path):
    def found(origin):
        return licence_of(origin)["name"]

    code = {"kind": "code", "name": str(tmp_path / "src")}
    (tmp_path / "src").mkdir()
    assert found(code) is None
    (tmp_path / "LICENSE").write_text(
        "Permission is hereby granted, free of charge, to any person"
        " obtaining a copy of this software"
    )
    assert found(code) == "MIT"
    (tmp_path / "src" / "COPYING").write_text("SPDX-License-Identifier: BSD-3-Clause\n")
    assert found(code) == "BSD-3-Clause"
    (tmp_path / "src" / "pyproject.toml").write_text('[project]\nlicense = "Apache-2.0"\n')
    assert found(code) == "Apache-2.0"
    (tmp_path / "src" / "pyproject.toml").write_bytes(b"\xff[[[")
    assert found(code) == "BSD-3-Clause"
    assert found({"kind": "file", "name": "x", "licence": None}) is None
    assert licence_of({"kind": "hub", "name": "a/b", "licence": "mit"}) == {
        "name": "mit",
        "said_by": "the data set's card on the hub",
    }
