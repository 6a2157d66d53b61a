"""Which source a task's data is read from, and where it lies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import hub
from bench.errors import DataError, SettingsError, one_line
from tasks.sources import LIST, GeneratedSource, Source, files_of

if TYPE_CHECKING:
    from bench.settings import DataSettings
    from tasks.base import Task

SAMPLES = Path(__file__).parent / "samples"
MIRROR_VARIABLE = "PARSIMONY_DATA"


def resolve(settings: DataSettings, task: Task) -> Source:
    """The data source that the settings name; `auto` takes the first of mirror, hub cache, hub, sample."""
    root = settings.root or os.environ.get(MIRROR_VARIABLE)
    if settings.source == "mirror" or (settings.source == "auto" and root):
        return _mirror(root, task)
    if settings.source == "sample":
        return _sample(task, "asked for")
    if settings.source == "hub":
        return _hub(task, "asked for")
    cached = _cached(task)
    if cached is not None:
        return cached
    if hub.is_reachable():
        return _hub(task, "no mirror is set and the hub can be reached")
    return _sample(task, "no mirror is set, nothing is cached and the hub cannot be reached")


def _sample(task: Task, reason: str) -> Source:
    """The built-in sample: drawn for image tasks, files otherwise."""
    generator = getattr(task, "generated", None)
    if generator is None:
        return _local("sample", SAMPLES, task, reason)
    from tasks.generators.tables import VERSION

    return GeneratedSource("sample", Path(generator), f"generated {VERSION}", reason)


def _mirror(root: str | None, task: Task) -> Source:
    if not root:
        raise SettingsError(f"data=mirror needs data.root=FOLDER (or {MIRROR_VARIABLE} in the environment).")
    if not Path(root).is_dir():
        raise SettingsError(f"data.root={root} is no folder.")
    return _local("mirror", Path(root), task, f"data.root={root}")


def _local(kind: str, root: Path, task: Task, reason: str) -> Source:
    folders = [root / folder for folder in task.local_folders]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        where = " nor ".join(map(str, folders))
        raise DataError(f"{kind} data of {task.repository} ({task.config}) is missing: {where} does not exist.")
    found = Source(kind, folder, content_hash(folder, task.source_splits), reason)
    extra = [config for config in task.configs[1:] if found.of(config).folder.is_dir()]
    if not extra:
        return found
    hashes = [found.revision, *(content_hash(found.of(config).folder, ("*",)) for config in extra)]
    return replace(found, revision=hashlib.sha256(" ".join(hashes).encode()).hexdigest())


def content_hash(folder: Path, splits: Sequence[str]) -> str:
    """SHA-256 over names and bytes of the files of `splits`, or of all lists of images where the folder has lists."""
    digest = hashlib.sha256()
    lists = sorted(folder.glob(f"*{LIST}"))
    for file in lists or sorted(file for split in splits for file in files_of(folder, split)):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _cached(task: Task) -> Source | None:
    """The hub's files of the pinned revision where they are in the local hub cache already."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{task.repository.replace('/', '--')}" / "snapshots"
    folder = folder / str(task.revision) / task.config
    splits = task.source_splits
    if not all(list(folder.glob(f"{split}-*.parquet")) for split in splits):
        return None
    return Source("hub", folder, str(task.revision), "the hub's files are in the local cache")


def _hub(task: Task, reason: str) -> Source:
    """Download the task's parquet files at the pinned revision, or find them in the cache."""
    cached = _cached(task)
    if cached is not None:
        return cached
    if not hub.is_reachable():
        raise DataError(
            f"data=hub, but the hub cannot be reached and {task.repository} ({task.config}) is not in the local cache; "
            "use data.root=FOLDER for a mirror or data=sample."
        )
    from huggingface_hub import snapshot_download

    try:
        root = snapshot_download(
            task.repository,
            repo_type="dataset",
            revision=task.revision,
            allow_patterns=[f"{config}/*.parquet" for config in task.configs],
        )
    except Exception as error:
        raise DataError(f"{task.repository} cannot be fetched from the hub: {one_line(error)[:300]}") from error
    return Source("hub", Path(root) / task.config, str(task.revision), reason)
