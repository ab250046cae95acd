"""Stage 3: answers of every system, their scores, and the conclusion."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from veritune.atomic import write_json
from veritune.compare import conclude
from veritune.config import EvaluateSection, Recipe
from veritune.errors import RunDirectoryError
from veritune.generate.systems import NEEDS_MODEL, Systems
from veritune.model.adapter import WEIGHTS, load_adapter
from veritune.model.hardware import choose_placement
from veritune.model.load import load_model
from veritune.pipeline.chosen_base import bases_table
from veritune.pipeline.context import Context
from veritune.pipeline.encode import make_encoder
from veritune.pipeline.further_trainings import answer_with_further_trainings, main_training
from veritune.pipeline.ledger import count_reading
from veritune.pipeline.sub_runs import answer_rest
from veritune.rows import (
    Example,
    Prediction,
    read_examples,
    read_predictions,
    write_predictions,
    write_scores,
)
from veritune.run_dir import RunDirectory, digest, file_sha256, split_files
from veritune.score import METRICS, extract_code, score_predictions


@dataclass(frozen=True)
class Chosen:
    """The examples that are answered."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]

    def for_system(self, system: str) -> list[Example]:
        """Validation chooses among the baselines; training prompts show what was memorised."""
        if system == "adapted":
            return [*self.test, *self.train]
        seen = self.train if system == "baseline" else []
        return [*self.test, *self.validation, *seen]


def evaluate_stage(context: Context) -> dict[str, Any]:
    """Write predictions, scores and ``comparison.json``; return the conclusion."""
    run, recipe = context.run, context.recipe
    _needs_adapter(run)
    further = _further_answers(context)
    inputs = digest(evaluate_inputs(run, recipe), recipe.seeds, [asdict(row) for row in further])
    outputs = [run.scores, run.comparison]
    if not context.skip("evaluate", inputs, outputs):
        _evaluate(context, inputs, further)
    import json

    return dict(json.loads(run.comparison.read_text(encoding="utf-8")))


def evaluate_inputs(run: RunDirectory, recipe: Recipe) -> str:
    """Hash of everything that decides the conclusion."""
    return digest(
        *split_files(run),
        run.adapter,
        recipe.model.model_dump(),
        recipe.evaluate.model_dump(),
        recipe.data.input,
        recipe.seed,
    )


def choose_examples(run: RunDirectory, section: EvaluateSection, seed: int) -> Chosen:
    """Seeded samples of each split, as large as the recipe says."""
    train = read_examples(run.split_file("train"))
    validation = read_examples(run.split_file("validation"))
    test = _sample(read_examples(run.split_file("test")), section.max_test_examples, seed)
    n_train = len(test) if section.n_train_prompts is None else section.n_train_prompts
    seen = (
        train[:n_train] if section.train_prompt_choice == "first" else _sample(train, n_train, seed)
    )
    return Chosen(seen, _sample(validation, section.max_validation_examples, seed), test)


def _further_answers(context: Context) -> list[Prediction]:
    """Answers of further trainings to the test questions, if the recipe asks for any."""
    recipe = context.recipe
    if not recipe.seeds[1:] and not recipe.evaluate.curve:
        return []
    test = choose_examples(context.run, recipe.evaluate, recipe.seed).test
    return answer_with_further_trainings(context, test)


def _evaluate(context: Context, inputs: str, further: list[Prediction]) -> None:
    run, recipe, reporter = context.run, context.recipe, context.reporter
    started = time.perf_counter()
    chosen = choose_examples(run, recipe.evaluate, recipe.seed)
    reporter.say(
        f"evaluate: {', '.join(recipe.evaluate.systems)} on {len(chosen.test)} test,"
        f" {len(chosen.validation)} validation and {len(chosen.train)} training questions"
    )
    predictions, per_system = _answer_all(context, chosen)
    predictions += further
    examples = [*chosen.train, *chosen.validation, *chosen.test]
    with reporter.task("scoring", None):
        scores = score_predictions(examples, predictions, list(METRICS))
        write_scores(run.scores, scores)
    with reporter.task("comparing", None):
        conclusion = conclude(
            examples,
            scores,
            predictions,
            primary_metric=recipe.evaluate.primary_metric,
            seed=recipe.seed,
            resamples=recipe.evaluate.resamples,
            training=main_training(context),
        )
    write_json(run.comparison, {**conclusion.to_json(), **bases_table(run)})
    test_sha = file_sha256(run.split_file("test"))
    run.update_manifest(test_reads=count_reading(test_sha, file_sha256(run.adapter / WEIGHTS)))
    run.finish_stage("evaluate", inputs, time.perf_counter() - started, per_system=per_system)


def _answer_all(
    context: Context, chosen: Chosen
) -> tuple[list[Prediction], dict[str, dict[str, float]]]:
    """Answers of every system; those whose inputs are unchanged are read back."""
    run, recipe = context.run, context.recipe
    known = dict(run.manifest().get("predictions", {}))
    timing = {
        name: dict(record)
        for name, record in run.stage_record("evaluate").get("per_system", {}).items()
    }
    systems: Systems | None = None
    collected: list[Prediction] = []
    for system in recipe.evaluate.systems:
        path = run.predictions / f"{system}.jsonl"
        examples = chosen.for_system(system)
        identity = _answers_identity(run, recipe, system, examples)
        if known.get(system) == identity and path.is_file():
            context.reporter.say(f"  answers of {system}: unchanged, kept")
            collected += read_predictions(path)
            continue
        if systems is None:
            systems = _open_systems(context)
        started = time.perf_counter()
        answers = answer_rest(context, system, examples, systems.answer)
        write_predictions(path, answers)
        known[system] = identity
        run.update_manifest(predictions=known)
        collected += answers
        timing[system] = {
            "seconds": round(time.perf_counter() - started, 3),
            "new_tokens": sum(answer.n_new_tokens for answer in answers),
        }
    return collected, {name: timing[name] for name in recipe.evaluate.systems if name in timing}


def _open_systems(context: Context) -> Systems:
    run, recipe = context.run, context.recipe
    encoder = make_encoder(recipe)
    model = None
    if NEEDS_MODEL & set(recipe.evaluate.systems):
        loaded = load_model(recipe.model, choose_placement(recipe.model), seed=recipe.seed)
        model = load_adapter(loaded.model, run.adapter)
    return Systems(
        model,
        encoder.format,
        recipe.evaluate,
        read_examples(run.split_file("train")),
        seed=recipe.seed,
        extract=extract_code,
        reporter=context.reporter,
        context_tokens=encoder.context_tokens,
    )


def _answers_identity(
    run: RunDirectory, recipe: Recipe, system: str, examples: Sequence[Example]
) -> str:
    adapter: list[Path] = [run.adapter] if system == "adapted" else []
    return digest(
        system,
        *adapter,
        run.split_file("train"),
        recipe.model.model_dump(),
        recipe.evaluate.few_shot.model_dump(),
        recipe.evaluate.max_new_tokens,
        recipe.evaluate.batch_size,
        recipe.data.input,
        recipe.seed,
        [[row.example_id, row.instruction, row.input] for row in examples],
    )


def _sample(examples: list[Example], size: int | None, seed: int) -> list[Example]:
    if size is None or size >= len(examples):
        return examples
    chosen = np.random.default_rng([seed, 5]).choice(len(examples), size=size, replace=False)
    return [examples[index] for index in sorted(chosen)]


def _needs_adapter(run: RunDirectory) -> None:
    if not (run.adapter / WEIGHTS).is_file():
        raise RunDirectoryError(
            "the run has no adapter to evaluate",
            received=run.path,
            accepted="a run directory after `veritune train`",
            next_step=f"veritune train {run.path}",
        )
