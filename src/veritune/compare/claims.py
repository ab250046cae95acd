"""What is claimed of LoRA, each claim beside what this run measured of it.

A claim that rests on something that was not run is a row that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtrit

from veritune.compare.statistics import LEVEL
from veritune.rows import Comparison
from veritune.score import metric_named

FULL_FINETUNE = "full_finetune"
# One training each, so no interval: closer than this they are called the same.
_SAME = 0.05
_MACHINE = ("cpu", "cores", "gpu", "device")
_ONCE = "one training each, no interval"
_NOT_RUN = "full fine-tuning was not run; add full_finetune to evaluate.systems"
_RESAMPLES = 10_000

Row = dict[str, Any]


def claims_table(
    measured: Mapping[str, Any], quality: Comparison | None, *, seed: int
) -> list[Row]:
    """One row per claim.

    Args:
        measured: ``trainable_parameters``, ``total_parameters``; the training records of
            ``lora`` and ``full_finetune``; ``latency`` with its rounds in seconds per token.
        quality: adapted against full fine-tuning on the primary metric.
        seed: of the latency intervals.

    Returns:
        Each with ``claim``, ``what``, ``ours``, ``against``, ``unit``, ``ratio`` or ``delta``,
        ``ci_low``, ``ci_high``, ``verdict`` in words, and ``holds`` (None where neither yes
        nor no can be said).
    """
    lora, full = dict(measured.get("lora", {})), dict(measured.get("full_finetune", {}))
    return [
        _trainable(measured, full),
        *(_training(cost, lora, full) for cost in _COSTS),
        _quality(quality, full),
        _latency("no extra latency once merged", "merged", measured, seed),
        _latency("no extra latency while attached", "adapted", measured, seed),
    ]


def ratio_interval(
    ours: Sequence[float], against: Sequence[float], *, seed: int
) -> tuple[float, float]:
    """Ends of the 95 % interval of sum(ours) / sum(against), by resampling pairs.

    Percentile levels are expanded as in ``statistics``: with the few rounds there are, the
    plain ones would be far too narrow.
    """
    pairs = np.array([ours, against], dtype=np.float64)
    n = pairs.shape[1]
    drawn = np.random.default_rng([seed, 11]).integers(n, size=(_RESAMPLES, n))
    sums = pairs[:, drawn].sum(axis=2)
    tails = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    levels = ndtr(stdtrit(n - 1, tails) * np.sqrt(n / (n - 1)))
    low, high = np.quantile(sums[0] / sums[1], levels)
    return float(low), float(high)


def _trainable(measured: Mapping[str, Any], full: Mapping[str, Any]) -> Row:
    ours, total = measured.get("trainable_parameters"), measured.get("total_parameters")
    row = _row("few trainable weights", "weights that training moves", "parameters")
    if not ours or not total:
        return {**row, **_unknown("the run did not record its parameters")}
    against = full.get("trainable_parameters") or total - ours
    share = 100 * ours / against
    words = f"trains {share:.2g} % of the weights that full fine-tuning trains"
    return {
        **row,
        "ours": ours,
        "against": against,
        "ratio": ours / against,
        "verdict": f"{words} (counted)",
        "holds": ours < against,
    }


def _peak(record: Mapping[str, Any]) -> tuple[float | None, str]:
    if "peak_memory_bytes" not in record:
        return None, "memory was not recorded by the version that trained it"
    found = record["peak_memory_bytes"]
    return found or None, "no step was taken after the training was resumed"


def _seconds(record: Mapping[str, Any]) -> tuple[float | None, str]:
    return record.get("step_seconds") or None, "time was not recorded by the version that trained"


def _rate(record: Mapping[str, Any]) -> tuple[float | None, str]:
    seconds, why = _seconds(record)
    return (record.get("real_tokens", 0) / seconds if seconds else None), why


@dataclass(frozen=True)
class _Cost:
    """A cost of training that is claimed to be lower, or a rate claimed to be higher."""

    claim: str
    what: str
    unit: str
    read: Callable[[Mapping[str, Any]], tuple[float | None, str]]
    more_is_better: bool = False


_COSTS = (
    _Cost(
        "less memory to train",
        "peak memory of an optimizer step, weights included",
        "bytes",
        _peak,
    ),
    _Cost(
        "faster to train",
        "time in optimizer steps, without validation and checkpoints",
        "seconds",
        _seconds,
    ),
    _Cost(
        "more tokens a second",
        "tokens trained per second of optimizer steps, without padding",
        "tokens/s",
        _rate,
        more_is_better=True,
    ),
)


def _training(cost: _Cost, lora: Mapping[str, Any], full: Mapping[str, Any]) -> Row:
    (ours, why), (against, why_full) = cost.read(lora), cost.read(full)
    row = {**_row(cost.claim, cost.what, cost.unit), "ours": ours, "against": against}
    reason = ""
    if not full:
        reason = _NOT_RUN
    elif ours is None:
        reason = f"LoRA: {why}"
    elif against is None:
        reason = f"full fine-tuning: {why_full}"
    else:
        reason = _incomparable(cost.unit, lora, full)
    if reason or ours is None or against is None:
        return {**row, **_unknown(reason)}
    ratio, holds = ours / against, None
    words = "about the same"
    if abs(ratio - 1) >= _SAME:
        words, holds = f"{_number(ratio)} times as much", (ratio > 1) == cost.more_is_better
    notes = [_ONCE]
    if lora.get("global_step") != full.get("global_step"):
        holds = holds if cost.unit != "seconds" else None
        notes.append(f"{lora.get('global_step')} against {full.get('global_step')} steps")
    if cost.unit == "bytes":
        notes.append(str(lora["peak_memory_how"]))
    return {**row, "ratio": ratio, "verdict": f"{words} ({'; '.join(notes)})", "holds": holds}


def _incomparable(unit: str, lora: Mapping[str, Any], full: Mapping[str, Any]) -> str:
    one, other = (dict(record.get("hardware") or {}) for record in (lora, full))
    if any(one.get(name) != other.get(name) for name in _MACHINE):
        return "the two were trained on different machines"
    if unit == "bytes" and lora.get("peak_memory_how") != full.get("peak_memory_how"):
        return "memory was measured in different ways"
    noise = lora.get("peak_memory_noise_bytes", 0)
    if unit == "bytes" and abs(lora["peak_memory_bytes"] - full["peak_memory_bytes"]) < noise:
        return f"the two differ by less than a process's own memory does ({noise / 2**20:.0f} MiB)"
    return ""


def _quality(comparison: Comparison | None, full: Mapping[str, Any]) -> Row:
    row = _row("quality kept", "adapted minus full fine-tuning, on unseen questions", "points")
    if comparison is None:
        return {**row, **_unknown(_NOT_RUN if not full else "it answered no test question")}
    row |= {
        "what": f"{metric_named(comparison.metric).label}: {row['what']}",
        "ours": comparison.value,
        "against": comparison.against_value,
        "delta": comparison.delta,
        "ci_low": comparison.ci_low,
        "ci_high": comparison.ci_high,
    }
    if full.get("learning_rate"):
        row["what"] += f"; full fine-tuning at learning rate {full['learning_rate']:g}"
    words: str = comparison.verdict
    if comparison.ci_low is None:
        words += f": {comparison.n_clusters} clusters are too few for an interval"
    elif comparison.ci_low < 0:
        words += f"; as much as {-comparison.ci_low:.1f} points may be lost"
    holds = {"better": True, "worse": False}.get(comparison.verdict)
    return {**row, "verdict": words, "holds": holds}


def _latency(claim: str, name: str, measured: Mapping[str, Any], seed: int) -> Row:
    latency = dict(measured.get("latency", {}))
    rounds = list(latency.get("rounds", []))
    what = "time per new token at batch 1, against the base model"
    row = _row(claim, what, "seconds/token")
    if not rounds:
        return {**row, **_unknown(str(latency.get("reason") or "nothing was timed"))}
    row["what"] = f"{what}; {latency['new_tokens']} tokens, prompt included, {len(rounds)} rounds"
    ours, against = ([entry[key] for entry in rounds] for key in (name, "base"))
    ratio = sum(ours) / sum(against)
    row |= {"ours": sum(ours) / len(ours), "against": sum(against) / len(ours), "ratio": ratio}
    if len(rounds) < 2:
        return {**row, "verdict": f"{_number(ratio)} times as long (one round, no interval)"}
    low, high = ratio_interval(ours, against, seed=seed)
    holds: bool | None
    if low > 1:
        words, holds = f"slower: {_number(ratio)} times as long", False
    elif high < 1:
        words, holds = f"faster: {_number(ratio)} times as long", True
    else:
        words, holds = "no difference detected", None
        words += f"; at most {max(0.0, 100 * (high - 1)):.1f} % slower"
    return {**row, "ci_low": low, "ci_high": high, "verdict": words, "holds": holds}


def _row(claim: str, what: str, unit: str) -> Row:
    return {
        "claim": claim,
        "what": what,
        "ours": None,
        "against": None,
        "unit": unit,
        "ci_low": None,
        "ci_high": None,
        "verdict": "",
        "holds": None,
    }


def _unknown(reason: str) -> Row:
    return {"verdict": f"not measured: {reason}", "holds": None}


def _number(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"
