"""Read a recipe: YAML plus ``--set`` overrides, every fault reported at once.

Paths that a recipe reads (data, model) are relative to the recipe's own folder; paths
given through ``--set`` and ``output_dir`` are relative to the current folder.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from veritune.config import Recipe
from veritune.errors import RecipeError

_PATH_FIELDS = (
    "data.source",
    "data.validation_source",
    "data.test_source",
    "model.name_or_path",
)
_PATH_LISTS = ("evaluate.adapters",)
_PATH_OR_NAME_LISTS = ("data.contamination.against", "evaluate.benchmarks")
_CODE_PREFIX = "code:"
_DOTTED = "sweep"


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads ``1e-3`` as a number and refuses a key given twice.

    No setting is a date: a revision such as ``2024-05-01`` stays the text it is.
    """


_Loader.yaml_implicit_resolvers = {
    first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _mapping_without_repeats(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if isinstance(key, (list, dict)):
            raise yaml.constructor.ConstructorError(
                None, None, "a key must be a word", key_node.start_mark
            )
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_repeats)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply ``a.b=c`` overrides.

    Raises:
        RecipeError: listing every fault found, each with the nearest right key.
    """
    content = read_yaml(path)
    content = _resolve_paths(content, path.resolve().parent)
    return recipe_from(content, overrides, where=str(path))


def recipe_from(
    content: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "recipe"
) -> Recipe:
    """Build a recipe from a plain mapping and overrides.

    Raises:
        RecipeError: listing every fault found.
    """
    merged: dict[str, Any] = _deep_copy(content)
    faults: list[str] = []
    for override in overrides:
        fault = _apply_override(merged, override)
        if fault:
            faults.append(fault)
    if isinstance(where_to := merged.get("output_dir"), str) and where_to.startswith("~"):
        merged["output_dir"] = str(_without_tilde(where_to))
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        faults += [_describe(item) for item in error.errors(include_url=False)]
        recipe = None
    if faults or recipe is None:
        count = f"{len(faults)} faults" if len(faults) > 1 else "a fault"
        raise RecipeError(
            f"the recipe has {count}:\n" + "\n".join(f"  - {fault}" for fault in faults),
            received=where,
            next_step="correct the keys above; `veritune schema` lists all of them",
        )
    return recipe


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        RecipeError: missing, not UTF-8, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        beside = sorted(item.name for item in path.parent.glob("*.y*ml"))
        near = difflib.get_close_matches(path.name, beside, n=1)
        raise RecipeError(
            "no such recipe",
            received=path,
            accepted="a recipe file (.yaml) or a run directory",
            next_step=f"did you mean {path.parent / near[0]}?" if near else "check the path",
        ) from None
    except (IsADirectoryError, PermissionError) as error:
        raise RecipeError(
            f"the recipe cannot be read: {error.strerror}",
            received=path,
            accepted="a recipe file (.yaml) or a run directory (a folder with recipe.yaml)",
            next_step="name the file itself",
        ) from None
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"the recipe is not UTF-8 text (byte {error.start})",
            received=path,
            accepted="YAML in UTF-8",
            next_step="save it as UTF-8",
        ) from None
    return _parse_yaml(text, str(path))


def _parse_yaml(text: str, where: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, Loader=_Loader)  # noqa: S506 - _Loader is a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise RecipeError(
            f"the recipe is not valid YAML{place}: {problem}",
            received=where,
            accepted="YAML: `key: value` lines, sections indented by spaces",
            next_step="correct that line",
        ) from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RecipeError(
            "a recipe is a mapping of sections",
            received=f"{where}: {type(content).__name__}",
            accepted="keys such as model:, data:, lora:, train:",
            next_step="start from recipes/my-data.yaml",
        )
    return content


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that ``load_recipe`` reads back to an equal recipe."""
    return str(yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True, width=100))


def differences(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """The dotted paths where two recipes differ, with both values."""
    left, right = dict(_leaves(old.model_dump())), dict(_leaves(new.model_dump()))
    keys = [*left, *(key for key in right if key not in left)]
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def _leaves(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _apply_override(content: dict[str, Any], override: str) -> str | None:
    name, equals, text = override.partition("=")
    name = name.strip()
    if not equals or not name:
        return f"--set {override}: expected a.b=value"
    try:
        value = yaml.load(text, Loader=_Loader) if text.strip() else text  # noqa: S506
    except (yaml.YAMLError, RecursionError, ValueError):
        value = text
    if isinstance(value, dict) and not text.lstrip().startswith("{"):
        value = text
    if name in (*_PATH_FIELDS, *_PATH_OR_NAME_LISTS):
        value = _resolve_each(value, Path.cwd())
    if name in _PATH_LISTS:
        value = _resolve_all(value, Path.cwd())
    target = content
    *sections, last = name.split(".")
    if sections[:1] == [_DOTTED]:
        # Its keys are dotted themselves: `sweep.lora.r` is the key `lora.r` of `sweep`.
        sections, last = sections[:1], name.partition(".")[2]
    for section in sections:
        inner = target.setdefault(section, {})
        if not isinstance(inner, dict):
            return f"--set {override}: {section} is not a section"
        target = inner
    target[last] = value
    return None


def _describe(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"] if not _is_union_branch(part))
    if item["type"] == "extra_forbidden":
        near = nearest_key(path)
        hint = f"; did you mean {near}?" if near else ""
        return f"{path}: unknown key{hint}"
    message = str(item["msg"]).removeprefix("Value error, ")
    if item["type"] in ("value_error", "missing", "model_type"):
        received = ""
    else:
        received = f", received {item['input']!r}"[:200]
    return f"{path}: {message[:1].lower()}{message[1:]}{received}"


def _is_union_branch(part: object) -> bool:
    return isinstance(part, str) and (
        part in ("int", "float", "str", "list[str]", "none") or part.startswith("literal[")
    )


def nearest_key(path: str) -> str | None:
    """The known dotted key most like ``path``, by whole path or by its last word."""
    known = list(known_keys())
    near = difflib.get_close_matches(path, known, n=1, cutoff=0.75)
    if near:
        return near[0]
    last = path.rpartition(".")[2]
    words: dict[str, str] = {}
    for key in known:
        words.setdefault(key.rpartition(".")[2], key)
    aliases = {
        "lr": "train.learning_rate",
        "rank": "lora.r",
        "lora_alpha": "lora.alpha",
        "lora_dropout": "lora.dropout",
        "num_epochs": "train.epochs",
        "num_train_epochs": "train.epochs",
        "per_device_train_batch_size": "train.batch_size",
        "gradient_accumulation_steps": "train.accumulation_steps",
        "dataset": "data.source",
        "max_length": "data.max_pair_tokens",
        "model_name_or_path": "model.name_or_path",
        "lr_scheduler_type": "train.schedule",
    }
    if last in aliases:
        return aliases[last]
    near = difflib.get_close_matches(last, list(words), n=1, cutoff=0.6)
    return words[near[0]] if near else None


def known_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe, sections included."""
    for name, info in model.model_fields.items():
        yield f"{prefix}{name}"
        inner = _section_of(info.annotation)
        if inner is not None:
            yield from known_keys(inner, f"{prefix}{name}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((s for a in typing.get_args(annotation) if (s := _section_of(a))), None)


def _resolve_paths(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    content = _deep_copy(content)
    for field in _PATH_FIELDS:
        section, _, key = field.partition(".")
        inner: Any = content.get(section)
        if isinstance(inner, dict) and key in inner:
            inner[key] = _resolve_each(inner[key], folder)
    for field in _PATH_LISTS:
        section, _, key = field.partition(".")
        inner = content.get(section)
        if isinstance(inner, dict) and key in inner:
            inner[key] = _resolve_all(inner[key], folder)
    for field in _PATH_OR_NAME_LISTS:
        *sections, key = field.split(".")
        inner = content
        for section in sections:
            inner = inner.get(section) if isinstance(inner, dict) else None
        if isinstance(inner, dict) and key in inner:
            inner[key] = _resolve_each(inner[key], folder)
    return content


def _resolve_each(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_resolve_each(item, folder) for item in value]
    return _resolve_path(value, folder) if isinstance(value, str) else value


def _resolve_all(value: Any, folder: Path) -> Any:
    """A list of paths made absolute; anything else is left for validation to refuse."""
    if not isinstance(value, list):
        return value
    return [
        str((folder / _without_tilde(item)).absolute()) if isinstance(item, str) and item else item
        for item in value
    ]


def _resolve_path(value: str, folder: Path) -> str:
    """An absolute path if ``value`` names something on disk or can only be a path."""
    prefix, rest = (_CODE_PREFIX, value[5:]) if value.startswith(_CODE_PREFIX) else ("", value)
    if not rest or "://" in rest or rest.startswith("bundled:") or "\0" in rest:
        return value
    if prefix and rest == "stdlib":
        return value
    path = _without_tilde(rest)
    candidate = path if path.is_absolute() else folder / path
    looks_local = bool(prefix) or path.is_absolute() or rest.startswith((".", "~"))
    try:
        exists = candidate.exists()
    except OSError:
        return value
    return prefix + str(candidate.resolve()) if exists or looks_local else value


def _without_tilde(text: str) -> Path:
    """A path from the user's home if it begins so; one of no user's home is a name like others."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def _deep_copy(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _deep_copy(value) if isinstance(value, Mapping) else value
        for key, value in content.items()
    }
