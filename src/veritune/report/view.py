"""The report as data: what both the page and the Markdown are written from."""

from __future__ import annotations

from dataclasses import dataclass

from veritune.report.background import (
    DataView,
    HealthRow,
    Length,
    SetUp,
    make_data,
    make_health,
    make_lengths,
    make_set_up,
    not_measured,
)
from veritune.report.bases import make_bases
from veritune.report.cases import Cases, make_cases
from veritune.report.claims import ClaimRow, make_claims
from veritune.report.curve import make_curve
from veritune.report.evidence import Evidence, make_evidence
from veritune.report.headline import Headline, make_headline
from veritune.report.highlight import Highlighter
from veritune.report.load import RunFiles
from veritune.report.memory import CopiedAnswer, make_copied, make_memory
from veritune.report.preference import make_preference
from veritune.report.prompts import Prompts, make_prompts
from veritune.report.running import make_running
from veritune.report.section import Section
from veritune.report.seeds import make_seeds
from veritune.report.sweep import make_sweep
from veritune.report.training import TrainingView, make_training


@dataclass(frozen=True)
class View:
    """The sections, in order; None or empty where there is nothing to show.

    ``trainings`` are the sections on several trainings, only those that were made.
    """

    headline: Headline
    evidence: Evidence | None
    training: TrainingView | None
    running: list[Section]
    trainings: list[Section]
    lengths: list[Length]
    claims: list[ClaimRow]
    prompts: Prompts | None
    memory: list[Section]
    copied: list[CopiedAnswer]
    cases: Cases | None
    data: DataView | None
    health: list[HealthRow]
    set_up: SetUp
    not_measured: list[tuple[str, str]]


def make_view(files: RunFiles) -> View:
    """Everything the report says about a run."""
    highlight = Highlighter()
    return View(
        headline=make_headline(files),
        evidence=make_evidence(files),
        training=make_training(files),
        running=[*make_running(files), *make_preference(files)],
        trainings=[
            section
            for make in (make_bases, make_sweep, make_seeds, make_curve)
            if (section := make(files)) is not None
        ],
        lengths=make_lengths(files),
        claims=make_claims(files),
        prompts=make_prompts(files, highlight),
        memory=make_memory(files),
        copied=make_copied(files, highlight),
        cases=make_cases(files, highlight),
        data=make_data(files),
        health=make_health(files),
        set_up=make_set_up(files),
        not_measured=not_measured(files),
    )
