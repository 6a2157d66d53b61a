"""Runs of the tasks that are no plain classification, from the command line: columns, scores, meters of generation."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.records.record import RunRecord
from tests.conftest import records, run_in

ENCODER_TASKS = ("superglue/copa", "superglue/wic", "superglue/multirc", "superglue/record")
SCORED = ["split", "id", "label", "prediction", "scores"]
GENERATION = (
    "generated_tokens",
    "generated_tokens_per_second",
    "truncated_share",
    "first_token_seconds_median",
    "first_token_seconds_p95",
)
Runs = dict[tuple[str, str], tuple[pd.DataFrame, RunRecord]]


def runs_below(folder: Path) -> Runs:
    """Predictions and record by task and scored form."""
    return {
        (record.task, record.scored_form): (pd.read_parquet(path / "predictions.parquet"), record)
        for path, record in records(folder / "results").items()
    }


@pytest.fixture(scope="module")
def encoder_runs(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("encoder")
    done = run_in(
        folder, "-m", f"task={','.join(ENCODER_TASKS)}", f"model.path={tiny_bert}", "data=sample", "budget=smoke"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return runs_below(folder)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror of made-up GSM8K rows."""
    root = tmp_path_factory.mktemp("mirror")
    folder = root / "openai/gsm8k/main"
    folder.mkdir(parents=True)
    for split, count in (("train", 40), ("test", 12)):
        questions = [
            f"Ann has {i} pens and buys {i % 7 + 1}. How many has she?{' Count!' * (i % 3)}" for i in range(count)
        ]
        answers = [
            f"{i} + {i % 7 + 1} = <<{i}+{i % 7 + 1}={i + i % 7 + 1}>>{i + i % 7 + 1}\n#### {i + i % 7 + 1}"
            for i in range(count)
        ]
        pq.write_table(pa.table({"question": questions, "answer": answers}), folder / f"{split}-00000-of-00001.parquet")
    return root


@pytest.fixture(scope="module")
def decoder_runs(tiny_llama: Path, mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("decoder")
    common = (f"model.path={tiny_llama}", "budget=smoke", "-m", "task.form=inference,trained")
    likelihood = run_in(folder, *common, "task=commonsense/arc_easy", "data=sample")
    generation = run_in(
        folder,
        *common,
        "task=gsm8k",
        "data=mirror",
        f"data.root={mirror}",
        "task.max_new_tokens=20",
        "training.batch_size=8",
    )
    for done in (likelihood, generation):
        assert done.returncode == 0, done.stdout + done.stderr
    return runs_below(folder)


def complete(record: RunRecord) -> bool:
    """Whether the run went through with every meter."""
    failed = {name: reason for name, reason in record.reasons.items() if "Error" in reason}
    assert failed == {}
    return record.status == "complete"


@pytest.mark.parametrize("task", ENCODER_TASKS)
def test_an_encoder_task_runs_and_generates_nothing(task: str, encoder_runs: Runs) -> None:
    rows, record = encoder_runs[task, "trained"]
    assert complete(record)
    assert (record.train_steps, record.train_samples) == (2, 64)
    assert len(rows) == record.evaluation_examples
    for column in GENERATION:
        assert getattr(record, column) is None
        assert record.reasons[column] == "the task generates no text"
    assert record.forms_differ is False
    assert record.inference_form == "merged"


@pytest.mark.parametrize("task", ["superglue/copa", "superglue/wic"])
def test_accuracy_follows_from_the_predictions(task: str, encoder_runs: Runs) -> None:
    rows, record = encoder_runs[task, "trained"]
    assert list(rows.columns) == SCORED
    assert len(rows) == rows["id"].nunique() == 64
    assert all(len(row.scores) == 2 and row.scores.argmax() == row.prediction for row in rows.itertuples())
    assert record.score == pytest.approx(100 * (rows["label"] == rows["prediction"]).mean())


def test_multirc_is_scored_over_whole_questions(encoder_runs: Runs) -> None:
    rows, record = encoder_runs["superglue/multirc", "trained"]
    assert list(rows.columns) == [*SCORED, "question"]
    assert 50 < len(rows) <= 64
    right = rows["label"] == rows["prediction"]
    both = ((rows["label"] == 1) & (rows["prediction"] == 1)).sum()
    marked = (rows["label"] == 1).sum() + (rows["prediction"] == 1).sum()
    expected = {"exact_match": right.groupby(rows["question"]).all().mean(), "f1_a": 2 * both / marked}
    assert record.metrics == pytest.approx(expected | {"combined_score": sum(expected.values()) / 2})
    assert record.score == pytest.approx(50 * sum(expected.values()))


def shared_words(first: str, second: str) -> float:
    common = (Counter(first.lower().split()) & Counter(second.lower().split())).total()
    return 2 * common / (len(first.split()) + len(second.split()))


def test_record_is_scored_by_the_best_entity_of_each_query(encoder_runs: Runs) -> None:
    rows, record = encoder_runs["superglue/record", "trained"]
    assert list(rows.columns) == [*SCORED, "credit", "query", "entity", "answers"]
    assert 50 < len(rows) <= 64
    margin = rows["scores"].map(lambda scores: scores[1] - scores[0])
    best = rows.loc[margin.groupby(rows["query"]).idxmax()]
    exact = [row.entity in row.answers for row in best.itertuples()]
    f1 = [max(shared_words(row.entity, answer) for answer in row.answers) for row in best.itertuples()]
    assert record.metrics["exact_match"] == pytest.approx(np.mean(exact))
    assert record.metrics["f1"] == pytest.approx(np.mean(f1))
    assert record.score == pytest.approx(50 * (np.mean(exact) + np.mean(f1)))
    assert rows["label"].tolist() == [int(row.entity in row.answers) for row in rows.itertuples()]


@pytest.mark.parametrize("form", ["inference", "trained"])
def test_likelihood_scores_follow_from_the_predictions(form: str, decoder_runs: Runs) -> None:
    rows, record = decoder_runs["commonsense/arc_easy", form]
    assert complete(record)
    assert list(rows.columns) == [
        "split", "id", "label", "prediction", "most_likely", "most_likely_normalised", "log_likelihoods",
    ]  # fmt: skip
    assert (rows["most_likely"] == rows["log_likelihoods"].map(np.argmax)).all()
    assert (rows["prediction"] == rows["most_likely_normalised"]).all()
    assert record.score == pytest.approx(100 * (rows["label"] == rows["prediction"]).mean())
    assert record.metrics["accuracy"] == pytest.approx((rows["label"] == rows["most_likely"]).mean())
    assert {column: record.reasons[column] for column in GENERATION} == dict.fromkeys(
        GENERATION, "the task generates no text"
    )


@pytest.mark.parametrize("form", ["inference", "trained"])
def test_generation_scores_and_costs_follow_from_the_predictions(form: str, decoder_runs: Runs) -> None:
    rows, record = decoder_runs["gsm8k", form]
    assert complete(record)
    assert list(rows.columns) == [
        "split", "id", "label", "prediction", "flexible", "correct_strict", "correct_flexible", "generated",
        "new_tokens", "truncated", "answer",
    ]  # fmt: skip
    assert len(rows) == record.evaluation_examples == 12
    assert record.score == pytest.approx(100 * rows["correct_strict"].mean())
    assert record.metrics["exact_match_flexible"] == pytest.approx(rows["correct_flexible"].mean())
    assert (rows["answer"].str.split("#### ").str[1] == rows["label"]).all()
    values: dict[str, Any] = vars(record)
    assert record.generated_tokens == rows["new_tokens"].sum() > 0
    assert record.truncated_share == rows["truncated"].mean()
    assert (rows.loc[rows["truncated"], "new_tokens"] == 20).all()
    seconds = record.generated_tokens / values["generated_tokens_per_second"]
    assert seconds == pytest.approx(12 / values["evaluation_samples_per_second"])
    assert 0 < values["first_token_seconds_median"] <= values["first_token_seconds_p95"]


@pytest.mark.parametrize("task", ["commonsense/arc_easy", "gsm8k"])
def test_both_forms_of_a_decoder_are_scored_alike(task: str, decoder_runs: Runs) -> None:
    (merged, inference), (beside, trained) = (decoder_runs[task, form] for form in ("inference", "trained"))
    assert inference.run_id != trained.run_id
    assert inference.score == trained.score
    assert merged["prediction"].tolist() == beside["prediction"].tolist()
    for record in (inference, trained):
        assert record.inference_form == "merged"
        assert record.forms_differ is False
        assert record.form_max_absolute_difference is not None
        assert record.inference_score == record.score
