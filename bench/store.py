"""Records on disk: written whole or not at all, found again by run id.

A run writes into a working folder beside its final place and is renamed there when it ends. What stood there before (a
failed attempt, or a finished run that was repeated on request) is kept beside it under `<run id>~<n>`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import StorageError
from bench.record import RunRecord
from bench.schema import RecordError, read

RECORD_FILE = "record.json"
MINIMUM_FREE_BYTES = 64 * 2**20


class Store:
    """The records under one results folder."""

    def __init__(self, results: Path) -> None:
        self.root = results / "runs"

    def folder(self, task: str, model: str, method: str, run_id: str) -> Path:
        """Where a run's record and files live. Raises StorageError for a name that leaves the results folder."""
        folder = self.root / task / model / method / run_id
        if not folder.resolve().is_relative_to(self.root.resolve()):
            raise StorageError(f"{task}/{model}/{method} would leave the results folder {self.root}.")
        return folder

    def finished(self, folder: Path) -> RunRecord | None:
        """The complete record in `folder`, if there is one."""
        with contextlib.suppress(OSError, ValueError):
            record = read(json.loads((folder / RECORD_FILE).read_text()))
            return record if record.status == "complete" else None
        return None

    def check_writable(self) -> None:
        """Raise StorageError if records cannot be written or the disk is almost full."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise StorageError(
                f"The results folder {self.root} cannot be written: {error.strerror or error}."
            ) from error
        if free < MINIMUM_FREE_BYTES:
            raise StorageError(
                f"The disk of the results folder {self.root} has {free / 2**20:.0f} MiB left; "
                f"{MINIMUM_FREE_BYTES // 2**20} MiB are needed."
            )

    @contextlib.contextmanager
    def working_folder(self, folder: Path) -> Iterator[Path]:
        """A folder to write into that takes its final name when the block ends, also when it ends with an error."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        working = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        working.chmod(0o755)
        try:
            yield working
        finally:
            if (working / RECORD_FILE).exists():
                self._set_aside(folder)
                working.rename(folder)
            else:
                shutil.rmtree(working, ignore_errors=True)

    def records(self) -> Iterator[tuple[Path, RunRecord]]:
        """All readable records with their folders, in a stable order; what cannot be read is skipped."""
        for path in sorted(self.root.glob(f"**/{RECORD_FILE}")):
            if path.parent.name.startswith(".") or "~" in path.parent.name:
                continue
            with contextlib.suppress(OSError, ValueError, RecordError):
                yield path.parent, read(json.loads(path.read_text()))

    @staticmethod
    def _set_aside(folder: Path) -> None:
        if folder.exists():
            number = 1
            while (kept := folder.with_name(f"{folder.name}~{number}")).exists():
                number += 1
            folder.rename(kept)


def write_json(path: Path, values: Any) -> None:
    """Write values as JSON, flushed to disk before the name appears. NaN is refused."""
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    temporary = path.with_suffix(".partial")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
