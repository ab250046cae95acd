"""What in the rows should make their owner look twice, each with examples and what to change."""

from veritune.data.findings.find import find_all, modules_of

__all__ = ["find_all", "modules_of"]
