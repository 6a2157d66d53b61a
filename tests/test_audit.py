"""Records that are wrong on purpose: every one is a finding, none ends the audit, and none gets in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.audit import audit
from bench.errors import DataError
from bench.leaderboard.index import Index
from bench.records.bundle import PUBLISHED, RECORDS_FILE, pack, unpack
from bench.records.schema import decode
from bench.records.store import RECORD_FILE
from bench.stats.outcomes import PREDICTIONS_FILE
from scripts.export_results import export
from scripts.import_results import merge
from scripts.leaderboard import merge_published
from tests.conftest import ROOT, records


@pytest.fixture(scope="module")
def two_studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tuned run of each of two methods on SST-2, and their trials, of those that are published."""
    everything, results = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("two") / "results"
    unpack(ROOT / "results" / PUBLISHED, everything)
    found = records(everything)
    of_sst2 = {folder: record for folder, record in found.items() if record.task == "glue/sst2"}
    tuned = [folder for folder, record in of_sst2.items() if record.method in ("lora", "bitfit") and record.seed == 0]
    names = {trial for folder in tuned for trial in found[folder].trial_run_ids} | {folder.name for folder in tuned}
    for folder in found:
        if folder.name in names:
            shutil.copytree(folder, results / folder.relative_to(everything))
    return results


@pytest.fixture
def results(two_studies: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(two_studies, tmp_path / "results"))


def final(results: Path, method: str = "lora") -> Path:
    """The record of a run that counts."""
    found = records(results).items()
    return next(folder for folder, run in found if run.method == method and not run.held_out) / RECORD_FILE


def change(file: Path, **values: Any) -> None:
    """Change columns of a record; a mapping changes the keys that it has."""
    record = json.loads(file.read_text())
    for name, value in values.items():
        record[name] = record[name] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(record))


def of(file: Path, results: Path, **options: Any) -> str:
    """What is found of one record; nothing may be found of the others."""
    found = audit(results, **options)
    assert {finding.path for finding in found} <= {file}
    return "\n".join(finding.what for finding in found)


def other_trial(results: Path) -> Path:
    """The record of a trial whose settings were not chosen."""
    run, found = decode(final(results).read_bytes()), records(results)
    chosen = run.tuned_settings["training.learning_rate"]
    trials = [folder for folder in found if folder.name in run.trial_run_ids]
    return next(one for one in trials if found[one].settings["training"]["learning_rate"] != chosen) / RECORD_FILE


def test_the_studies_hold_as_they_are(results: Path) -> None:
    assert len(records(results)) == 12
    assert audit(results) == []


@pytest.mark.parametrize(
    "values",
    [
        {"settings": {"task": {}}},
        {"settings": {"method": "x"}},
        {"settings": {"tuning": {"name": "grid", "extra": {"x": {"y": [1]}}}}},
        {"settings": {"training": None}},
        {"settings": {"training": []}},
    ],
)
def test_a_record_that_cannot_be_checked_is_a_finding_and_takes_no_other_with_it(
    values: dict[str, Any], results: Path
) -> None:
    file = final(results)
    change(file, **values)
    assert of(file, results) != ""


def test_settings_are_never_resolved(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "told")
    file = final(results)
    change(file, settings={"method": {"learning_rate": "${oc.env:SECRET}"}})
    found = of(file, results)
    assert "settings refer to something else by '${'" in found
    assert "told" not in found


def test_the_metric_must_be_the_tasks_headline(results: Path) -> None:
    file = final(results)
    change(file, metric="anything", score=99.0)
    found = of(file, results)
    assert "metric is 'anything'; that of glue/sst2 is 'accuracy'" in found
    assert "score is 99.0; its predictions make it" in found


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["method=full", "task=glue/sst2"], "its command means method=full; it is lora"),
        (["method=lora", "task=glue/rte"], "its command means task=glue/rte; it is glue/sst2"),
        (["method=lora", "seed=7"], "its command means seed=7; it is 0"),
        (["training.learning_rate=0.5"], "its command means training.learning_rate=0.5; its settings say 0.0"),
        (["method.rank=77"], "its command means method.rank=77; its settings say 8"),
        (["tuning=grid", "a=[1"], "its command cannot be read"),
    ],
)
def test_a_command_that_makes_another_run_is_found(overrides: list[str], found: str, results: Path) -> None:
    file = final(results)
    change(file, overrides=[*overrides, *(() if "tuning=grid" in overrides else ["tuning=grid"])])
    assert found in of(file, results)


def test_a_command_that_leaves_out_the_method_makes_another_run(results: Path) -> None:
    file = final(results, "bitfit")
    change(file, overrides=["tuning=grid"])
    assert "its command means method=lora; it is bitfit" in of(file, results)


def test_a_commit_or_a_time_that_is_none_is_found(results: Path) -> None:
    file = final(results)
    change(file, git_commit="<script>", finished_at="zzzz")
    found = of(file, results)
    assert "git_commit is '<script>', which is none" in found
    assert "finished_at is 'zzzz', which is no time in UTC" in found


@pytest.mark.parametrize("column", ["label", "prediction", "split", "id"])
def test_predictions_that_the_score_does_not_follow_from_are_found(column: str, results: Path) -> None:
    file = final(results)
    predictions = file.with_name(PREDICTIONS_FILE)
    pq.write_table(pq.read_table(predictions).drop_columns([column]), predictions)
    assert "predictions.parquet lacks what the score follows from" in of(file, results)


def test_predictions_of_an_earlier_version_need_not_say_what_a_query_is_credited_with(results: Path) -> None:
    file = final(results)
    task = decode(file.read_bytes()).settings["task"] | {"_target_": "tasks.superglue.RecordTask", "config": "record"}
    change(file, task="superglue/record", metric="combined_score", settings={"task": task})
    assert "lacks what the score follows from" not in of(file, results)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"method": "dora_fa"}, "lies in the wrong place"),
        ({"method": "bitfit"}, "settings.method._target_ is"),
        ({"task": "glue/rte"}, "settings.task.config is 'sst2'; glue/rte has 'rte'"),
        ({"model": "roberta-base"}, "model is 'roberta-base'; its settings make it 'minilm'"),
        ({"tuning_trials": 50}, "tuning_trials is 50; its settings make it 5"),
        ({"tuning_steps": 9}, "tuning_steps is 9; its settings make it 150"),
        ({"tuning_trials": 2}, "it names 5 trials, and says 2"),
        ({"trial_run_ids": []}, "trial_run_ids is []; its settings make it"),
    ],
)
def test_a_name_or_number_that_the_settings_belie_is_found(
    values: dict[str, Any], expected: str, results: Path
) -> None:
    file = final(results)
    change(file, **values)
    assert expected in of(file, results)


def test_trials_of_another_method_are_found(results: Path) -> None:
    file = final(results)
    change(file, trial_run_ids=decode(final(results, "bitfit").read_bytes()).trial_run_ids)
    assert "a trial is of another method: bitfit" in of(file, results)


def test_overrides_of_hydra_are_refused(results: Path) -> None:
    file = final(results)
    change(file, overrides=["seed=0", "hydra.searchpath=[file:///home/me]"])
    assert of(file, results) == ""
    assert "is about Hydra" in of(file, results, from_elsewhere=True)
    change(file, overrides=["++hydra.run.dir=/tmp", "hydra/launcher=joblib"])
    assert of(file, results).count("is about Hydra") == 2
    change(file, overrides=["--experimental-rerun=results/x.pickle"])
    assert "is about the machine" in of(file, results)


@pytest.mark.parametrize("override", ["hardware.slurm.setup=[rm x]", "+data.root=/home/me", "data={root: /x}"])
def test_overrides_of_somebodys_machine_are_refused(override: str, results: Path) -> None:
    file = final(results)
    change(file, overrides=["seed=0", override])
    assert of(file, results) == ""
    assert "is about the machine" in of(file, results, from_elsewhere=True)


def test_trials_of_another_length_are_found(results: Path) -> None:
    file = other_trial(results)
    settings = json.loads(file.read_text())["settings"]
    settings["training"]["max_steps"] = 1500
    change(file, settings=settings)
    said = [finding.what for finding in audit(results) if finding.path == final(results)]
    assert "a trial has 1500 steps, not 150" in said


def test_a_trial_that_is_named_twice_is_not_missing(results: Path) -> None:
    named = decode(final(results).read_bytes()).trial_run_ids
    change(final(results), trial_run_ids=[*named[:4], named[0]])
    assert "missing" not in of(final(results), results)


def test_a_study_with_a_trial_that_failed_comes_through(results: Path, tmp_path: Path) -> None:
    change(other_trial(results), status="diverged", score=None, error="OSError: /home/me/disk is full")
    assert audit(results) == []
    assert export(results, tmp_path / "bundle", everything=False) == 0
    assert merge(tmp_path / "bundle", tmp_path / "elsewhere") == 0
    assert len(records(tmp_path / "elsewhere")) == 12
    assert "/home/me" not in "".join(pq.read_table(tmp_path / "bundle" / RECORDS_FILE)["record"].to_pylist())


@pytest.mark.parametrize("settings", [{}, {"training.rate": 1.0}])
def test_tuned_settings_without_a_learning_rate_are_found(settings: dict[str, Any], results: Path) -> None:
    file = final(results)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tuned_settings": settings}))
    assert "its trials name no learning rate" in of(file, results)


def test_a_trial_that_failed_speaks_for_no_settings(results: Path) -> None:
    run = decode(final(results).read_bytes())
    for folder in [folder for folder in records(results) if folder.name in run.trial_run_ids]:
        change(folder / RECORD_FILE, status="failed", score=None)
    assert "trials was completed, so nothing can be chosen" in of(final(results), results)


def test_nothing_that_names_the_machine_or_the_cluster_leaves_it(results: Path, tmp_path: Path) -> None:
    file = final(results)
    settings = decode(file.read_bytes()).settings
    named = {"partition": "p", "account": "me", "setup": ["module load me"], "extra": {"mail-user": "me"}, "gres": "me"}
    change(
        file,
        settings={"hardware": settings["hardware"] | {"slurm": {"time_minutes": 60, **named}}},
        interruptions=[{"step": 3, "hostname": "me"}],
        overrides=[
            *("method=lora", "+data.root=/home/me", "++results.dir=/me", "hydra.searchpath=[file:///home/me]"),
            *("hardware.slurm.account=me", "hardware.slurm.extra.mail-user=me", "data={root: /home/me}"),
        ],
    )
    pack(records(results), tmp_path / "bundle")
    unpack(tmp_path / "bundle", tmp_path / "elsewhere")
    record = decode(final(tmp_path / "elsewhere").read_bytes())
    assert record.overrides == ["method=lora"]
    assert record.settings["hardware"]["slurm"] == {
        **{"time_minutes": 60, "partition": None, "account": None, "setup": [], "extra": {}, "gres": None}
    }
    assert record.interruptions == [{"step": 3, "hostname": None}]
    assert audit(tmp_path / "elsewhere", from_elsewhere=True) == []


@pytest.mark.parametrize("damage", ["truncated", "failed", "gone"])
def test_a_damaged_copy_does_not_stand_in_for_a_published_run(damage: str, results: Path) -> None:
    pack(records(results), results / PUBLISHED)
    file = final(results)
    whole = decode(file.read_bytes())
    if damage == "truncated":
        file.write_text(file.read_text()[:100])
    elif damage == "failed":
        change(file, status="failed", score=None)
    else:
        file.unlink()
    assert whole.run_id not in Index.refreshed(results).runs["folder"].str[-16:].tolist()
    merge_published(results)
    assert decode(file.read_bytes()).score == whole.score
    aside = file.parent.with_name(f"{whole.run_id}~1")
    assert aside.exists() == (damage != "gone")
    assert unpack(results / PUBLISHED, results) == 0


def test_a_failed_run_that_is_there_is_not_set_aside_for_a_failed_one(results: Path, tmp_path: Path) -> None:
    change(other_trial(results), status="diverged", score=None)
    pack(records(results), tmp_path / "bundle")
    assert unpack(tmp_path / "bundle", results) == 0


def test_a_bundle_is_replaced_as_a_whole_or_not_at_all(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    pack(records(results), bundle)
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}

    def fail(tables: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(pa, "concat_tables", fail)
    with pytest.raises(OSError, match="disk is full"):
        pack([final(results).parent], bundle)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before


def test_a_compression_rate_that_does_not_follow_is_found(results: Path) -> None:
    change(final(results), mcr=2.5)
    assert "mcr is 2.5; the columns that it follows from make it" in of(final(results), results)


def test_a_run_that_lies_in_two_folders_is_not_packed(results: Path, tmp_path: Path) -> None:
    folder = final(results).parent
    with pytest.raises(DataError, match="in 2 places"):
        pack([folder, shutil.copytree(folder, tmp_path / "copy" / folder.name)], tmp_path / "bundle")


@pytest.mark.parametrize("name", [RECORDS_FILE, PREDICTIONS_FILE])
def test_a_run_that_is_twice_in_a_bundle_is_refused(name: str, results: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    pack(records(results), bundle)
    table = pq.read_table(bundle / name)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), bundle / name)
    with pytest.raises(DataError, match="in 2 places"):
        unpack(bundle, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("column", "values"),
    [("split", None), ("id", None), ("id", ["a"]), ("id", [1.5]), ("question", [0.5])],
)
def test_predictions_that_a_bundle_cannot_hold_are_named(
    column: str, values: list[Any] | None, results: Path, tmp_path: Path
) -> None:
    file = final(results).with_name(PREDICTIONS_FILE)
    table = pq.read_table(file)
    table = table.drop_columns([column]) if column in table.column_names else table
    table = table if values is None else table.append_column(column, pa.array(values * table.num_rows))
    pq.write_table(table, file)
    with pytest.raises(DataError, match=column):
        pack(records(results), tmp_path / "bundle")
