"""Wheels and git checkouts as code bases, made on the spot."""

import hashlib
import os
import shutil
import stat
import subprocess
import zipfile

import pytest

from veritune.config import CodeSection, DataSection
from veritune.data import code_wheel
from veritune.data.licences import licence_of, recognised
from veritune.data.sources import read_rows
from veritune.errors import DataError, EnvironmentFault

FUNCTION = '''\
def count(words):
    """Count words."""
    found = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return found
'''
METADATA = """\
Metadata-Version: 2.1
Name: counting
Version: 1.2.3
License: MIT
Classifier: License :: OSI Approved :: Apache Software License

A long description.
"""
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def mine(source, **settings):
    return read_rows(DataSection(source=f"code:{source}", **settings))


def wheel(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def counting(tmp_path):
    return wheel(
        tmp_path / "counting-1.2.3-py3-none-any.whl",
        {
            "counting/__init__.py": "from counting.words import count\n",
            "counting/words.py": FUNCTION,
            "counting/_vendor/words.py": FUNCTION,
            "counting/tests/test_words.py": FUNCTION,
            "build/words.py": FUNCTION.replace("count", "tally"),
            "counting-1.2.3.dist-info/METADATA": METADATA,
        },
    )


# -- wheels ---------------------------------------------------------------------------------


def test_a_wheels_functions_are_mined_with_version_licence_and_hash(counting):
    found = mine(counting)
    digest = hashlib.sha256(FUNCTION.encode()).hexdigest()[:12]
    assert [row.source.partition("@")[0] for row in found.rows] == [
        "build/words.py:1",
        "counting/words.py:1",
    ]
    assert found.rows[1].source == f"counting/words.py:1@{digest}"
    origin = found.origin
    assert (origin["revision"], origin["licence"], origin["package"]) == (
        "1.2.3",
        "MIT",
        "counting",
    )
    assert origin["wheel_sha256"] == hashlib.sha256(counting.read_bytes()).hexdigest()
    assert origin["left_out"] == {"test files": 1, "vendored files": 1}
    assert "ignored" in mine(counting, revision="v1").origin["notices"][0]


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "a/../../evil.py", "/evil.py", "..\\evil.py", "C:/evil.py", "a\x1b[2J.py"],
)
def test_a_wheel_whose_names_lead_out_of_it_is_refused(tmp_path, name):
    path = wheel(tmp_path / "evil.whl", {"good.py": FUNCTION, name: FUNCTION})
    with pytest.raises(DataError) as caught:
        mine(path)
    assert "leads out" in caught.value.fault
    assert sorted(item.name for item in tmp_path.iterdir()) == ["evil.whl"]


def test_a_bomb_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(code_wheel, "_ALWAYS_ALLOWED_BYTES", 1 << 20)
    zeros = f"# {'0' * 900_000}\n"
    path = wheel(tmp_path / "bomb.whl", {f"m{n}.py": zeros for n in range(40)})
    assert path.stat().st_size < 80_000
    with pytest.raises(DataError) as caught:
        mine(path)
    assert "unpacks to more than" in caught.value.fault


def test_a_huge_entry_is_read_no_further_than_the_limit(tmp_path):
    path = wheel(tmp_path / "big.whl", {"big.py": "#" * (50 << 20), "words.py": FUNCTION})
    found = mine(path)
    assert len(found.rows) == 1
    assert found.origin["left_out"] == {"files over 1 MiB": 1}


def test_more_entries_than_any_package_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(code_wheel, "MAX_ENTRIES", 10)
    path = wheel(tmp_path / "many.whl", {f"m{n}.py": FUNCTION for n in range(11)})
    with pytest.raises(DataError) as caught:
        mine(path)
    assert "more than 10 files" in caught.value.fault


def test_links_and_files_named_twice_are_left_out(tmp_path):
    path = tmp_path / "odd.whl"
    link = zipfile.ZipInfo("link.py")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("words.py", FUNCTION)
        archive.writestr(link, "/etc/passwd")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("words.py", FUNCTION.replace("count", "other"))
    found = mine(path)
    assert [row.entry_point for row in found.rows] == ["count"]
    assert found.origin["left_out"] == {"files named twice": 1, "links and encrypted files": 1}


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "flipped"])
def test_a_damaged_wheel_is_a_clear_fault(counting, damage):
    content = bytearray(counting.read_bytes())
    if damage == "flipped":
        place = content.index(b"counting/words.py") + 40
        content[place] ^= 0xFF
    changed = {
        "empty": b"",
        "cut": bytes(content[: len(content) // 2]),
        "garbage": os.urandom(2000),
        "flipped": bytes(content),
    }
    counting.write_bytes(changed[damage])
    with pytest.raises(DataError) as caught:
        mine(counting)
    assert "cannot be read" in caught.value.fault and caught.value.next_step


def test_the_sizes_a_wheel_claims_are_not_believed(tmp_path):
    path = wheel(tmp_path / "liar.whl", {"big.py": "#" * (3 << 20), "words.py": FUNCTION})
    size = (3 << 20).to_bytes(4, "little")
    content = path.read_bytes().replace(size, (10).to_bytes(4, "little"))
    path.write_bytes(content)
    try:
        found = mine(path)
    except DataError as fault:
        assert "cannot be read" in fault.fault
    else:
        assert len(found.rows) == 1


# -- git ------------------------------------------------------------------------------------


def git(folder, *words):
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER")
           for what in ("NAME", "EMAIL")},
    }  # fmt: skip
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "repository"
    (folder / "src").mkdir(parents=True)
    git(folder, "init", "-q", "-b", "main")
    (folder / "src" / "words.py").write_text(FUNCTION)
    (folder / "LICENSE").write_text(
        "Permission is hereby granted, free of charge, to any person obtaining a copy of this\n"
    )
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    (folder / "src" / "more.py").write_text(FUNCTION.replace("count", "tally"))
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "two")
    return folder


def names(found):
    return [row.entry_point for row in found.rows]


@needs_git
def test_a_checkout_gives_its_tracked_files_its_commit_and_its_licence(checkout):
    (checkout / "scratch.py").write_text(FUNCTION.replace("count", "scratch"))
    found = mine(checkout)
    assert names(found) == ["tally", "count"]
    assert found.origin["revision"] == git(checkout, "rev-parse", "HEAD")
    assert found.origin["is_dirty"] is False and found.origin["notices"] == []
    assert found.origin["licence"] == "MIT"
    everything = mine(checkout, code=CodeSection(tracked_only=False))
    assert set(names(everything)) == {"tally", "count", "scratch"}


@needs_git
def test_a_folder_of_a_checkout_counts_as_one(checkout):
    found = mine(checkout / "src")
    assert [row.source.partition(":")[0] for row in found.rows] == ["more.py", "words.py"]
    assert found.origin["revision"] == git(checkout, "rev-parse", "HEAD")
    assert found.origin["is_dirty"] is False


@needs_git
@pytest.mark.parametrize("change", ["edited", "staged", "deleted"])
def test_a_checkout_that_differs_from_its_commit_says_so(checkout, change):
    if change == "edited":
        (checkout / "src" / "words.py").write_text(FUNCTION.replace("found", "seen"))
    elif change == "staged":
        (checkout / "src" / "new.py").write_text(FUNCTION.replace("count", "new"))
        git(checkout, "add", ".")
    else:
        (checkout / "src" / "words.py").unlink()
    found = mine(checkout)
    assert found.origin["is_dirty"] is True and found.origin["n_dirty_files"] == 1
    assert "differs from its commit" in found.origin["notices"][0]
    assert ("seen" in found.rows[-1].output) == (change == "edited")


@needs_git
@pytest.mark.parametrize("form", ["@", "revision"])
def test_another_commit_is_read_without_touching_the_checkout(checkout, form):
    (checkout / "src" / "words.py").write_text("raise SystemExit\n")
    first = git(checkout, "rev-parse", "HEAD~1")
    found = mine(f"{checkout}@HEAD~1") if form == "@" else mine(checkout, revision=first[:10])
    assert names(found) == ["count"]
    assert found.rows[0].source.startswith("src/words.py:1@")
    assert found.origin["revision"] == first and found.origin["is_dirty"] is False
    assert found.origin["licence"] == "MIT"
    assert (checkout / "src" / "words.py").read_text() == "raise SystemExit\n"


@needs_git
@pytest.mark.parametrize("revision", ["nonsense", "--output=/tmp/x", "HEAD~9"])
def test_a_revision_that_is_not_there_is_refused(checkout, revision):
    with pytest.raises(DataError) as caught:
        mine(f"{checkout}@{revision}")
    assert "no such revision" in caught.value.fault


@needs_git
def test_two_revisions_are_refused(checkout):
    with pytest.raises(DataError) as caught:
        mine(f"{checkout}@main", revision="HEAD~1")
    assert "two revisions" in caught.value.fault


@needs_git
def test_nothing_that_a_repository_configures_is_run(checkout, tmp_path):
    trap = tmp_path / "trap"
    script = tmp_path / "run.sh"
    script.write_text(f"#!/bin/sh\ntouch {trap}\ncat\n")
    script.chmod(0o755)
    git(checkout, "config", "core.fsmonitor", str(script))
    git(checkout, "config", "filter.x.clean", str(script))
    git(checkout, "config", "filter.x.smudge", str(script))
    (checkout / ".gitattributes").write_text("*.py filter=x\n")
    (checkout / "src" / "words.py").write_text(FUNCTION + "# more\n")
    found = mine(checkout)
    mine(f"{checkout}@HEAD")
    assert found.origin["is_dirty"] is True
    assert not trap.exists()
    git(checkout, "status")
    assert trap.exists(), "the trap must work where git is asked carelessly"


@needs_git
def test_a_tracked_link_out_of_the_checkout_is_not_followed(checkout, tmp_path):
    (tmp_path / "outside.py").write_text(FUNCTION.replace("count", "outside"))
    (checkout / "link.py").symlink_to(tmp_path / "outside.py")
    git(checkout, "add", ".")
    git(checkout, "commit", "-q", "-m", "link")
    shutil.rmtree(checkout / "src")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "words.py").write_text(FUNCTION.replace("count", "elsewhere"))
    (checkout / "src").symlink_to(tmp_path / "src")
    (checkout / "kept.py").write_text(FUNCTION)
    git(checkout, "add", "kept.py")
    assert names(mine(checkout)) == ["count"]
    assert names(mine(f"{checkout}@HEAD")) == ["tally", "count"]


def test_without_git_the_folder_is_walked_and_a_commit_cannot_be_had(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    (tmp_path / "words.py").write_text(FUNCTION)
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    found = mine(tmp_path, code=CodeSection(unit_tests=False))
    assert names(found) == ["count"]
    assert "git could not be asked" in found.origin["notices"][0]
    with pytest.raises(EnvironmentFault):
        mine(f"{tmp_path}@main")


# -- licences -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ({"pyproject.toml": '[project]\nlicense = "BSD-3-Clause"\n'}, "BSD-3-Clause"),
        ({"pyproject.toml": '[project]\nlicense = {text = "ISC"}\n'}, "ISC"),
        (
            {"pyproject.toml": "[project]\nclassifiers = "
             '["License :: OSI Approved :: MIT License"]\n'},
            "MIT License",
        ),
        ({"pyproject.toml": "not [ toml"}, None),
        ({"setup.cfg": "[metadata]\nlicense = MPL-2.0\n"}, "MPL-2.0"),
        ({"x.dist-info/METADATA": METADATA}, "MIT"),
        ({"LICENSE": "Apache License\n   Version 2.0, January 2004\n"}, "Apache-2.0"),
        ({"LICENSE": "GNU GENERAL PUBLIC LICENSE\n Version 3, 29 June 2007\n"}, "GPL-3.0"),
        ({"COPYING": "Do what you like.\n"}, "see COPYING"),
        ({}, None),
    ],
)  # fmt: skip
def test_the_licence_is_named_where_it_is_said(texts, expected):
    assert licence_of(texts) == expected


def test_the_licences_of_files_are_counted(tmp_path):
    (tmp_path / "words.py").write_text(f"# SPDX-License-Identifier: MIT\n{FUNCTION}")
    assert mine(tmp_path).origin["licences_of_files"] == {"MIT": 1}


def test_real_licence_texts_are_recognised():
    import importlib.metadata

    for package, expected in (("numpy", "BSD-3-Clause"), ("pydantic", "MIT")):
        files = importlib.metadata.files(package) or []
        texts = [item for item in files if item.name in {"LICENSE.txt", "LICENSE"}]
        if texts:
            assert recognised(texts[0].read_text(encoding="utf-8")) == expected
