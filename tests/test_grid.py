"""The runs of a sweep: which settings each of them gets, and what cannot be one sweep."""

from __future__ import annotations

import pytest

from bench import settings
from bench.errors import SettingsError
from bench.sweeps import sweep


def runs(*overrides: str) -> list[tuple[int, str]]:
    settings.register()
    return [(run.seed, run.results.dir) for _, run, _ in sweep.expanded(overrides)]


def test_each_run_of_a_sweep_has_its_own_seed() -> None:
    assert runs("seed=3,4", "results.dir=out") == [(3, "out"), (4, "out")]


@pytest.mark.parametrize("overrides", [("seed=1", "seed=2"), ("seed=1", "++seed=2"), ("++seed=1", "seed=2")])
def test_the_last_seed_wins_as_in_a_single_run(overrides: tuple[str, ...]) -> None:
    assert runs(*overrides, "results.dir=out") == [(2, "out")]


@pytest.mark.parametrize("reference", ["${seed}", "${oc.select:seed}", "${..seed}"])
def test_a_setting_that_depends_on_the_seed_follows_it(reference: str) -> None:
    assert runs("seed=3,4", f"results.dir='out/{reference}'") == [(3, "out/3"), (4, "out/4")]


def test_a_sweep_has_one_results_folder() -> None:
    settings.register()
    with pytest.raises(SettingsError) as refusal:
        sweep.planned(["results.dir=b,a", "seed=0,1"])
    assert str(refusal.value) == "results.dir must be the same for all runs of a sweep; these differ: a, b."


@pytest.mark.parametrize("choices", ["cpu,slurm/cpu", "slurm/cpu,cpu"])
def test_a_sweep_goes_to_slurm_as_a_whole_or_not_at_all(choices: str) -> None:
    settings.register()
    with pytest.raises(SettingsError) as refusal:
        sweep.planned([f"hardware={choices}"])
    assert str(refusal.value) == (
        "Either all runs of a sweep go to SLURM or none does; this one has hardware=cpu,slurm/cpu."
    )
