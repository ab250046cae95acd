"""What a sweep trains on: encoded pairs, the base model, and how many fit beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from veritune.config import Recipe
from veritune.errors import DataError, OutOfMemory
from veritune.model.adapter import OURS
from veritune.model.attention import use_packed_attention
from veritune.model.hardware import Placement, available_bytes, choose_placement
from veritune.model.load import LoadedModel, empty_model, load_model
from veritune.model.lora import attach_lora
from veritune.pipeline.context import Context
from veritune.pipeline.encode import Encoder, make_encoder
from veritune.pipeline.train import layout_for
from veritune.rows import read_examples
from veritune.train.batches import EncodedPair, Layout, audit_supervision
from veritune.train.engine import why_not_captured
from veritune.train.joint import JointTrainers, can_train_jointly
from veritune.train.memory import estimator
from veritune.train.one_by_one import OneByOneTrainers
from veritune.train.trainers import Configuration, Trainers

_SHARE_OF_MEMORY = 0.8
# Beyond, a CPU gains nothing (it multiplies all the time already), and a GPU hardly.
_MOST = {"cpu": 8, "cuda": 64}


@dataclass
class Bench:
    """Data and base model of a sweep; the model is loaded when it is first needed."""

    recipe: Recipe
    encoder: Encoder
    train: list[EncodedPair]
    validation: list[EncodedPair]
    layout: Layout
    config: Any
    placement: Placement
    _loaded: LoadedModel | None = None
    _joint: JointTrainers | None = None

    @property
    def loaded(self) -> LoadedModel:
        """The base model that configurations share."""
        if self._loaded is None:
            self._loaded = self.load()
        return self._loaded

    def load(self) -> LoadedModel:
        """A base model of its own."""
        return load_model(self.recipe.model, self.placement, seed=self.recipe.seed)

    def shares(self, configuration: Configuration) -> bool:
        """Whether a configuration can train in one row with others."""
        return can_train_jointly(_Of(self.config), [configuration.lora], self._longest())

    def trainers(self, *, joint: bool, slots: int) -> Trainers:
        """What trains so many at a time."""
        if not joint:
            return OneByOneTrainers(
                self._base_of_its_own,
                self.layout,
                self.train,
                self.validation,
                device=self.placement.device,
            )
        if self._joint is None or self._joint.slots != slots:
            if self._joint is not None:
                self._joint.close()
            self._joint = JointTrainers(
                self.loaded.model,
                self.layout,
                self.train,
                self.validation,
                slots=slots,
                device=self.placement.device,
            )
        return self._joint

    def room(
        self, configurations: Sequence[Configuration], *, share: float = _SHARE_OF_MEMORY
    ) -> int:
        """How many of these fit beside the base model, by the estimate that `plan` makes.

        Args:
            share: of the memory available that may be filled.

        Raises:
            OutOfMemory: not one does.
        """
        each = max(self._bytes_of(c) for c in _largest(configurations))
        weights = 0 if self._loaded is not None else _weight_bytes(self.recipe, self.placement)
        available = available_bytes(self.placement.device)
        fit = int((share * available - weights) // each)
        if fit < 1:
            size = max(configuration.train.batch_size for configuration in configurations)
            half = max(1, size // 2)
            raise OutOfMemory(
                "not one configuration of the sweep fits in memory",
                received=f"about {each / 2**20:,.0f} MiB each and {weights / 2**20:,.0f} MiB for"
                f" the base model, {available / 2**20:,.0f} MiB available on"
                f" {self.placement.device.type}",
                accepted="less work per forward pass, or a smaller base model",
                next_step=f"--set train.batch_size={half}, or"
                f" --set data.max_pair_tokens={max(2, self._longest() // 2)}",
            )
        return min(fit, _MOST.get(self.placement.device.type, max(_MOST.values())))

    def _base_of_its_own(self) -> Any:
        model = self.load().model
        if self.layout.padding == "packed":
            use_packed_attention(model, self._longest())
        return model

    def _longest(self) -> int:
        return max(pair.n_tokens for pair in [*self.train, *self.validation])

    def _bytes_of(self, configuration: Configuration) -> int:
        """Adapter with its AdamW state, and the activations of its longest batch."""
        lora = configuration.lora.model_copy(update={"init": "default"})
        model = attach_lora(empty_model(self.recipe.model)[0], lora, seed=0)
        device = self.placement.device
        own = estimator(
            model,
            replace(self.layout, padding="packed"),
            self.train,
            dtype=self.placement.dtype,
            captured=why_not_captured(model, {0: OURS}, self._longest(), device) is None,
        )
        return own.one_more(configuration.train.batch_size, device)


def open_bench(context: Context) -> Bench:
    """Read and encode the prepared rows.

    Raises:
        DataError: nothing to choose on.
    """
    run, recipe = context.run, context.recipe
    encoder = make_encoder(recipe)
    train = encoder.pairs(read_examples(run.split_file("train")))
    validation = encoder.pairs(read_examples(run.split_file("validation")))
    audit_supervision(train, encoder.format.end_id)
    audit_supervision(validation, encoder.format.end_id)
    if not validation:
        raise DataError(
            "a sweep chooses on validation, and the validation split is empty",
            received=f"{run.split_file('validation')}: no rows",
            accepted="at least one validation row, better a hundred",
            next_step="--set data.split.validation=0.1",
        )
    config = empty_model(recipe.model)[0].config
    layout = layout_for(recipe, encoder, [*train, *validation], config)
    placement = choose_placement(recipe.model)
    return Bench(recipe, encoder, train, validation, layout, config, placement)


@dataclass(frozen=True)
class _Of:
    """Stands for a model where only its configuration is looked at."""

    config: Any


def _largest(configurations: Sequence[Configuration]) -> list[Configuration]:
    """One of each adapter shape and batch size."""
    found = {
        (str(c.lora.r), str(c.lora.target_modules), c.lora.bias, c.train.batch_size): c
        for c in configurations
    }
    return list(found.values())


def _weight_bytes(recipe: Recipe, placement: Placement) -> int:
    model = empty_model(recipe.model)[0]
    return placement.dtype.itemsize * sum(int(p.numel()) for p in model.parameters())
