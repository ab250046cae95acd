from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from cpu_time import cpu_seconds
from veritune.errors import DataError, RecipeError
from veritune.rows import Example, Prediction
from veritune.score import METRICS, TEXT_METRICS, corpus_value, reference_scores, score_predictions
from veritune.score.lexer import bleu_tokens

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
TEXT = st.one_of(
    st.text(max_size=40),
    st.lists(
        st.sampled_from(["def f(x):", "\n", "    ", "return x", "x", "=", "1", "'a b'", " ", "if"]),
        max_size=25,
    ).map("".join),
)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


def blank_if_empty(text: str) -> str:
    return text if text.strip() else ""


def summed(metric: str, pairs: list[tuple[str, str]]) -> np.ndarray:
    rows = [METRICS[metric].score(reference, code).stats for reference, code in pairs]
    return np.array(rows).sum(axis=0)


def check_chrf(pairs: list[tuple[str, str]]) -> None:
    oracle = CHRF(whitespace=True)
    answers = [blank_if_empty(code) for _, code in pairs]
    references = [reference for reference, _ in pairs]
    expected = oracle.corpus_score(answers, [references]).score
    assert METRICS["chrf"].corpus(summed("chrf", pairs)) == pytest.approx(expected, abs=1e-9)
    for reference, answer in zip(references, answers, strict=True):
        value = METRICS["chrf"].score(reference, answer).value
        assert value == pytest.approx(oracle.sentence_score(answer, [reference]).score, abs=1e-9)


def check_bleu(pairs: list[tuple[str, str]]) -> None:
    settings_ = {"tokenize": "none", "force": True, "smooth_method": "exp"}
    answers = [bleu_tokens(blank_if_empty(code)) for _, code in pairs]
    references = [bleu_tokens(reference) for reference, _ in pairs]
    expected = BLEU(**settings_).corpus_score(answers, [references]).score
    assert METRICS["bleu"].corpus(summed("bleu", pairs)) == pytest.approx(expected, abs=1e-9)
    oracle = BLEU(**settings_, effective_order=True)
    for (reference, code), answer, wanted in zip(pairs, answers, references, strict=True):
        value = METRICS["bleu"].score(reference, code).value
        assert value == pytest.approx(oracle.sentence_score(answer, [wanted]).score, abs=1e-9)


def check_rouge(name: str, pairs: list[tuple[str, str]]) -> None:
    results = [RougeScorer([name]).score(reference, code)[name] for reference, code in pairs]
    for (reference, code), result in zip(pairs, results, strict=True):
        measured = METRICS[name].score(reference, code)
        assert measured.value == pytest.approx(result.fmeasure, abs=1e-9)
        assert measured.stats[:2] == pytest.approx((result.precision, result.recall), abs=1e-9)
    mean = 100 * sum(result.fmeasure for result in results) / len(results)
    assert METRICS[name].corpus(summed(name, pairs)) == pytest.approx(mean, abs=1e-9)


@given(PAIRS)
@settings(max_examples=150)
def test_chrf_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    check_chrf(pairs)


@given(PAIRS)
@settings(max_examples=150)
def test_bleu_is_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    check_bleu(pairs)


@given(PAIRS)
@settings(max_examples=60)
@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_rouge_scores(name: str, pairs: list[tuple[str, str]]) -> None:
    check_rouge(name, pairs)


def test_real_answers_score_as_in_sacrebleu_and_rouge_score() -> None:
    file = SHARED / "python-codes-260.jsonl"
    if not file.exists():
        pytest.skip(f"no shared data at {file}")
    rows = [json.loads(line)["output"] for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = list(zip(rows[:60], rows[60:120], strict=True))
    check_chrf(pairs)
    check_bleu(pairs)
    check_rouge("rougeL", pairs)


@pytest.mark.parametrize("name", TEXT_METRICS)
@given(stats=st.lists(st.lists(st.integers(0, 3), min_size=18, max_size=18), max_size=5))
@settings(max_examples=30)
def test_corpus_values_are_finite_and_batched_on_any_counts(
    name: str, stats: list[list[int]]
) -> None:
    size = len(METRICS[name].score("a", "a").stats)
    batch = np.array([row[:size] for row in stats], dtype=float).reshape(-1, size)
    with np.errstate(all="raise"):
        values = METRICS[name].corpus(batch)
    assert values.shape == (len(stats),)
    assert np.isfinite(values).all()
    assert values.tolist() == [float(METRICS[name].corpus(row)) for row in batch]


@pytest.mark.parametrize("name", TEXT_METRICS)
@pytest.mark.parametrize("answer", ["", "  \n\t"])
def test_an_empty_answer_scores_zero_and_is_counted(name: str, answer: str) -> None:
    measured = METRICS[name].score("x = 1 + y", answer)
    assert measured.value == 0
    assert measured.outcome == "empty"
    both = summed(name, [("x = 1 + y", "x = 1 + y"), ("x = 1 + y", answer)])
    assert METRICS[name].corpus(both) < METRICS[name].corpus(summed(name, [("x = 1 + y",) * 2]))


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_the_reference_itself_gets_the_full_score(name: str) -> None:
    code = "def f(x):\n    return x + 1\n"
    metric = METRICS[name]
    measured = metric.score(code, code)
    assert measured.value * metric.scale == pytest.approx(100)
    assert metric.corpus(np.array(measured.stats)) == pytest.approx(100)
    assert metric.score(code, "import os").value < measured.value or name == "parse_rate"


def test_three_exact_tokens_are_a_perfect_sentence() -> None:
    assert METRICS["bleu"].score("x = 1", "x = 1").value == pytest.approx(100)


@pytest.mark.parametrize("name", ["chrf", "bleu"])
def test_lost_indentation_is_seen(name: str) -> None:
    assert METRICS[name].score("if a:\n    b\nc\n", "if a:\nb\nc\n").value < 95


def test_outcomes_say_what_happened() -> None:
    outcome = {
        name: lambda reference, code, name=name: METRICS[name].score(reference, code)
        for name in TEXT_METRICS
    }
    assert outcome["parse_rate"]("", "x = 1")[:2] == (1.0, "parses")
    assert outcome["parse_rate"]("", "x = ")[:2] == (0.0, "SyntaxError: invalid syntax (line 1)")
    assert outcome["ast_match"]("x=(", "x = 1").outcome == "reference does not parse"
    assert outcome["ast_match"]("x=1  # so", "x = (1)")[:2] == (1.0, "equal")
    assert outcome["ast_match"]("x = 1", "x = 1.0").value == 0
    assert outcome["exact_match"]("x = 1", "\n  \nx = 1\n\n").value == 1
    assert outcome["exact_match"]("x = 1", " x = 1").value == 0


@given(TEXT, TEXT)
@settings(max_examples=60)
def test_ast_match_is_equality_of_dumps(reference: str, code: str) -> None:
    try:
        equal = bool(code.strip()) and ast.dump(ast.parse(reference)) == ast.dump(ast.parse(code))
    except (SyntaxError, ValueError):
        equal = False
    assert METRICS["ast_match"].score(reference, code).value == equal


def test_signatures_name_library_version_and_settings() -> None:
    signature = {name: metric.signature() for name, metric in METRICS.items()}
    assert all(signature.values())
    assert len(set(signature.values())) == len(METRICS)
    assert "space:yes" in signature["chrf"]
    assert "tok:none" in signature["bleu"]
    assert "veritune-python-v1" in signature["bleu"]
    assert "version:" in signature["rougeL"]


def example(name: str, reference: str) -> Example:
    return Example(name, name, "test", "?", "", reference)


def answer(name: str, system: str, code: str, sample: int = 0) -> Prediction:
    return Prediction(name, system, 0, sample, "?", "", code, code, 1, "stop")


def test_predictions_become_scores_in_order() -> None:
    examples = [example("a", "x = 1"), example("b", "y = (")]
    predictions = [answer("b", "s", "y"), answer("a", "s", "x = 1"), answer("a", "s", "?", 1)]
    scores = score_predictions(examples, predictions, ["exact_match", "parse_rate"])
    found = [(row.example_id, row.metric, row.value) for row in scores]
    assert found == [
        ("b", "exact_match", 0.0),
        ("b", "parse_rate", 1.0),
        ("a", "exact_match", 1.0),
        ("a", "parse_rate", 1.0),
    ]
    assert corpus_value("exact_match", scores) == 50
    assert corpus_value("parse_rate", scores) == 100
    assert corpus_value("parse_rate", reference_scores(examples)) == 50


def test_what_does_not_fit_is_refused() -> None:
    examples = [example("a", "x")]
    with pytest.raises(RecipeError, match="chrf"):
        score_predictions(examples, [], ["chrF"])
    with pytest.raises(DataError, match="no example"):
        score_predictions(examples, [answer("z", "s", "x")], ["chrf"])
    with pytest.raises(DataError, match="twice"):
        score_predictions(examples, [answer("a", "s", "x")] * 2, ["chrf"])


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_a_hostile_length_costs_seconds_not_memory(name: str) -> None:
    started = cpu_seconds()
    METRICS[name].score("a b c " * 20_000, "c b a " * 20_000)
    assert cpu_seconds() - started < 10
