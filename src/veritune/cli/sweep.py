"""The verb that tries many configurations and keeps the best on validation."""

from __future__ import annotations

import time

from veritune.cli.root import app
from veritune.cli.shared import (
    AllowBroken,
    Json,
    Overrides,
    Require,
    Target,
    broken,
    context_of,
    faults,
    gate,
    print_result,
    recipe_of,
)
from veritune.show import sweep as show


@app.command(epilog="Example: veritune sweep recipes/my-data.yaml --set 'sweep.lora.r=[2,4,8]'")
def sweep(
    target: Target,
    overrides: Overrides = None,
    require: Require = None,
    allow_broken: AllowBroken = False,
    as_json: Json = False,
) -> None:
    """Try the settings under `sweep`, choose on validation, and test the winner once."""
    with faults(as_json):
        from veritune.sweep.run import sweep_all
        from veritune.sweep.space import refuse_unsearchable

        changes = [*(overrides or []), *broken(allow_broken)]
        # Before the folder is claimed.
        refuse_unsearchable(recipe_of(target, changes))
        started = time.monotonic()
        with context_of(target, changes) as context:
            result = sweep_all(context)
        with gate(require, result, context.recipe):
            print_result(result, as_json, lambda: show.sweep(result, time.monotonic() - started))
