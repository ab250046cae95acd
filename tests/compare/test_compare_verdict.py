from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from veritune.compare import compare_systems, conclude
from veritune.compare.sentence import signed, verdict_sentence
from veritune.compare.trainings import MainTraining
from veritune.errors import DataError
from veritune.rows import Comparison, Conclusion, Example, Prediction, Score
from veritune.score import METRICS, TEXT_METRICS, corpus_value, score_predictions

REFERENCE = "def f(a, b):\n    return a + b * {i}\n"
NEAR = "def f(a, b):\n    return a * b + {i}\n"
FAR = "print({i}"
SPLITS = {"train": 40, "validation": 36, "test": 44}


def examples() -> list[Example]:
    return [
        Example(f"{split}-{i}", f"{split}-c{i // 6 if i < 12 else i}", split, "?", "", text(i))  # type: ignore[arg-type]
        for split, count in SPLITS.items()
        for i in range(count)
    ]


def text(i: int, template: str = REFERENCE) -> str:
    return template.format(i=i)


def predict(system: str, share_right: float, splits: tuple[str, ...]) -> list[Prediction]:
    """A system that gives the reference to that share, else alternately a near or a far one."""
    chance = random.Random(f"{system} {share_right}")
    rows = []
    for split in splits:
        for i in range(SPLITS[split]):
            template = REFERENCE if chance.random() < share_right else (NEAR, FAR)[i % 2]
            code = text(i, template)
            rows.append(
                Prediction(
                    f"{split}-{i}", system, 0, 0, "?", "", f"```python\n{code}", code, 9, "stop"
                )
            )
    return rows


def concluded(
    shares: dict[str, float], *, skip: tuple[str, ...] = (), **settings: Any
) -> Conclusion:
    splits = tuple(split for split in SPLITS if split not in skip)
    predictions = [row for name, share in shares.items() for row in predict(name, share, splits)]
    return conclude_on(predictions, **settings)


def conclude_on(predictions: list[Prediction], **settings: Any) -> Conclusion:
    chosen = {"primary_metric": "chrf", "seed": 0, "resamples": 400, **settings}
    scores = score_predictions(examples(), predictions)
    return conclude(examples(), scores, predictions, **chosen)


def plain(shares: dict[str, float]) -> Conclusion:
    return concluded(shares)


def test_a_better_model_is_called_better_in_words_and_numbers() -> None:
    result = plain({"baseline": 0.1, "retrieval": 0.4, "adapted": 0.9})
    row = next(r for r in result.comparisons if r.metric == "chrf" and r.against == "retrieval")
    assert result.verdict == row.verdict == "better"
    assert result.best_baseline == "retrieval"
    assert row.ci_low is not None
    assert row.ci_high is not None
    assert 0 < row.ci_low < row.delta < row.ci_high
    assert row.delta == pytest.approx(row.value - row.against_value)
    assert (row.n_examples, row.n_clusters) == (44, 34)
    first, second = result.sentence.split(". Against ")
    assert first == (
        f"Adapted is better than retrieval, the best baseline: chrF {row.value:.1f} against"
        f" {row.against_value:.1f}, +{row.delta:.1f} points [+{row.ci_low:.1f}, +{row.ci_high:.1f}]"
        f" on 44 unseen questions (95 % interval, 34 clusters; smallest detectable effect"
        f" {row.mde:.1f})"
    )
    assert second.startswith("the base model zero-shot: +")


def test_a_worse_model_is_called_worse() -> None:
    result = plain({"baseline": 0.9, "few_shot": 0.5, "adapted": 0.1})
    assert result.verdict == "worse"
    assert result.sentence.startswith(
        "Adapted is worse than the base model zero-shot, the best baseline: chrF"
    )
    assert "−" in result.sentence
    assert "Against" not in result.sentence


def test_two_copies_of_one_system_do_not_differ() -> None:
    rows = predict("adapted", 0.5, tuple(SPLITS))
    result = conclude_on(rows + [replace(row, system="baseline") for row in rows])
    assert result.verdict == "no difference detected"
    assert result.sentence.startswith(
        "No difference detected between adapted and the base model zero-shot: chrF"
    )
    assert "the difference is the same in every one of them" in result.sentence
    assert {row.p_value for row in result.comparisons} == {1.0}


def test_few_clusters_are_not_measured_and_the_reason_is_given() -> None:
    few = {f"test-{i}" for i in range(20)}
    rows = [
        row
        for name, share in (("baseline", 0.1), ("adapted", 0.9))
        for row in predict(name, share, tuple(SPLITS))
        if not row.example_id.startswith("test") or row.example_id in few
    ]
    result = conclude_on(rows)
    assert result.verdict == "not measured"
    assert result.sentence.startswith("Not measured whether adapted is better than")
    assert "an interval needs at least 30" in result.sentence
    assert all(row.ci_low is row.p_value is row.mde is None for row in result.comparisons)
    assert "verdict" in {row["what"] for row in result.details["not_measured"]}
    json.dumps(result.to_json(), allow_nan=False)


def test_the_best_baseline_is_chosen_on_validation_not_on_test() -> None:
    rows = predict("adapted", 0.5, ("validation", "test"))
    rows += predict("few_shot", 0.9, ("validation",)) + predict("few_shot", 0.1, ("test",))
    rows += predict("baseline", 0.1, ("validation",)) + predict("baseline", 0.9, ("test",))
    result = conclude_on(rows)
    assert result.best_baseline == "few_shot"
    assert result.details["best_baseline_choice"]["split"] == "validation"
    assert result.details["best_baseline_choice"]["note"] == ""
    assert "Against the base model zero-shot: −" in result.sentence


def test_without_validation_the_choice_is_made_on_test_and_noted() -> None:
    result = concluded({"baseline": 0.1, "few_shot": 0.5, "adapted": 0.7}, skip=("validation",))
    assert result.best_baseline == "few_shot"
    assert result.details["best_baseline_choice"]["split"] == "test"
    assert "favours the baseline" in result.details["best_baseline_choice"]["note"]


def test_merged_and_reference_are_no_baselines() -> None:
    result = plain({"baseline": 0.1, "merged": 0.9, "reference": 1.0, "adapted": 0.9})
    assert result.best_baseline == "baseline"
    assert {row.against for row in result.comparisons} == {"baseline", "merged"}
    assert "the best baseline" not in result.sentence


def test_the_order_of_rows_changes_nothing() -> None:
    rows = [
        row
        for name in ("baseline", "few_shot", "adapted")
        for row in predict(name, 0.5 + 0.1 * len(name), tuple(SPLITS))
    ]
    scores = score_predictions(examples(), rows)
    chosen: dict[str, Any] = {"primary_metric": "rougeL", "seed": 0, "resamples": 300}
    straight = conclude(examples(), scores, rows, **chosen)
    back = conclude(examples()[::-1], scores[::-1], rows[::-1], **chosen)
    assert json.dumps(straight.to_json()) == json.dumps(back.to_json())


def test_seed_zero_is_a_seed() -> None:
    shares = {"baseline": 0.3, "adapted": 0.6}
    zero, again, one = (concluded(shares, seed=seed) for seed in (0, 0, 1))
    assert zero == again
    assert zero.comparisons[3].ci_low != one.comparisons[3].ci_low
    assert zero.comparisons[3].value == one.comparisons[3].value


def test_details_hold_what_the_report_needs() -> None:
    result = plain({"baseline": 0.1, "few_shot": 0.3, "adapted": 0.6})
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert len(content["comparisons"]) == 2 * len(TEXT_METRICS)
    assert len(content["metrics"]) == 3 * 3 * len(TEXT_METRICS)
    assert len(content["holm"]) == 2 * len(TEXT_METRICS) - 1
    assert all(row["p_holm"] >= row["p_value"] for row in content["holm"])
    assert {row["metric"] for row in content["gap"]} == set(TEXT_METRICS)
    assert content["references"] == dict.fromkeys(SPLITS, 100.0)
    assert [row["what"] for row in content["not_measured"]] == ["runs_clean", "pass_at_1"]
    assert {row["against"] for row in content["mcnemar"]} == {"baseline", "few_shot"}
    generation = {row["system"]: row for row in content["generation"]}
    assert generation["adapted"]["n"] == 44
    assert generation["adapted"]["raw_parse_rate"] == 0
    assert generation["adapted"]["extracted_parse_rate"] > 50
    assert generation["adapted"]["truncated_rate"] == generation["adapted"]["no_eos_rate"] == 0
    assert generation["adapted"]["mean_new_tokens"] == 9


def test_generation_counts_how_answers_end() -> None:
    rows = predict("adapted", 0.5, ("test",)) + predict("baseline", 0.5, ("test",))
    rows[0] = replace(rows[0], finish_reason="length")
    rows[1] = replace(rows[1], code=" ", raw="")
    rows += [replace(rows[2], sample_index=1, finish_reason="length")]
    table = {row["system"]: row for row in conclude_on(rows).details["generation"]}
    share = pytest.approx(100 / 44)
    assert table["adapted"]["truncated_rate"] == table["adapted"]["no_eos_rate"] == share
    assert table["adapted"]["empty_rate"] == share


def test_memorisation_is_a_difference_in_differences() -> None:
    rows = predict("baseline", 0.2, tuple(SPLITS))
    rows += predict("adapted", 1.0, ("train",)) + predict("adapted", 0.2, ("validation", "test"))
    result = conclude_on(rows)
    gap = {row["metric"]: row for row in result.details["gap"]}["exact_match"]
    assert (gap["n_train"], gap["n_test"]) == (40, 44)
    assert gap["adapted_train"] == 100
    difference = (gap["adapted_train"] - gap["adapted_test"]) - (
        gap["baseline_train"] - gap["baseline_test"]
    )
    assert gap["difference"] == pytest.approx(difference)
    assert 0 < gap["ci_low"] < difference < gap["ci_high"]
    memorisation = result.details["memorisation"]
    assert memorisation["exact_rate_train"] == 100
    assert memorisation["exact_rate_test"] == pytest.approx(gap["adapted_test"])
    unseen = f"{memorisation['ast_rate_test']:.0f}"
    assert memorisation["sentence"] == (
        f"It reproduces 100 % of its training answers and {unseen} % of unseen ones."
    )


def test_without_training_questions_the_gap_is_not_measured() -> None:
    result = concluded({"baseline": 0.1, "adapted": 0.6}, skip=("train",))
    assert result.details["gap"] == []
    assert result.details["memorisation"]["exact_rate_train"] is None
    assert result.details["memorisation"]["sentence"] == ""
    assert "memorisation gap" in {row["what"] for row in result.details["not_measured"]}


def test_a_missing_answer_is_refused_not_dropped() -> None:
    rows = predict("adapted", 0.5, ("test",)) + predict("baseline", 0.5, ("test",))[1:]
    with pytest.raises(DataError, match="same examples"):
        conclude_on(rows)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(DataError, match="baseline"):
        conclude_on(predict("adapted", 0.5, ("test",)))
    with pytest.raises(DataError, match="primary metric"):
        concluded({"baseline": 0.5, "adapted": 0.5}, primary_metric="pass_at_1")
    stranger = Score("nobody", "adapted", "chrf", 0.0, "", (0.0,) * 18)
    with pytest.raises(DataError, match="no example"):
        conclude(examples(), [stranger], [], primary_metric="chrf", seed=0, resamples=200)


def scores_of(system: str, hits: list[int]) -> list[Score]:
    return [
        Score(f"{i:03}", system, "exact_match", float(hit), "", (float(hit), 1.0))
        for i, hit in enumerate(hits)
    ]


def compared(first: list[int], second: list[int]) -> Comparison:
    clusters = {f"{i:03}": str(i) for i in range(len(first))}
    return compare_systems(
        "exact_match",
        "adapted",
        "baseline",
        scores_of("adapted", first),
        scores_of("baseline", second),
        clusters=clusters,
        resamples=2_000,
        seed=0,
    )


def test_five_wins_to_none_are_no_evidence() -> None:
    """Resampling alone would exclude zero; the exact test gives p = 0.0625."""
    row = compared([1] * 5 + [0] * 95, [0] * 100)
    assert row.delta == 5
    assert row.p_value == pytest.approx(0.0625, abs=0.02)
    assert row.ci_low == 0
    assert row.verdict == "no difference detected"


def test_always_against_never_is_better_with_certainty() -> None:
    row = compared([1] * 40, [0] * 40)
    assert (row.ci_low, row.ci_high, row.mde) == (100, 100, None)
    assert row.verdict == "better"
    assert compared([0] * 40, [1] * 40).verdict == "worse"


def test_swapping_the_systems_turns_the_comparison_round() -> None:
    first = [int(i % 3 > 0) for i in range(90)]
    second = [int(i % 4 > 2) for i in range(90)]
    there, back = compared(first, second), compared(second, first)
    assert there.delta == pytest.approx(-back.delta)
    assert there.ci_low is not None
    assert back.ci_high is not None
    assert there.ci_low == pytest.approx(-back.ci_high, abs=0.6)
    assert (there.verdict, back.verdict) == ("better", "worse")


def test_the_signature_names_metric_and_statistics() -> None:
    signature = compared([1] * 40, [0] * 40).signature
    assert signature.startswith(METRICS["exact_match"].signature())
    for part in ("cluster bootstrap", "sign flips", "resamples:2000", "seed:0"):
        assert part in signature


def test_small_differences_do_not_print_as_zero() -> None:
    assert [signed(x) for x in (3.44, -2.2, 0.04, -0.0004, 0.0, -1e-12)] == [
        "+3.4",
        "−2.2",
        "+0.04",
        "−0.0004",
        "0.0",
        "0.0",
    ]


def test_rates_are_said_in_percent() -> None:
    sentence = verdict_sentence(compared([1] * 40, [0] * 40), is_best=True)
    assert "exact match 100.0 % against 0.0 %, +100.0 points" in sentence


def test_corpus_values_come_from_summed_statistics() -> None:
    rows = score_predictions(examples(), predict("adapted", 0.5, ("test",)), ["chrf"])
    mean = float(np.mean([row.value for row in rows]))
    assert corpus_value("chrf", rows) != pytest.approx(mean)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, veritune.compare\n"
        "heavy = {'torch', 'transformers', 'nltk', 'sacrebleu', 'datasets', 'peft'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_secondary_verdict_needs_to_survive_holm() -> None:
    seen = set()
    for lift in (0.32, 0.36, 0.4, 0.45, 0.5, 0.6):
        result = plain({"baseline": 0.3, "few_shot": 0.31, "adapted": lift})
        holm = {(r["metric"], r["against"]): r["p_holm"] for r in result.details["holm"]}
        for row in result.comparisons:
            p_holm = holm.get((row.metric, row.against))
            if p_holm is not None and p_holm >= 0.05:
                assert row.verdict == "no difference detected"
                seen.add(row.ci_low is not None and (row.ci_low > 0 or row.ci_high < 0))
    assert seen == {True, False}, "some interval without zero must have been taken back"


def further(name: str, share: float) -> list[Prediction]:
    """Answers of one more training to the test questions."""
    rows = predict(f"another {name}", share, ("test",))
    return [replace(row, system=name) for row in rows]


def test_further_trainings_are_no_systems_but_widen_the_headline() -> None:
    shares = {"baseline": 0.1, "retrieval": 0.2, "adapted": 0.8}
    rows = [row for name, share in shares.items() for row in predict(name, share, tuple(SPLITS))]
    alone = conclude_on(rows)
    seeds = [*further("adapted:seed=7", 0.5), *further("adapted:seed=8", 0.95)]
    sizes = [*further("adapted:rows=16", 0.3), *further("retrieval:rows=16", 0.1)]
    both = conclude_on(rows + seeds + sizes, training=MainTraining(seed=5, n_rows=40))
    assert {row.against for row in both.comparisons} == {"baseline", "retrieval"}
    assert {row["system"] for row in both.details["generation"]} == set(shares)

    table = both.details["seeds"]
    assert table["seeds"] == [5, 7, 8]
    chrf = next(row for row in table["metrics"] if row["metric"] == "chrf")
    for one, other in zip(alone.comparisons, both.comparisons, strict=True):
        assert (one.metric, one.against, other.n_seeds) == (other.metric, other.against, 3)
        if one.metric == "chrf":
            assert other.value == pytest.approx(np.mean(chrf["values"]))
            assert other.ci_high - other.ci_low > one.ci_high - one.ci_low  # type: ignore[operator]
    value = next(
        row
        for row in both.details["metrics"]
        if (row["system"], row["split"], row["metric"]) == ("adapted", "test", "chrf")
    )
    assert (value["value"], value["n_seeds"]) == (pytest.approx(chrf["mean"]), 3)
    assert "3 training seeds" in both.sentence

    curve = both.details["learning_curve"]
    assert [row["n_rows"] for row in curve["rows"]] == [16, 40]
    assert curve["rows"][1]["value"] == pytest.approx(chrf["values"][0])
    assert "seeds" not in alone.details and "learning_curve" not in alone.details
    json.dumps(both.to_json(), allow_nan=False)
