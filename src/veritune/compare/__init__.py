"""Scores become evidence: intervals, p-values, and one verdict in one sentence."""

from veritune.compare.gap import memorisation_gap, reproduction
from veritune.compare.significance import holm, mcnemar_p_value, sign_flip_p_value
from veritune.compare.statistics import MIN_CLUSTERS, Estimate, estimate
from veritune.compare.systems import compare_systems
from veritune.compare.verdict import conclude

__all__ = [
    "MIN_CLUSTERS",
    "Estimate",
    "compare_systems",
    "conclude",
    "estimate",
    "holm",
    "mcnemar_p_value",
    "memorisation_gap",
    "reproduction",
    "sign_flip_p_value",
]
