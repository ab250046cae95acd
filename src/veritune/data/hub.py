"""Read rows from a data set of the Hugging Face Hub; code that comes with one never runs.

The revision is resolved to a commit first, and that commit is what is loaded: the library
alone would fall back to whatever version its cache holds when a revision cannot be found.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from veritune.config import DataSection
from veritune.data.columns import rows_from, wanted_columns
from veritune.data.raw_rows import RawRows
from veritune.errors import DataError, EnvironmentFault
from veritune.progress import Reporter

_GET_THE_FILE = (
    "download the data where there is a network and name the file as data.source,"
    " or try again once the hub can be reached"
)
_ASKING_SECONDS = 5.0


class _Resolved(NamedTuple):
    commit: str | None
    licence: str | None
    notices: list[str]


def read_hub(section: DataSection, reporter: Reporter) -> RawRows:
    """Load ``owner/name`` at its revision and read one of its splits.

    Raises:
        DataError: the data set, its revision, split or columns do not exist, or access to it
            is not granted.
        EnvironmentFault: the hub cannot be reached.
    """
    resolved = _resolve(section)
    with _loading_faults(section):
        dataset = _load(section, resolved.commit)
        commit = _commit_of(dataset) or resolved.commit
        if resolved.commit is None and section.revision not in (None, commit):
            raise _unreachable(section, "the pinned revision is not in the local cache")
        if section.max_rows is not None:
            dataset = dataset.select(range(min(section.max_rows, len(dataset))))
        known = list(dataset.column_names)
        wanted = wanted_columns(section.columns, known)
        dataset = dataset.select_columns([name for name in known if name in wanted])
        fingerprint = str(dataset._fingerprint)
        with reporter.task(f"read {section.source}", len(dataset)) as task:
            table = rows_from(
                dataset,
                section.columns,
                name=section.source,
                max_rows=section.max_rows,
                max_characters=section.max_row_characters,
                task=task,
                known_columns=known,
            )
    return RawRows(
        table.rows,
        {
            "kind": "hub",
            "name": section.source,
            "revision": commit,
            "hub_split": section.hub_split,
            "sha256": None,
            "fingerprint": fingerprint,
            "licence": resolved.licence,
            "columns": table.columns,
            "rows_read": len(table.rows),
            "left_out": table.left_out,
            "notices": [*resolved.notices, *table.notices],
        },
    )


def newest_commit(name: str) -> str | None:
    """The commit that a data set's main branch names now; None where the hub does not say."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    faults = (OSError, HfHubHTTPError, HFValidationError, _transport_fault())
    try:
        return HfApi().dataset_info(name, timeout=_ASKING_SECONDS).sha
    except faults:
        return None


def _resolve(section: DataSection) -> _Resolved:
    """The commit that a revision names; no commit where only the local cache can answer."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().dataset_info(section.source, revision=section.revision)
    except GatedRepoError as error:
        raise _no_access(section) from error
    except RevisionNotFoundError as error:
        raise DataError(
            f"the data set {section.source} has no revision {section.revision!r}",
            received=section.revision,
            accepted="a commit hash, branch or tag of the data set, or null for its newest",
            next_step=f"look at https://huggingface.co/datasets/{section.source}/commits/main",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _not_found(section) from error
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise _no_access(section) from error
        raise _unreachable(section, f"HTTP status {error.response.status_code}") from error
    except (OSError, _transport_fault()) as error:
        notice = f"read from the local cache: the hub was not reached ({type(error).__name__})"
        return _Resolved(None, None, [notice])
    licence = getattr(info.card_data, "license", None)
    return _Resolved(info.sha, ", ".join(licence) if isinstance(licence, list) else licence, [])


def _load(section: DataSection, commit: str | None) -> Any:
    import datasets

    former = datasets.config.HF_HUB_OFFLINE
    # Where the hub has just not answered, asking it again with retries only costs time.
    datasets.config.HF_HUB_OFFLINE = former or commit is None
    try:
        loaded = datasets.load_dataset(
            section.source, revision=commit or section.revision, split=section.hub_split
        )
    finally:
        datasets.config.HF_HUB_OFFLINE = former
    if not isinstance(loaded, datasets.Dataset):
        raise TypeError(f"expected one split, not {type(loaded).__name__}")
    return loaded


def _commit_of(dataset: Any) -> str | None:
    """The commit that was loaded: ``datasets`` names its cache folder after it."""
    for item in dataset.cache_files:
        folder = Path(item["filename"]).parent.name
        if re.fullmatch(r"[0-9a-f]{40}", folder):
            return folder
    return None


@contextlib.contextmanager
def _loading_faults(section: DataSection) -> Iterator[None]:
    """Turn what ``datasets`` raises into faults with a next step."""
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        yield
    except (ConnectionError, _transport_fault()) as error:
        raise _unreachable(section, type(error).__name__) from error
    except DatasetNotFoundError as error:
        raise (_no_access if "gated" in str(error) else _not_found)(section) from error
    except (DatasetsError, FileNotFoundError, RuntimeError, TypeError, ValueError) as error:
        raise _not_loadable(section, error) from error


def _transport_fault() -> type[BaseException]:
    """The base error of whichever HTTP client this version of huggingface_hub is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    for base in HfHubHTTPError.__bases__:
        if issubclass(base, Exception) and not issubclass(base, OSError):
            return base
    return ConnectionError


def _not_loadable(section: DataSection, error: Exception) -> DataError:
    reason = str(error).strip() or type(error).__name__
    if "Unknown split" in reason:
        return DataError(
            f"the data set {section.source} has no split {section.hub_split!r}",
            received=section.hub_split,
            accepted=reason.partition("Should be one of ")[2].rstrip(".") or "one of its splits",
            next_step="set data.hub_split to one of them",
        )
    return DataError(
        f"the data set {section.source} cannot be loaded",
        received=reason.partition("\n")[0],
        accepted="a data set of data files in one configuration; loading scripts never run",
        next_step="download the data file you need and name it as data.source",
    )


def _not_found(section: DataSection) -> DataError:
    return DataError(
        "there is no such data set on the hub, or it is private; nor is there such a file here",
        received=section.source,
        accepted="the id of a data set you can see, such as owner/name, or an existing file",
        next_step="check the id for typing errors; for a private one log in with `hf auth login`",
    )


def _no_access(section: DataSection) -> DataError:
    return DataError(
        "access to this data set is not granted (it is gated or private)",
        received=section.source,
        accepted="a data set that this account may read",
        next_step=f"accept its terms at https://huggingface.co/datasets/{section.source}"
        " and log in with `hf auth login` (or set HF_TOKEN)",
    )


def _unreachable(section: DataSection, reason: str) -> EnvironmentFault:
    return EnvironmentFault(
        "the Hugging Face Hub cannot be reached, and this data set is not in the local cache",
        received=f"{section.source} ({reason})",
        accepted="a network connection to the hub, or a local file",
        next_step=_GET_THE_FILE,
    )
