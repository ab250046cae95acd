"""Stage 1: raw rows to three clean splits and a card."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

from veritune.config import DataSection, Recipe
from veritune.data.code_place import commit_named
from veritune.data.given_splits import GIVEN, sections
from veritune.data.leak_audit import SIDES
from veritune.data.lengths import FurtherLimits
from veritune.data.prepare import Prepared, prepare, write_prepared
from veritune.data.sources import kind_of_source
from veritune.errors import RunDirectoryError
from veritune.pipeline.chosen_base import with_base, with_candidates
from veritune.pipeline.context import Context, add_notices
from veritune.pipeline.encode import Encoder, make_encoder
from veritune.pipeline.hub_commits import moved_data, record_commits
from veritune.pipeline.primary_metric import fix_primary_metric
from veritune.progress import Reporter
from veritune.run_dir import RunDirectory, digest, file_sha256, split_files

RATES = ("parse_rate", "leak_audit")
_FIRST_SETTINGS = (
    *("source", "revision", "hub_split", "columns", "input", "max_rows", "clean", "split"),
    *("max_source_tokens", "max_target_tokens", "max_pair_tokens"),
)


def prepare_stage(context: Context) -> dict[str, Any]:
    """Write ``data/`` unless it is up to date; return the card's counts."""
    run, recipe = context.run, with_candidates(context.run, context.recipe)
    outputs = [*split_files(run), run.data / "card.json"]
    inputs = _inputs_of_trained(run, recipe) or prepare_inputs(recipe)
    if not context.skip("prepare", inputs, outputs):
        _refuse_other_data(context, inputs)
        context.reporter.say(f"prepare: {recipe.data.source}")
        started = time.perf_counter()
        prepared = prepare_rows(recipe, context.reporter)
        run.begin_stage("prepare")
        write_prepared(prepared, run.data)
        origin = prepared.card["origin"]
        moved = record_commits(run, recipe.model, origin)
        add_notices(run, [*origin.get("notices", []), *moved])
        run.finish_stage(
            "prepare",
            inputs,
            time.perf_counter() - started,
            **counts(prepared.card),
            **rates(prepared.card),
            without_benchmarks_sha256=_without_benchmarks(recipe),
            against=_benchmarks(recipe),
        )
    elif notice := moved_data(run, recipe.data):
        context.reporter.say(f"prepare: {notice}")
        add_notices(run, [notice])
    fix_primary_metric(context)
    record = run.stage_record("prepare")
    return {name: record[name] for name in record if name.startswith("n_") or name in RATES}


def _inputs_of_trained(run: RunDirectory, recipe: Recipe) -> str | None:
    """The inputs of a trained run's data, where only ``evaluate.benchmarks`` has changed since.

    Its data stay as they are; that its training may have seen a later benchmark is noted.
    """
    record = run.stage_record("prepare")
    before = record.get("without_benchmarks_sha256", record.get("inputs_sha256"))
    if not run.is_trained() or before != _without_benchmarks(recipe):
        return None
    kept_out = record.get("against", [])
    later = [name for name in _benchmarks(recipe) if name not in kept_out]
    if later:
        notice = (
            f"{', '.join(later)}: named after training; rows that repeat its tasks were not"
            " taken out of training"
        )
        add_notices(run, [notice])
    return str(record["inputs_sha256"])


def _without_benchmarks(recipe: Recipe) -> str:
    evaluate = recipe.evaluate.model_copy(update={"benchmarks": []})
    return prepare_inputs(recipe.model_copy(update={"evaluate": evaluate}))


def _refuse_other_data(context: Context, inputs: str) -> None:
    """An adapter and its report must not end up beside data they never saw.

    Raises:
        RunDirectoryError: training has begun here on other data.
    """
    before = context.run.stage_record("prepare").get("inputs_sha256")
    if context.run.is_trained() and before not in (None, inputs):
        raise RunDirectoryError(
            "the data source has changed since training began in this run",
            received=f"{context.recipe.data.source} (inputs {inputs[:12]}, then {before[:12]})",
            accepted="the data that the run was started with",
            next_step="name another output_dir for the new data, or restore the old",
        )


def prepare_rows(recipe: Recipe, reporter: Reporter) -> Prepared:
    """Read, clean, cluster and split a recipe's rows, in memory.

    Where several base models are named, a row must fit all of them: they are compared on the
    same rows and the same splits.
    """
    first, *others = [(name, make_encoder(with_base(recipe, name))) for name in recipe.model.names]
    data = _against_benchmarks(recipe)
    further = [
        FurtherLimits(name, encoder.counter(reporter), _within_context(data, encoder))
        for name, encoder in others
    ]
    section = _within_context(data, first[1])
    return prepare(section, recipe.seed, first[1].counter(reporter), reporter, further)


def prepare_inputs(recipe: Recipe) -> str:
    """Hash of everything that decides the splits."""
    return digest(
        _as_first_declared(recipe.data),
        recipe.seed,
        recipe.model.name_or_path,
        recipe.model.revision,
        recipe.model.prompt.model_dump(),
        _source_identity(recipe.data),
        *_identity_of_additions(recipe),
    )


def counts(card: dict[str, Any]) -> dict[str, int]:
    """The numbers of rows that verbs print."""
    splits = card["splits"]
    return {
        "n_rows": card["rows_in"],
        "n_exact_duplicates": card["n_exact_duplicates"],
        "n_clusters": card["n_clusters"],
        "n_near_duplicate_clusters": card["n_near_duplicate_clusters"],
        "n_train": splits["train"],
        "n_validation": splits["validation"],
        "n_test": splits["test"],
        "n_contaminated": card["contamination"]["n_rows"],
    }


def rates(card: dict[str, Any]) -> dict[str, Any]:
    """The shares, in percent, that ``prepare`` prints beside the counts."""
    audit = card["leak_audit"]
    return {
        "parse_rate": card["parse_rate"]["all"],
        "leak_audit": {
            split: {
                side: {
                    name.removeprefix("percent_"): value
                    for name, value in audit[split][side].items()
                    if name.startswith("percent_")
                }
                for side in SIDES
            }
            for split in GIVEN
        },
    }


def _against_benchmarks(recipe: Recipe) -> DataSection:
    """The data settings, with every benchmark that will be evaluated kept out of training."""
    section = recipe.data
    against = _benchmarks(recipe)
    if against == section.contamination.against:
        return section
    contamination = section.contamination.model_copy(update={"against": against})
    return section.model_copy(update={"contamination": contamination})


def _benchmarks(recipe: Recipe) -> list[str]:
    named = recipe.evaluate.benchmarks
    return list(dict.fromkeys([*recipe.data.contamination.against, *named]))


def _as_first_declared(section: DataSection) -> dict[str, Any]:
    """The settings without those added later, while these are at their defaults.

    A run made before a setting existed keeps its identity.
    """
    settings, defaults = section.model_dump(), DataSection().model_dump()
    kept = {
        name: value
        for name, value in settings.items()
        if name in _FIRST_SETTINGS or value != defaults[name]
    }
    if settings["split"]["on_leak"] == defaults["split"]["on_leak"]:
        kept["split"] = {name: settings["split"][name] for name in settings["split"]}
        del kept["split"]["on_leak"]
    return kept


def _identity_of_additions(recipe: Recipe) -> list[object]:
    """What else decides the splits: given splits and benchmarks, by content."""
    given = [
        [home, _source_identity(section)]
        for home, section in sections(recipe.data)
        if home is not None
    ]
    benchmarks = [
        [name, file_sha256(Path(name)) if Path(name).is_file() else None]
        for name in _benchmarks(recipe)
    ]
    return [part for part in (given, benchmarks) if part]


def _within_context(section: DataSection, encoder: Encoder) -> DataSection:
    """Pairs longer than the model's context would be cut by it; they are dropped instead."""
    limit = encoder.context_tokens
    if limit is None:
        return section
    if encoder.kind == "causal":
        update = {"max_pair_tokens": min(section.max_pair_tokens or limit, limit)}
    else:
        update = {
            "max_source_tokens": min(section.max_source_tokens or limit, limit),
            "max_target_tokens": min(section.max_target_tokens or limit, limit),
        }
    return section.model_copy(update=update)


def _source_identity(section: DataSection) -> object:
    kind = kind_of_source(section.source)
    if kind == "file":
        path = Path(section.source)
        return file_sha256(path) if path.is_file() else None
    if kind == "code":
        place = section.source.removeprefix("code:")
        if place == "stdlib":
            return platform.python_version()
        if commit := commit_named(section):
            return commit
        root = Path(place)
        files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
        return [[str(file), file_sha256(file)] for file in files if file.is_file()]
    return section.revision
