"""What a sweep accepts, and which configurations it then tries."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from test_main_job import invoke
from veritune.config import HalvingSection, LoraSection, Recipe, TrainSection
from veritune.errors import RecipeError
from veritune.recipe_file import dump_recipe, load_recipe, recipe_from
from veritune.sweep.halving import rung_step, rungs, survivors
from veritune.sweep.search import Told, make_search
from veritune.sweep.space import configuration, grid, refuse_unsearchable, sampled


def recipe(sweep: Any, *overrides: str, **search: Any) -> Recipe:
    return recipe_from({"sweep": sweep, "sweep_search": search}, overrides)


def test_the_grid_is_every_combination_and_changes_only_what_is_searched() -> None:
    wanted = recipe({"lora.r": [2, 4], "train.learning_rate": [1e-3, 1e-2], "lora.dropout": [0.1]})
    found = grid(wanted)
    assert [(row["lora.r"], row["train.learning_rate"]) for row in found] == [
        (2, 1e-3), (2, 1e-2), (4, 1e-3), (4, 1e-2),
    ]  # fmt: skip
    third = configuration(wanted, 2, found[2])
    assert third.lora == LoraSection(r=4, dropout=0.1)
    assert third.train == TrainSection(learning_rate=1e-3)


@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"lora.rank": [1]}, ["lora.rank", "did you mean lora.r?", "train.batch_size"]),
        ({"train.lerning_rate": [1e-3]}, ["did you mean train.learning_rate?"]),
        ({"learning_rate": [1e-3]}, ["did you mean train.learning_rate?"]),
        ({"data.max_rows": [10]}, ["data.max_rows", "not a setting that a sweep can try"]),
        ({"train.engine": ["auto"]}, ["train.engine", "not a setting that a sweep can try"]),
        ({"train.processes": [1, 2]}, ["train.processes", "not a setting that a sweep can try"]),
        ({"model.dtype": ["float32"]}, ["model.dtype", "not a setting that a sweep can try"]),
        ({"lora.r": []}, ["lora.r: the list is empty"]),
        ({"lora.r": ["four"]}, ["lora.r", "valid integer", "'four'"]),
        ({"lora.r": [2, 0]}, ["lora.r", "greater than or equal to 1", "received 0"]),
        ({"lora.r": 4}, ["lora.r: needs a list", "received 4"]),
        ({"lora.r": [2, 2]}, ["lora.r: 2 is named twice"]),
        ({"lora.r": {"low": 1.5, "high": 3}}, ["lora.r", "whole"]),
        ({"train.learning_rate": {"low": 0, "high": 1, "log": True}}, ["starts above 0"]),
        ({"train.learning_rate": {"low": 1, "high": 1e-3}}, ["low must be below high"]),
        ({"train.learning_rate": {"low": 1e-4}}, ["train.learning_rate.high", "required"]),
        ({"train.learning_rate": {"low": -1.0, "high": 1}}, ["greater than 0", "received -1.0"]),
        ({"lora.rank": [1], "train.lr": 3}, ["lora.rank", "train.lr", "train.learning_rate?"]),
        ([1, 2], ["valid dictionary"]),
    ],
)
def test_a_space_that_cannot_be_tried_is_refused_with_what_can(
    sweep: Any, words: list[str]
) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe(sweep)
    for word in words:
        assert word in str(refused.value)


def test_set_reaches_a_dotted_key_and_a_section_may_be_nested() -> None:
    nested = recipe({"lora": {"r": [2], "dropout": [0.1]}}, "sweep.lora.r=[4, 8]")
    assert nested.sweep == {"lora.r": [4, 8], "lora.dropout": [0.1]}
    ranged = recipe({}, "sweep.train.learning_rate={low: 1e-4, high: 1e-2, log: true}")
    assert ranged.sweep["train.learning_rate"].log  # type: ignore[union-attr]


def test_a_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    wanted = recipe(
        {"lora.target_modules": ["attention", ["q_proj"]], "lora.r": {"low": 2, "high": 8}},
        method="tpe",
        halving=None,
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(wanted))
    assert load_recipe(path) == wanted


@pytest.mark.parametrize(
    ("sweep", "search", "words"),
    [
        ({}, {}, ["nothing to sweep over", "--set 'sweep.lora.r=[2,4,8]'"]),
        ({"lora.r": {"low": 2, "high": 8}}, {}, ["range", "sweep_search.method=random"]),
        (
            {"lora.r": list(range(1, 101)), "lora.alpha": list(range(1, 41))},
            {},
            ["4,000 configurations", "40 x 100", "sweep_search.n"],
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_made(
    sweep: Any, search: Any, words: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    content = {"output_dir": str(tmp_path / "run"), "sweep": sweep, "sweep_search": search}
    path.write_text(yaml.safe_dump(content))
    outcome = invoke("sweep", path)
    assert outcome.exit_code == 2
    for word in words:
        assert word in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_several_bases_are_refused() -> None:
    content = {"model": {"name_or_path": ["a", "b"]}, "sweep": {"lora.r": [2]}}
    with pytest.raises(RecipeError, match="several to choose from"):
        refuse_unsearchable(recipe_from(content))


def test_the_schema_names_what_can_be_searched() -> None:
    schema = json.loads(invoke("schema").stdout)
    assert "lora.r" in json.dumps(schema["properties"]["sweep"])
    assert "halving" in json.dumps(schema["$defs"]["SweepSearchSection"])


@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 5),
    low=st.floats(1e-6, 1e-3),
    factor=st.floats(1.5, 1e4),
    log=st.booleans(),
)
def test_draws_lie_in_their_ranges_differ_and_repeat_with_the_seed(
    n: int, seed: int, low: float, factor: float, log: bool
) -> None:
    rate = {"low": low, "high": low * factor, "log": log}
    wanted = recipe(
        {"train.learning_rate": rate, "lora.r": {"low": 2, "high": 9}}, method="random", n=n
    )
    found = sampled(wanted, n, seed)
    assert found == sampled(wanted, n, seed)
    assert len({json.dumps(row) for row in found}) == n
    for row in found:
        assert low <= row["train.learning_rate"] <= low * factor
        assert row["lora.r"] in range(2, 10) and isinstance(row["lora.r"], int)
        configuration(wanted, 0, row)


def test_log_ranges_are_even_over_magnitudes() -> None:
    rate = {"low": 1e-5, "high": 1e-1, "log": True}
    found = sampled(recipe({"train.learning_rate": rate}, method="random"), 400, 0)
    below = sum(row["train.learning_rate"] < 1e-3 for row in found)
    assert 160 < below < 240


def test_more_draws_than_there_are_give_all_there_are() -> None:
    small = recipe({"lora.r": {"low": 2, "high": 4}}, method="random", n=50)
    assert sorted(row["lora.r"] for row in sampled(small, 50, 0)) == [2, 3, 4]
    listed = recipe({"lora.r": [2, 4], "lora.dropout": [0.0, 0.1]}, n=3)
    assert len(sampled(listed, 3, 0)) == 3 and len(sampled(listed, 9, 0)) == 4


@pytest.mark.parametrize("method", ["tpe", "gp", "qmc"])
def test_optunas_samplers_repeat_themselves_when_told_the_same(method: str) -> None:
    pytest.importorskip("optuna")
    wanted = recipe(
        {
            "train.learning_rate": {"low": 1e-5, "high": 1e-1, "log": True},
            "lora.target_modules": ["attention", ["q_proj"]],
            "lora.r": {"low": 2, "high": 16},
        },
        method=method,
        n=11,
        ask=4,
    )

    def replay() -> list[Any]:
        search, tried = make_search(wanted), []
        while asked := search.ask():
            tried += asked
            search.tell([_told(row) for row in asked])
        return tried

    tried = replay()
    assert len(tried) == 11 == make_search(wanted).total
    assert tried == replay()
    for row in tried:
        configuration(wanted, 0, row)


def test_tpe_looks_where_the_loss_was_low() -> None:
    pytest.importorskip("optuna")
    rate = {"low": 1e-6, "high": 1.0, "log": True}
    search = make_search(recipe({"train.learning_rate": rate}, method="tpe", n=60, ask=5))
    tried: list[float] = []
    while asked := search.ask():
        tried += [row["train.learning_rate"] for row in asked]
        search.tell([Told([(1, loss)], loss) for loss in map(_bowl, asked)])
    far = [abs(math.log10(rate) + 3) for rate in tried]
    # Even draws would lie 1.5 magnitudes away on average.
    assert sum(far[40:]) / 20 < 1


def _bowl(row: Mapping[str, Any]) -> float:
    return (math.log10(row["train.learning_rate"]) + 3) ** 2


def _told(row: Mapping[str, Any]) -> Told:
    loss = _bowl(row)
    if loss > 8:
        return Told([], None)
    return Told([(1, loss + 1), (3, loss)], loss if loss < 4 else None)


def test_rungs_lie_below_the_end() -> None:
    assert rungs(HalvingSection(eta=3, min_epochs=1), 10) == [1, 3, 9]
    assert rungs(HalvingSection(eta=3, min_epochs=1), 9) == [1, 3]
    assert rungs(HalvingSection(eta=2, min_epochs=0.5), 2) == [0.5, 1]
    assert rungs(HalvingSection(), 1) == [] == rungs(None, 10)


def test_a_rung_is_judged_at_a_validation() -> None:
    by_epoch = TrainSection(batch_size=4, epochs=9)
    assert rung_step(by_epoch, 12, 3) == 9
    assert rung_step(by_epoch.model_copy(update={"eval_steps": 4}), 12, 1) == 4
    assert rung_step(by_epoch.model_copy(update={"max_steps": 5}), 12, 3) == 5


@given(
    st.dictionaries(st.integers(0, 40), st.sampled_from([0.5, 1.0, 2.0, math.inf]), min_size=1),
    st.lists(st.sampled_from([0.7, 1.0, math.inf])),
    st.integers(2, 5),
)
def test_those_go_on_whom_too_few_beat(
    losses: dict[int, float], earlier: list[float], eta: int
) -> None:
    """Said the other way round: by counting who is better."""
    on = survivors(losses, earlier, eta)
    room = max(1, -(-(len(losses) + len(earlier)) // eta))
    for number, loss in losses.items():
        better = sum(other <= loss for other in earlier)
        better += sum((other, n) < (loss, number) for n, other in losses.items())
        assert (number in on) == (better < room and math.isfinite(loss))
