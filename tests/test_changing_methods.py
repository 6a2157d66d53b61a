"""Records of methods that change while they train, look at examples before, or have more than one form."""

from __future__ import annotations

from pathlib import Path

from bench.records.record import RunRecord
from tests.conftest import RunCommand, the_record

WIDTH, LAYERS = 64, 2
QUERY_AND_VALUE = 2 * LAYERS


def run(sample: RunCommand, folder: Path, *settings: str) -> RunRecord:
    done = sample("training.max_steps=10", "measure=none", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    _, record = the_record(folder)
    return record


def test_the_other_forms_of_a_method_are_scored_in_a_phase_of_their_own(sample: RunCommand, tmp_path: Path) -> None:
    record = run(sample, tmp_path, "method=dylora", "method.rank=3")
    assert record.form_scores.keys() == {"rank=1", "rank=2"}
    assert all(0 <= score <= 100 for score in record.form_scores.values())
    assert record.phase_seconds["evaluate_forms"] > 0


def test_a_method_with_one_form_has_no_scores_of_others(sample: RunCommand, tmp_path: Path) -> None:
    record = run(sample, tmp_path, "method=lora")
    assert record.form_scores == {}
    assert "evaluate_forms" not in record.phase_seconds
    assert record.final_trainable_parameters == record.trainable_parameters == QUERY_AND_VALUE * 8 * (WIDTH + WIDTH)


def test_a_method_that_retires_parameters_trains_fewer_in_the_end(sample: RunCommand, tmp_path: Path) -> None:
    rank = 4
    settings = ("method=lamda", f"method.rank={rank}", "method.targets=[attention.query,attention.value]")
    record = run(sample, tmp_path, *settings)
    assert record.trainable_parameters == QUERY_AND_VALUE * (rank * rank + WIDTH * rank)
    assert record.final_trainable_parameters == QUERY_AND_VALUE * rank * rank


def test_a_method_that_grows_trains_more_in_the_end_and_tells_its_ranks(sample: RunCommand, tmp_path: Path) -> None:
    record = run(sample, tmp_path, "method=increlora", "method.rank=2")
    ranks = record.method_report["ranks"].values()
    assert record.trainable_parameters is not None
    assert sum(ranks) >= 2 * 6 * LAYERS
    assert record.trainable_parameters == record.final_trainable_parameters > sum(ranks) * 2 * WIDTH


def test_a_method_that_looks_at_examples_keeps_the_share_it_was_told(sample: RunCommand, tmp_path: Path) -> None:
    record = run(sample, tmp_path, "method=sparseadapter", "method.keep_ratio=0.25", "method.pruner=snip")
    weights = 2 * LAYERS * 2 * WIDTH * (WIDTH // 12)
    assert record.method_report["kept_weights"] == weights // 4
