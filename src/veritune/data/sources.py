"""Read question/answer pairs from wherever the recipe says."""

from __future__ import annotations

from veritune.config import DataSection
from veritune.data.code_base import read_code
from veritune.data.hub import read_hub
from veritune.data.local_files import read_file
from veritune.data.raw_rows import RawRow, RawRows
from veritune.data.source_kind import kind_of_source
from veritune.progress import Reporter, Silent

__all__ = ["RawRow", "RawRows", "kind_of_source", "read_rows"]

_READERS = {"file": read_file, "hub": read_hub, "code": read_code}


def read_rows(section: DataSection, reporter: Reporter | None = None) -> RawRows:
    """Read at most ``max_rows`` rows of the source, in their own order.

    Raises:
        DataError: the source, its columns or its values are at fault.
        EnvironmentFault: the hub cannot be reached.
    """
    return _READERS[kind_of_source(section.source)](section, reporter or Silent())
