import json
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from veritune.data.canonical import canonical_answer, canonical_question
from veritune.data.dedupe import find_clusters
from veritune.data.mbpp import with_asserts
from veritune.data.near_duplicates import Shingles
from veritune.data.raw_rows import RawRow

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
FUNCTION = '''\
def mean(values):
    """Mean of values."""
    total = 0
    for value in values:  # add up
        total += value
    return total / len(values)
'''
RENAMED = """\
def average(numbers):
    s = 0
    for n in numbers:
        s += n
    return s / len(numbers)
"""


def clusters_of(*pairs):
    return find_clusters([RawRow(question, "", answer) for question, answer in pairs]).ids


def words(rng, n):
    return [f"w{number}" for number in rng.integers(0, 10_000, n)]


def test_strangers_stay_apart_and_ids_follow_first_appearance():
    assert clusters_of(
        ("Sort a list of numbers", "sorted(x)"),
        ("Open a socket to the server", "import socket\nsocket.socket()"),
    ) == ["c000000", "c000001"]


def test_equal_questions_link_whatever_their_punctuation_and_case():
    ids = clusters_of(
        ("Sort a list!", "a = 1"),
        ("other words entirely", "import os"),
        ("sort  a, list", "import re\nre.compile('b')"),
    )
    assert ids == ["c000000", "c000001", "c000000"]


def test_questions_of_punctuation_alone_are_equal_only_to_themselves():
    ids = clusters_of(("???", "a = 1"), ("!!!", "import os"), ("???", "import re"))
    assert ids == ["c000000", "c000001", "c000000"]


def test_a_renamed_copy_without_docstring_and_comments_links():
    assert canonical_answer(FUNCTION).key == canonical_answer(RENAMED).key
    assert canonical_answer(FUNCTION).words == canonical_answer(RENAMED).words
    other = FUNCTION.replace("+=", "-=")
    assert canonical_answer(FUNCTION).key != canonical_answer(other).key
    assert len(set(clusters_of(("First", FUNCTION), ("Entirely different", RENAMED)))) == 1


def test_foreign_names_and_values_are_not_folded():
    for one, two in [
        ("import os", "import sys"),
        ("print(1)", "print(2)"),
        ("x = 'a'", "x = 'b'"),
        ("x.append(1)", "x.remove(1)"),
        ("a = b", "b = a = a"),
        ("x = 1", "x = True"),
        ("f(a, [b])", "f([a], b)"),
    ]:
        assert canonical_answer(one).key != canonical_answer(two).key


def test_layout_of_code_that_does_not_parse_is_folded():
    assert canonical_answer("print 'a'  # x").key == canonical_answer("print\t'a'").key
    assert canonical_answer("print 'a'").key != canonical_answer("print 'b'").key


def test_questions_in_scripts_without_spaces_are_compared_by_character():
    one, two = canonical_question("写一个排序函数", ""), canonical_question("写一个搜索函数", "")
    assert len(one.words) == 7 and one.key != two.key


def test_links_chain_into_one_cluster():
    ids = clusters_of(("one thing", "a = 1"), ("one thing", FUNCTION), ("third one", RENAMED))
    assert len(set(ids)) == 1


def test_near_duplicates_link_and_half_similar_texts_do_not():
    rng = np.random.default_rng(0)
    base = words(rng, 60)
    near = [*base[:30], "changed", *base[31:]]
    far = [*base[:30], *words(rng, 30)]
    ids = clusters_of(
        (" ".join(base), "import os"), (" ".join(near), "import re"), (" ".join(far), "import sys")
    )
    assert ids == ["c000000", "c000000", "c000001"]


def test_short_reordered_questions_link_only_with_a_similar_answer():
    one = "reverse the given string"
    two = "the given string reverse now"
    assert clusters_of((one, "s[::-1]"), (two, "import os; os.listdir('.')"))[1] == "c000001"
    assert clusters_of((one, "print(s[::-1])"), (two, "print(s[::-1], 1)"))[1] == "c000000"


def brute_force_jaccard(one, two, size):
    sets = [{tuple(t[i : i + size]) for i in range(len(t) - size + 1)} for t in (one, two)]
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if all(sets) else 0.0


@given(
    st.lists(st.lists(st.sampled_from("abcd"), max_size=12), min_size=2, max_size=4),
    st.integers(1, 5),
)
def test_jaccard_equals_that_of_the_sets_themselves(texts, size):
    shingles = Shingles(texts)
    for one, two in combinations(range(len(texts)), 2):
        expected = brute_force_jaccard(texts[one], texts[two], size)
        assert shingles.jaccard(one, two, size) == pytest.approx(expected)


def test_candidates_hold_nearly_every_pair_above_the_threshold():
    rng = np.random.default_rng(1)
    texts = []
    for _ in range(40):
        base = words(rng, 80)
        texts.append(base)
        for _ in range(5):
            copy = list(base)
            for place in rng.integers(0, 80, rng.integers(1, 8)):
                copy[place] = "changed"
            texts.append(copy)
    shingles = Shingles(texts)
    found = set(shingles.candidates(np.arange(len(texts)), 5))
    similar = {
        pair
        for pair in combinations(range(len(texts)), 2)
        if brute_force_jaccard(texts[pair[0]], texts[pair[1]], 5) >= 0.7
    }
    assert len(similar) > 50
    assert len(similar & found) / len(similar) > 0.98
    assert len(found) < 0.05 * len(texts) ** 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=40)), max_size=8))
def test_any_text_gets_a_cluster_and_equal_rows_the_same(pairs):
    ids = clusters_of(*pairs, *pairs)
    assert len(ids) == 2 * len(pairs)
    assert ids[: len(pairs)] == ids[len(pairs) :]


def test_clusters_do_not_depend_on_the_hash_seed():
    program = (
        "from veritune.data.dedupe import find_clusters\n"
        "from veritune.data.raw_rows import RawRow\n"
        "rows = [RawRow(f'question {i % 7} about number {i % 3}', '', f'print({i % 5})')"
        " for i in range(40)]\n"
        "print(find_clusters(rows).ids)"
    )
    results = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(results) == 1


def test_real_prompts_do_not_chain_into_one_cluster():
    path = SHARED / "mbpp-464.jsonl"
    if not path.exists():
        pytest.skip("needs the shared data")
    tasks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    clusters = find_clusters([RawRow(task["text"], "", task["code"]) for task in tasks])
    assert max(clusters.sizes.values()) <= 10
    assert len(clusters.sizes) > 350


def test_the_asserts_that_mbpp_shows_do_not_part_equal_questions():
    asserts = [f"assert find_{word}([{word!r}]) == {word!r}" for word in ("one", "two", "six")]
    rows = [
        RawRow(with_asserts("Write a function to find the largest element.", [test]), "", code)
        for test, code in zip(
            asserts, ["def find_one(x): return max(x)", "a = 1", "b"], strict=True
        )
    ]
    assert len(set(find_clusters(rows).ids)) == 1
