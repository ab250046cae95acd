from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from veritune.config import SplitSection
from veritune.data.split import leaked_clusters, split_rows, split_sizes
from veritune.errors import DataError
from veritune.rows import SPLITS

sizes = st.one_of(st.integers(1, 60), st.floats(0.01, 0.6))


@st.composite
def sections(draw, **fixed):
    drawn = {name: draw(sizes) for name in SPLITS}
    if draw(st.booleans()):
        drawn[draw(st.sampled_from(SPLITS))] = None
    assume(sum(size for size in drawn.values() if isinstance(size, float)) <= 1)
    return SplitSection(**drawn, **fixed)


@given(
    sections(method="clusters"),
    st.lists(st.integers(0, 40), min_size=1, max_size=150),
    st.integers(0, 5),
)
def test_whole_clusters_go_to_one_split(section, clusters, seed):
    ids = [f"c{number}" for number in clusters]
    try:
        splits = split_rows(ids, section, seed)
    except DataError as error:
        assert str(len(ids)) in error.received
        return
    assert leaked_clusters(ids, splits) == 0
    for cluster in set(ids):
        assert len({split for split, name in zip(splits, ids, strict=True) if name == cluster}) == 1
    counts = Counter(splits)
    assert all(counts[split] for split in SPLITS)
    if None in (section.train, section.validation, section.test):
        assert counts[None] == 0
    assert splits == split_rows(ids, section, seed)


@given(
    sections(),
    st.sampled_from(["random", "head", "clusters"]),
    st.integers(1, 300),
    st.integers(0, 5),
)
def test_sizes_are_met_exactly_where_rows_stand_alone(section, method, n_rows, seed):
    section = section.model_copy(update={"method": method})
    ids = [f"c{number}" for number in range(n_rows)]
    try:
        expected = split_sizes(n_rows, section)
    except DataError:
        return
    counts = Counter(split_rows(ids, section, seed))
    assert {split: counts[split] for split in SPLITS} == expected
    for split in SPLITS:
        size = getattr(section, split)
        if isinstance(size, int):
            assert expected[split] == size
        elif size is not None:
            assert abs(expected[split] - size * n_rows) <= 3
        else:
            assert sum(expected.values()) == n_rows


def test_head_takes_the_first_rows_in_order():
    section = SplitSection(method="head", train=3, validation=1, test=2)
    assert split_rows(["c"] * 8, section, 0) == ["train"] * 3 + ["validation"] + ["test"] * 2 + [
        None,
        None,
    ]
    section = SplitSection(method="head", train=None, validation=1, test=0.5)
    assert split_rows(["c"] * 4, section, 0) == ["train", "validation", "test", "test"]


def test_the_seed_decides_and_zero_is_a_seed():
    ids = [f"c{number}" for number in range(100)]
    for method in ("clusters", "random"):
        section = SplitSection(method=method)
        splits = [split_rows(ids, section, seed) for seed in (0, 0, 1)]
        assert splits[0] == splits[1] != splits[2]


def test_a_large_cluster_is_passed_over_and_goes_to_train():
    ids = ["big"] * 50 + [f"c{number}" for number in range(50)]
    for seed in range(10):
        splits = split_rows(ids, SplitSection(test=10, validation=10), seed)
        assert Counter(splits) == {"train": 80, "test": 10, "validation": 10}
        assert set(splits[:50]) == {"train"}


def test_the_rest_gets_what_whole_clusters_leave():
    ids = [f"c{number // 7}" for number in range(70)]
    counts = Counter(split_rows(ids, SplitSection(test=10, validation=10), 0))
    assert counts == {"train": 56, "test": 7, "validation": 7}
    counts = Counter(split_rows(ids, SplitSection(train=40, test=None, validation=3), 0))
    assert counts == {"train": 35, "validation": 7, "test": 28}


def test_shares_that_add_up_to_one_use_every_row():
    section = SplitSection(train=0.8, validation=0.1, test=0.1)
    for n_rows in range(10, 60):
        assert sum(split_sizes(n_rows, section).values()) == n_rows
    ids = ["a"] * 7 + ["b"] * 7 + ["c"] * 7 + [f"d{n}" for n in range(9)]
    assert None not in split_rows(ids, section, 0)


@pytest.mark.parametrize(
    ("n_rows", "settings"),
    [
        (3, {}),
        (10, {"test": 6, "validation": 4}),
        (10, {"test": 60}),
        (10, {"train": 8, "validation": 2, "test": 2}),
        (1, {"test": 1, "validation": 1}),
    ],
)
def test_too_few_rows_are_an_error_that_says_how_many(n_rows, settings):
    for method in ("clusters", "random", "head"):
        with pytest.raises(DataError) as caught:
            split_rows([f"c{n}" for n in range(n_rows)], SplitSection(method=method, **settings), 0)
        assert f"{n_rows} rows" in caught.value.received
        assert "data" in caught.value.next_step


def test_one_cluster_cannot_fill_three_splits():
    with pytest.raises(DataError) as caught:
        split_rows(["same"] * 100, SplitSection(), 0)
    assert "1 clusters" in caught.value.received


def test_torn_clusters_are_counted():
    ids = ["a", "a", "b", "b", "c"]
    assert leaked_clusters(ids, ["train", "test", "train", "train", None]) == 1
    assert leaked_clusters(ids, ["train", "test", "train", "validation", "test"]) == 2
