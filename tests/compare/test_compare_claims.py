"""The claims: ratios a reader can check by hand, and reasons where there are none."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from veritune.compare.claims import claims_table, ratio_interval

MACHINE = {"cpu": "c", "cores": 2, "gpu": None, "device": "cpu"}


def _measured(**changes: Any) -> dict[str, Any]:
    record = {"global_step": 10, "real_tokens": 6000, "peak_memory_how": "so", "hardware": MACHINE}
    lora = {**record, "step_seconds": 20.0, "peak_memory_bytes": 100, **changes.pop("lora", {})}
    full = {**record, "step_seconds": 30.0, "peak_memory_bytes": 400, **changes.pop("full", {})}
    return {
        "trainable_parameters": 5,
        "total_parameters": 1005,
        "lora": lora,
        "full_finetune": full,
        "latency": {"reason": "none"},
        **changes,
    }


def _table(measured: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["claim"]: row for row in claims_table(measured, None, seed=0)}


def test_costs_are_ratios_of_lora_to_full_fine_tuning() -> None:
    table = _table(_measured())
    assert table["few trainable weights"]["ratio"] == 0.005
    assert "0.5 %" in table["few trainable weights"]["verdict"]
    assert table["less memory to train"]["ratio"] == 0.25
    assert table["faster to train"]["ratio"] == pytest.approx(2 / 3)
    assert table["more tokens a second"]["ratio"] == pytest.approx(1.5)
    assert all(table[name]["holds"] for name in list(table)[:4])
    slower = _table(_measured(lora={"step_seconds": 60.0}))
    assert slower["faster to train"]["holds"] is slower["more tokens a second"]["holds"] is False
    alike = _table(_measured(lora={"step_seconds": 30.4}))["faster to train"]
    assert alike["holds"] is None and alike["verdict"].startswith("about the same")


def test_what_cannot_be_compared_is_not() -> None:
    elsewhere = _table(_measured(full={"hardware": {**MACHINE, "gpu": "g"}}))
    assert "different machines" in elsewhere["less memory to train"]["verdict"]
    otherwise = _table(_measured(full={"peak_memory_how": "otherwise"}))
    assert "different ways" in otherwise["less memory to train"]["verdict"]
    assert otherwise["faster to train"]["ratio"] > 0
    tiny = _table(_measured(lora={"peak_memory_noise_bytes": 301}))["less memory to train"]
    assert tiny["verdict"].startswith("not measured: the two differ by less")
    assert (tiny["ours"], tiny["against"]) == (100, 400)
    earlier = _measured()
    del earlier["lora"]["peak_memory_bytes"]
    assert "LoRA: memory was not recorded" in _table(earlier)["less memory to train"]["verdict"]
    stopped = _table(_measured(lora={"global_step": 4}))["faster to train"]
    assert stopped["holds"] is None and "4 against 10 steps" in stopped["verdict"]


@pytest.mark.parametrize("n", [3, 5])
def test_the_interval_of_a_ratio_is_that_of_every_possible_resample(n: int) -> None:
    draw = np.random.default_rng(n)
    ours, against = draw.uniform(1, 2, n), draw.uniform(1, 2, n)
    every = [
        sum(ours[list(chosen)]) / sum(against[list(chosen)])
        for chosen in itertools.product(range(n), repeat=n)
    ]
    low, high = ratio_interval(list(ours), list(against), seed=0)
    # Expanded levels of so few rounds lie outside the plain percentiles.
    plain = np.quantile(every, [0.025, 0.975])
    assert min(every) <= low <= plain[0] and plain[1] <= high <= max(every)


def test_latency_says_slower_only_where_the_interval_does() -> None:
    rounds = [
        {"base": 1.0 + i / 100, "merged": 1.0 + (3 - i) / 100, "adapted": 1.5} for i in range(4)
    ]
    table = _table(_measured(latency={"new_tokens": 16, "rounds": rounds}))
    merged = table["no extra latency once merged"]
    assert merged["ratio"] == pytest.approx(1.0) and merged["holds"] is None
    assert merged["ci_low"] < 1 < merged["ci_high"]
    assert merged["verdict"].startswith("no difference detected; at most")
    attached = table["no extra latency while attached"]
    assert attached["holds"] is False and "slower: 1.48 times as long" in attached["verdict"]
    once = _table(_measured(latency={"new_tokens": 16, "rounds": rounds[:1]}))
    assert "no interval" in once["no extra latency once merged"]["verdict"]
