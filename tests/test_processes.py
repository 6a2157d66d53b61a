"""Runs of several Accelerate processes: the results of one process, and an end for all when one fails."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from bench.processes.launch import _is_failure
from bench.processes.team import ALONE, Team, different
from bench.records import checkpoint
from bench.records.pulse import PROGRESS_FILE
from bench.records.record import RunRecord
from tests.conftest import records, run_in, the_record
from tests.test_resume import checkpoints, started, waited_for

TOLERANCE = 1e-5
"""Of losses in float32: the sums over a batch are taken in another order."""


@pytest.fixture(scope="module")
def calm_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny BERT without dropout, whose noise would differ between processes."""
    import shutil

    folder = tmp_path_factory.mktemp("calm") / "bert"
    shutil.copytree(tiny_bert, folder)
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def settings(model: Path, processes: int, *more: str) -> list[str]:
    """Batches of 33, so that the processes' shares are unequal, and an evaluation that they cannot halve."""
    return [
        f"model.path={model}",
        "data=sample",
        "method=adalora",
        "task=glue/rte",
        "measure=none",
        "training.max_steps=24",
        "training.batch_size=33",
        "training.log_steps=1",
        "budget.evaluation_examples=45",
        "hardware.evaluation_batch_size=16",
        "hardware.precision=fp32",
        f"hardware.processes={processes}",
        *more,
    ]


def losses(folder: Path) -> list[float]:
    run, _ = the_record(folder)
    return [json.loads(line)["loss"] for line in (run / "history.jsonl").read_text().splitlines()]


def test_two_processes_give_the_losses_and_the_answers_of_one(calm_bert: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        done = run_in(folder, *settings(calm_bert, processes, "hardware.per_device_batch_size=6"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Warning" not in done.stderr
    one, two = (tmp_path / str(processes) for processes in (1, 2))
    np.testing.assert_allclose(losses(two), losses(one), rtol=TOLERANCE)
    (folder_one, record_one), (folder_two, record_two) = the_record(one), the_record(two)
    answers_one, answers_two = (pd.read_parquet(run / "predictions.parquet") for run in (folder_one, folder_two))
    assert len(answers_two) == 45, "each example once"
    pd.testing.assert_frame_equal(answers_one, answers_two)
    for name in ("run_id", "score", "train_steps", "train_samples", "trainable_parameters"):
        assert getattr(record_one, name) == getattr(record_two, name), name
    assert (record_one.processes, record_two.processes) == (1, 2)
    assert record_two.peak_memory_bytes is not None
    assert record_two.total_peak_memory_bytes is not None
    assert record_two.peak_memory_bytes < record_two.total_peak_memory_bytes <= 2 * record_two.peak_memory_bytes


@pytest.mark.parametrize("method", ["adalora", "full"])
def test_a_split_model_gives_the_losses_and_the_answers_of_a_whole_one(
    method: str, calm_bert: Path, tmp_path: Path
) -> None:
    """FSDP2, with what trains held whole, and with everything split; also after an interruption.

    Of 33 examples one process has 17, in two passes, and the other 16, in one.
    """
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    few = [f"method={method}", "training.checkpoint_steps=5", "hardware.per_device_batch_size=16"]
    assert run_in(whole, *settings(calm_bert, 1, *few)).returncode == 0
    process = started(parts, *settings(calm_bert, 2, "hardware.split=true", *few))
    waited_for(lambda: checkpoints(parts), process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    done = run_in(parts, *settings(calm_bert, 2, "hardware.split=true", *few))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on from step" in done.stdout
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=TOLERANCE)
    (run, record), (split_run, split_record) = the_record(whole), the_record(parts)
    answers, split_answers = (pd.read_parquet(folder / "predictions.parquet") for folder in (run, split_run))
    assert list(answers["prediction"]) == list(split_answers["prediction"])
    assert split_record.trainable_parameters == record.trainable_parameters
    assert split_record.total_parameters == record.total_parameters
    assert split_record.trained_form_bytes is not None
    assert record.trained_form_bytes is not None
    assert split_record.trained_form_bytes < 0.75 * record.trained_form_bytes, "each process holds its part"
    adapters = [load_file(folder / "adapter/adapter.safetensors") for folder in (run, split_run)]
    for name, tensor in adapters[0].items():
        np.testing.assert_allclose(tensor, adapters[1][name], atol=1e-4)


def tokens_per_sample(record: RunRecord) -> float:
    assert record.train_tokens_per_second is not None
    assert record.train_samples_per_second is not None
    return record.train_tokens_per_second / record.train_samples_per_second


def test_every_meter_serves_two_processes(tiny_bert: Path, tmp_path: Path) -> None:
    """Tokens and FLOPs are those of both, so they do not depend on how a batch was shared out."""
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        done = run_in(folder, *settings(tiny_bert, processes, "measure=standard", "training.max_steps=4"))
        assert done.returncode == 0, done.stdout + done.stderr
    one, two = (the_record(tmp_path / str(processes))[1] for processes in (1, 2))
    assert tokens_per_sample(two) == pytest.approx(tokens_per_sample(one), rel=1e-6)
    assert two.train_flops == pytest.approx(one.train_flops, rel=0.05), "shorter shares are padded less"
    assert set(one.reasons) == set(two.reasons)


def test_two_processes_go_on_after_an_interruption_bit_identical(tiny_bert: Path, tmp_path: Path) -> None:
    """With dropout: each process's own noise goes on where it was, and so do its losses and its tokens."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    rarely = [*settings(tiny_bert, 2), "training.log_steps=24", "measure.compute=true"]
    assert run_in(whole, *rarely).returncode == 0
    process = started(parts, *rarely, "training.checkpoint_steps=5")
    waited_for(lambda: checkpoints(parts), process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert checkpoints(parts)[0].name == checkpoint.FILE
    done = run_in(parts, *rarely, "training.checkpoint_steps=5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "goes on from step" in done.stdout
    (first, undisturbed), (second, resumed) = the_record(whole), the_record(parts)
    for name in ("train_flops", "train_flops_per_token"):  # of all steps of both processes
        assert getattr(resumed, name) == getattr(undisturbed, name) is not None, name
    name = "adapter/adapter.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()
    assert losses(whole) == losses(parts)


def children(process_id: int) -> list[int]:
    text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(word) for word in text.split()]


def rank_of(process_id: int) -> int:
    variables = Path(f"/proc/{process_id}/environ").read_bytes().split(b"\0")
    return int(next(value for value in variables if value.startswith(b"RANK=")).removeprefix(b"RANK="))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_ends_the_run_with_its_name_in_the_record(
    rank: int, tiny_bert: Path, tmp_path: Path
) -> None:
    process = started(tmp_path, *settings(tiny_bert, 2, "training.max_steps=100000"))
    waited_for(lambda: list(tmp_path.rglob(PROGRESS_FILE)), process)
    (victim,) = [child for child in children(process.pid) if rank_of(child) == rank]
    os.kill(victim, signal.SIGKILL)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    _, record = the_record(tmp_path)
    assert record.status == "failed"
    assert record.error is not None
    assert record.error.startswith(f"process {rank} was ended by SIGKILL")


def test_no_process_outlives_the_one_that_started_it(tiny_bert: Path, tmp_path: Path) -> None:
    process = started(tmp_path, *settings(tiny_bert, 2, "training.max_steps=100000"))
    waited_for(lambda: list(tmp_path.rglob(PROGRESS_FILE)), process)
    workers = children(process.pid)
    assert len(workers) == 2
    process.kill()
    process.communicate()
    waiting = 100
    while any(Path(f"/proc/{worker}/cmdline").exists() and _lives(worker) for worker in workers) and waiting:
        signal.sigtimedwait([], 0.1)
        waiting -= 1
    assert waiting, "a worker is still there"
    assert not records(tmp_path)


def _lives(process_id: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return False


def test_input_that_is_refused_by_the_processes_is_refused_in_one_sentence(tiny_bert: Path, tmp_path: Path) -> None:
    done = run_in(tmp_path, *settings(tiny_bert, 2, "method.init_warmup=30"))
    assert done.returncode == 2
    assert "method.init_warmup=30" in done.stderr
    assert not records(tmp_path)


def test_more_processes_than_examples_of_a_step_are_refused(tiny_bert: Path, tmp_path: Path) -> None:
    done = run_in(tmp_path, *settings(tiny_bert, 64))
    assert done.returncode == 2
    assert "training.batch_size=33 is too small for 64 processes" in done.stderr


class TestTeam:
    def test_shares_cover_everything_once(self) -> None:
        shares = [Team(rank, 3).share(np.arange(10)) for rank in range(3)]
        assert sorted(np.concatenate(shares)) == list(range(10))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1

    def test_a_lone_process_has_everything_and_asks_nobody(self) -> None:
        assert ALONE.share([1, 2]) == [1, 2]
        assert ALONE.gathered("x") == ["x"]
        assert ALONE.merged({1: "b", 0: "a"}) == ["a", "b"]
        assert ALONE.greatest(2) == 2

    def test_differing_states_are_named(self) -> None:
        assert different([{"a": 1.0, "b": 2.0}, {"a": 1.0, "b": 2.5}]) == ["b"]

    def test_only_an_unasked_end_is_a_failure(self) -> None:
        assert [_is_failure(code) for code in (None, 0, 3, 1, -9)] == [False, False, False, True, True]
