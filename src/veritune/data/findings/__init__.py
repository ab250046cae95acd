"""What in the rows should make their owner look twice, each with examples and what to change."""

from veritune.data.findings.facts import RowFacts, facts_of
from veritune.data.findings.find import find_all
from veritune.data.findings.finding import Finding
from veritune.data.findings.secret_rows import sampled_places
from veritune.data.findings.single_rows import SingleRows

__all__ = ["Finding", "RowFacts", "SingleRows", "facts_of", "find_all", "sampled_places"]
