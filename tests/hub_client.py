"""The real hub clients in a process of their own, pointed at a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# Runs each case in one process, because the client reads its settings when it is imported.
_CLIENT = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
# Between two tries the clients wait for seconds; that they try again is what counts here.
wait = time.sleep
time.sleep = lambda seconds: wait(seconds / 50)
import torch
from veritune.config import DataSection, ModelSection
from veritune.data.sources import read_rows
from veritune.errors import VerituneError
from veritune.model.hardware import Placement
from veritune.model.load import load_model, load_tokenizer

def data(**settings):
    raw = read_rows(DataSection(**settings))
    return {"rows": [[r.instruction, r.output] for r in raw.rows], "origin": raw.origin}

def model(**settings):
    section = ModelSection(**settings)
    loaded = load_model(section, Placement(torch.device("cpu"), torch.float32))
    first = next(loaded.model.parameters())
    return {"revision": loaded.revision, "sum": float(first.double().sum()),
            "words": len(loaded.tokenizer)}

for line in sys.stdin:
    case = json.loads(line)
    try:
        answer = globals()[case.pop("what")](**case)
    except VerituneError as error:
        answer = error.to_json()
    print(json.dumps(answer), flush=True)
"""


def environment_of(home: Path, url: str, *, offline: bool = False) -> dict[str, str]:
    """A process's environment: this hub, this cache, and little patience."""
    return {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "1" if offline else "0",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_HUB_ETAG_TIMEOUT": "3",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }


def ask(home: Path, url: str, *cases: dict[str, Any], offline: bool = False) -> list[Any]:
    """The answers to some cases, one process for all; a refusal is the error as JSON."""
    environment = environment_of(home, url, offline=offline)
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT],
        input="".join(json.dumps(case) + "\n" for case in cases),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == len(cases), done.stderr
    return answers
