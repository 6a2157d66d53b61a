"""Records on disk, found again by run id. How they get there says `bench/records/workspace.py`."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from bench.errors import StorageError
from bench.records.record import RunRecord
from bench.records.schema import decode

RECORD_FILE, PREDICTIONS_FILE, HISTORY_FILE = "record.json", "predictions.parquet", "history.jsonl"
ADAPTER_FOLDER, TRACEBACK_FILE = "adapter", "traceback.txt"
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
        record = self.ended(folder)
        return record if record is not None and record.status == "complete" else None

    def ended(self, folder: Path) -> RunRecord | None:
        """The record in `folder`, however the run ended, if there is a readable one."""
        with contextlib.suppress(OSError, ValueError):
            return decode((folder / RECORD_FILE).read_bytes())
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
