"""Learning rates against transformers', and groups that join while a run is under way."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler

from bench.training.schedule import Schedule

STEPS, WARMUP, PEAK = 40, 6, 0.01
TRANSFORMERS_NAMES = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=PEAK)


@pytest.mark.parametrize("shape", TRANSFORMERS_NAMES)
@pytest.mark.parametrize("warmup", [0, 1, WARMUP, STEPS])
def test_learning_rates_are_those_of_transformers(shape: str, warmup: int) -> None:
    ours, theirs = optimizer(), optimizer()
    reference = get_scheduler(TRANSFORMERS_NAMES[shape], theirs, warmup, STEPS)
    schedule = Schedule(shape, warmup, STEPS)
    for step in range(STEPS):
        schedule.set_rates(ours, step)
        assert ours.param_groups[0]["lr"] == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12, abs=1e-18)
        theirs.step()
        reference.step()


def test_a_group_that_joins_late_warms_up_and_ends_with_the_run() -> None:
    found, schedule = optimizer(), Schedule("linear", WARMUP, STEPS)
    late = {"params": [torch.nn.Parameter(torch.zeros(2))], "lr": 2 * PEAK, "begins": 10}
    schedule.set_rates(found, 9)
    found.add_param_group(late)
    rates = []
    for step in range(10, STEPS):
        schedule.set_rates(found, step)
        rates.append(found.param_groups[1]["lr"])
    assert rates[0] == 0
    assert rates[WARMUP] == max(rates) == pytest.approx(2 * PEAK)
    assert rates[-1] == pytest.approx(2 * PEAK / (STEPS - 10 - WARMUP))


@pytest.mark.parametrize("warmup", [0, 1, WARMUP])
def test_a_group_rests_in_the_step_that_it_joins_in(warmup: int) -> None:
    found, schedule = optimizer(), Schedule("linear", warmup, STEPS)
    found.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))], "lr": PEAK, "begins": 10})
    rates = []
    for step in (9, 10, 10 + warmup):
        schedule.set_rates(found, step)
        rates.append(found.param_groups[1]["lr"])
    assert rates == [0, 0 if warmup else PEAK, PEAK]


def test_the_peak_of_a_group_survives_a_checkpoint() -> None:
    found, schedule = optimizer(), Schedule("linear", 0, STEPS)
    schedule.set_rates(found, 30)
    resumed = optimizer()
    resumed.load_state_dict(found.state_dict())
    schedule.set_rates(resumed, 0)
    assert resumed.param_groups[0]["lr"] == pytest.approx(PEAK)
