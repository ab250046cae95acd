"""Numbers, names and hostile text in the form that people read.

Every function takes what a file may hold, so also ``None`` or a wrong type, and then says
``–`` instead of failing.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any, TypeGuard

from veritune import visible_text
from veritune.compare.sentence import signed as _signed
from veritune.score import METRICS

DASH = "–"

visible = visible_text.visible

SYSTEM_LABELS = {
    "adapted": "Adapted",
    "baseline": "Base, zero-shot",
    "few_shot": "Base, few-shot",
    "retrieval": "Retrieval",
    "full_finetune": "Full fine-tuning",
    "merged": "Merged",
}
SYSTEM_NOTES = {
    "adapted": "the base model with the adapter",
    "baseline": "the same weights with the adapter switched off",
    "few_shot": "the base model with training examples in its prompt",
    "retrieval": "no model: the answer of the nearest training question (BM25)",
    "full_finetune": "all weights of the base trained on the same pairs for the same steps",
    "merged": "the adapter folded into the base’s weights, so never a baseline",
}
OPTIONAL_SYSTEMS = frozenset({"full_finetune", "merged"})
"""Explained only in reports that compare them."""


def one_line(text: object, limit: int = 160) -> str:
    """The text on one line, cut after ``limit`` characters."""
    line = " ".join(visible(str(text)[: 4 * limit]).split())
    return line if len(line) <= limit else f"{line[: limit - 1].rstrip()}…"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fixed(value: object, digits: int = 1) -> str:
    """A number with that many decimals."""
    return f"{value:,.{digits}f}".replace("-", "−") if is_number(value) else DASH


def signed(value: object) -> str:
    """A difference with its sign, as in the verdict's sentence."""
    return _signed(value) if is_number(value) else DASH


def interval(low: object, high: object) -> str:
    """An interval of differences."""
    if not (is_number(low) and is_number(high)):
        return "not measured"
    return f"[{signed(low)}, {signed(high)}]"


def count(value: object) -> str:
    """A whole number with thousands separators."""
    return f"{value:,.0f}" if is_number(value) else DASH


def plural(number: object, one: str, many: str | None = None) -> str:
    """A count with its noun."""
    return f"{count(number)} {one if number == 1 else many or f'{one}s'}"


def percent(value: object, digits: int = 1) -> str:
    """A share that is already on 0–100; whole ones without decimals."""
    if not is_number(value):
        return DASH
    digits = 0 if float(value).is_integer() else digits
    return f"{value:,.{digits}f} %"


def p_value(value: object) -> str:
    """A p-value to three decimals."""
    if not is_number(value):
        return DASH
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def significant(value: object, digits: int = 4) -> str:
    """A number to that many significant digits, large ones by power of ten."""
    if not is_number(value):
        return DASH
    if value and not 1e-4 <= abs(value) < 1e9:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.{digits}g}" if abs(value) < 1000 else f"{value:,.1f}"


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def duration(seconds: object) -> str:
    """Seconds as hours, minutes and seconds."""
    if not is_number(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def memory(size_bytes: object) -> str:
    """Bytes as GiB, or as MiB where that says more."""
    if not is_number(size_bytes):
        return DASH
    small = abs(size_bytes) < 2**30
    return f"{size_bytes / 2**20:.1f} MiB" if small else f"{size_bytes / 2**30:.1f} GiB"


def date(stamp: object) -> str:
    """An ISO time as day and minute; anything else as it is."""
    try:
        moment = datetime.fromisoformat(str(stamp))
    except ValueError:
        return one_line(stamp, 40)
    zone = "" if moment.tzinfo is None else f" {moment.tzname()}"
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def system_label(system: str) -> str:
    """What a system is called in tables."""
    kind, colon, name = system.partition(":")
    if colon and kind == "adapter":
        return f"Adapter {one_line(name, 40)}"
    return SYSTEM_LABELS.get(system, one_line(system.replace("_", " "), 40))


def metric_label(metric: str) -> str:
    """What a metric is called in tables."""
    return METRICS[metric].label if metric in METRICS else one_line(metric.replace("_", " "), 40)


def metric_unit(metric: str) -> str:
    """`` %`` for shares of answers, nothing for points."""
    return " %" if metric in METRICS and METRICS[metric].unit == "%" else ""


def corpus(metric: str, value: object) -> str:
    """A corpus value of a metric with its unit."""
    return f"{fixed(value)}{metric_unit(metric)}" if is_number(value) else DASH


def as_points(metric: str, value: object) -> float | None:
    """The value of one example on the 0–100 scale of the metric's corpus value."""
    if not is_number(value):
        return None
    return value * (METRICS[metric].scale if metric in METRICS else 1.0)


def mapping(value: object) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return dict(value) if isinstance(value, dict) else {}


def rows_of(value: object) -> list[dict[str, Any]]:
    """The mappings of a list; anything else is left out."""
    return (
        [dict(item) for item in value if isinstance(item, dict)] if isinstance(value, list) else []
    )
