"""What people preferred when they did not know whose answer was whose."""

from __future__ import annotations

from veritune.compare.preference import Preference, preference
from veritune.report.load import RunFiles
from veritune.report.section import Section
from veritune.report.wording import DASH, count, is_number, p_value, percent, plural


def make_preference(files: RunFiles) -> list[Section]:
    """The section; none if nobody has voted on this adapter."""
    current = [vote for vote in files.votes if vote.adapter_sha256 == files.adapter_sha256]
    if not current:
        return []
    trained = [row.instruction for row in files.examples.get("train", [])]
    everything = preference(current)
    unseen = preference(current, without=trained)
    older = len(files.votes) - len(current)
    return [
        Section(
            anchor="preference",
            title="What do people prefer, blind?",
            short="Votes",
            sentence=_sentence(unseen),
            head=(
                "Questions",
                "Votes",
                "Adapted",
                "Base",
                "Tie",
                "Share of adapted",
                "95 % interval",
                "p",
                "Verdict",
            ),
            rows=[_row("not in training", unseen), _row("all", everything)],
            marked=0,
            mark="primary",
            note="Votes on the page of `veritune serve`, sides shuffled and names hidden until the"
            " vote. Several votes on one question count as their majority; ties are left out of"
            " the two-sided sign test; the interval of the share is exact."
            + (f" {plural(older, 'vote')} on an earlier adapter left out." if older else ""),
        )
    ]


def _sentence(found: Preference) -> str:
    if not found.n_questions:
        return "So far people have only voted on questions of the training data."
    counts = (
        f"On {plural(found.n_questions, 'question')} that training did not see, people preferred"
        f" the adapted answer {plural(found.n_adapted, 'time')}, the base’s"
        f" {plural(found.n_base, 'time')}, neither {plural(found.n_ties, 'time')}"
    )
    if found.verdict == "not measured":
        return f"{counts}: too few decided questions for a verdict."
    said = {"better": "the adapted model is preferred", "worse": "the base is preferred"}
    return f"{counts}: {said.get(found.verdict, 'no difference detected')}."


def _row(name: str, found: Preference) -> tuple[str, ...]:
    low, high = found.ci_low, found.ci_high
    between = (
        f"[{percent(100 * low, 0)}, {percent(100 * high, 0)}]"
        if is_number(low) and is_number(high)
        else DASH
    )
    return (
        f"{name} ({count(found.n_questions)})",
        count(found.n_votes),
        count(found.n_adapted),
        count(found.n_base),
        count(found.n_ties),
        DASH if found.share is None else percent(100 * found.share, 0),
        between,
        p_value(found.p_value),
        found.verdict,
    )
