"""Recipes: strict, complete about faults, and round-trippable."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from veritune.config import Recipe
from veritune.errors import RecipeError
from veritune.recipe_file import differences, dump_recipe, known_keys, load_recipe, recipe_from

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))


def test_all_the_promised_recipes_are_shipped() -> None:
    names = {path.name for path in RECIPES}
    assert names >= {
        "demo.yaml",
        "original.yaml",
        "codet5-python-codes.yaml",
        "my-data.yaml",
        "qwen-coder.yaml",
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_shipped_recipe_parses_and_survives_being_resolved(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe_from(yaml.safe_load(dump_recipe(recipe))) == recipe


def test_every_fault_is_reported_at_once_with_the_nearest_key() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from(
            {
                "lora": {"rank": 3},
                "train": {"learning_rat": 1e-3, "batch_size": "8"},
                "data": {"split": {"test": 0}},
            },
            ["train.epochs=soon", "nonsense"],
        )
    text = str(caught.value)
    assert "lora.rank: unknown key; did you mean lora.r?" in text
    assert "did you mean train.learning_rate?" in text
    assert "train.batch_size" in text and "'8'" in text
    assert "test must be above 0" in text
    assert "train.epochs" in text
    assert "nonsense" in text
    assert caught.value.exit_code == 2


def test_scientific_notation_without_a_point_is_a_number() -> None:
    assert recipe_from({}, ["train.learning_rate=1e-3"]).train.learning_rate == 1e-3


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(RecipeError, match="twice"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: [", "line"),
        ("- a\n- b\n", "mapping"),
        ("a: b: c\n", "line 1"),
        ("? [x]\n: y\n", "key must be a word"),
    ],
)
def test_broken_yaml_says_where(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=expected):
        load_recipe(path)


@pytest.mark.parametrize("key", ["activation_checkpointing", "compile"])
@pytest.mark.parametrize("word", ["on", "off"])
def test_on_and_off_are_words_and_no_truths(key: str, word: str, tmp_path: Path) -> None:
    by_flag = recipe_from({}, [f"train.{key}={word}"])
    (tmp_path / "r.yaml").write_text(f"train: {{{key}: {word}}}\n")
    for recipe in (by_flag, load_recipe(tmp_path / "r.yaml")):
        assert getattr(recipe.train, key) == word
        (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
        assert load_recipe(tmp_path / "again.yaml") == recipe


def test_a_recipe_that_is_not_utf8_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1 # caf\xe9\n")
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(tmp_path / "latin.yaml")
    with pytest.raises(RecipeError, match=r"latin\.yaml"):
        load_recipe(tmp_path / "latin.yml")


@pytest.mark.parametrize("template", ["Answer:", "{input}", "{Question}"])
def test_a_template_without_the_instruction_is_refused(template: str) -> None:
    with pytest.raises(RecipeError, match="template must contain"):
        recipe_from({"model": {"prompt": {"template": template}}})


@pytest.mark.parametrize(
    "split",
    [
        {"validation": 0.6, "test": 0.6},
        {"test": 0},
        {"test": -3},
        {"test": 1.5},
        {"validation": None, "test": None},
    ],
)
def test_impossible_splits_are_refused(split: dict[str, float | None]) -> None:
    with pytest.raises(RecipeError):
        recipe_from({"data": {"split": split}})


def test_paths_of_a_recipe_are_relative_to_it_and_overrides_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    for folder in ("here", "there"):
        (tmp_path / folder / "rows.jsonl").write_text("{}")
    recipe = tmp_path / "there" / "r.yaml"
    recipe.write_text("data: {source: rows.jsonl}\nmodel: {name_or_path: owner/name}\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load_recipe(recipe).data.source == str(tmp_path / "there" / "rows.jsonl")
    overridden = load_recipe(recipe, ["data.source=rows.jsonl"])
    assert overridden.data.source == str(tmp_path / "here" / "rows.jsonl")
    assert load_recipe(recipe).model.name_or_path == "owner/name"
    code = load_recipe(recipe, ["data.source=code:../there"])
    assert code.data.source == f"code:{tmp_path / 'there'}"


def test_differences_name_the_paths() -> None:
    one = recipe_from({"train": {"epochs": 3}})
    two = recipe_from({"train": {"epochs": 5}, "seed": 0})
    assert differences(one, two) == [("train.epochs", 3.0, 5.0)]


@given(st.text(max_size=40))
def test_any_override_is_either_taken_or_explained(text: str) -> None:
    try:
        recipe_from({}, [text])
    except RecipeError as error:
        assert error.next_step


def test_known_keys_reach_the_deepest_sections() -> None:
    keys = set(known_keys())
    assert {"data.split.method", "model.prompt.template", "evaluate.few_shot.k", "seed"} <= keys
    assert Recipe.model_json_schema()["additionalProperties"] is False


def test_each_of_several_models_is_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    path = tmp_path / "recipe.yaml"
    path.write_text("model: {name_or_path: [./mine, owner/name, bundled:smollm2-135m]}")
    names = load_recipe(path).model.names
    assert names == (str(tmp_path / "mine"), "owner/name", "bundled:smollm2-135m")
    assert load_recipe(path).model.name_or_path == list(names)
    with pytest.raises(RecipeError, match="one base model"):
        _ = load_recipe(path).model.name


def test_the_first_of_the_seeds_trains_and_without_any_the_seed_does() -> None:
    assert recipe_from({"seed": 4}).training_seed == 4
    assert recipe_from({"seed": 4, "seeds": [0, 4]}).training_seed == 0
    for wrong in ([1, 1], [-1], [True], [0.5], 3):
        with pytest.raises(RecipeError, match="seeds"):
            recipe_from({"seeds": wrong})


def test_what_looks_like_a_date_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data: {revision: 2024-05-01}\n")
    assert load_recipe(path).data.revision == "2024-05-01"
    assert recipe_from({}, ["data.revision=2024-13-01"]).data.revision == "2024-13-01"


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        (f"lora.r={'[' * 5000}", "lora.r"),
        (f"seed={10**22}", "seed"),
        (f"seeds=[{2**32}]", "seeds"),
        ("train.epochs=1e12", "train.epochs"),
        ('output_dir="a\\0b"', "output_dir"),
    ],
    ids=["nested", "seed", "seeds", "epochs", "nul"],
)
def test_values_beyond_all_measure_are_faults_of_the_recipe(setting: str, key: str) -> None:
    with pytest.raises(RecipeError, match=key):
        recipe_from({}, [setting])


def test_a_tilde_is_the_home_wherever_a_path_may_begin_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "recipe.yaml"
    path.write_text("output_dir: ~/runs/one\n")
    assert load_recipe(path).output_dir == str(tmp_path / "runs/one")
    named = load_recipe(path, ["output_dir=~/two", "data.source=~/rows.jsonl"])
    assert named.output_dir == str(tmp_path / "two")
    assert named.data.source == str(tmp_path / "rows.jsonl")
    nobody = load_recipe(path, ["data.source=~no-such-user/x", "evaluate.adapters=[~no-such-user]"])
    assert nobody.data.source.endswith("/~no-such-user/x")
