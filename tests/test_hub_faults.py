"""What a hub can do wrong or do to a run: slow, cut, moved, redirected; for data and models."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from hub_client import ask, environment_of
from hub_stand_in import Hub, serve
from tiny_models import build_model

ROWS = [{"instruction": f"Do thing {i}.", "input": "", "output": f"thing({i})"} for i in range(7)]
FAULTS = ("truncated", "stalling", "failing", "trickling", "redirected")
DATA_FILE, MODEL_FILE = "python-codes.json", "model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hub")
    found = {"llama": build_model("llama", root / "llama")}
    other = build_model("llama", root / "other", seed=1)
    found["other"] = other
    for name, rows in (("rows", ROWS), ("many", distinct_rows(60)), ("more", distinct_rows(70))):
        found[name] = root / name
        found[name].mkdir()
        (found[name] / DATA_FILE).write_text(json.dumps(rows))
    return found


@pytest.fixture(scope="module")
def hub(folders: dict[str, Path]) -> Iterator[Hub]:
    with serve() as hub:
        hub.add("datasets", "owner/many", folders["many"])
        hub.add("models", "owner/llama", folders["llama"])
        for fault in FAULTS:
            hub.add("datasets", f"owner/{fault}", folders["rows"], **{fault: {DATA_FILE}})
            hub.add("models", f"owner/{fault}", folders["llama"], **{fault: {MODEL_FILE}})
        yield hub


@dataclass(frozen=True)
class Seen:
    """What came of every fault, by kind and name; and what was then fetched again.

    Attributes:
        seconds: of the first process, which meets the files that stall.
        fetched: ``GET`` requests of contents in the first process, and in the second.
    """

    first: dict[tuple[str, str], dict[str, Any]]
    second: dict[tuple[str, str], dict[str, Any]]
    offline: dict[tuple[str, str], dict[str, Any]]
    seconds: float
    fetched: tuple[list[str], list[str]]


def _cases(*faults: str) -> dict[tuple[str, str], dict[str, Any]]:
    data = {("data", name): {"what": "data", "source": f"owner/{name}"} for name in faults}
    models = {
        ("model", name): {"what": "model", "name_or_path": f"owner/{name}"} for name in faults
    }
    return {**data, **models}


@pytest.fixture(scope="module")
def seen(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Three processes with one cache: every fault; the faults healed; no hub."""
    home = tmp_path_factory.mktemp("cache")
    cases = _cases(*FAULTS)
    started = time.monotonic()
    first = dict(zip(cases, ask(home, hub.url, *cases.values()), strict=True))
    seconds = time.monotonic() - started
    before = list(hub.requests)
    hub.requests.clear()
    for kind, name in (("datasets", "truncated"), ("models", "truncated")):
        hub.repositories[kind, f"owner/{name}"].truncated.clear()
    cases = _cases("truncated", "redirected")
    second = dict(zip(cases, ask(home, hub.url, *cases.values()), strict=True))
    commit = hub.repositories["models", "owner/redirected"].commit
    pinned = {
        ("model", "redirected"): {
            "what": "model", "name_or_path": "owner/redirected", "revision": commit,
        },
        ("model", "absent"): {"what": "model", "name_or_path": "owner/absent"},
    }  # fmt: skip
    nowhere = "http://127.0.0.1:9"
    offline = dict(zip(pinned, ask(home, nowhere, *pinned.values(), offline=True), strict=True))
    return Seen(first, second, offline, seconds, (_contents(before), _contents(hub.requests)))


def _contents(requests: list[str]) -> list[str]:
    files = (DATA_FILE, MODEL_FILE)
    return [line for line in requests if line.startswith("GET") and any(f in line for f in files)]


def distinct_rows(count: int) -> list[dict[str, str]]:
    draw = random.Random(count)
    found = []
    for _ in range(count):
        words = ["".join(draw.choices("abcdefgh", k=4)) for _ in range(9)]
        question = f"Write {words[0]} {words[1]} with {words[2]} of {words[3]}."
        answer = f"{words[4]} = {words[5]}({words[6]})\nprint({words[7]}, {words[8]})"
        found.append({"instruction": question, "input": "", "output": answer})
    return found


def expected() -> list[list[str]]:
    return [[row["instruction"], row["output"]] for row in ROWS]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["data", "model"])
@pytest.mark.parametrize("fault", ["truncated", "stalling", "failing"])
def test_what_does_not_come_whole_is_refused_in_words(seen: Seen, kind: str, fault: str) -> None:
    refused = seen.first[kind, fault]
    # Of a 500 transformers keeps nothing but the 404 of what it tries next.
    assert refused.get("exit_code") in ((2, 3) if fault == "failing" else (3,)), refused
    assert f"owner/{fault}" in json.dumps(refused) and refused["next_step"]


@pytest.mark.slow
def test_a_file_that_stops_coming_does_not_hang(seen: Seen) -> None:
    assert seen.seconds < 200


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["trickling", "redirected"])
def test_what_comes_slowly_or_from_elsewhere_is_read(seen: Seen, hub: Hub, fault: str) -> None:
    data, model = seen.first["data", fault], seen.first["model", fault]
    assert data["rows"] == expected()
    assert model["revision"] == hub.repositories["models", f"owner/{fault}"].commit
    assert any("?moved" in line for line in seen.fetched[0])


@pytest.mark.slow
def test_a_cut_file_is_fetched_anew_and_a_whole_one_is_not(seen: Seen) -> None:
    assert seen.second["data", "truncated"]["rows"] == expected()
    whole = seen.first["model", "trickling"]["sum"]
    assert seen.second["model", "truncated"]["sum"] == whole
    assert seen.second["data", "redirected"]["rows"] == expected()
    assert seen.second["model", "redirected"]["sum"] == whole
    assert not [line for line in seen.fetched[1] if "owner/redirected" in line]


@pytest.mark.slow
def test_a_model_comes_from_the_cache_where_there_is_no_hub(seen: Seen) -> None:
    online = seen.second["model", "redirected"]
    assert seen.offline["model", "redirected"] == online
    assert seen.offline["model", "absent"]["exit_code"] == 3


def _veritune(home: Path, hub: Hub, *words: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-c", "from veritune.cli import main; main()", *words, "--json"],
        capture_output=True, text=True, check=False, timeout=240,
        env=environment_of(home, hub.url),
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_what_has_moved_between_two_stages_is_named_with_both_commits(
    hub: Hub, folders: dict[str, Path], tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "output_dir": str(tmp_path / "run"),
                "model": {"name_or_path": "owner/llama"},
                "data": {"source": "owner/many"},
            }
        )
    )
    data, model = hub.repositories["datasets", "owner/many"], hub.repositories[
        "models", "owner/llama"
    ]  # fmt: skip
    old_data, old_model = data.commit, model.commit
    code, first, log = _veritune(tmp_path, hub, "prepare", str(recipe))
    assert code == 0, log
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["hub_commits"]["data"]["commit"] == old_data
    assert manifest["hub_commits"]["model"]["commit"] == old_model

    new_data = hub.move("datasets", "owner/many", folders["more"])
    new_model = hub.move("models", "owner/llama", folders["other"])
    assert new_data != old_data and new_model != old_model
    code, kept, log = _veritune(tmp_path, hub, "prepare", str(recipe))
    assert code == 0 and kept["n_rows"] == first["n_rows"]
    notices = " ".join(json.loads((tmp_path / "run" / "manifest.json").read_text())["notices"])
    assert old_data in notices and new_data in notices

    code, refused, _ = _veritune(tmp_path, hub, "train", str(recipe))
    assert code == 2
    assert old_model in refused["received"] and new_model in refused["received"]
    assert f"model.revision={old_model}" in refused["next_step"]
