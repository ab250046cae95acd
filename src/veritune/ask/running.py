"""Running an answer in the sandbox, or saying why not."""

from __future__ import annotations

from veritune.sandbox.canaries import sandbox_here
from veritune.sandbox.outcome import Execution, Job
from veritune.sandbox.pool import Pool
from veritune.score.functional import run_answers


def run_program(code: str, stdin: str = "") -> Execution:
    """Run a program once as a script; nothing is ever run outside the sandbox.

    Returns:
        What happened; ``infra`` with the reason where there is no sandbox.
    """
    found = sandbox_here()
    if not found.available:
        return Execution("infra", f"not run, there is no sandbox: {found.missing}")
    (done,) = run_answers([Job(code, stdin=stdin)], Pool(repeat=False).run)
    return done
