"""What the Markdown files tell a user to type exists: verbs, options, keys, files, targets."""

from __future__ import annotations

import functools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from veritune.cli import app
from veritune.config import Recipe
from veritune.config.sweep import SEARCHED
from veritune.errors import RecipeError
from veritune.recipe_file import known_keys, load_recipe, recipe_from

ROOT = Path(__file__).resolve().parents[1]
# The log and the changelog tell what was, not what is.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"] + [
    page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "log.md"
]
KEYS = frozenset(known_keys())
SECTIONS = tuple(
    name for name in Recipe.model_fields if any(k.startswith(f"{name}.") for k in KEYS)
)
_SHELL_ENDS = frozenset({"|", ">", "#", "&&", "&", "2>"})
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_KEY = re.compile(rf"({'|'.join(SECTIONS)})\.[a-z_0-9.]+(?=$|[=: ])")
_SOURCE = re.compile(r"[\w/.-]+\.(?:py|md|yaml|toml)|[a-z_]+/(?:[a-z_]+/)*")
_STAND_INS = frozenset({"key", "a.b"})
_FILES = frozenset({".jsonl", ".json", ".yaml", ".py", ".html", ".parquet"})


def blocks(page: Path) -> list[str]:
    """Code blocks, fenced and indented."""
    text = page.read_text(encoding="utf-8")
    fenced = [match[2] for match in _FENCE.finditer(text)]
    rest = _FENCE.sub("", text)
    indented = [re.sub("^ {4}", "", m[0], flags=re.MULTILINE) for m in _INDENTED.finditer(rest)]
    return [*fenced, *(block for block in indented if block.strip())]


def inline(page: Path) -> list[str]:
    """What stands in backticks outside of blocks."""
    text = _INDENTED.sub("\n", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return [match[1].replace("\n", " ") for match in _INLINE.finditer(text)]


def commands(page: Path) -> Iterator[list[str]]:
    """The words after ``veritune`` of every command line."""
    lines = [line for block in blocks(page) for line in block.splitlines()]
    for line in [*lines, *inline(page)]:
        found = re.search(r"(?:^|\| |/)veritune (.*)", line.strip())
        if found is None or " = " in line:
            continue
        lexer = shlex.shlex(found[1], posix=True, punctuation_chars=False)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if word in _SHELL_ENDS:
                break
            words.append(word)
        yield words


ALL_COMMANDS = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)}")
    for page in PAGES
    for words in commands(page)
]


@functools.cache
def verbs() -> dict[str, Any]:
    """Every verb with its command."""
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def parse(words: list[str]) -> dict[str, Any]:
    """What a command line comes to, by the command's own parser; nothing is run."""
    assert words[0] in verbs(), f"there is no verb {words[0]}"
    if len(words) == 1:
        return {}
    return dict(verbs()[words[0]].make_context(words[0], words[1:]).params)


def test_there_are_commands_to_check() -> None:
    assert len(ALL_COMMANDS) > 30


@pytest.mark.parametrize("words", ALL_COMMANDS)
def test_a_command_in_the_docs_parses_and_its_settings_exist(words: list[str]) -> None:
    if words[0].startswith("-") or words[0].isupper():
        return
    check_overrides(parse(words).get("overrides") or [])


def check_overrides(overrides: list[str]) -> None:
    """Refuse keys and values that a recipe does not take."""
    try:
        recipe_from({}, overrides, where="a recipe of defaults")
    except RecipeError as error:
        pytest.fail(str(error))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_shown_alone_exist(page: Path) -> None:
    """``--set a.b=c`` without a command, in blocks and in running text."""
    texts = [*(line for block in blocks(page) for line in block.splitlines()), *inline(page)]
    for text in texts:
        words = shlex.split(text, comments=True) if text.lstrip().startswith("--set ") else []
        named = [word for word in words if word != "--set"]
        check_overrides([word for word in named if word.partition("=")[0] not in _STAND_INS])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_in_backticks_exist(page: Path) -> None:
    named = {match[0].rstrip(".") for text in inline(page) if (match := _KEY.match(text))}
    named = {key for key in named if Path(key).suffix not in _FILES}
    assert {key for key in named if key not in KEYS and key not in SEARCHED} == set()


def recipe_blocks(page: Path) -> list[str]:
    """Blocks that are parts of a recipe."""
    begins = re.compile(rf"(?:#.*\n)*(?:{'|'.join(Recipe.model_fields)}):")
    return [block for block in blocks(page) if begins.match(block.lstrip())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_parts_of_recipes_are_valid(page: Path, tmp_path: Path) -> None:
    for block in recipe_blocks(page):
        (tmp_path / "recipe.yaml").write_text(block, encoding="utf-8")
        load_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in target or (page.parent / target).exists(), target
    for name in re.findall(r"`((?:docs|recipes|benchmarks|tests|tools|src)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name


def test_every_module_named_in_contributing_and_design_exists() -> None:
    for page in (ROOT / "CONTRIBUTING.md", ROOT / "docs/design.md", ROOT / "docs/speed.md"):
        for name in inline(page):
            if not _SOURCE.fullmatch(name) or name.endswith(("/", ".md", ".yaml", ".toml")):
                continue
            places = [ROOT / name, ROOT / "src/veritune" / name]
            beside = list((ROOT / "src/veritune").glob(f"*/{name}"))
            assert beside or any(place.exists() for place in places), f"{page.name}: {name}"


def test_make_targets_and_extras_in_the_docs_exist() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^    |`)make ([a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= targets
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {
        extra.strip()
        for found in re.findall(r"veritune\[([^\]]+)\]", text)
        for extra in found.split(",")
    }
    assert extras
    assert extras <= set(project["optional-dependencies"])


def test_every_verb_and_every_recipe_is_in_the_guide_or_the_readme() -> None:
    text = (ROOT / "README.md").read_text() + (ROOT / "docs/guide.md").read_text()
    assert {verb for verb in verbs() if not re.search(rf"veritune {verb}\b", text)} == set()
    recipes = {path.name for path in (ROOT / "recipes").glob("*.yaml")}
    assert {name for name in recipes if name not in text} == set()


def test_every_part_of_the_recipe_that_a_sweep_can_try_is_in_its_page() -> None:
    text = (ROOT / "docs/sweep.md").read_text()
    assert {key for key in SEARCHED if f"`{key}`" not in text} == set()


def test_help_of_every_verb_has_an_example_that_parses() -> None:
    for verb, command in verbs().items():
        example = (command.epilog or "").removeprefix("Example: veritune ").partition(" > ")[0]
        words = shlex.split(example)
        assert words[:1] == [verb], f"{verb} has no example"
        check_overrides(parse(words).get("overrides") or [])
