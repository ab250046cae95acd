"""Which configurations are tried next: a whole grid or sample, or Optuna's samplers.

A search is asked for a generation and told its results.  Its answers depend on its seed and on
what it was told, nothing else, so a sweep that goes on replays it from the recorded results.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from veritune.config import RangeSection, Recipe
from veritune.config.sweep import draws_whole_numbers
from veritune.errors import EnvironmentFault
from veritune.pipeline.swept import Settings
from veritune.sweep.space import grid, named, sampled

DEFAULT_N = 20


@dataclass(frozen=True)
class Told:
    """What a search learns of a configuration.

    Attributes:
        losses: (epochs, validation loss) in order; empty if it diverged.
        value: its loss if it trained to its end, else None.
    """

    losses: Sequence[tuple[float, float]]
    value: float | None


class Search(Protocol):
    """Chooses configurations, a generation at a time."""

    @property
    def total(self) -> int:
        """How many there will be."""

    def ask(self) -> list[Settings]:
        """The next generation; empty when the search is over."""

    def tell(self, results: Iterable[Told]) -> None:
        """The results of the last generation, in its order."""


def make_search(recipe: Recipe) -> Search:
    """The search that a recipe asks for.

    Raises:
        EnvironmentFault: Optuna is not installed and the method is one of its.
    """
    section = recipe.sweep_search
    seed = recipe.seed if section.seed is None else section.seed
    if section.method == "grid":
        n = section.n
        return _AllAtOnce(grid(recipe) if n is None else sampled(recipe, n, seed))
    n = section.n or DEFAULT_N
    if section.method == "random":
        return _AllAtOnce(sampled(recipe, n, seed))
    return _Sampled(recipe, n, seed)


class _AllAtOnce:
    """A list known beforehand: one generation."""

    def __init__(self, settings: list[Settings]) -> None:
        self._left, self.total = settings, len(settings)

    def ask(self) -> list[Settings]:
        """All of it, once."""
        asked, self._left = self._left, []
        return asked

    def tell(self, results: Iterable[Told]) -> None:
        """Nothing is learned."""


class _Sampled:
    """Optuna's samplers, asked for a few at a time."""

    def __init__(self, recipe: Recipe, n: int, seed: int) -> None:
        self._optuna = _import_optuna()
        self._recipe, self.total, self._asked = recipe, n, 0
        method = recipe.sweep_search.method
        # Evenly spread points do not depend on results: no reason to wait for them.
        self._size = n if method == "qmc" else recipe.sweep_search.ask
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samplers = self._optuna.samplers
            sampler = {
                "tpe": lambda: samplers.TPESampler(seed=seed, constant_liar=True),
                "gp": lambda: samplers.GPSampler(seed=seed, deterministic_objective=True),
                "qmc": lambda: samplers.QMCSampler(seed=seed, scramble=True),
            }[method]()
            self._study = self._optuna.create_study(sampler=sampler, direction="minimize")
        self._trials: list[Any] = []

    def ask(self) -> list[Settings]:
        """The next few, or what is left of them."""
        size = min(self._size, self.total - self._asked)
        self._asked += size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trials = [self._study.ask(self._distributions()) for _ in range(size)]
        return [self._settings(trial) for trial in self._trials]

    def tell(self, results: Iterable[Told]) -> None:
        """A stopped one counts by how far it came; one that diverged as the worst."""
        states = self._optuna.trial.TrialState
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for trial, told in zip(self._trials, results, strict=True):
                if told.value is not None:
                    self._study.tell(trial, told.value)
                    continue
                for epochs, loss in told.losses:
                    trial.report(loss, round(1000 * epochs))
                self._study.tell(trial, state=states.PRUNED)

    def _distributions(self) -> dict[str, Any]:
        known = self._optuna.distributions
        found: dict[str, Any] = {}
        for key, choices in self._recipe.sweep.items():
            if isinstance(choices, RangeSection):
                if draws_whole_numbers(key):
                    ends = int(choices.low), int(choices.high)
                    found[key] = known.IntDistribution(*ends, log=choices.log)
                else:
                    found[key] = known.FloatDistribution(choices.low, choices.high, log=choices.log)
            else:
                # A place in the list, since Optuna's choices must be plain values.
                found[key] = known.CategoricalDistribution(tuple(range(len(choices))))
        return found

    def _settings(self, trial: Any) -> Settings:
        return {
            key: choices[trial.params[key]] if isinstance(choices, list) else trial.params[key]
            for key, choices in self._recipe.sweep.items()
        }


def first_of_each(generation: Sequence[Settings], known: Sequence[Settings]) -> Iterator[int]:
    """For each of a generation, the number of the first configuration with its settings.

    ``known`` are the earlier generations'; samplers propose good settings again.
    """
    first: dict[str, int] = {}
    for number, settings in enumerate([*known, *generation]):
        place = first.setdefault(named(settings), number)
        if number >= len(known):
            yield place


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise EnvironmentFault(
            "this method of a sweep needs Optuna, which is not installed",
            accepted="sweep_search.method grid or random without it",
            next_step="pip install 'veritune[sweep]'",
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
