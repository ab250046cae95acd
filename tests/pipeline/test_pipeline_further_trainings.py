"""Which rows a smaller training gets: seeded, nested, whole clusters but for the last."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from veritune.pipeline.choose_base import folder_names
from veritune.pipeline.further_trainings import nested_subsets
from veritune.pipeline.sub_runs import place_file
from veritune.rows import Example


def rows(clusters: list[int]) -> list[Example]:
    return [
        Example(str(i), f"c{cluster}", "train", f"q{i}", "", "pass")
        for i, cluster in enumerate(clusters)
    ]


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=40),
    st.lists(st.integers(1, 45), unique=True),
    st.integers(0, 5),
)
def test_subsets_are_nested_and_tear_at_most_one_cluster(
    clusters: list[int], sizes: list[int], seed: int
) -> None:
    data = rows(clusters)
    found = nested_subsets(data, sizes, seed)
    assert list(found) == sorted(size for size in sizes if size < len(data))
    whole = Counter(row.cluster_id for row in data)
    smaller: set[str] = set()
    for size, subset in found.items():
        ids = [row.example_id for row in subset]
        assert len(ids) == size
        assert smaller <= set(ids)
        assert ids == [row.example_id for row in data if row.example_id in set(ids)]
        counts = Counter(row.cluster_id for row in subset)
        assert sum(counts[name] < whole[name] for name in counts) <= 1
        smaller = set(ids)
    assert found == nested_subsets(data, sizes, seed)


def test_another_seed_draws_another_subset() -> None:
    data = rows(list(range(40)))
    zero, one = (nested_subsets(data, [10], seed)[10] for seed in (0, 1))
    assert zero != one
    assert [row.example_id for row in zero] != [str(i) for i in range(10)]


@given(st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=8))
def test_folder_names_are_safe_and_unique(names: list[str]) -> None:
    folders = folder_names(names)
    assert len({folder.casefold() for folder in folders}) == len(names)
    for folder in folders:
        assert folder not in ("", ".", "..") and not folder.startswith((".", "-"))
        assert not set(folder) & set("/\\: \0\n")
        assert len(folder) < 80


def test_folder_names_are_readable() -> None:
    names = [
        "Qwen/Qwen2.5-Coder-0.5B",
        "other/qwen2.5-coder-0.5b",
        "bundled:smollm2-135m",
        "/m/t5/",
    ]
    assert folder_names(names) == [
        "Qwen2.5-Coder-0.5B",
        "qwen2.5-coder-0.5b-2",
        "smollm2-135m",
        "t5",
    ]


def test_a_file_is_placed_without_its_bytes_twice_and_replaced_when_it_differs(
    tmp_path: Path,
) -> None:
    source, target = tmp_path / "source", tmp_path / "there" / "target"
    source.write_text("one")
    place_file(source, target)
    place_file(source, target)
    assert target.samefile(source)
    target.unlink()
    target.write_text("another")
    place_file(source, target)
    assert target.read_text() == source.read_text() == "one"
    assert [item.name for item in target.parent.iterdir()] == ["target"]
