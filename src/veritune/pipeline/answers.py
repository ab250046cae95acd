"""Answers of every system, each model loaded once and only if something is left to ask it.

The base, our adapter and other adapters share one set of weights.  The merged model shares
all but the adapted modules with them and answers after them; the fully fine-tuned one is
loaded when they are gone.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veritune.config import Recipe
from veritune.generate.systems import ADAPTER_PREFIX, RETRIEVAL, Systems
from veritune.model.adapter import load_adapter
from veritune.model.hardware import choose_placement
from veritune.model.load import load_model
from veritune.model.merged import merged_model, own_memory, share_weights
from veritune.model.other_adapters import OtherAdapter, attach_other, find_adapters
from veritune.pipeline.claims import measure_claims
from veritune.pipeline.context import Context, add_notices
from veritune.pipeline.encode import Encoder, make_encoder
from veritune.pipeline.full_finetune import full_finetune_inputs, full_finetune_section
from veritune.pipeline.hub_commits import refuse_moved_model
from veritune.pipeline.sub_runs import answer_rest
from veritune.rows import Example, Prediction, read_examples, read_predictions, write_predictions
from veritune.run_dir import RunDirectory, digest
from veritune.score import extract_code

if TYPE_CHECKING:
    from veritune.pipeline.evaluate import Chosen

MERGED, FULL_FINETUNE = "merged", "full_finetune"
# Answered last, in this order, since each needs weights that the others do not.
_LAST = (MERGED, FULL_FINETUNE)


def systems_of(recipe: Recipe, others: Sequence[OtherAdapter]) -> list[str]:
    """All systems of an evaluation, in the order in which they answer."""
    named = [f"{ADAPTER_PREFIX}{other.name}" for other in others]
    systems = [*recipe.evaluate.systems, *named]
    return sorted(systems, key=lambda name: _LAST.index(name) if name in _LAST else -1)


def other_weights(run: RunDirectory, recipe: Recipe) -> list[Any]:
    """What an evaluation depends on besides the data, the recipe and our adapter."""
    parts: list[Any] = [
        path for other in find_adapters(recipe.evaluate.adapters) for path in other.files
    ]
    if FULL_FINETUNE in recipe.evaluate.systems:
        parts.append(full_finetune_inputs(run, recipe))
    return parts


def answer_all(
    context: Context, chosen: Chosen
) -> tuple[list[Prediction], dict[str, dict[str, float]], dict[str, Any]]:
    """Answers of every system; those whose inputs are unchanged are read back.

    Returns:
        The answers, seconds and tokens of each system, and what the claims of LoRA are
        judged by.
    """
    run, recipe = context.run, context.recipe
    others = find_adapters(recipe.evaluate.adapters)
    models = Models(context, others)
    measured = measure_claims(
        context,
        [*chosen.validation, *chosen.train, *chosen.test],
        lambda: (models.base.encoder.format, models.base.variants()),
    )
    known = dict(run.manifest().get("predictions", {}))
    timing = {
        name: dict(record)
        for name, record in run.stage_record("evaluate").get("per_system", {}).items()
    }
    names = systems_of(recipe, others)
    collected: list[Prediction] = []
    for system in names:
        path = run.predictions / f"{system}.jsonl"
        examples = chosen.for_system(system)
        identity = _identity(run, recipe, system, others, examples)
        if known.get(system) == identity and path.is_file():
            context.reporter.say(f"  answers of {system}: unchanged, kept")
            collected += read_predictions(path)
            continue
        answers, seconds, decoder = _answer(context, models, system, examples)
        if known.pop(system, None):
            # Killed after the next line, it must not pass for what it was.
            run.update_manifest(predictions=known)
        write_predictions(path, answers)
        known[system] = identity
        decoders = {**run.manifest().get("decoders", {}), system: decoder}
        run.update_manifest(predictions=known, decoders=decoders)
        collected += answers
        timing[system] = {
            "seconds": round(seconds, 3),
            "new_tokens": sum(answer.n_new_tokens for answer in answers),
        }
    return collected, {name: timing[name] for name in names if name in timing}, measured


def _answer(
    context: Context, models: Models, system: str, examples: Sequence[Example]
) -> tuple[list[Prediction], float, str | None]:
    """Answers, the seconds they took and the decoder; no model outlives the call by a name."""
    answering = models.answering(system)
    started = time.perf_counter()
    answers = answer_rest(context, system, examples, answering.answer)
    return answers, time.perf_counter() - started, answering.decoder(system)


@dataclass
class Base:
    """The base model with adapters on it, and a plain one over the same weights.

    Attributes:
        location: what the base was loaded from.
    """

    plain: Any
    adapted: Any
    encoder: Encoder
    location: str

    def merged(self) -> Any:
        """A new model with our adapter folded in."""
        return merged_model(self.plain, self.adapted)

    def variants(self) -> dict[str, Any]:
        """The models whose latency the claims compare."""
        own_memory(self.plain)
        return {"base": self.plain, "adapted": self.adapted, "merged": self.merged()}


class Models:
    """The models of one evaluation."""

    def __init__(self, context: Context, others: Sequence[OtherAdapter]) -> None:
        self._context = context
        self._others = others
        self._base: Base | None = None
        self._with_adapters: Systems | None = None

    @property
    def base(self) -> Base:
        """The base model with our adapter, loaded when first asked for."""
        if self._base is None:
            run, recipe = self._context.run, self._context.recipe
            encoder = make_encoder(recipe)
            loaded = load_model(recipe.model, choose_placement(recipe.model), seed=recipe.seed)
            refuse_moved_model(run, loaded)
            plain = share_weights(loaded.model)
            self._base = Base(
                plain,
                load_adapter(loaded.model, run.adapter),
                encoder,
                loaded.reference.location or recipe.model.name,
            )
        return self._base

    def answering(self, system: str) -> Systems:
        """The systems, with the model loaded that this one needs."""
        if system == RETRIEVAL:
            return self._systems(make_encoder(self._context.recipe), None)
        if system == MERGED:
            return self._systems(self.base.encoder, self.base.merged())
        if system == FULL_FINETUNE:
            return self._full_finetune()
        if self._with_adapters is None:
            self._with_adapters = self._attach_others()
        return self._with_adapters

    def _attach_others(self) -> Systems:
        base, names = self.base, {}
        notices = []
        for number, other in enumerate(self._others):
            names[f"{ADAPTER_PREFIX}{other.name}"] = f"other_{number}"
            notices.append(attach_other(base.adapted, other, f"other_{number}", base=base.location))
        add_notices(self._context.run, notices)
        return self._systems(base.encoder, base.adapted, names)

    def _full_finetune(self) -> Systems:
        run, recipe = self._context.run, self._context.recipe
        self._base = self._with_adapters = None
        gc.collect()
        section = full_finetune_section(run, recipe)
        model = load_model(section, choose_placement(recipe.model), seed=recipe.seed).model
        return self._systems(make_encoder(recipe), model)

    def _systems(
        self, encoder: Encoder, model: Any, others: dict[str, str] | None = None
    ) -> Systems:
        run, recipe = self._context.run, self._context.recipe
        return Systems(
            model,
            encoder.format,
            recipe.evaluate,
            read_examples(run.split_file("train")),
            seed=recipe.seed,
            extract=extract_code,
            reporter=self._context.reporter,
            context_tokens=encoder.context_tokens,
            others=others,
        )


def _identity(
    run: RunDirectory,
    recipe: Recipe,
    system: str,
    others: Sequence[OtherAdapter],
    examples: Sequence[Example],
) -> str:
    weights: list[Path | str] = []
    if system in ("adapted", MERGED):
        weights = [run.adapter]
    elif system == FULL_FINETUNE:
        weights = [full_finetune_inputs(run, recipe)]
    for other in others:
        if system == f"{ADAPTER_PREFIX}{other.name}":
            weights += other.files
    return digest(
        system,
        *weights,
        run.split_file("train"),
        recipe.model.model_dump(),
        recipe.evaluate.few_shot.model_dump(),
        recipe.evaluate.max_new_tokens,
        recipe.evaluate.batch_size,
        recipe.data.input,
        recipe.seed,
        [[row.example_id, row.instruction, row.input] for row in examples],
    )
