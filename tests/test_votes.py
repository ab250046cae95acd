"""Blind votes: stored whole, summed up by question, tested against scipy, shown in the report."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from scipy.stats import binom

from veritune.compare.preference import preference
from veritune.errors import DiskFault
from veritune.votes import Choice, Vote, add_vote, read_votes


def vote(question: str, choice: Choice, sha: str = "sha") -> Vote:
    return Vote(question, choice, "left", "a = 1", "b = 2", sha)


def test_votes_come_back_as_they_were_cast(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    assert read_votes(path) == []
    votes = [vote("caf\u00e9 'x'; drop table votes", "adapted"), vote("q", "tie")]
    for one in votes:
        add_vote(path, one)
    assert read_votes(path) == votes
    assert sorted(item.name for item in tmp_path.iterdir()) == ["votes.sqlite"]


def test_a_vote_that_cannot_be_stored_is_said_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    first = vote("q", "base")
    add_vote(path, first)
    with pytest.raises(DiskFault):
        add_vote(path, first)
    assert read_votes(path) == [first]
    with pytest.raises(DiskFault):
        add_vote(tmp_path / "no" / "folder.sqlite", first)
    (tmp_path / "broken.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(ValueError, match="not a file of votes"):
        read_votes(tmp_path / "broken.sqlite")


def test_the_file_itself_refuses_a_choice_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    add_vote(path, vote("q", "base"))
    with sqlite3.connect(path) as database, pytest.raises(sqlite3.IntegrityError):
        database.execute("update votes set choice = 'both'")
    database.close()


def test_votes_on_one_question_count_once() -> None:
    votes = [vote("Sort  it", "adapted")] * 5 + [vote("sort it ", "base"), vote("other", "base")]
    found = preference(votes)
    assert (found.n_votes, found.n_questions) == (7, 2)
    assert (found.n_adapted, found.n_base, found.n_ties) == (1, 1, 0)
    assert found.verdict == "not measured"
    even = preference([vote("q", "adapted"), vote("q", "base"), vote("r", "tie")])
    assert (even.n_ties, even.share, even.p_value) == (2, None, None)


@pytest.mark.parametrize(("won", "lost"), [(6, 0), (9, 1), (1, 9), (8, 4), (5, 5)])
def test_the_sign_test_is_that_of_the_binomial(won: int, lost: int) -> None:
    votes = [vote(f"w{n}", "adapted") for n in range(won)]
    votes += [vote(f"l{n}", "base") for n in range(lost)] + [vote("t", "tie")]
    found = preference(votes)
    n, extreme = won + lost, min(won, lost)
    expected = min(1.0, 2 * float(binom.cdf(extreme, n, 0.5)))
    assert found.p_value == pytest.approx(expected)
    assert found.ci_low is not None and found.ci_high is not None
    assert found.ci_low <= won / n <= found.ci_high
    significant = "better" if won > lost else "worse"
    assert found.verdict == (significant if expected < 0.05 else "no difference detected")


def test_questions_of_the_training_data_can_be_left_out() -> None:
    votes = [vote("Seen  before", "adapted"), vote("new", "base")]
    found = preference(votes, without=["seen before"])
    assert (found.n_questions, found.n_adapted, found.n_base) == (1, 0, 1)
