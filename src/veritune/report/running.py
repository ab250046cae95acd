"""What happened when the answers were run: outcomes, samples, benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from veritune.report.figures import drawing
from veritune.report.load import RunFiles
from veritune.report.section import Section
from veritune.report.wording import (
    DASH,
    count,
    fixed,
    interval,
    is_number,
    mapping,
    metric_label,
    one_line,
    percent,
    plural,
    rows_of,
    signed,
    system_label,
)
from veritune.sandbox.outcome import OUTCOMES

_LABELS = {
    "pass": "passes",
    "fail": "fails",
    "needs_input": "needs input",
    "missing_module": "missing module",
    "needs_resource": "needs a file or the network",
    "timeout": "no end",
    "memory": "too much memory",
    "output": "too much output",
    "crash": "crash",
    "flaky": "flaky",
    "infra": "not judged",
}
_LACKS = ("needs_input", "missing_module", "needs_resource")
_ROW_HEIGHT, _BAR_HEIGHT = 42, 16


def make_running(files: RunFiles) -> list[Section]:
    """The sections on running answers; empty where nothing was run."""
    made = (
        _outcomes(files, "pass_at_1", "tests", "Do the answers pass their tests?", "Tests"),
        _outcomes(files, "runs_clean", "runs", "Do the answers run?", "Runs"),
        _samples(files),
        _benchmarks(files),
        _retrieval(files),
    )
    return [section for section in made if section is not None]


def _outcomes(files: RunFiles, metric: str, anchor: str, title: str, short: str) -> Section | None:
    found = mapping(files.details("functional"))
    rows = [
        row
        for row in rows_of(found.get("outcomes"))
        if row.get("split") == "test" and row.get("metric") == metric
    ]
    order = {name: place for place, name in enumerate(files.systems)}
    rows = [row for row in rows if row.get("system") in order]
    rows.sort(key=lambda row: order[str(row["system"])])
    if not rows:
        return None
    counts = [
        {str(name): value for name, value in mapping(row.get("outcomes")).items()} for row in rows
    ]
    names = [name for name in OUTCOMES if any(is_number(row.get(name)) for row in counts)]
    head = ["System", "Answers", *(_LABELS[name] for name in names)]
    has_lacks = metric == "runs_clean" and any(name in names for name in _LACKS)
    if has_lacks:
        head.append("passes, of those that lack nothing")
    table = [
        (
            system_label(str(row["system"])),
            count(row.get("n")),
            *(count(one.get(name, 0)) for name in names),
            *([_of_the_rest(one)] if has_lacks else []),
        )
        for row, one in zip(rows, counts, strict=True)
    ]
    labels = [system_label(str(row["system"])) for row in rows]
    return Section(
        anchor=anchor,
        title=title,
        short=short,
        sentence=_sentence(rows[0], counts[0], metric),
        head=tuple(head),
        rows=table,
        note=_note(found, metric),
        figure=_stacks(labels, counts),
        legend=[(f"outcome-{_kind(name)}", text) for name, text in _kinds(names)],
    )


def _sentence(row: dict[str, Any], counts: dict[str, Any], metric: str) -> str:
    n, passed = row.get("n"), counts.get("pass", 0)
    if not is_number(n) or n <= 0:
        return ""
    share = percent(100 * passed / n)
    answers = plural(n, "answer")
    if metric == "pass_at_1":
        return f"{share} of the adapted model’s {answers} to unseen questions pass their tests."
    lacking = sum(counts.get(name, 0) for name in _LACKS)
    rest = f"; {count(lacking)} ask for input, a module, a file or the network" if lacking else ""
    return f"{share} of the adapted model’s {answers} run to the end without an error{rest}."


def _of_the_rest(counts: dict[str, Any]) -> str:
    n = sum(counts.values()) - sum(counts.get(name, 0) for name in (*_LACKS, "infra"))
    return percent(100 * counts.get("pass", 0) / n) if n else DASH


def _note(found: dict[str, Any], metric: str) -> str:
    parts = [
        "Every answer runs twice in a sandbox without network, files or privileges; expected"
        " values never enter it."
        if metric == "pass_at_1"
        else "Answers run as scripts, with the row's input on stdin and nothing but Python's"
        " standard library. To run is not to be right."
    ]
    flaky = [row for row in rows_of(found.get("flaky")) if row.get("metric") == metric]
    if flaky:
        parts.append(f"{plural(len(flaky), 'answer')} came out differently the second time.")
    broken = rows_of(found.get("broken_references"))
    if broken and metric == "pass_at_1":
        listed = "; ".join(
            f"{one_line(row.get('source') or row.get('example_id'), 60)}"
            f" ({one_line(row.get('detail') or row.get('outcome'), 80)})"
            for row in broken[:5]
        )
        parts.append(
            f"{plural(len(broken), 'row')} left out, whose own reference fails its tests: {listed}"
        )
    return " ".join(parts)


def _kind(name: str) -> str:
    if name in ("pass", "fail"):
        return name
    return "lacks" if name in _LACKS else "other"


def _kinds(names: Sequence[str]) -> list[tuple[str, str]]:
    words = {"lacks": "needs input, a module or a resource", "other": "stopped or not judged"}
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        found.setdefault(_kind(name), (name, words.get(_kind(name), _LABELS[name])))
    return list(found.values())


def _stacks(labels: Sequence[str], rows: Sequence[dict[str, Any]]) -> Markup:
    """One bar a system, cut by outcome."""
    parts: list[str | Markup] = []
    for place, (label, row) in enumerate(zip(labels, rows, strict=True)):
        total, left = sum(row.values()) or 1, 0.0
        y = place * _ROW_HEIGHT
        parts.append(Markup('<text x="0" y="{}">{}</text>').format(y + 13, label))
        for name in OUTCOMES:
            width = 100 * row.get(name, 0) / total
            if width:
                parts.append(
                    Markup(
                        '<rect class="outcome-{}" x="{:.3f}%" width="{:.3f}%" y="{}" height="{}">'
                        "<title>{}: {} of {}</title></rect>"
                    ).format(
                        _kind(name),
                        left,
                        width,
                        y + 19,
                        _BAR_HEIGHT,
                        _LABELS[name],
                        row.get(name, 0),
                        total,
                    )
                )
            left += width
    words = "; ".join(
        f"{label}: {row.get('pass', 0)} of {sum(row.values())} pass"
        for label, row in zip(labels, rows, strict=True)
    )
    figure = drawing("stacks", len(labels) * _ROW_HEIGHT, [str(part) for part in parts])
    return Markup('<div role="img" aria-label="{}">{}</div>').format(words, figure)


def _samples(files: RunFiles) -> Section | None:
    found = mapping(files.details("pass_at_k"))
    rows = rows_of(found.get("rows"))
    if not rows:
        return None
    return Section(
        anchor="samples",
        title="With several tries: pass@k",
        short="Several tries",
        sentence="",
        head=("k", "Adapted", "Base, zero-shot", "Difference", "95 % interval"),
        rows=[
            (
                count(row.get("k")),
                percent(row.get("value")),
                percent(row.get("against_value")),
                signed(row.get("delta")),
                interval(row.get("ci_low"), row.get("ci_high")),
            )
            for row in rows
        ],
        note=f"Unbiased estimate from {count(rows[0].get('n_samples'))} answers a question,"
        f" temperature {fixed(found.get('temperature'))},"
        f" top-p {fixed(found.get('top_p'), 2)}, on {plural(rows[0].get('n_examples'), 'question')}"
        " with tests.",
    )


def _benchmarks(files: RunFiles) -> Section | None:
    rows = [row for row in rows_of(files.details("benchmarks")) if is_number(row.get("delta"))]
    if not rows:
        return None
    return Section(
        anchor="benchmarks",
        title="Tasks away from the training data",
        short="Other tasks",
        sentence="",
        head=(
            "Benchmark",
            "Tasks",
            "Adapted",
            "Base, zero-shot",
            "Difference",
            "95 % interval",
            "Verdict",
        ),
        rows=[
            (
                one_line(row.get("name"), 60),
                count(row.get("n_tasks")),
                percent(row.get("adapted")),
                percent(row.get("baseline")),
                signed(row.get("delta")),
                interval(row.get("ci_low"), row.get("ci_high")),
                one_line(row.get("verdict")),
            )
            for row in rows
        ],
        note=f"{metric_label('pass_at_1')}, greedy. A loss here is what adapting cost elsewhere.",
    )


def _retrieval(files: RunFiles) -> Section | None:
    found = mapping(files.details("retrieval_scores"))
    if not is_number(found.get("median")) or "retrieval" not in files.predictions:
        return None
    names = {"q10": "10 %", "q25": "25 %", "median": "Median", "q75": "75 %", "q90": "90 %"}
    share = found.get("share_of_self")
    return Section(
        anchor="nearest",
        title="How near is the nearest training question?",
        short="Nearest questions",
        sentence=f"The nearest training question scores {percent(100 * share, 0)} of what the"
        " question itself would (median)."
        if is_number(share)
        else "",
        head=("BM25 score", *names.values()),
        rows=[("nearest training question", *(fixed(found.get(key)) for key in names))],
        note="Retrieval is as strong as these questions are repetitive: near 100 % it copies the"
        " answer to the same question.",
    )
