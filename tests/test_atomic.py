"""Nothing on disk is ever half written."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from veritune.atomic import atomic_folder, atomic_write, write_json, write_text
from veritune.errors import DiskFault


def test_a_failed_write_keeps_the_old_file_and_leaves_no_rubbish(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="not JSON"), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ValueError("not JSON")
    assert path.read_text() == '{\n  "old": 1\n}\n'
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]


def test_nan_never_reaches_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(DiskFault, match="disk is full") as caught, atomic_write(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.exit_code == 3
    assert path.read_text() == "old"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    for content in ("one", "two"):
        with atomic_folder(target) as temporary:
            (temporary / "file").write_text(content)
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "file").write_text("three")
        raise RuntimeError
    assert (target / "file").read_text() == "two"
    assert [item.name for item in tmp_path.iterdir()] == ["adapter"]


def test_a_file_in_the_way_of_a_folder_is_a_disk_fault(tmp_path: Path) -> None:
    (tmp_path / "blocker").write_text("")
    with pytest.raises(DiskFault, match="cannot write here"):
        write_text(tmp_path / "blocker" / "x.txt", "")
