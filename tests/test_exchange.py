"""Records that go out and come in: checked against everything that they follow from, packed, merged, compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.audit import audit
from bench.errors import StorageError
from bench.leaderboard.index import Index
from bench.leaderboard.publish import publish
from bench.records.bundle import PUBLISHED, RECORDS_FILE, pack, unpack
from bench.records.store import RECORD_FILE, Store
from tests.conftest import ROOT, records, run_in


@pytest.fixture(scope="module")
def measured(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tuned methods with two seeds each, on single sentences and on a regression."""
    folder = tmp_path_factory.mktemp("measured")
    done = run_in(
        folder,
        *("-m", "method=lora,bitfit", "seed=0,1", "task=glue/sst2,glue/stsb", f"model.path={tiny_bert}"),
        *("hardware.precision=fp32", "data=sample", "budget=smoke", "tuning=grid", "tuning.trials=2", "tuning.steps=2"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "results"


@pytest.fixture
def results(measured: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    copy = tmp_path / "results"
    shutil.copytree(measured, copy, ignore=shutil.ignore_patterns("sweeps", "adapter", "index.parquet"))
    return copy


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def final(results: Path) -> Path:
    """The record of one run that counts."""
    return next(folder for folder, record in records(results).items() if not record.held_out) / RECORD_FILE


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def findings(results: Path) -> list[str]:
    return [finding.what for finding in audit(results)]


def test_what_the_harness_writes_is_believed(results: Path) -> None:
    assert findings(results) == []
    done = script("validate_results.py", results)
    assert (done.returncode, done.stdout) == (0, "16 records, 0 findings\n")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"score": 99.0}, "score is 99.0; its predictions make it"),
        ({"score": 123.0}, "score is 123.0, which is impossible"),
        ({"train_seconds": -1.0}, "train_seconds is -1.0, which is impossible"),
        ({"pcu": 1.5}, "pcu is 1.5, which is impossible"),
        ({"trainable_parameters": 7}, "trainable_percent is"),
        ({"ppt_c1e7": 0.9}, "ppt_c1e7 is 0.9; the columns that it follows from make it"),
        ({"predicted_peak_memory_bytes": 1}, "predicted_peak_memory_bytes is 1; the columns"),
        ({"seed": 7}, "seed is 7; its settings make it"),
        ({"precision": "fp16"}, "; its settings make it"),
        ({"evaluation_examples": 5}, "evaluation_examples is 5; predictions.parquet has 64"),
        ({"method": "../../lora"}, "method is '../../lora', which is no name"),
        ({"method": "=HYPERLINK(1)"}, "method is '=HYPERLINK(1)', which is no name"),
        ({"trial_run_ids": ["0" * 16]}, "1 of its trials are missing"),
        ({"tuned_settings": {"training.learning_rate": 0.5}}, "tuned_settings are {'training.learning_rate': 0.5}"),
        ({"score": "high"}, "cannot be read: Expected `float | null`, got `str` - at `$.score`"),
        ({"unheard_of": 1}, "cannot be read: Object contains unknown field `unheard_of`"),
    ],
)
def test_what_does_not_follow_is_found(values: dict[str, Any], expected: str, results: Path) -> None:
    file = final(results)
    change(file, **values)
    assert any(expected in finding.what for finding in audit(results) if finding.path == file)


def test_settings_that_were_changed_after_the_run_are_found(results: Path) -> None:
    file = final(results)
    settings = json.loads(file.read_text())["settings"]
    change(file, settings=settings | {"training": settings["training"] | {"batch_size": 64}})
    assert {"run_id", "settings_id", "recipe_id"} <= {what.split()[0] for what in findings(results)}


def test_a_record_in_another_runs_place_and_a_run_that_is_there_twice_are_found(results: Path) -> None:
    folder = final(results).parent
    shutil.copytree(folder, folder.with_name("f" * 16))
    found = findings(results)
    assert any("lies in the wrong place" in what for what in found)
    assert any("once more" in what for what in found)


def test_predictions_that_are_missing_are_found(results: Path) -> None:
    (final(results).parent / "predictions.parquet").unlink()
    assert any("predictions.parquet is missing" in what for what in findings(results))


def test_a_bundle_gives_the_same_boards_byte_for_byte(results: Path, tmp_path: Path) -> None:
    assert script("export_results.py", tmp_path / "bundle", "--results", results, "--all").returncode == 0
    elsewhere = tmp_path / "elsewhere"
    merged = script("import_results.py", tmp_path / "bundle", "--results", elsewhere)
    assert (merged.returncode, merged.stdout) == (0, f"16 new runs in {elsewhere}\n")
    first, second = (
        {file.name: file.read_bytes() for file in publish(folder) if file.suffix == ".csv"}
        for folder in (results, elsewhere)
    )
    assert first.keys() >= {"glue.csv", "overall.csv", "comparisons.csv", "pareto.csv"}
    assert first == second


def test_a_bundle_is_the_same_whenever_it_is_packed_and_names_no_path_of_the_machine(
    results: Path, tmp_path: Path
) -> None:
    folders = list(records(results))
    said = "OSError: [Errno 28] no room for '/home/ada/.cache/x y': 1/2 of samples/second"
    change(folders[0] / RECORD_FILE, reasons={"energy_source": said})
    for name in ("first", "second"):
        pack(reversed(folders) if name == "second" else folders, tmp_path / name)
    assert (tmp_path / "first" / RECORDS_FILE).read_bytes() == (tmp_path / "second" / RECORDS_FILE).read_bytes()
    for text in pq.read_table(tmp_path / "first" / RECORDS_FILE)["record"].to_pylist():
        record = json.loads(text)
        assert record["settings"]["results"]["dir"] == "results"
        assert record["hostname"] is None
        assert not any(item.startswith("results.dir") for item in record["overrides"])
        assert "/home" not in text


def test_an_export_over_other_runs_is_refused(results: Path, tmp_path: Path) -> None:
    bundle, empty = tmp_path / "bundle", tmp_path / "empty"
    pack(records(results), bundle)
    before = (bundle / RECORDS_FILE).read_bytes()
    (empty / "runs").mkdir(parents=True)
    refused = script("export_results.py", bundle, "--results", empty, "--all")
    assert (refused.returncode, "16 runs that would be lost" in refused.stderr) == (2, True)
    assert (bundle / RECORDS_FILE).read_bytes() == before
    assert script("import_results.py", bundle, "--results", empty).returncode == 0
    assert script("export_results.py", bundle, "--results", empty, "--all").returncode == 0


def test_what_was_lost_travels_with_what_was_not(results: Path, tmp_path: Path) -> None:
    lost = final(results)
    change(lost, status="diverged", score=None, metrics={})
    (results / "index.parquet").unlink(missing_ok=True)
    assert script("export_results.py", tmp_path / "bundle", "--results", results, "--all").returncode == 0
    unpack(tmp_path / "bundle", tmp_path / "elsewhere")
    there = records(tmp_path / "elsewhere")
    assert [record.status for folder, record in there.items() if folder.name == lost.parent.name] == ["diverged"]
    assert list(Index.refreshed(tmp_path / "elsewhere").lost["seed"]) == [json.loads(lost.read_text())["seed"]]


def test_runs_that_are_there_already_stay_as_they_are(results: Path, tmp_path: Path) -> None:
    pack(records(results), tmp_path / "bundle")
    file = final(results)
    change(file, hostname="ours")
    before = file.read_bytes()
    assert unpack(tmp_path / "bundle", results) == 0
    assert file.read_bytes() == before


def test_published_runs_stand_on_the_leaderboard_beside_ones_own(results: Path, tmp_path: Path) -> None:
    theirs, ours = Path(shutil.copytree(results, tmp_path / "theirs")), final(results)
    pack([folder for folder in records(theirs) if folder.name != ours.parent.name], results / PUBLISHED)
    for folder in records(results):
        if folder != ours.parent:
            shutil.rmtree(folder)
    first, second = (script("leaderboard.py", "--results", results) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert f"{len(records(theirs)) - 1} published runs merged" in first.stderr
    assert "merged" not in second.stderr
    boards = [{file.name: file.read_bytes() for file in publish(folder, pages=False)} for folder in (results, theirs)]
    assert boards[0] == boards[1]


def test_a_damaged_published_bundle_is_named_in_one_sentence(results: Path) -> None:
    pack(records(results), results / PUBLISHED)
    (results / PUBLISHED / RECORDS_FILE).write_text("x")
    done = script("leaderboard.py", "--results", results)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "cannot be read" in done.stderr


@pytest.mark.parametrize("damage", ["a score", "a file"])
def test_nothing_is_merged_from_a_source_that_does_not_hold(damage: str, results: Path, tmp_path: Path) -> None:
    if damage == "a score":
        change(final(results), score=99.0)
    else:
        final(results).write_text("{")
    done = script("import_results.py", results, "--results", tmp_path / "ours")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ours").exists()


def test_a_record_cannot_leave_the_results_folder(results: Path, tmp_path: Path) -> None:
    change(final(results), task="../../../../escaped")
    pack(records(results), tmp_path / "bundle")
    with pytest.raises(StorageError, match="would leave the results folder"):
        unpack(tmp_path / "bundle", tmp_path / "ours")
    done = script("import_results.py", tmp_path / "bundle", "--results", tmp_path / "ours")
    assert done.returncode == 1
    assert not list(tmp_path.rglob("escaped"))


def test_a_file_that_is_no_bundle_is_refused_in_one_sentence(tmp_path: Path) -> None:
    pq.write_table(pa.table({"code": ["import os"]}), tmp_path / RECORDS_FILE)
    done = script("import_results.py", tmp_path, "--results", tmp_path / "ours")
    assert done.returncode == 1
    assert "does not have the columns run_id, record, history" in done.stdout
    assert script("import_results.py", tmp_path / "nowhere").returncode == 2


def test_two_methods_are_compared_for_a_person(results: Path) -> None:
    done = script("compare.py", "lora", "bitfit", "task=glue/stsb", "--results", results)
    assert done.returncode == 0
    assert "paired bootstrap on 64 examples x 2 seeds: p = " in done.stdout
    scores = Index.refreshed(results).runs.query("task == 'glue/stsb'").groupby("method")["score"].mean()
    assert f"difference {scores['lora'] - scores['bitfit']:+.2f} points" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lora", "bitft"], "no complete run of the method bitft. Did you mean 'bitfit'?"),
        (["lora", "bitfit", "task=glue/rte"], "no complete run has task=glue/rte."),
        (["lora", "bitfit", "tsk=glue/rte"], "tsk=glue/rte is no condition. Did you mean 'task'?"),
    ],
)
def test_a_comparison_of_what_is_not_there_is_refused(arguments: list[str], expected: str, results: Path) -> None:
    done = script("compare.py", *arguments, "--results", results)
    assert (done.returncode, expected in done.stderr) == (2, True)


def test_a_bundle_puts_its_runs_where_the_store_looks_for_them(results: Path, tmp_path: Path) -> None:
    pack(records(results), tmp_path / "bundle")
    unpack(tmp_path / "bundle", tmp_path / "ours")
    folders = [folder.relative_to(Store(results).root) for folder in records(results)]
    assert not Index.refreshed(tmp_path / "ours").missing([Store(tmp_path / "ours").root / name for name in folders])
