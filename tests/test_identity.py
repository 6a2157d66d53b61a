"""Run ids: equal for what gives equal results, different for everything else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pytest

from bench import settings as schema
from bench.hardware import Hardware
from bench.identity import canonical, recipe_id, run_id, settings_id
from bench.sweeps import sweep
from tasks.sources import Source
from tests.conftest import CONFIGURATION

SOURCE = Source("mirror", Path("/data/a"), "abc", "")
HERE = Hardware("cpu", "fp32")


@pytest.fixture(scope="module")
def settings() -> Iterator[Any]:
    schema.register()
    with hydra.initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        yield lambda *overrides: sweep.validated(*sweep.composed(overrides))


def identity(settings: Any, *overrides: str, hardware: Hardware = HERE, source: Source = SOURCE) -> str:
    return run_id(canonical(settings(*overrides), hardware, source))


@pytest.mark.parametrize(
    "override",
    [
        "method=dora",
        "method.rank=4",
        "seed=1",
        "budget=smoke",
        "task=glue/rte",
        "model=bert-base",
        "training.learning_rate=1e-4",
        "training.batch_size=16",
        "hardware.per_device_batch_size=8",
    ],
)
def test_what_can_change_a_result_changes_the_id(override: str, settings: Any) -> None:
    assert identity(settings, override) != identity(settings)


@pytest.mark.parametrize(
    "override",
    ["results.dir=/elsewhere", "tracker=wandb", "rerun=true", "hardware=cpu", "data.root=/b", "training.log_steps=50"],
)
def test_where_and_how_it_is_watched_does_not(override: str, settings: Any) -> None:
    assert identity(settings, override) == identity(settings)


def test_data_and_precision_count_the_folder_and_the_device_do_not(settings: Any) -> None:
    base = identity(settings)
    assert identity(settings, source=Source("mirror", Path("/b"), "abc", "x")) == base
    assert identity(settings, hardware=Hardware("cuda", "fp32")) == base
    assert identity(settings, source=Source("mirror", Path("/data/a"), "abd", "")) != base
    assert identity(settings, source=Source("hub", Path("/data/a"), "abc", "")) != base
    assert identity(settings, hardware=Hardware("cpu", "bf16")) != base


def test_an_id_is_the_same_in_every_release() -> None:
    assert run_id({"b": 1, "a": [0.1, None, "é"]}) == run_id({"a": [0.1, None, "é"], "b": 1})
    assert run_id({"a": 1}) == "015abd7f5cc57a2d"


def test_a_row_of_the_leaderboard_joins_seeds_and_tasks_but_not_recipes(settings: Any) -> None:
    row = settings_id(settings())
    assert settings_id(settings("seed=5", "task=glue/rte")) == row
    assert settings_id(settings("training.epochs=7")) != row
    assert settings_id(settings("training.max_steps=200")) != row
    assert settings_id(settings("method.alpha=8")) != row


@pytest.mark.parametrize("override", ["training.learning_rate=1e-4", "method=dora", "method.rank=4", "seed=3"])
def test_methods_their_settings_and_learning_rates_share_a_recipe(override: str, settings: Any) -> None:
    assert recipe_id(settings(override)) == recipe_id(settings())


@pytest.mark.parametrize(
    "override",
    ["training.batch_size=16", "training.max_steps=200", "budget=smoke", "budget.evaluation_examples=100"],
)
def test_another_effort_in_training_or_evaluation_is_another_recipe(override: str, settings: Any) -> None:
    assert recipe_id(settings(override)) != recipe_id(settings())


def test_what_a_task_brings_is_the_same_recipe_on_all_tasks(settings: Any) -> None:
    assert recipe_id(settings("task=glue/rte")) == recipe_id(settings("task=glue/sst2"))


def test_tuned_runs_of_one_study_share_their_settings_id_whatever_was_chosen(settings: Any) -> None:
    tuned = ("tuning=grid", "+tuning.extra.method.rank=[4,8]")
    first = settings_id(settings(*tuned, "training.learning_rate=1e-4", "method.rank=4", "tuning.run_ids=[a]"))
    second = settings_id(settings(*tuned, "training.learning_rate=1e-3", "method.rank=8", "tuning.run_ids=[b]"))
    assert first == second
    assert first != settings_id(settings(*tuned, "tuning.trials=7"))
    assert first != settings_id(settings())
