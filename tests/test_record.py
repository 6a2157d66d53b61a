"""Records and their store: a stable schema, whole files only, nothing overwritten."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from bench.errors import StorageError
from bench.files import write_json
from bench.leaderboard.index import Index
from bench.records.record import SCHEMA_VERSION, RunRecord
from bench.records.schema import RecordError, decode, plain, read, validate
from bench.records.store import RECORD_FILE, Store
from bench.records.workspace import claimed

STABLE_COLUMNS = [
    "schema_version",
    "run_id",
    "status",
    "method",
    "model",
    "task",
    "seed",
    "budget",
    "data_source",
    "metric",
    "score",
    "trainable_parameters",
    "trainable_percent",
    "train_samples_per_second",
    "train_tokens_per_second",
    "train_seconds",
    "peak_memory_bytes",
    "precision",
    "device",
]


def record(**changes: object) -> RunRecord:
    complete = RunRecord(
        run_id="0123456789abcdef",
        method="lora",
        model="minilm",
        task="glue/sst2",
        seed=0,
        budget="quick",
        data_source="sample",
        precision="fp32",
        device="cpu",
        status="complete",
        metric="accuracy",
        score=80.5,
        metrics={"accuracy": 0.805},
        trainable_parameters=73728,
        trainable_percent=0.32,
        train_samples_per_second=100.0,
        train_tokens_per_second=1500.0,
        train_seconds=96.0,
        peak_memory_bytes=10**9,
    )
    return replace(complete, **changes)  # type: ignore[arg-type]


def test_the_published_columns_keep_their_names() -> None:
    assert set(STABLE_COLUMNS) <= {field.name for field in fields(RunRecord)}


def test_a_record_survives_json() -> None:
    assert decode(json.dumps(plain(record()))) == read(plain(record())) == record()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 99}, "schema_version"),
        ({"status": "done"}, "status"),
        ({"seed": "0"}, "seed"),
        ({"seed": True}, "seed"),
        ({"score": None}, "no score"),
        ({"score": float("nan")}, "score"),
        ({"metrics": {"accuracy": float("inf")}}, "metrics.accuracy"),
        ({"metrics": {"accuracy": "high"}}, "metrics"),
        ({"settings": {"betas": [0.9, float("nan")]}}, r"settings.betas\[1\]"),
        ({"settings": {"folder": Path()}}, "does not fit into JSON"),
        ({"status": "diverged"}, "has a score"),
        ({"trainable_parameters": 1.5}, "trainable_parameters"),
    ],
)
def test_an_invalid_record_is_refused_by_column(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        plain(record(**changes))


def test_missing_and_unknown_columns_are_refused() -> None:
    values = plain(record())
    with pytest.raises(RecordError, match="missing required field `seed`"):
        validate({name: value for name, value in values.items() if name != "seed"})
    with pytest.raises(RecordError, match="unknown field `color`"):
        validate({**values, "color": "red"})


def test_whole_numbers_are_numbers_and_so_are_numpys_floats() -> None:
    metrics = {"accuracy": np.float64(0.5), "loss": 1}
    assert read(plain(record(score=80, metrics=metrics))) == record(score=80.0, metrics={"accuracy": 0.5, "loss": 1.0})


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"seed": NaN}', "null", b'{"\xff": 1}', "[" * 10_000])
def test_what_is_no_record_is_refused(text: str | bytes) -> None:
    with pytest.raises(RecordError):
        decode(text)


def write(folder: Path, value: RunRecord) -> None:
    with claimed(folder) as workspace:
        write_json(workspace.folder / RECORD_FILE, plain(value))
        workspace.publish()


def scores(results: Path) -> list[float]:
    return Index.refreshed(results).runs["score"].tolist()


def test_a_record_appears_whole_and_is_found_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("glue/sst2", "minilm", "lora", "0123456789abcdef")
    assert store.finished(folder) is None
    write(folder, record())
    assert store.finished(folder) == record()
    assert scores(tmp_path) == [80.5]


def test_a_failed_record_is_not_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("glue/sst2", "minilm", "lora", "a")
    write(folder, record(status="failed", score=None, metrics={}, error="it broke"))
    assert store.finished(folder) is None


def test_an_earlier_result_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("glue/sst2", "minilm", "lora", "a")
    for score in (1.0, 2.0, 3.0):
        write(folder, record(score=score))
    kept = {path.parent.name: json.loads(path.read_text())["score"] for path in folder.parent.glob("*/record.json")}
    assert kept == {"a": 3.0, "a~1": 1.0, "a~2": 2.0}
    assert scores(tmp_path) == [3.0]


def test_a_run_that_dies_leaves_no_half_record(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("glue/sst2", "minilm", "lora", "a")

    def die() -> None:
        with claimed(folder) as workspace:
            write_json(workspace.folder / RECORD_FILE, plain(record()))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        die()
    assert store.finished(folder) is None
    assert scores(tmp_path) == []


def test_a_truncated_record_does_not_count(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.folder("glue/sst2", "minilm", "lora", "a")
    write(folder, record())
    path = folder / RECORD_FILE
    path.write_text(path.read_text()[:100])
    assert store.finished(folder) is None
    assert scores(tmp_path) == []
    assert path.exists()


def test_names_cannot_leave_the_results_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="leave the results folder"):
        Store(tmp_path).folder("../../..", "..", "..", "x")


def test_a_results_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(StorageError, match="cannot be written"):
        Store(Path("/proc/nowhere")).check_writable()


def test_a_full_disk_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.records.store.MINIMUM_FREE_BYTES", 2**80)
    with pytest.raises(StorageError, match="MiB left"):
        Store(tmp_path).check_writable()


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
def test_a_record_of_an_earlier_version_is_read_with_what_it_lacks_as_null(version: int) -> None:
    values = plain(record())
    for later in ("activation_bytes", "feature_cka", "batch_samples_per_second"):
        del values[later]
    old = read(values | {"schema_version": version})
    assert (old.score, old.activation_bytes, old.feature_cka, old.batch_samples_per_second) == (80.5, None, None, {})
    assert old.schema_version == SCHEMA_VERSION
    with pytest.raises(RecordError, match="missing required field"):
        read(values)
