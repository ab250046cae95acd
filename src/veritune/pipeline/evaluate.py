"""Stage 3: answers of every system, their scores, and the conclusion."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from veritune.atomic import write_json
from veritune.compare import conclude
from veritune.compare.copying import copying
from veritune.compare.forgetting import forgetting_table
from veritune.config import EvaluateSection, Recipe
from veritune.errors import RunDirectoryError
from veritune.generate.retrieval import retrieval_scores
from veritune.model.adapter import WEIGHTS
from veritune.model.other_adapters import find_adapters
from veritune.pipeline.answers import answer_all, other_weights
from veritune.pipeline.benchmarks import measure_benchmarks
from veritune.pipeline.chosen_base import bases_table
from veritune.pipeline.context import Context, add_notices
from veritune.pipeline.full_finetune import full_finetune_stage
from veritune.pipeline.functional import open_runner, run_all_answers, without_broken
from veritune.pipeline.further_trainings import answer_with_further_trainings, main_training
from veritune.pipeline.ledger import NOT_KEPT, count_reading
from veritune.pipeline.losses import measure_losses
from veritune.pipeline.primary_metric import with_fixed_metric
from veritune.pipeline.samples import measure_samples
from veritune.pipeline.swept import sweep_table
from veritune.rows import (
    Example,
    Prediction,
    read_conclusion,
    read_examples,
    write_scores,
)
from veritune.run_dir import RunDirectory, digest, file_sha256, split_files
from veritune.score import score_predictions


@dataclass(frozen=True)
class Chosen:
    """The examples that are answered."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]

    def for_system(self, system: str) -> list[Example]:
        """Validation chooses among the baselines; training prompts show what was memorised."""
        if system in ("adapted", "merged"):
            return [*self.test, *self.train]
        seen = self.train if system == "baseline" else []
        return [*self.test, *self.validation, *seen]


def evaluate_stage(context: Context) -> dict[str, Any]:
    """Write predictions, scores and ``comparison.json``; return the conclusion."""
    _needs_adapter(context.run)
    context = with_fixed_metric(context)
    run, recipe = context.run, context.recipe
    further = _further_answers(context)
    inputs = digest(evaluate_inputs(run, recipe), recipe.seeds, [asdict(row) for row in further])
    outputs = [run.scores, run.comparison]
    if not context.skip("evaluate", inputs, outputs):
        full_finetune_stage(context)
        _evaluate(context, inputs, further)
    return read_conclusion(run.comparison)


def evaluate_inputs(run: RunDirectory, recipe: Recipe) -> str:
    """Hash of everything that decides the conclusion."""
    return digest(
        *split_files(run),
        run.adapter,
        recipe.model.model_dump(),
        recipe.evaluate.model_dump(),
        *other_weights(run, recipe),
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
    run.begin_stage("evaluate")
    chosen = choose_examples(run, recipe.evaluate, recipe.seed)
    systems = [*recipe.evaluate.systems, *recipe.evaluate.adapters]
    reporter.say(
        f"evaluate: {', '.join(systems)} on {len(chosen.test)} test,"
        f" {len(chosen.validation)} validation and {len(chosen.train)} training questions"
    )
    runner = open_runner(reporter, wanted=recipe.evaluate.run_answers)
    examples, broken = without_broken(
        [*chosen.train, *chosen.validation, *chosen.test],
        runner,
        allow=recipe.evaluate.allow_broken_references,
    )
    predictions, per_system, measured = answer_all(context, chosen)
    predictions += further
    losses, away, away_note = measure_losses(context, examples)
    benchmarks = measure_benchmarks(context, runner)
    samples = measure_samples(context, [row for row in examples if row.split == "test"], runner)
    with reporter.task("scoring", None):
        scores = score_predictions(examples, predictions)
    ran, functional = run_all_answers(context, examples, predictions, runner, broken)
    scores += ran
    write_scores(run.scores, scores)
    with reporter.task("comparing", None):
        conclusion = conclude(
            examples,
            scores,
            predictions,
            primary_metric=recipe.evaluate.primary_metric,
            seed=recipe.seed,
            resamples=recipe.evaluate.resamples,
            measured=measured,
            functional=functional,
            training=main_training(context),
            losses=losses,
        )
    with reporter.task("looking for copies", None):
        copies = copying(
            read_examples(run.split_file("train")),
            examples,
            predictions,
            systems=("adapted", "baseline"),
            seed=recipe.seed,
        )
    section = recipe.evaluate
    forgotten = forgetting_table(away, resamples=section.resamples, seed=recipe.seed)
    content = conclusion.to_json()
    content["memorisation"] |= copies
    extra = {
        "benchmarks": benchmarks,
        "pass_at_k": samples,
        "retrieval_scores": retrieval_scores(
            read_examples(run.split_file("train")),
            chosen.test,
            join_input=recipe.data.input == "join",
        ),
        "forgetting": {"texts": forgotten, "note": away_note},
        **bases_table(run),
        **sweep_table(run),
    }
    write_json(run.comparison, {**content, **extra})
    adapter = file_sha256(run.adapter / WEIGHTS)
    reads = _count_readings(run, recipe, adapter)
    run.update_manifest(test_reads=reads)
    seconds = time.perf_counter() - started
    run.finish_stage("evaluate", inputs, seconds, per_system=per_system, adapter_sha256=adapter)


def _count_readings(run: RunDirectory, recipe: Recipe, adapter: str) -> int | None:
    """Count every adapter that answered the test questions; return how many ever did."""
    test = file_sha256(run.split_file("test"))
    for other in find_adapters(recipe.evaluate.adapters):
        count_reading(test, file_sha256(other.folder / WEIGHTS))
    reads = count_reading(test, adapter)
    if reads is None:
        add_notices(run, [NOT_KEPT])
    return reads


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
