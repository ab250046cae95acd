"""Sections on several trainings: shown where they were made, in the page and in Markdown."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from browser import console, is_wider_than_window, open_page
from veritune.report import build_report
from veritune.report.load import load_run
from veritune.report.view import make_view

HOSTILE = "</script><img src=x onerror=alert(1)>"


def details() -> dict[str, Any]:
    """The further tables of ``comparison.json``, with a hostile model name."""

    def value(middle: float) -> dict[str, float]:
        return {"value": middle, "ci_low": middle - 4, "ci_high": middle + 4}

    bases = (
        ("owner/small", 20.0, 52.0),
        (f"owner/{HOSTILE}", 31.0, 60.0),
        ("/models/t5", 1.0, 33.0),
    )
    return {
        "seeds": {
            "seeds": [0, 1, 2],
            "metrics": [
                {"metric": "chrf", "values": [61.2, 62.2, 60.6], "mean": 61.33, "sd": 0.81},
                {"metric": "parse_rate", "values": [80.0, 75.0, 85.0], "mean": 80.0, "sd": 5.0},
            ],
            "sentence": "Over 3 training seeds chrF is 61.2, 62.2 and 60.6.",
        },
        "learning_curve": {
            "metric": "chrf",
            "rows": [
                {"n_rows": n, "value": v, "ci_low": v - 4, "ci_high": v + 3, "retrieval": r}
                for n, v, r in ((16, 22.0, 30.0), (256, 55.0, 38.0), (1200, 61.2, None))
            ],
            "zero_shot": 20.2,
            "answer": "would help",
            "sentence": "More data would help: from 256 to 1,200 rows chrF changes by +6.2.",
        },
        "bases": {
            "candidates": [name for name, _, _ in bases],
            "chosen": bases[1][0],
            "metric": "chrf",
            "n_validation": 100,
            "rows": [
                {
                    "name": name,
                    "folder": name.rpartition("/")[2],
                    "metric": "chrf",
                    "zero_shot": value(zero_shot),
                    "adapted": value(adapted),
                    "total_parameters": 136_000_000,
                    "trainable_parameters": 1_360_000,
                    "train_seconds": 300.0,
                    "tokens_per_second": 2310.2,
                    "peak_memory_bytes": None,
                    "adapter_bytes": 7_340_032,
                }
                for name, zero_shot, adapted in bases
            ],
        },
    }


@pytest.fixture
def run_with_trainings(finished_run: Path, tmp_path: Path) -> Path:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    content = json.loads((run / "comparison.json").read_text())
    (run / "comparison.json").write_text(json.dumps({**content, **details()}))
    return run


def test_nothing_is_shown_where_nothing_was_measured(finished_run: Path, report: Path) -> None:
    assert make_view(load_run(finished_run)).trainings == []
    for anchor in ("seeds", "curve", "bases"):
        assert f'id="{anchor}"' not in report.read_text()


def test_page_and_markdown_hold_every_table(run_with_trainings: Path) -> None:
    page, text = (path.read_text() for path in build_report(run_with_trainings))
    assert re.findall(r'<section id="(bases|seeds|curve)">', page) == ["bases", "seeds", "curve"]
    assert re.findall(r'href="#(bases|seeds|curve)"', page) == ["bases", "seeds", "curve"]
    for expected in (
        "More data would help",
        "Over 3 training seeds chrF is 61.2, 62.2 and 60.6.",
        "is the best of 3 base models once adapted: chrF 60.0 on 100 validation questions",
    ):
        assert expected in page and expected in text
    assert HOSTILE not in page
    assert re.search(r"\| 1,200 \(this run\) +\| +61\.2 \| +\[57\.2, 64\.2\] \| +– \|", text)
    assert re.search(
        r"\| chrF \(primary\) \| +61\.2 \| +62\.2 \| +60\.6 \| +61\.3 \| +0\.81 \|", text
    )
    assert re.search(r"\| t5 .*136,000,000 .*5 min 00 s .*7\.0 MiB \|", text)
    assert "Peak memory" not in page


def test_sizes_stand_on_a_logarithmic_axis(run_with_trainings: Path) -> None:
    section = make_view(load_run(run_with_trainings)).trainings[2]
    places = [
        float(x) for x in re.findall(r'class="dot adapted" cx="([\d.]+)%"', str(section.figure))
    ]
    assert len(places) == 3
    # log(256 / 16) to log(1200 / 16), as shares of the width within the margins.
    assert (places[1] - places[0]) / (places[2] - places[0]) == pytest.approx(0.6422, abs=1e-3)
    assert str(section.figure).count('class="whisker"') == 3
    assert str(section.figure).count('class="dot retrieval"') == 2


@pytest.mark.parametrize(
    "broken",
    [
        {"seeds": 3, "learning_curve": [], "bases": "x"},
        {"seeds": {"seeds": [0, 1], "metrics": [{"metric": "chrf", "values": [1]}]}},
        {"learning_curve": {"rows": [{"n_rows": 0, "value": 1}, {"n_rows": "x"}]}},
        {"bases": {"rows": [{"name": 3}, {}], "chosen": None}},
    ],
)
def test_damaged_tables_do_not_break_the_report(broken: Any, run_with_trainings: Path) -> None:
    path = run_with_trainings / "comparison.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **broken}))
    build_report(run_with_trainings)


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_sections_fit_any_window(
    browser: Any, run_with_trainings: Path, width: int, theme: str
) -> None:
    open_page(browser, build_report(run_with_trainings)[0], width=width, theme=theme)
    assert not is_wider_than_window(browser)
    assert browser.find_element("css selector", "#curve .plot").is_displayed()
    assert console(browser) == []
