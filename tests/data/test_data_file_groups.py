"""Rows of one file share a split; what happens where files are too few."""

from collections import Counter, defaultdict

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from veritune.config import CodeSection, DataSection, DuplicatesSection, SplitSection
from veritune.data.file_groups import split_grouped
from veritune.data.prepare import prepare
from veritune.errors import DataError

APART = DuplicatesSection(answer_jaccard=1.0, instruction_jaccard=1.0)
SHARES = SplitSection(train=None, validation=0.1, test=0.1)


def rows_of(*sizes):
    """(group, cluster) of each row: files of these sizes, every row a cluster of its own."""
    groups = [f"f{number}.py" for number, size in enumerate(sizes) for _ in range(size)]
    return groups, [f"c{place:06d}" for place in range(len(groups))]


def torn(groups, splits):
    found = defaultdict(set)
    for group, split in zip(groups, splits, strict=True):
        if group and split is not None:
            found[group].add(split)
    return [group for group, names in found.items() if len(names) > 1]


def test_no_file_and_no_cluster_is_torn():
    groups, clusters = rows_of(*[5] * 60)
    clusters[0] = clusters[7] = "c000000"
    result = split_grouped(groups, clusters, SHARES, 3)
    assert torn(groups, result.splits) == torn(clusters, result.splits) == []
    assert torn(result.cluster_ids, result.splits) == []
    assert Counter(result.splits) == {"train": 240, "validation": 30, "test": 30}


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefghij"), st.integers(0, 30)), min_size=12, max_size=60
    ),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_what_is_linked_through_files_and_clusters_stays_together(rows, seed):
    groups = [group for group, _ in rows]
    clusters = [f"c{number}" for _, number in rows]
    assume(len(set(clusters)) > 5)
    try:
        result = split_grouped(groups, clusters, SplitSection(validation=1, test=2), seed)
    except DataError:
        return
    assert torn(clusters, result.splits) == []
    if "functions are" not in result.notice:
        assert torn(groups, result.splits) == []


def test_files_are_the_unit_of_statistics_where_there_are_thirty_in_test():
    groups, clusters = rows_of(*[2] * 400)
    many = split_grouped(groups, clusters, SHARES, 0)
    assert many.notice == ""
    in_test = {unit for unit, split in zip(many.cluster_ids, many.splits, strict=True)
               if split == "test"}  # fmt: skip
    assert len(in_test) == 40
    groups, clusters = rows_of(*[20] * 40)
    few = split_grouped(groups, clusters, SHARES, 0)
    assert torn(groups, few.splits) == []
    assert few.cluster_ids == clusters
    assert "4 groups of files" in few.notice


@pytest.mark.parametrize("sizes", [(50,), (25, 25), (90, 2, 2)])
def test_too_few_files_are_divided_by_function_and_it_is_said(sizes):
    groups, clusters = rows_of(*sizes)
    result = split_grouped(groups, clusters, SHARES, 0)
    counts = Counter(result.splits)
    n_rows = sum(sizes)
    assert counts["test"] == counts["validation"] == round(0.1 * n_rows)
    assert "functions are" in result.notice and result.cluster_ids == clusters


def test_rows_left_over_let_held_out_rows_come_from_many_files():
    groups, clusters = rows_of(*[10] * 100)
    section = SplitSection(train=200, validation=20, test=40)
    result = split_grouped(groups, clusters, section, 1)
    assert Counter(result.splits) == {None: 740, "train": 200, "validation": 20, "test": 40}
    assert torn(groups, result.splits) == []
    per_file = Counter(
        group for group, split in zip(groups, result.splits, strict=True) if split == "test"
    )
    assert len(per_file) == 40 and max(per_file.values()) == 1
    assert split_grouped(groups, clusters, section, 1) == result
    assert split_grouped(groups, clusters, section, 2).splits != result.splits


def test_fewer_files_give_more_rows_each():
    groups, clusters = rows_of(*[20] * 30)
    section = SplitSection(train=200, validation=20, test=40)
    result = split_grouped(groups, clusters, section, 1)
    assert Counter(result.splits)["test"] == 40
    assert torn(groups, result.splits) == []


def test_rows_with_tests_are_the_first_in_test():
    groups, clusters = rows_of(*[10] * 100)
    wanted = [place % 50 == 7 for place in range(1000)]
    section = SplitSection(train=200, validation=20, test=40)
    result = split_grouped(groups, clusters, section, 1, wanted=wanted)
    in_test = [place for place, split in enumerate(result.splits) if split == "test"]
    assert sum(wanted[place] for place in in_test) == 20


def test_all_rows_with_tests_are_in_test_where_thirty_files_fit_beside_them():
    groups, clusters = rows_of(60, 9, *[10] * 100)
    wanted = [place < 51 or 60 <= place < 69 for place in range(1069)]
    for n_test, n_with_tests, n_files in ((92, 60, 34), (44, 16, 30), (30, 2, 30)):
        section = SplitSection(train=200, validation=20, test=n_test)
        result = split_grouped(groups, clusters, section, 1, wanted=wanted)
        in_test = [place for place, split in enumerate(result.splits) if split == "test"]
        assert len(in_test) == n_test and torn(groups, result.splits) == []
        assert sum(wanted[place] for place in in_test) == n_with_tests
        assert len({groups[place] for place in in_test}) == n_files
    large = split_grouped(groups, clusters, SplitSection(train=200, validation=20, test=92), 1,
                          wanted=wanted)  # fmt: skip
    assert large.cluster_ids == clusters and "55% of them" in large.notice


@pytest.mark.parametrize("method", ["head", "random"])
def test_the_other_methods_take_single_rows(method):
    groups, clusters = rows_of(*[10] * 10)
    section = SplitSection(method=method, train=80, validation=10, test=10)
    result = split_grouped(groups, clusters, section, 0)
    assert Counter(result.splits) == {"train": 80, "validation": 10, "test": 10}
    assert result.cluster_ids == clusters and result.notice == ""


def function(name, number):
    return (
        f'def {name}(value):\n    """Give {name} of it, case {number}."""\n'
        f"    result_{number} = value * {number} + {number % 7}\n"
        f"    print('{name}', {number}, result_{number})\n    return result_{number}\n\n\n"
    )


@pytest.fixture
def code(tmp_path):
    words = ["alpha", "beta", "gamma", "delta", "kappa", "sigma"]
    for file in range(20):
        text = "".join(function(f"{words[place]}_{file}", 100 * file + place) for place in range(6))
        (tmp_path / f"module{file}.py").write_text(text)
    return tmp_path


def files_by_split(examples):
    found = defaultdict(set)
    for example in examples:
        found[example.split].add(example.source.partition(":")[0])
    return found


def test_a_code_bases_files_are_not_torn_and_can_be(code):
    section = DataSection(source=f"code:{code}", duplicates=APART)
    prepared = prepare(section, seed=0)
    files = files_by_split(prepared.examples)
    assert not files["train"] & (files["test"] | files["validation"])
    assert not files["test"] & files["validation"]
    assert prepared.card["leaked_clusters"] == 0
    assert any("groups of files" in notice for notice in prepared.card["origin"]["notices"])
    loose = section.model_copy(update={"code": CodeSection(keep_files_together=False)})
    files = files_by_split(prepare(loose, seed=0).examples)
    assert files["train"] & files["test"]


def test_a_code_base_of_one_file_can_still_be_divided(tmp_path):
    (tmp_path / "one.py").write_text(
        "".join(function(f"{chr(97 + n)}{n}", 37 * n + 5) for n in range(24))
    )
    section = DataSection(
        source=f"code:{tmp_path / 'one.py'}",
        duplicates=APART,
    )
    prepared = prepare(section, seed=0)
    assert {example.split for example in prepared.examples} == {"train", "validation", "test"}
    assert any("functions are" in notice for notice in prepared.card["origin"]["notices"])
