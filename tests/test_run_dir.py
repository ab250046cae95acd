"""A run directory belongs to one recipe, and knows which stages are up to date."""

from __future__ import annotations

from pathlib import Path

import pytest

from veritune.errors import (
    DiskFault,
    EnvironmentFault,
    OutOfMemory,
    RecipeError,
    RunDirectoryError,
)
from veritune.recipe_file import recipe_from
from veritune.run_dir import RunDirectory, digest, open_run


def test_an_output_folder_with_a_strangers_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("precious")
    with pytest.raises(RunDirectoryError, match="not a run"):
        RunDirectory(tmp_path).claim(recipe_from({}))
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.docx"]


def test_an_output_folder_with_another_run_is_refused_naming_the_difference(
    tmp_path: Path,
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim(recipe_from({"train": {"epochs": 3}}))
    (run.checkpoints / "step-00000001").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match=r"train\.epochs: 3\.0 there, 5\.0 here"):
        run.claim(recipe_from({"train": {"epochs": 5}}))
    assert run.recipe().train.epochs == 3


def test_before_training_a_recipe_may_be_corrected(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim(recipe_from({"data": {"source": "wrong.jsonl"}}))
    run.claim(recipe_from({"data": {"source": "right.jsonl"}}))
    assert run.recipe().data.source == "right.jsonl"


def test_evaluation_settings_may_change_in_a_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim(recipe_from({}))
    run.claim(recipe_from({"evaluate": {"max_new_tokens": 7}}))
    assert run.recipe().evaluate.max_new_tokens == 7


@pytest.mark.parametrize(
    ("fault", "stays"),
    [
        (RecipeError("a wrong path"), False),
        (EnvironmentFault("a missing package"), False),
        (OutOfMemory("too large for now"), True),
        (DiskFault("full"), True),
        (KeyboardInterrupt(), True),
    ],
)
def test_settings_that_are_refused_do_not_stay_in_a_trained_run(
    tmp_path: Path, fault: BaseException, stays: bool
) -> None:
    run = RunDirectory(tmp_path / "run")
    run.claim(recipe_from({"evaluate": {"max_new_tokens": 7}}))
    run.adapter.mkdir()
    with pytest.raises(type(fault)), run.recipe_unless_refused():
        run.claim(recipe_from({"evaluate": {"max_new_tokens": 8}}))
        raise fault
    assert run.recipe().evaluate.max_new_tokens == (8 if stays else 7)


def test_a_file_as_output_dir_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunDirectoryError, match="is a file"):
        RunDirectory(tmp_path / "run").claim(recipe_from({}))


def test_a_stage_is_up_to_date_only_with_the_same_inputs_and_all_outputs(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.claim(recipe_from({}))
    output = tmp_path / "report.md"
    output.write_text("x")
    run.finish_stage("report", "abc", 1.0)
    assert run.up_to_date("report", "abc", [output])
    assert not run.up_to_date("report", "other", [output])
    output.unlink()
    assert not run.up_to_date("report", "abc", [output])


def test_two_processes_cannot_work_in_one_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    with (
        run.lock(),
        pytest.raises(RunDirectoryError, match="another process"),
        RunDirectory(tmp_path).lock(),
    ):
        pass


def test_a_broken_manifest_is_explained(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"half": ')
    with pytest.raises(RunDirectoryError, match="manifest"):
        RunDirectory(tmp_path).manifest()


def test_a_folder_without_a_recipe_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no recipe\.yaml"):
        open_run(tmp_path)


def test_digest_depends_on_content_not_on_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("same")
    (tmp_path / "b").write_text("same")
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    (tmp_path / "b").write_text("other")
    assert digest(tmp_path / "a") != digest(tmp_path / "b")
    assert digest({"x": 1}, "y") != digest({"x": 1}, "z")


def test_another_process_at_work_keeps_its_recipe(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.claim(recipe_from({"train": {"epochs": 3}}))
    with run.lock():
        RunDirectory(tmp_path).claim(recipe_from({"train": {"epochs": 3}}))
        with pytest.raises(RunDirectoryError, match="another process"):
            RunDirectory(tmp_path).claim(recipe_from({"train": {"epochs": 5}}))
    assert run.recipe().train.epochs == 3


def test_a_stage_killed_between_its_files_is_done_again_whatever_is_asked(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.claim(recipe_from({}))
    run.begin_stage("evaluate")
    run.finish_stage("evaluate", "old settings", 1.0, per_system={"adapted": {}})
    run.begin_stage("evaluate")
    assert not run.up_to_date("evaluate", "old settings", [])
    assert run.stage_record("evaluate")["per_system"] == {"adapted": {}}
    run.finish_stage("evaluate", "new settings", 1.0)
    assert run.up_to_date("evaluate", "new settings", [])


@pytest.mark.parametrize("place", ["/proc/nowhere/run", "/dev/null/run", "/tmp/" + "a" * 300])
def test_a_place_that_cannot_hold_a_folder_is_a_fault_in_words(place: str) -> None:
    with pytest.raises(DiskFault, match="cannot write here"):
        RunDirectory(Path(place)).claim(recipe_from({}))
