"""Where task data is read from: a mirror folder, the hub (or its cache), or the built-in samples.

All three are the same layout, the hub's: `<root>/<repository>/<config>/<split>-*.parquet`. Which one was used, and the
revision or content hash of the files, is part of a run's identity.
"""

from __future__ import annotations

import functools
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
LIST = ".txt"


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
        return any(files_of(self.folder, split))

    def count(self, split: str) -> int:
        """Rows of a split; 0 where there is none."""
        import pyarrow.parquet as pq

        files = files_of(self.folder, split)
        if any(file.suffix == LIST for file in files):
            return self.read(split).num_rows
        return sum(pq.read_metadata(file).num_rows for file in files)

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one split, all columns or some. Raises DataError if it is missing, unreadable or empty."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = files_of(self.folder, split)
        if not files:
            raise DataError(f"{self.folder} has no parquet file of the split '{split}' ({split}-*.parquet).")
        if files[0].suffix == LIST:
            return _listed(files[0])
        try:
            table = pa.concat_tables([pq.read_table(file, columns=columns) for file in files])
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{files[0].parent}/{split}-*.parquet cannot be read: {one_line(error)[:200]}") from error
        if table.num_rows == 0:
            raise DataError(f"The split '{split}' in {self.folder} has no rows.")
        return table


class GeneratedSource(Source):
    """Images that are drawn when they are asked for, in the schema of the hub; `folder` names the generator."""

    def of(self, config: str) -> Source:
        """There is one config."""
        return self

    def has(self, split: str) -> bool:
        """Whether this split is generated."""
        from tasks.generators.tables import ROWS

        return split in ROWS[self.folder.name]

    def count(self, split: str) -> int:
        """Rows of a split; 0 where there is none."""
        from tasks.generators.tables import ROWS

        return ROWS[self.folder.name].get(split, 0)

    def read(self, split: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one split; images are drawn once per process."""
        return _generated(self.folder.name, split)


@functools.lru_cache(maxsize=4)
def _generated(name: str, split: str) -> pa.Table:
    from tasks.generators.tables import table

    return table(name, split)


def files_of(folder: Path, split: str) -> list[Path]:
    """The files of a split: parquet as on the hub, or a list of image files ("path label" in every line)."""
    listed = folder / f"{split}{LIST}"
    return sorted(folder.glob(f"{split}-*.parquet")) or ([listed] if listed.is_file() else [])


def _listed(file: Path) -> pa.Table:
    """A list of image files as a table of paths and labels. Raises DataError for a line that is neither."""
    import pyarrow as pa

    images, labels = [], []
    for line in filter(None, map(str.strip, file.read_text("utf-8").splitlines())):
        name, _, label = line.rpartition(" ")
        image = (file.parent / name).resolve()
        if not label.isdigit() or not image.is_relative_to(file.parent.resolve()):
            raise DataError(f"{file}: the line '{line[:100]}' is no relative image path and a label.")
        images.append({"bytes": None, "path": str(image)})
        labels.append(int(label))
    if not images:
        raise DataError(f"{file} lists no images.")
    stored = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    return pa.table({"image": pa.array(images, stored), "label": labels})


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
