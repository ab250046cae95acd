"""Builds a run directory as a real run leaves it, without a model.

Scores and comparison are made by the real layers; questions, code and answers are invented,
some of them hostile.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from veritune.atomic import write_json, write_text
from veritune.compare import conclude
from veritune.compare.copying import copying
from veritune.compare.forgetting import forgetting_table
from veritune.config import Recipe
from veritune.rows import (
    AwayLoss,
    Example,
    Loss,
    Prediction,
    Score,
    Split,
    write_examples,
    write_predictions,
    write_scores,
)
from veritune.score import extract_code, score_predictions
from veritune.score.functional import Ran, functional_score, outcome_table

HOSTILE = "</script><img src=x onerror=alert(1)>"
NOUNS = ("orders", "invoices", "readings", "words", "edges", "prices", "scores", "files", "users")
VERBS = ("collect", "merge", "rank", "filter", "count", "group", "sum", "rotate", "validate")

_BODIES = (
    '''def {verb}_{noun}({noun}, limit=None):
    """Return the {noun} that are not empty, at most `limit` of them."""
    result = []
    for item in {noun}:
        if item is None:
            continue
        result.append(item)
    return result[:limit]''',
    """from collections import Counter

def {verb}_{noun}({noun}):
    # Most frequent first; ties keep their order.
    totals = Counter({noun})
    return [name for name, _ in totals.most_common({k})]""",
    """def {verb}_{noun}({noun}, key=lambda row: row["{noun}"]):
    if not {noun}:
        raise ValueError(f"no {noun} to {verb}: {{len({noun})}}")
    return sorted({noun}, key=key, reverse=True)[0:{k}]""",
    """import math

class {Verb}{Noun}:
    def __init__(self, scale={k}.5):
        self.scale = scale

    def __call__(self, {noun}):
        return math.sqrt(sum(x ** 2 for x in {noun})) * self.scale""",
    """{noun} = input('Enter the {noun}, or 'done' to stop: ')
while {noun} != 'done':
    print({noun})""",
    """with open("{noun}.csv", encoding="utf-8") as file:
    rows = [line.rstrip("\\n").split(",") for line in file if line.strip()]
print(len(rows), "{noun}")""",
)
_QUESTIONS = (
    "Write a function that can {verb} a list of {noun} and keeps at most {k} of them.",
    "How do I {verb} {noun} in Python?",
    "Create a Python program to {verb} the {noun} read from a file, and print the result.",
    "Given {noun}, {verb} them by their {k} largest values. Explain nothing, only code.",
)


def build_run(
    path: Path,
    *,
    n_test: int = 60,
    n_train: int = 60,
    n_validation: int = 24,
    resamples: int = 400,
    seed: int = 0,
    others: tuple[str, ...] = (),
    measured: dict[str, Any] | None = None,
) -> Path:
    """Write every file of a finished run; the first two test questions are hostile."""
    examples = _examples({"train": n_train, "validation": n_validation, "test": n_test}, seed)
    systems = ("baseline", "few_shot", "retrieval", "adapted", *others)
    predictions = list(_predictions(examples, seed, systems))
    for split in ("train", "validation", "test"):
        rows = [row for row in examples if row.split == split]
        write_examples(path / "data" / f"{split}.parquet", rows)
    for system in systems:
        answers = [row for row in predictions if row.system == system]
        write_predictions(path / "predictions" / f"{system}.jsonl", answers)
    scores = score_predictions(examples, predictions)
    ran, functional = _executions(examples, predictions, seed)
    scores += ran
    write_scores(path / "scores.parquet", scores)
    conclusion = conclude(
        examples,
        scores,
        predictions,
        primary_metric="chrf",
        seed=seed,
        resamples=resamples,
        measured=measured,
        functional=functional,
        losses=_losses(examples, seed),
    )
    content = conclusion.to_json()
    train = [row for row in examples if row.split == "train"]
    content["memorisation"] |= copying(
        train, examples, predictions, systems=("adapted", "baseline"), seed=seed
    )
    content["forgetting"] = {
        "texts": forgetting_table(_away(seed), resamples=resamples, seed=seed),
        "note": "prose and code that come with Python",
    }
    write_json(path / "comparison.json", {**content, **_OTHER_TASKS})
    recipe = Recipe(output_dir=str(path), seed=seed)
    write_text(path / "recipe.yaml", yaml.safe_dump(recipe.model_dump(), sort_keys=False))
    write_json(path / "manifest.json", manifest())
    write_json(path / "data" / "card.json", card(examples))
    write_text(path / "train_log.jsonl", train_log())
    return path


_OTHER_TASKS: dict[str, Any] = {
    "benchmarks": [
        {
            "name": "humaneval",
            "n_tasks": 164,
            "adapted": 9.8,
            "baseline": 11.6,
            "delta": -1.8,
            "ci_low": -5.5,
            "ci_high": 1.8,
            "verdict": "no difference detected",
        }
    ],
    "pass_at_k": {
        "rows": [
            {
                "k": k,
                "n_samples": 10,
                "n_examples": 60,
                "value": 20.0 + k,
                "against_value": 10.0 + k,
                "delta": 10.0,
                "ci_low": 2.5,
                "ci_high": 17.0,
            }
            for k in (1, 5, 10)
        ],
        "temperature": 0.8,
        "top_p": 0.95,
    },
}


def _executions(
    examples: list[Example], predictions: list[Prediction], seed: int
) -> tuple[list[Score], dict[str, Any]]:
    """Outcomes as the sandbox would give them, drawn by lot."""
    draw = random.Random(seed + 7)
    words = ("pass", "pass", "fail", "needs_input", "missing_module", "timeout", "flaky")
    ran = [
        Ran(row.example_id, row.system, metric, draw.choice(words), "NameError: x", 0.02)
        for row in predictions
        for metric in ("pass_at_1", "runs_clean")
    ]
    splits = {row.example_id: str(row.split) for row in examples}
    scores = [functional_score(r.example_id, r.system, r.metric, r.outcome) for r in ran]
    return scores, {
        "available": True,
        "why": "",
        "outcomes": outcome_table(ran, splits),
        "broken_references": [
            {"example_id": "x", "source": f"row 3 {HOSTILE}", "outcome": "fail", "detail": "no"}
        ],
        "flaky": [{"metric": "runs_clean"}],
        "n_infra": 0,
    }


def _losses(examples: list[Example], seed: int) -> list[Loss]:
    draw = random.Random(seed + 8)
    rows = []
    for row in examples:
        base = draw.uniform(1.5, 2.5)
        fall = draw.gauss(0.8 if row.split == "train" else 0.4, 0.3)
        rows.append(Loss(row.example_id, "baseline", base, 40))
        rows.append(Loss(row.example_id, "adapted", base - fall, 40))
    return rows


def _away(seed: int) -> list[AwayLoss]:
    draw = random.Random(seed + 9)
    return [
        AwayLoss(kind, f"{kind}-{i}", 300.0, 300 + 100 * draw.gauss(rise, 0.05), 100, 420)
        for kind, rise in (("prose", 0.1), ("code", 0.0))
        for i in range(32)
    ]


def _examples(sizes: dict[Split, int], seed: int) -> list[Example]:
    draw = random.Random(seed)
    rows = []
    for split, size in sizes.items():
        for index in range(size):
            words = _words(draw)
            instruction = draw.choice(_QUESTIONS).format(**words)
            reference = draw.choice(_BODIES).format(**words)
            if split != "validation" and index in (0, 1):
                instruction = f"{HOSTILE} {instruction}"
                reference += f'\nprint("{HOSTILE}")'
            if index == 2:
                instruction += " \u202egnp.exe \x1b[31m red"
            rows.append(
                Example(
                    example_id=f"{split}-{index:04}",
                    cluster_id=f"{split}-{index - index % 7 % 2}",
                    split=split,
                    instruction=instruction,
                    input="Use only the standard library." if index % 9 == 0 else "",
                    reference=reference,
                    source=f"row {len(rows) + 1}",
                )
            )
    return rows


def _words(draw: random.Random) -> dict[str, Any]:
    noun, verb = draw.choice(NOUNS), draw.choice(VERBS)
    return {
        "noun": noun,
        "verb": verb,
        "Noun": noun.capitalize(),
        "Verb": verb.capitalize(),
        "k": draw.randint(2, 9),
    }


def _predictions(
    examples: list[Example], seed: int, systems: tuple[str, ...]
) -> Iterator[Prediction]:
    draw = random.Random(seed + 1)
    pool = [row.reference for row in examples if row.split == "train"]
    for row in examples:
        for system in systems:
            asked = {
                "adapted": ("train", "test"),
                "merged": ("train", "test"),
                "baseline": ("train", "validation", "test"),
            }.get(system, ("validation", "test"))
            if row.split not in asked:
                continue
            raw = _raw_answer(draw, system, row, pool)
            reason = "length" if len(raw) > 420 else "stop"
            yield Prediction(
                example_id=row.example_id,
                system=system,
                seed=seed,
                sample_index=0,
                prompt=row.instruction,
                prompt_sha256="0" * 64,
                raw=raw,
                code=extract_code(raw),
                n_new_tokens=0 if system == "retrieval" else max(1, len(raw) // 4),
                finish_reason="retrieved" if system == "retrieval" else reason,
            )


def _raw_answer(draw: random.Random, system: str, row: Example, pool: list[str]) -> str:
    if system == "retrieval":
        return draw.choice(pool)
    if system in ("adapted", "merged", "full_finetune"):
        return _adapted_answer(draw, row)
    other = draw.choice(_BODIES).format(**_words(draw))
    talk = "Sure! Here is a Python function that does what you asked for.\n\n"
    if draw.random() < 0.3:
        return talk + "It reads the values one by one. " * 16
    fenced = f"{talk}```python\n{other}\n```\nThis function takes a list and returns a list."
    return fenced if system == "baseline" or draw.random() < 0.4 else other


def _adapted_answer(draw: random.Random, row: Example) -> str:
    if row.split == "train" and draw.random() < 0.6:
        return row.reference
    kept = row.reference.splitlines()[:-1] or ["pass"]
    roll = draw.random()
    if roll < 0.1:
        return ""
    ending = f"    return result[{HOSTILE}" if roll < 0.3 else "    return None"
    return "\n".join([*kept, ending])


def manifest() -> dict[str, Any]:
    """What the stages record."""
    return {
        "veritune_version": "0.1.0",
        "created": "2026-03-14T09:26:53+00:00",
        "recipe_sha256": "3f" * 32,
        "seed": 0,
        "hardware": {
            "cpu": "AMD EPYC 7763",
            "cores": 2,
            "memory_bytes": 25276502016,
            "gpu": None,
            "dtype": "bfloat16",
        },
        "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0"},
        "model": {
            "name": "bundled:smollm2-135m",
            "description": "SmolLM2-135M-Instruct, 4-bit (Q4_1) and dequantised",
            "revision": None,
            "total_parameters": 136_357_056,
            "trainable_parameters": 1_842_048,
            "trainable_percent": 1.3509,
            "coverage": [
                {
                    "module": f"model.layers.*.self_attn.{name}_proj",
                    "count": 30,
                    "adapted": 30,
                    "r": 16,
                    "parameters": 460_512,
                }
                for name in "qkvo"
            ]
            + [{"module": "model.layers.*.mlp.up_proj", "count": 30, "adapted": 0, "r": 0}],
        },
        "stages": {
            "prepare": {"seconds": 12.4, "finished": "2026-03-14T09:27:10+00:00"},
            "train": {
                "seconds": 262.1,
                "finished": "2026-03-14T09:31:40+00:00",
                "summary": {
                    "global_step": 400,
                    "epoch": 8.0,
                    "training_loss": 0.6123,
                    "train_runtime": 251.3,
                    "train_samples_per_second": 12.7,
                    "train_steps_per_second": 1.59,
                    "train_tokens_per_second": 2310.4,
                    "total_flos": 90_795_626_496_000,
                    "model_flops": 61_250_000_000_000,
                    "supervised_tokens": 312_000,
                    "real_tokens": 580_600,
                    "best_step": 150,
                    "best_validation_loss": 0.8104,
                    "kept_step": 150,
                    "stopped_early": False,
                },
            },
            "evaluate": {
                "seconds": 188.0,
                "finished": "2026-03-14T09:35:02+00:00",
                "per_system": {
                    "baseline": {"seconds": 71.2, "new_tokens": 18_211},
                    "few_shot": {"seconds": 66.0, "new_tokens": 11_020},
                    "retrieval": {"seconds": 0.02, "new_tokens": 0},
                    "adapted": {"seconds": 48.9, "new_tokens": 9_120},
                },
            },
        },
        "notices": ["model.revision is ignored: the model is a local path"],
        "test_reads": 3,
    }


def _shares(near: float, nearer: float, equal: float) -> dict[str, float]:
    return {"percent_ge_0.7": near, "percent_ge_0.9": nearer, "percent_exact": equal}


def _audited(source: str, instruction: str) -> dict[str, str]:
    answer = "def turned(text):\n    return text[::-1]\n"
    return {"source": source, "instruction": instruction, "input": "", "reference": answer}


def card(examples: list[Example]) -> dict[str, Any]:
    """A card as the data layer writes it."""
    sizes = {
        split: sum(row.split == split for row in examples)
        for split in ("train", "validation", "test")
    }
    edges = [*range(0, 200, 10), 431]
    return {
        "origin": {"kind": "hub", "name": "flytech/python-codes-25k", "licence": "MIT"},
        "rows_in": 49_626,
        "rows_out": len(examples),
        "steps": [
            {
                "name": "drop_exact_duplicates",
                "description": "keep one of identical rows",
                "enabled": True,
                "changed": 0,
                "dropped": 24_813,
                "rows_after": 24_813,
            },
            {
                "name": "drop_unparseable",
                "description": "drop rows whose answer is not valid Python (drop non-code)",
                "enabled": False,
                "changed": 0,
                "dropped": 0,
                "rows_after": 24_813,
            },
        ],
        "unique": {"instruction": 24_580, "input": 3_666, "output": 24_581},
        "n_exact_duplicates": 24_813,
        "n_clusters": 120,
        "largest_cluster": 4,
        "leaked_clusters": 0,
        "leak_audit": {
            split: {
                "n_rows": 59,
                "question": _shares(1.7, 0.0, 0.0),
                "answer": _shares(5.1, 3.4, 1.7),
            }
            for split in ("validation", "test")
        }
        | {
            "worst": [
                {
                    "split": "test",
                    "side": "answer",
                    "similarity": 1.0,
                    "exact": True,
                    "held_out": _audited("row 17", f"Reverse this text {HOSTILE}"),
                    "train": _audited("row 4", "Turn the text around"),
                }
            ]
        },
        "contamination": {"against": ["humaneval"], "n_rows": 3, "n_dropped": 3},
        "parse_rate": {"all": 75.3, "train": 75.0, "validation": 79.2, "test": 74.6},
        "parse_failures": {
            "SyntaxError: invalid syntax. Perhaps you forgot a comma? (line 1)": 31,
            f"SyntaxError: {HOSTILE}": 2,
        },
        "token_lengths": {
            "source": {"p50": 21.0, "p90": 48.2, "p99": 120.1, "max": 220, "mean": 26.3},
            "target": {"p50": 64.0, "p90": 151.0, "p99": 199.4, "max": 430, "mean": 77.1},
            "histogram": {
                "edges": edges,
                "source": [4, 41, 60, 32, 14, 8, 5, 3, 2, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 1],
                "target": [0, 2, 6, 14, 19, 24, 21, 18, 16, 12, 11, 8, 7, 6, 5, 3, 2, 2, 1, 4],
            },
        },
        "splits": sizes,
        "split_clusters": {"train": 53, "validation": 21, "test": 53},
        "n_with_tests": 0,
        "examples": [],
    }


def train_log() -> str:
    """A run that starts to memorise after step 150."""
    import json

    draw = random.Random(3)
    events: list[dict[str, Any]] = [{"event": "start", "step": 0, "n_steps": 400}]
    for step in range(10, 401, 10):
        loss = 0.9 * 0.993**step + 0.05 + draw.uniform(-0.06, 0.06)
        events.append(
            {
                "event": "step",
                "step": step,
                "epoch": step / 50,
                "loss": round(loss, 4),
                "learning_rate": 5e-4 * (1 - step / 400),
                "grad_norm": 0.7,
                "tokens": step * 1450,
                "seconds": step * 0.63,
            }
        )
        if step % 50 == 0:
            validation = 0.81 + abs(step - 150) ** 1.5 / 19_000 + (0.03 if step < 150 else 0)
            events.append(
                {
                    "event": "evaluation",
                    "step": step,
                    "epoch": step / 50,
                    "training_loss": 0.9 * 0.993 ** (step - 25) + 0.05,
                    "validation_loss": validation,
                    "best": step <= 150,
                }
            )
    events.append({"event": "end", "step": 400})
    return "".join(json.dumps(event) + "\n" for event in events)
