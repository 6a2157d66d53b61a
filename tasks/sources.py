"""Where task data is read from: a mirror folder, the hub (or its cache), or the built-in samples.

All three are the same layout, the hub's: `<root>/<repository>/<config>/<split>-*.parquet`. Which one was used, and the
revision or content hash of the files, is part of a run's identity.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import hub
from bench.errors import DataError, SettingsError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.settings import DataSettings
    from tasks.base import Task

SAMPLES = Path(__file__).parent / "samples"
MIRROR_VARIABLE = "PARSIMONY_DATA"
TRAIN_SPLIT = "train"


@dataclass(frozen=True)
class Source:
    """A folder of parquet files for one task.

    `kind` is "mirror", "hub" or "sample"; `revision` the hub's commit, or the SHA-256 of the files' contents;
    `reason` says why this source was taken where the choice was automatic.
    """

    kind: str
    folder: Path
    revision: str
    reason: str

    def of(self, config: str) -> Source:
        """The same source's data of another config of the repository."""
        return replace(self, folder=self.folder.parent / config)

    def has(self, split: str) -> bool:
        """Whether there are files of a split."""
        return any(self.folder.glob(f"{split}-*.parquet"))

    def read(self, split: str) -> pa.Table:
        """All rows of one split. Raises DataError if it is missing, unreadable or empty."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = sorted(self.folder.glob(f"{split}-*.parquet"))
        if not files:
            raise DataError(f"{self.folder} has no parquet file of the split '{split}' ({split}-*.parquet).")
        try:
            table = pa.concat_tables([pq.read_table(file) for file in files])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{files[0].parent}/{split}-*.parquet cannot be read: {one_line(error)[:200]}") from error
        if table.num_rows == 0:
            raise DataError(f"The split '{split}' in {self.folder} has no rows.")
        return table


def resolve(settings: DataSettings, task: Task) -> Source:
    """The data source that the settings name; `auto` takes the first of mirror, hub cache, hub, sample."""
    root = settings.root or os.environ.get(MIRROR_VARIABLE)
    if settings.source == "mirror" or (settings.source == "auto" and root):
        return _mirror(root, task)
    if settings.source == "sample":
        return _local("sample", SAMPLES, task, "asked for")
    if settings.source == "hub":
        return _hub(task, "asked for")
    cached = _cached(task)
    if cached is not None:
        return cached
    if hub.is_reachable():
        return _hub(task, "no mirror is set and the hub can be reached")
    return _local("sample", SAMPLES, task, "no mirror is set, nothing is cached and the hub cannot be reached")


def _mirror(root: str | None, task: Task) -> Source:
    if not root:
        raise SettingsError(f"data=mirror needs data.root=FOLDER (or {MIRROR_VARIABLE} in the environment).")
    if not Path(root).is_dir():
        raise SettingsError(f"data.root={root} is no folder.")
    return _local("mirror", Path(root), task, f"data.root={root}")


def _local(kind: str, root: Path, task: Task, reason: str) -> Source:
    folder = root / task.repository / task.config
    if not folder.is_dir():
        raise DataError(f"{kind} data of {task.repository} ({task.config}) is missing: {folder} does not exist.")
    return Source(kind, folder, content_hash(folder, [TRAIN_SPLIT, *task.reported_splits]), reason)


def content_hash(folder: Path, splits: Sequence[str]) -> str:
    """SHA-256 over names and bytes of the parquet files of `splits`."""
    digest = hashlib.sha256()
    for file in sorted(file for split in splits for file in folder.glob(f"{split}-*.parquet")):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _cached(task: Task) -> Source | None:
    """The hub's files of the pinned revision where they are in the local hub cache already."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"datasets--{task.repository.replace('/', '--')}" / "snapshots"
    folder = folder / str(task.revision) / task.config
    splits = [TRAIN_SPLIT, *task.reported_splits]
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
