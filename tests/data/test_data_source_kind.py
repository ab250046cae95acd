import os

import pytest

from veritune.data.sources import kind_of_source
from veritune.errors import DataError


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("code:stdlib", "code"),
        ("code:/nowhere", "code"),
        ("flytech/python-codes-25k", "hub"),
        ("google-research-datasets/mbpp", "hub"),
        ("data/rows.jsonl", "file"),
        ("rows.JSONL.GZ", "file"),
        ("./owner/name", "file"),
        ("~/owner/name", "file"),
        ("/owner/name", "file"),
        ("../name", "file"),
    ],
)
def test_kind_follows_from_the_text_where_nothing_exists(source, kind):
    assert kind_of_source(source) == kind


def test_what_exists_on_disk_is_a_file_even_if_it_reads_like_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_text("x", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert kind_of_source("owner/name") == "file"
    assert kind_of_source(f"other{os.sep}name") == "hub"


@pytest.mark.parametrize("source", ["mbpp", "a/b/c", "two words", "owner/", "a\0b", "x" * 5000])
def test_everything_else_is_refused_with_what_is_accepted(source):
    with pytest.raises(DataError) as caught:
        kind_of_source(source)
    assert "owner/name" in str(caught.value)
    assert caught.value.next_step
