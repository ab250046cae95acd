"""Copies are found, traces are measured, and both equal slower ways of counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from veritune.compare.copying import copying
from veritune.compare.forgetting import forgetting_table
from veritune.compare.loss_gap import auroc, loss_gap
from veritune.compare.pass_at_k import pass_at_k
from veritune.compare.token_runs import TokenRuns
from veritune.rows import AwayLoss, Example, Loss, Prediction

TOKENS = st.lists(st.sampled_from("abc"), max_size=12)


def longest_by_brute_force(answer: list[str], texts: list[list[str]]) -> int:
    best = 0
    for text in texts:
        for i in range(len(answer)):
            for j in range(len(text)):
                n = 0
                while i + n < len(answer) and j + n < len(text) and answer[i + n] == text[j + n]:
                    n += 1
                best = max(best, n)
    return best


@given(st.lists(TOKENS, max_size=5), st.lists(st.sampled_from("abcz"), max_size=14))
@settings(max_examples=200, deadline=None)
def test_the_longest_run_is_exact_and_never_crosses_texts(
    texts: list[list[str]], answer: list[str]
) -> None:
    length, source = TokenRuns(texts).longest(answer)
    assert length == longest_by_brute_force(answer, texts)
    if length:
        assert source is not None
        assert longest_by_brute_force(answer, [texts[source]]) == length
    else:
        assert source is None


def example(name: str, split: str, reference: str) -> Example:
    return Example(name, name, split, f"Question {name}", "", reference, source=f"row {name}")  # type: ignore[arg-type]


def answer(name: str, system: str, code: str) -> Prediction:
    return Prediction(name, system, 0, 0, "", "", code, code, 1, "stop")


def test_a_planted_copy_is_found_beside_its_source() -> None:
    train = [
        example(f"t{i}", "train", f"def f{i}(a, b):\n    total = a * {i} + b\n    return total\n")
        for i in range(20)
    ]
    test = [example(f"u{i}", "test", f"print('unseen {i}')\n") for i in range(4)]
    copied = train[7].reference.replace("total", "total")
    predictions = [
        answer("u0", "adapted", copied),
        *(answer(f"u{i}", "adapted", f"import os\nos.remove('{i}')") for i in (1, 2)),
        answer("u3", "adapted", ""),
        *(answer(row.example_id, "adapted", row.reference) for row in train[:3]),
    ]
    found = copying(train, [*train[:3], *test], predictions, systems=("adapted",), seed=0)
    first = found["most_copied"][0]
    assert (first["example_id"], first["nearest"], first["provenance"]) == ("u0", "t7", "row t7")
    assert first["similarity"] == 1 and first["run_share"] == 1
    rows = {(row["system"], row["split"]): row for row in found["copying"]}
    assert rows["adapted", "train"]["share_near"] == 100
    assert rows["adapted", "test"]["share_near"] == 25
    assert rows["reference", "test"]["share_near"] == 0
    assert sum(rows["adapted", "test"]["histogram"]) == 4


@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=20),
    st.lists(st.integers(-3, 3), min_size=1, max_size=20),
)
def test_auroc_is_the_mann_whitney_statistic(above: list[int], below: list[int]) -> None:
    expected = mannwhitneyu(above, below).statistic / (len(above) * len(below))
    assert auroc(np.array(above, float), np.array(below, float)) == pytest.approx(expected)


def losses(fall: dict[str, float]) -> list[Loss]:
    rows = []
    for name, value in fall.items():
        rows += [Loss(name, "baseline", 2.0, 10), Loss(name, "adapted", 2.0 - value, 10)]
    return rows


def test_traces_of_training_are_told_from_none() -> None:
    names = [f"e{i}" for i in range(80)]
    splits = {name: "train" if i < 40 else "test" for i, name in enumerate(names)}
    clusters = {name: name for name in names}
    seen = losses({name: 1.0 + i / 100 if i < 40 else i / 100 for i, name in enumerate(names)})
    found = loss_gap(seen, splits, clusters, seed=0)
    assert found["auroc"] == 1 and found["ci_low"] == 1
    none = loss_gap(losses(dict.fromkeys(names, 0.0)), splits, clusters, seed=0)
    assert none["auroc"] == 0.5 and (none["ci_low"], none["ci_high"]) == (0.5, 0.5)
    rng = np.random.default_rng(0)
    random = losses({name: float(rng.normal()) for name in names})
    found = loss_gap(random, splits, clusters, seed=0)
    assert found["ci_low"] < 0.5 < found["ci_high"]
    one_cluster = loss_gap(seen, splits, dict.fromkeys(names, "one"), seed=0)
    assert one_cluster["ci_low"] is None
    assert loss_gap([], splits, clusters, seed=0) == {}


def test_forgetting_is_a_rise_on_other_text() -> None:
    rng = np.random.default_rng(1)

    def rows(kind: str, rise: float, n: int) -> list[AwayLoss]:
        return [
            AwayLoss(kind, f"d{i}", 200.0, 200.0 + 100 * (rise + 0.02 * rng.normal()), 100, 400)
            for i in range(n)
        ]

    table = forgetting_table(
        [*rows("code", 0.0, 40), *rows("prose", 0.2, 40), *rows("text", 0.2, 5)],
        resamples=2000,
        seed=0,
    )
    found = {row["kind"]: row for row in table}
    assert found["prose"]["verdict"] == "forgets"
    assert found["prose"]["delta"] == pytest.approx(0.2, abs=0.02)
    assert found["code"]["verdict"] == "no loss detected"
    assert found["text"]["ci_low"] is None and "not measured" in found["text"]["verdict"]
    assert found["code"]["baseline_bits_per_byte"] == pytest.approx(0.5 / np.log(2))


@pytest.mark.parametrize(("n", "passed", "k"), [(5, 2, 1), (5, 2, 3), (10, 0, 10), (4, 4, 2)])
def test_pass_at_k_is_the_share_of_draws_with_a_pass(n: int, passed: int, k: int) -> None:
    from itertools import combinations

    draws = list(combinations([True] * passed + [False] * (n - passed), k))
    assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws))
