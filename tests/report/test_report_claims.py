"""What LoRA promised, as the page and the Markdown show it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from synthetic_run import HOSTILE, build_run

from veritune.report import build_report
from veritune.report.claims import make_claims
from veritune.report.load import load_run

MACHINE = {"cpu": "c", "cores": 2, "gpu": None, "device": "cpu"}


def _record(seconds: float, memory: int) -> dict[str, Any]:
    return {
        "step_seconds": seconds,
        "real_tokens": 6000,
        "global_step": 10,
        "peak_memory_bytes": memory,
        "peak_memory_how": "watched",
        "hardware": MACHINE,
    }


def test_claims_are_shown_with_units_and_reasons(tmp_path: Path) -> None:
    measured = {
        "trainable_parameters": 1_842_048,
        "total_parameters": 136_357_056,
        "lora": _record(75, 2**29),
        "full_finetune": _record(50, 3 * 2**30),
        "latency": {"reason": f"because {HOSTILE}"},
    }
    run = build_run(
        tmp_path / "run",
        n_test=60,
        resamples=200,
        others=("full_finetune", "adapter:other.run"),
        measured=measured,
    )
    rows = {row.claim: row for row in make_claims(load_run(run))}
    memory, time = rows["less memory to train"], rows["faster to train"]
    assert (memory.ours, memory.against, memory.change) == ("512.0 MiB", "3.00 GiB", "× 0.17")
    assert (memory.kind, memory.said) == ("is-better", "0.17 times as much")
    assert memory.note == "one training each, no interval; watched"
    assert (time.ours, time.kind) == ("1 min 15 s", "is-worse")
    latency = rows["no extra latency once merged"]
    assert (latency.said, latency.kind) == ("not measured", "is-unmeasured")
    quality = rows["quality kept"]
    assert quality.what.startswith("chrF: adapted minus") and quality.interval.startswith("[")

    html, markdown = build_report(run)
    page = html.read_text()
    assert '<a href="#claims">' in page and HOSTILE not in page
    assert "Adapter other.run" in page and "Full fine-tuning</b>" in page
    assert "<b>Merged</b>" not in page, "explained only where it is compared"
    text = markdown.read_text()
    assert "## What LoRA promised" in text and "512.0 MiB" in text


def test_an_earlier_run_has_no_such_section(report: Path) -> None:
    assert "What LoRA promised" not in report.read_text()
