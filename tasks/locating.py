"""Which source a task's data is read from, and where it lies."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.backbone import hub
from bench.errors import DataError, SettingsError, one_line
from tasks.sources import LIST, GeneratedSource, Source, files_of, listed_sizes, missing_shards

if TYPE_CHECKING:
    from bench.settings import DataSettings
    from tasks.base import Task

SAMPLES = Path(__file__).parent / "samples"
MIRROR_VARIABLE = "PARSIMONY_DATA"


def resolve(settings: DataSettings, task: Task, before_download: Callable[[], None] | None = None) -> Source:
    """The data source that the settings name; `auto` takes the first of mirror, hub cache, hub, sample.

    `before_download` is called before something is fetched from the hub, and may raise.
    """
    root = settings.root or os.environ.get(MIRROR_VARIABLE)
    if settings.source == "mirror" or (settings.source == "auto" and root):
        return _mirror(root, task)
    if settings.source == "sample":
        return _sample(task, "asked for")
    if settings.source == "hub":
        return _hub(task, "asked for", before_download)
    cached = _cached(task)
    if cached is not None:
        return cached
    if hub.is_reachable():
        return _hub(task, "no mirror is set and the hub can be reached", before_download)
    return _sample(task, "no mirror is set, the cache does not hold all files and the hub cannot be reached")


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
    parts = {folder: task.local_splits(folder)}
    others = [folder.parent / config for config in task.configs[1:]]
    parts |= {other: ("*",) for other in others if other.is_dir()}
    for part, splits in parts.items():
        _require_shards(kind, part, splits)
    hashes = [content_hash(part, splits) for part, splits in parts.items()]
    revision = hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    return Source(kind, folder, revision, reason)


def _require_shards(kind: str, folder: Path, splits: Sequence[str]) -> None:
    """Raise DataError if the names of a split's files count others that are not there."""
    missing = missing_shards(file for split in splits for file in files_of(folder, split))
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"{kind} data is incomplete: {folder} lacks {missing[0]}.parquet{others}.")


def content_hash(folder: Path, splits: Sequence[str]) -> str:
    """SHA-256 over names and bytes of the files of `splits`, and over the sizes of the images that a list names."""
    found = sorted(file for split in splits for file in files_of(folder, split))
    sizes = (str(listed_sizes(file)) if file.suffix == LIST else "" for file in found)
    return _hash_of(tuple((file, text, file.stat().st_mtime_ns) for file, text in zip(found, sizes, strict=True)))


@functools.lru_cache(maxsize=64)
def _hash_of(files: tuple[tuple[Path, str, int], ...]) -> str:
    """Of each file the path, the sizes of the images that it lists, and when it was changed, in nanoseconds."""
    digest = hashlib.sha256()
    for file, sizes, _ in files:
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
        digest.update(sizes.encode())
    return digest.hexdigest()


def _cached(task: Task) -> Source | None:
    """The hub's files of the task's revision where the local hub cache holds all of them.

    A branch is what the cache has last seen of it; the source's revision is the commit.
    """
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE) / f"datasets--{task.repository.replace('/', '--')}"
    revision = task.revision or constants.DEFAULT_REVISION
    reference = root / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = root / "snapshots" / commit / task.config
    source = Source("hub", folder, commit, "the hub's files are in the local cache")
    found = [files_of(folder, split) for split in task.source_splits]
    found += [files_of(source.of(config).folder, "*") for config in task.configs[1:]]
    return source if all(files and not missing_shards(files) for files in found) else None


def _hub(task: Task, reason: str, before_download: Callable[[], None] | None) -> Source:
    """Download the task's parquet files that the cache lacks; the source's revision is the commit."""
    cached = _cached(task)
    if cached is not None:
        return cached
    if not hub.is_reachable():
        raise DataError(
            f"data=hub, but the hub cannot be reached and {task.repository} ({', '.join(task.configs)}) is not, or not "
            "as a whole, in the local cache; use data.root=FOLDER for a mirror or data=sample."
        )
    if before_download is not None:
        before_download()
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
    return Source("hub", Path(root) / task.config, Path(root).name, reason)
