"""The real hub clients against a stand-in on loopback: pinned revisions, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hub_client import ask
from hub_stand_in import Hub, serve
from tiny_models import build_model

ROWS = [{"instruction": f"Do thing {i}.", "input": "", "output": f"thing({i})"} for i in range(7)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    root = tmp_path_factory.mktemp("hub")
    rows = root / "rows"
    rows.mkdir()
    # The mission's file is a JSON array.
    (rows / "python-codes.json").write_text(json.dumps(ROWS))
    (rows / "README.md").write_text("---\nlicense: mit\n---\n# Rows\n")
    llama = build_model("llama", root / "llama")
    with serve() as hub:
        hub.add("datasets", "owner/rows", rows)
        hub.add("datasets", "owner/closed", rows, gated=True)
        hub.add("datasets", "owner/sick", rows, failing={"python-codes.json"})
        hub.add("models", "owner/llama", llama)
        hub.add("models", "owner/closed", llama, gated=True)
        hub.add("models", "owner/cut", llama, truncated={"model.safetensors"})
        yield hub


def test_pinned_data_and_models_load_and_refusals_are_explained(hub: Hub, tmp_path: Path) -> None:
    rows = hub.repositories["datasets", "owner/rows"]
    llama = hub.repositories["models", "owner/llama"]
    source = {"what": "data", "source": "owner/rows"}
    pinned, latest, split, revision, closed, unknown, model, no_revision, no_model, shut = ask(
        tmp_path,
        hub.url,
        {**source, "revision": rows.commit},
        source,
        {**source, "hub_split": "nonsense"},
        {**source, "revision": "f" * 40},
        {"what": "data", "source": "owner/closed"},
        {"what": "data", "source": "owner/unknown"},
        {"what": "model", "name_or_path": "owner/llama", "revision": llama.commit},
        {"what": "model", "name_or_path": "owner/llama", "revision": "e" * 40},
        {"what": "model", "name_or_path": "owner/unknown"},
        {"what": "model", "name_or_path": "owner/closed"},
    )
    expected = [[row["instruction"], row["output"]] for row in ROWS]
    assert pinned["rows"] == latest["rows"] == expected
    assert pinned["origin"]["revision"] == latest["origin"]["revision"] == rows.commit
    assert pinned["origin"]["licence"] == "mit"
    assert model["revision"] == llama.commit and model["words"] > 256
    for refusal, word in [
        (split, "train"),
        (revision, "revision"),
        (closed, "gated"),
        (unknown, "owner/unknown"),
        (no_revision, "revision"),
        (no_model, "owner/unknown"),
        (shut, "gated"),
    ]:
        assert refusal.get("exit_code") in (2, 3), refusal
        assert refusal["next_step"] and word in json.dumps(refusal), refusal


@pytest.mark.slow
def test_a_cut_download_is_never_used(hub: Hub, tmp_path: Path) -> None:
    repository = hub.repositories["models", "owner/cut"]
    whole = hub.repositories["models", "owner/llama"]
    cut = {"what": "model", "name_or_path": "owner/cut"}
    [refused] = ask(tmp_path, hub.url, cut)
    assert refused.get("exit_code") in (2, 3), refused
    repository.truncated.clear()
    healed, reference = ask(
        tmp_path,
        hub.url,
        cut,
        {"what": "model", "name_or_path": "owner/llama", "revision": whole.commit},
    )
    assert healed["sum"] == reference["sum"], "the half file must not have been taken for whole"


@pytest.mark.slow
def test_offline_serves_from_the_cache_and_says_what_is_missing(hub: Hub, tmp_path: Path) -> None:
    rows = hub.repositories["datasets", "owner/rows"]
    case = {"what": "data", "source": "owner/rows", "revision": rows.commit}
    [online] = ask(tmp_path, hub.url, case)
    cached, missing = ask(
        tmp_path, "http://127.0.0.1:9", case, {"what": "data", "source": "owner/other"},
        offline=True,
    )  # fmt: skip
    assert cached.get("rows") == online["rows"], (cached, online)
    assert missing["exit_code"] == 3 and missing["next_step"]


@pytest.mark.slow
def test_a_server_error_is_no_traceback(hub: Hub, tmp_path: Path) -> None:
    [sick] = ask(tmp_path, hub.url, {"what": "data", "source": "owner/sick"})
    assert sick.get("exit_code") in (2, 3) and sick["next_step"], sick
