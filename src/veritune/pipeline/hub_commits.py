"""Which commits of the hub a run read, and what to do where a branch has moved since.

A recipe without a pinned revision means "the newest".  A run takes that once: its data are kept as
they were read, and a model that has moved between two stages is refused, for its adapter would be
judged on other weights than it was trained on.
"""

from __future__ import annotations

from typing import Any

from veritune.config import DataSection, ModelSection
from veritune.data.hub import newest_commit
from veritune.data.source_kind import kind_of_source
from veritune.errors import RunDirectoryError
from veritune.model.load import LoadedModel, commit_in_cache
from veritune.run_dir import RunDirectory

ENTRY = "hub_commits"


def record_commits(run: RunDirectory, model: ModelSection, origin: dict[str, Any]) -> list[str]:
    """Keep in the manifest what the preparation read; notices of what has moved since the last.

    Args:
        origin: of the data card.
    """
    before = run.manifest().get(ENTRY, {})
    found: dict[str, dict[str, str]] = {}
    if origin.get("kind") == "hub" and origin.get("revision"):
        found["data"] = {"name": str(origin["name"]), "commit": str(origin["revision"])}
    commit = commit_in_cache(model) if len(model.names) == 1 else None
    if commit:
        found["model"] = {"name": model.name, "commit": commit}
    run.update_manifest(**{ENTRY: found})
    return [
        f"{what} {now['name']} has moved on the hub from {old['commit']} to {now['commit']}"
        " since it was last prepared here; the newer one was read"
        for what, now in found.items()
        if (old := before.get(what)) and old["name"] == now["name"] and old != now
    ]


def moved_data(run: RunDirectory, section: DataSection) -> str:
    """A notice where the hub has newer data than a run keeps; empty if not, or if it is silent."""
    known = run.manifest().get(ENTRY, {}).get("data")
    if not known or section.revision is not None or kind_of_source(section.source) != "hub":
        return ""
    newest = newest_commit(section.source)
    if known["name"] != section.source or newest in (None, known["commit"]):
        return ""
    return (
        f"the data set {section.source} has moved on the hub from {known['commit']} to {newest}"
        " since this run was prepared; the run keeps what it read"
    )


def refuse_moved_model(run: RunDirectory, loaded: LoadedModel) -> None:
    """Stop where the base model is no longer the one that the run began with.

    Raises:
        RunDirectoryError: naming both commits.
    """
    known = run.manifest().get(ENTRY, {}).get("model")
    if not known or loaded.revision is None or known["name"] != loaded.reference.name:
        return
    if known["commit"] != loaded.revision:
        raise RunDirectoryError(
            "the base model has moved on the hub between two stages of this run",
            received=f"{known['name']}: {known['commit']} when it was prepared,"
            f" {loaded.revision} now",
            accepted="the commit that the run began with",
            next_step="begin a new output_dir with the revision pinned:"
            f" --set model.revision={known['commit']}",
        )
