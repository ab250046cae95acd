"""Files of a run that are damaged, as their readers explain them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from veritune.errors import RunDirectoryError
from veritune.rows import (
    read_comparisons,
    read_conclusion,
    read_examples,
    read_predictions,
    read_scores,
)


@pytest.mark.parametrize("content", [b"\x00\xff\x80", b"[1, 2]\n", b'{"half": ', b"null\n"])
@pytest.mark.parametrize(
    "read", [read_examples, read_scores, read_predictions, read_comparisons, read_conclusion]
)
def test_a_damaged_file_is_named_with_the_way_out(
    read: Callable[[Path], Any], content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(content)
    with pytest.raises(RunDirectoryError, match="cannot be read") as caught:
        read(path)
    assert caught.value.exit_code == 2
    assert "damaged" in str(caught.value.received) and "delete" in str(caught.value.next_step)


def test_a_file_that_is_not_there_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_conclusion(tmp_path / "comparison.json")
