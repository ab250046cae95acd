"""Further trainings of one recipe: other seeds, and fewer rows for a learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq

from veritune.compare.trainings import MainTraining
from veritune.compare.variants import variant_name
from veritune.config import Recipe
from veritune.pipeline.context import Context
from veritune.pipeline.ledger import count_reading
from veritune.pipeline.sub_runs import adapter_sha256, answers_of, open_sub_run
from veritune.rows import Example, Prediction, read_examples
from veritune.run_dir import file_sha256


def answer_with_further_trainings(context: Context, test: Sequence[Example]) -> list[Prediction]:
    """Train what ``seeds`` and ``evaluate.curve`` ask for; its answers to the test questions.

    The systems of the answers are named as ``compare.variants`` says.
    """
    return [*_seeds(context, test), *_curve(context, test)]


def main_training(context: Context) -> MainTraining:
    """What made the run's own adapter, for the comparison with further trainings."""
    recipe = context.recipe
    n_rows = pq.read_metadata(context.run.split_file("train")).num_rows
    return MainTraining(recipe.training_seed, n_rows, recipe.evaluate.margin)


def nested_subsets(
    rows: Sequence[Example], sizes: Sequence[int], seed: int
) -> dict[int, list[Example]]:
    """Seeded subsets, each within the next; in the order of ``rows``.

    Clusters follow each other in seeded order and a subset is a head of that sequence, so at
    most its last cluster is torn.  Sizes that ``rows`` does not exceed are left out.
    """
    members: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        members.setdefault(row.cluster_id, []).append(place)
    names = list(members)
    order = np.random.default_rng([seed, 7]).permutation(len(names)).tolist()
    sequence = [place for index in order for place in members[names[index]]]
    return {
        size: [rows[place] for place in sorted(sequence[:size])]
        for size in sorted(sizes)
        if size < len(rows)
    }


def _seeds(context: Context, test: Sequence[Example]) -> list[Prediction]:
    collected: list[Prediction] = []
    for place, seed in enumerate(context.recipe.seeds[1:], 2):
        name = f"seed {seed}, {place} of {len(context.recipe.seeds)}"
        sub_run = open_sub_run(context, f"seeds/{seed}", name, _single(context.recipe, seed))
        answers = answers_of(sub_run, {"adapted": test})["adapted"]
        _count(context, sub_run)
        system = variant_name("adapted", "seed", seed)
        collected += [replace(row, system=system, seed=seed) for row in answers]
    return collected


def _curve(context: Context, test: Sequence[Example]) -> list[Prediction]:
    recipe, collected = context.recipe, list[Prediction]()
    if not recipe.evaluate.curve:
        return collected
    rows = read_examples(context.run.split_file("train"))
    subsets = nested_subsets(rows, recipe.evaluate.curve, recipe.seed)
    left_out = [size for size in recipe.evaluate.curve if size not in subsets]
    if left_out:
        context.reporter.say(
            f"curve: {', '.join(map(str, sorted(left_out)))} left out;"
            f" there are {len(rows)} training rows, which are always on the curve"
        )
    for size, subset in subsets.items():
        sub_run = open_sub_run(
            context,
            f"curve/{size}",
            f"{size} rows",
            _single(recipe, recipe.training_seed),
            train=subset,
        )
        found = answers_of(sub_run, {"adapted": test, "retrieval": test})
        _count(context, sub_run)
        for system, answers in found.items():
            name = variant_name(system, "rows", size)
            collected += [replace(row, system=name) for row in answers]
    return collected


def _single(recipe: Recipe, seed: int) -> Recipe:
    """The recipe of one training, with no further ones of its own."""
    evaluate = recipe.evaluate.model_copy(update={"curve": []})
    return recipe.model_copy(update={"seeds": [seed], "evaluate": evaluate})


def _count(context: Context, sub_run: Context) -> None:
    count_reading(file_sha256(context.run.split_file("test")), adapter_sha256(sub_run))
