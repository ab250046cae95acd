"""The report of finished, unfinished and damaged runs, as files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_run import HOSTILE, build_run

from cpu_time import cpu_seconds
from veritune.errors import RunDirectoryError
from veritune.report import build_report
from veritune.rows import read_examples, read_scores


class Page(HTMLParser):
    """Tags with attributes, and the text of every element kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.everything = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "col", "line", "circle", "rect", "polyline"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)
            if self._open[-1] not in ("script", "style"):
                self.everything += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def markdown(report: Path) -> str:
    return report.with_suffix(".md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "small"
    return build_run(path, n_test=3, n_train=3, n_validation=2, resamples=200)


@pytest.fixture
def damaged(finished_run: Path, tmp_path: Path) -> Path:
    """A copy to remove files from and to break."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def words(text: str) -> str:
    return " ".join(text.replace("\u00a0", " ").split())


def test_both_files_are_written_and_named(damaged: Path) -> None:
    assert build_report(damaged) == (damaged / "report.html", damaged / "report.md")
    assert all(path.stat().st_size > 1000 for path in build_report(damaged))


def test_the_verdict_its_numbers_and_the_model_are_in_both(
    finished_run: Path, page: Page, markdown: str
) -> None:
    comparison = json.loads((finished_run / "comparison.json").read_text())
    for text in (
        comparison["sentence"],
        "SmolLM2-135M-Instruct, 4-bit (Q4_1) and dequantised",
        comparison["memorisation"]["sentence"],
        "nearly a training answer",
        "has become worse at English prose",
        "missing module",
        "humaneval",
        "14 March 2026",
    ):
        assert words(text) in words(page.everything)
        assert words(text) in words(markdown)


def test_the_evidence_named_is_that_of_the_primary_metric(damaged: Path) -> None:
    """Another metric that stands first may rest on fewer questions, such as pass@1."""
    path = damaged / "comparison.json"
    content = json.loads(path.read_text())
    best, primary = content["best_baseline"], content["primary_metric"]
    row = next(
        row for row in content["comparisons"] if (row["against"], row["metric"]) == (best, primary)
    )
    other = {**row, "metric": "pass_at_1", "n_examples": 7, "n_clusters": 5}
    content["comparisons"].insert(0, other)
    path.write_text(json.dumps(content))
    text = build_report(damaged)[1].read_text()
    assert f"- Evidence: {row['n_examples']} unseen questions" in text


def test_every_corpus_value_and_every_interval_is_printed(finished_run: Path, page: Page) -> None:
    comparison = json.loads((finished_run / "comparison.json").read_text())
    for row in comparison["metrics"]:
        if row["split"] == "test" and row["system"] != "reference":
            assert f"{row['value']:.1f}" in page.everything
            assert row["signature"] in page.everything
    for row in comparison["comparisons"]:
        assert f"{row['against_value']:.1f}" in page.everything
        assert f"[{row['ci_low']:+.1f},".replace("-", "−").replace("+0.0", "0.0") in page.everything


def test_the_loss_table_is_the_log(finished_run: Path, page: Page, markdown: str) -> None:
    events = [
        json.loads(line) for line in (finished_run / "train_log.jsonl").read_text().splitlines()
    ]
    rows = [event for event in events if event["event"] == "evaluation"]
    for row in rows:
        assert f"{row['training_loss']:.6f}" in page.everything
        assert f"{row['validation_loss']:.6f}" in page.everything
    best = min(rows, key=lambda row: row["validation_loss"])
    assert re.search(rf"\| {best['step']} \(best\) +\|", markdown)
    assert markdown.count("(best)") == 1


def test_failures_come_first_then_the_lowest_primary_metric(finished_run: Path, page: Page) -> None:
    examples = read_examples(finished_run / "data" / "test.parquet")
    value = {
        (score.example_id, score.metric): score.value
        for score in read_scores(finished_run / "scores.parquet")
        if score.system == "adapted"
    }
    expected = sorted(
        range(len(examples)),
        key=lambda place: (
            value[examples[place].example_id, "parse_rate"],
            value[examples[place].example_id, "chrf"],
            place,
        ),
    )
    shown = [int(row["data-place"] or 0) - 1 for row in page.all("tr") if "data-place" in row]
    assert shown == expected


def test_averages_are_the_means_of_the_scores(finished_run: Path, markdown: str) -> None:
    test_ids = {row.example_id for row in read_examples(finished_run / "data" / "test.parquet")}
    bleu = [
        score.value
        for score in read_scores(finished_run / "scores.parquet")
        if score.system == "adapted" and score.metric == "bleu" and score.example_id in test_ids
    ]
    row = re.search(r"\| Unseen prompts \(60\) +\| Adapted +\| +\S+ % \| +([\d.]+) ", markdown)
    assert row is not None
    assert float(row[1]) == pytest.approx(sum(bleu) / len(bleu), abs=0.05)


def test_the_first_four_prompts_of_each_split_are_shown_in_file_order(
    finished_run: Path, page: Page
) -> None:
    for split in ("train", "test"):
        examples = read_examples(finished_run / "data" / f"{split}.parquet")[:4]
        places = [page.everything.index(row.instruction.split("\u202e")[0]) for row in examples]
        assert places == sorted(places)


def test_the_page_is_self_contained_and_inert(page: Page) -> None:
    assert len(page.all("script")) == len(page.all("style")) == 1
    assert not page.all("img") and not page.all("iframe") and not page.all("object")
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))


def test_the_policy_names_the_hashes_of_style_and_script(page: Page) -> None:
    (policy,) = (
        meta["content"] or ""
        for meta in page.all("meta")
        if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for tag in ("script", "style"):
        digest = hashlib.sha256("".join(page.texts[tag]).encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy


def test_hostile_text_is_shown_as_text(report: Path, page: Page) -> None:
    source = report.read_text(encoding="utf-8")
    assert HOSTILE in page.everything
    assert HOSTILE not in source
    assert source.count("</script>") == 1
    for unseen in ("\u202e", "\x1b"):
        assert unseen not in source
        assert unseen not in report.with_suffix(".md").read_text(encoding="utf-8")


def test_headings_rise_by_one_and_tables_have_headers(page: Page) -> None:
    levels = [int(name[1]) for name, _ in page.tags if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(head.get("scope") for head in page.all("th"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [str(link["href"])[1:] for link in page.all("a")]
    assert set(links) <= set(ids)


def test_the_markdown_is_short_and_its_tables_are_whole(markdown: str) -> None:
    lines = markdown.splitlines()
    assert len(lines) < 250
    for before, line in pairwise(lines):
        if before.startswith("|") and line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", before))


def test_a_rebuild_changes_nothing(damaged: Path) -> None:
    first = [path.read_bytes() for path in build_report(damaged)]
    assert [path.read_bytes() for path in build_report(damaged)] == first


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("comparison.json", "The systems have not been compared yet"),
        ("train_log.jsonl", "No validation loss was recorded"),
        ("data/card.json", "The data have not been prepared yet, or their card is missing"),
        ("data/test.parquet", "No unseen question has been answered yet"),
        ("predictions", "have not answered any prompt yet"),
        ("predictions/adapted.jsonl", "Every answer, side by side"),
        ("scores.parquet", "Every answer, side by side"),
        ("recipe.yaml", "There is no recipe.yaml"),
        ("manifest.json", "No stage has been recorded"),
    ],
)
def test_a_missing_piece_is_a_plain_sentence(damaged: Path, missing: str, sentence: str) -> None:
    path = damaged / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if missing == "predictions":
        (damaged / "comparison.json").unlink()
    html, _ = build_report(damaged)
    assert sentence in words(Page(html.read_text(encoding="utf-8")).everything)


def test_an_empty_folder_still_gets_a_report(tmp_path: Path) -> None:
    html, markdown = build_report(tmp_path)
    assert "No verdict yet: this run has no prepared data." in html.read_text(encoding="utf-8")
    assert "No verdict yet" in markdown.read_text(encoding="utf-8")


def test_a_folder_that_is_not_there_is_the_users_fault(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no run directory"):
        build_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name",
    [
        "comparison.json",
        "manifest.json",
        "data/card.json",
        "data/test.parquet",
        "predictions/adapted.jsonl",
        "scores.parquet",
        "recipe.yaml",
    ],
)
def test_a_file_that_cannot_be_read_is_named(damaged: Path, name: str) -> None:
    (damaged / name).write_bytes(b'{"half": [\xff')
    html, markdown = build_report(damaged)
    for path in (html, markdown):
        assert f"{name} could not be read" in words(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("junk", [None, "x", 3.5, [], {}, [None], [{}], {"a": {}}])
@pytest.mark.parametrize("name", ["manifest.json", "data/card.json", "comparison.json"])
def test_no_value_of_a_file_stops_the_report(
    small_run: Path, tmp_path: Path, name: str, junk: Any
) -> None:
    run = Path(shutil.copytree(small_run, tmp_path / "run"))
    content = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(dict.fromkeys(content, junk)))
    html, _ = build_report(run)
    assert Page(html.read_text(encoding="utf-8")).texts["h1"]


def test_an_unmeasured_interval_is_said_not_drawn(damaged: Path) -> None:
    content = json.loads((damaged / "comparison.json").read_text())
    content["verdict"] = "not measured"
    for row in content["comparisons"]:
        row |= {"ci_low": None, "ci_high": None, "p_value": None, "mde": None}
        row["verdict"] = "not measured"
    (damaged / "comparison.json").write_text(json.dumps(content))
    html, markdown = build_report(damaged)
    assert "hollow" in html.read_text(encoding="utf-8")
    assert "| not measured |" in markdown.read_text(encoding="utf-8")


def test_leaks_and_repeated_readings_are_warned_of(damaged: Path) -> None:
    card = json.loads((damaged / "data" / "card.json").read_text())
    (damaged / "data" / "card.json").write_text(json.dumps({**card, "leaked_clusters": 2}))
    html, _ = build_report(damaged)
    text = words(Page(html.read_text(encoding="utf-8")).everything)
    assert "2 clusters of near-duplicates have rows in more than one split" in text
    assert "has been scored with 3 adapters" in text


def test_a_thousand_questions_take_seconds_and_what_is_left_out_is_said(big_run: Path) -> None:
    build_report(big_run)
    started = cpu_seconds()
    html, _ = build_report(big_run)
    assert cpu_seconds() - started < 4
    source = html.read_text(encoding="utf-8")
    assert source.count("<tr data-place=") == 1000
    assert "lists the first 1,000 of 1,020 questions" in source
    assert "predictions/*.jsonl" in source
    assert html.stat().st_size < 12_000_000


def test_reports_never_import_torch(finished_run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(finished_run, tmp_path / "run")
    code = (
        "import sys, pathlib, veritune.report as r;"
        f"r.build_report(pathlib.Path({str(copy)!r}));"
        "print([n for n in ('torch', 'transformers', 'peft') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("record", "warning"),
    [
        ({"unfinished": True}, "The last evaluation did not end"),
        ({"adapter_sha256": "of another"}, "The verdict is of an earlier adapter"),
        ({}, None),
    ],
)
def test_numbers_that_do_not_belong_together_are_warned_of(
    record: dict[str, object], warning: str | None, damaged: Path
) -> None:
    manifest = json.loads((damaged / "manifest.json").read_text())
    manifest["stages"]["evaluate"].pop("unfinished", None)
    manifest["stages"]["evaluate"] |= record
    (damaged / "manifest.json").write_text(json.dumps(manifest))
    (damaged / "adapter").mkdir(exist_ok=True)
    (damaged / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    html, markdown = build_report(damaged)
    for text in (html.read_text(encoding="utf-8"), markdown.read_text(encoding="utf-8")):
        assert (warning or "`veritune evaluate` on this run") in words(text) or warning is None
        if warning is None:
            assert "makes them agree" not in text


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ({}, "Valid as a measure of memory because the split is random by clusters"),
        ({"split": {"method": "random"}}, "near-copies of training rows"),
        ({"split": {"method": "head"}}, "The split follows the order of the rows, not chance"),
        ({"test_source": "my-test.jsonl"}, "The test rows were given, not drawn at random"),
    ],
)
def test_traces_count_as_memory_only_where_chance_has_split_the_rows(
    data: dict[str, object], note: str, damaged: Path
) -> None:
    recipe = yaml.safe_load((damaged / "recipe.yaml").read_text())
    (damaged / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "data": data}))
    _, markdown = build_report(damaged)
    text = words(markdown.read_text(encoding="utf-8"))
    assert note in text
    assert ("random by clusters" in text) == (not data)
