"""Tuning: an equal number of trials, scored on held-out examples, and a choice that follows from their records."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.errors import SettingsError
from bench.records.record import RunRecord
from bench.records.workspace import working_folder
from bench.settings import TuningSettings
from bench.sweeps.samplers import Grid, Optuna, learning_rates
from bench.sweeps.trials import Trial, TrialsFailedError, chosen
from tests.conftest import RunCommand, records

RATE = "training.learning_rate"
SHORT = ("tuning.trials=3", "tuning.steps=2", "measure=none")


def trial(rate: float, score: float | None, error: float = 0.0, **values: Any) -> Trial:
    return Trial(f"run-{rate}", {RATE: rate, **values}, score, error)


class TestGrid:
    def test_rates_lie_evenly_in_logarithms_around_the_methods_own(self) -> None:
        assert learning_rates(1e-3, 10, 5) == [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2]
        assert learning_rates(1e-3, 4, 2) == [2.5e-4, 4e-3]
        assert learning_rates(1e-3, 10, 1) == [1e-3]

    def test_all_trials_are_proposed_at_once_and_only_once(self) -> None:
        grid = Grid(1e-3, TuningSettings(name="grid", trials=3))
        assert grid.proposals([]) == [f"{RATE}=0.0001,0.001,0.01"]
        assert grid.proposals([trial(1e-3, 50.0)]) == []

    def test_extra_settings_are_searched_within_the_same_number_of_trials(self) -> None:
        extra = {"method": {"dropout": [0.0, 0.1], "rank": [4, 8]}}
        proposals = Grid(1e-3, TuningSettings(name="grid", trials=12, extra=extra)).proposals([])
        assert proposals == [f"{RATE}=0.0001,0.001,0.01", "method.dropout=0.0,0.1", "method.rank=4,8"]

    @pytest.mark.parametrize("trials", [3, 6])
    def test_trials_that_the_extra_settings_cannot_share_evenly_are_refused(self, trials: int) -> None:
        tuning = TuningSettings(name="grid", trials=trials, extra={"method": {"rank": [1, 2, 4, 8]}})
        with pytest.raises(SettingsError, match=rf"tuning\.trials={trials} must be a multiple of 4"):
            Grid(1e-3, tuning).proposals([])


class TestOptuna:
    def proposed(self, done: list[Trial], trials: int = 8) -> float:
        tuning = TuningSettings(name="optuna", trials=trials, span=10)
        (override,) = Optuna(1e-3, tuning).proposals(done)
        return float(override.removeprefix(f"{RATE}="))

    def test_the_methods_own_rate_comes_first_and_others_stay_in_range(self) -> None:
        done: list[Trial] = []
        for _ in range(8):
            rate = self.proposed(done)
            assert 1e-4 <= rate <= 1e-2
            done.append(trial(rate, 50.0 + len(done)))
        assert done[0].values[RATE] == 1e-3
        assert Optuna(1e-3, TuningSettings(name="optuna", trials=8)).proposals(done) == []

    def test_what_is_proposed_follows_from_the_trials_done(self) -> None:
        done = [trial(1e-3, 60.0), trial(2e-4, None), trial(8e-3, 70.0)]
        assert self.proposed(done) == self.proposed(done)

    def test_it_finds_a_peak_better_than_its_first_trials(self) -> None:
        done: list[Trial] = []
        for _ in range(20):
            rate = self.proposed(done, trials=20)
            done.append(trial(rate, -abs(math.log10(rate) + 2.3)))
        assert math.log10(chosen(done).values[RATE]) == pytest.approx(-2.3, abs=0.1)


class TestChoice:
    def test_the_best_held_out_score_wins_and_of_equal_ones_the_lowest_rate(self) -> None:
        assert chosen([trial(1e-4, 70.0), trial(1e-2, 80.0), trial(1e-3, 80.0)]).values[RATE] == 1e-3

    def test_the_next_lower_rate_is_taken_where_it_is_within_one_standard_error(self) -> None:
        lower = [trial(1e-4, 79.5), trial(1e-3, 79.2)]
        assert chosen([*lower, trial(1e-2, 80.0, error=1.0)]).values[RATE] == 1e-3
        assert chosen([*lower, trial(1e-2, 80.0, error=0.7)]).values[RATE] == 1e-2
        assert chosen([trial(1e-3, None), trial(1e-2, 80.0, error=9.0)]).values[RATE] == 1e-2
        others = [trial(1e-4, 79.5, rank=4), trial(1e-3, 79.5, rank=8)]
        assert chosen([*others, trial(1e-2, 80.0, error=1.0, rank=4)]) is others[0]

    def test_a_trial_that_answers_every_example_alike_never_outranks_one_that_does_not(self) -> None:
        alike = [replace(trial(rate, 65.8), answers_alike=True) for rate in (1e-4, 1e-3, 1e-2)]
        assert chosen([*alike, trial(3e-3, 64.0, error=5.0)]).values[RATE] == 3e-3

    def test_the_middle_rate_is_taken_where_every_trial_answers_alike(self) -> None:
        alike = [replace(trial(rate, 65.8), answers_alike=True) for rate in (1e-2, 1e-4, 1e-3, 1e-1)]
        assert chosen(alike[:3]).values[RATE] == 1e-3
        assert chosen(alike).values[RATE] == 1e-3
        assert chosen([*alike[:2], trial(1e-3, None)]).values[RATE] == 1e-4

    def test_trials_that_failed_or_diverged_are_never_chosen(self) -> None:
        assert chosen([trial(1e-2, None), trial(1e-4, 10.0)]).values[RATE] == 1e-4
        with pytest.raises(TrialsFailedError, match="none of the 2 trials was completed"):
            chosen([trial(1e-2, None), trial(1e-4, None)])


def split_by_purpose(results: Path) -> tuple[list[RunRecord], list[RunRecord]]:
    """Trials, and runs that count."""
    found = list(records(results).values())
    return [record for record in found if record.held_out], [record for record in found if not record.held_out]


def best_rate(results: Path, trials: Collection[str]) -> float:
    """The rate that three trials speak for: the best one's among those whose answers differ, else the middle one."""
    own = {folder: record for folder, record in records(results).items() if record.run_id in trials}
    rates = {folder: record.settings["training"]["learning_rate"] for folder, record in own.items()}
    learned = [folder for folder in own if pd.read_parquet(folder / "predictions.parquet")["prediction"].nunique() > 1]
    best = max(learned, key=lambda folder: (own[folder].score, -rates[folder]), default=None)
    return float(sorted(rates.values())[1] if best is None else rates[best])


def test_every_method_gets_as_many_trials_and_runs_with_the_best_of_its_own(sample: RunCommand, tmp_path: Path) -> None:
    sweep = ("-m", "method=lora,bitfit", "seed=0,1", "tuning=grid", *SHORT)
    done = sample(*sweep)
    assert done.returncode == 0, done.stdout + done.stderr
    trials, finals = split_by_purpose(tmp_path / "results")
    assert (len(trials), len(finals)) == (6, 4)
    assert {record.seed for record in trials} == {1000}
    assert {record.train_steps for record in trials} == {2}
    for record in finals:
        own = [found for found in trials if found.run_id in record.trial_run_ids]
        assert [found.method for found in own] == [record.method] * 3
        assert record.tuned_settings == {RATE: best_rate(tmp_path / "results", record.trial_run_ids)}
        assert record.settings["training"]["learning_rate"] == record.tuned_settings[RATE]
        assert (record.tuning, record.tuning_trials, record.tuning_steps) == ("grid", 3, 2)
    assert "chosen settings" in done.stdout
    assert "scored on held-out training examples" in done.stdout
    again = sample(*sweep)
    assert again.returncode == 0
    assert "6 runs, 6 of them finished" in again.stdout
    assert "4 runs, 4 of them finished" in again.stdout


def test_a_trial_is_scored_on_training_rows_that_it_was_not_trained_on(sample: RunCommand, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from tasks.locating import SAMPLES

    assert sample("budget=trial", "budget.max_steps=2", "measure=none").returncode == 0
    ((folder, record),) = records(tmp_path / "results").items()
    assert record.held_out
    scored = pd.read_parquet(folder / "predictions.parquet")
    rows = pq.read_table(SAMPLES / "nyu-mll/glue/sst2/train-00000-of-00001.parquet").to_pandas().set_index("idx")
    assert len(scored) == record.evaluation_examples <= 0.2 * len(rows)
    assert (rows.loc[scored["id"], "label"].to_numpy() == scored["label"].to_numpy()).all()


def test_tuned_runs_and_defaults_stand_in_rows_of_their_own_and_trials_in_none(
    sample: RunCommand, tmp_path: Path
) -> None:
    import pandas as pd

    from bench.leaderboard.publish import publish

    assert sample("tuning=grid", *SHORT).returncode == 0
    assert sample("measure=none").returncode == 0
    publish(tmp_path / "results")
    board = pd.read_csv(tmp_path / "results" / "leaderboard" / "demonstration" / "glue.csv")
    assert sorted(board["tuning"]) == ["defaults", "grid, 3 trials of 2 steps"]
    assert board["seeds"].tolist() == [1, 1]


def test_the_final_run_alone_can_be_repeated_from_its_overrides(sample: RunCommand, tmp_path: Path) -> None:
    assert sample("tuning=optuna", *SHORT).returncode == 0
    _, (final,) = split_by_purpose(tmp_path / "results")
    overrides = [item for item in final.overrides if not item.startswith(("model.", "results.", "data", "budget"))]
    assert sample(*overrides, "results.dir=" + str(tmp_path / "again")).returncode == 0
    _, (repeated,) = split_by_purpose(tmp_path / "again")
    assert (repeated.run_id, repeated.score) == (final.run_id, final.score)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["seed=1000"], "seed=1000 is that of the trials (tuning.seed); runs that count need others."),
        (["training.learning_rate=1e-3"], "training.learning_rate is what tuning=grid chooses"),
        (
            ["+tuning.extra.method.rnk=[1,2]"],
            "tuning.extra.method.rnk is no setting to choose. Did you mean 'method.rank'?",
        ),
        (["+tuning.extra.method.learning_rate=[1,2]"], "tuning.extra.method.learning_rate is no setting to choose."),
        (["+tuning.extra.data.root=[a,b]"], "tuning.extra.data.root is no setting to choose."),
        (["+tuning.extra.method.rank=[1,2,4,8]"], "tuning.trials=3 must be a multiple of 4, the number of"),
        (["tuning.trials=0"], "tuning.trials=0 must be at least 1."),
        (["tuning.span=1"], "tuning.span=1.0 must be above 1."),
        (["training.warmup_steps=9"], "training.warmup_steps=9 leaves nothing of a trial of tuning.steps="),
        (["budget=trial"], "scored on the very examples that tuning chooses on"),
        (["tuning=grd"], "tuning=grd is unknown. Did you mean 'grid'?"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_sentence_before_any_trial(
    arguments: list[str], expected: str, sample: RunCommand, tmp_path: Path
) -> None:
    done = sample("tuning=grid", *SHORT, *arguments)
    assert done.returncode == 2, done.stdout
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not records(tmp_path / "results")


def test_a_study_whose_trials_all_fail_fails_and_the_others_go_on(sample: RunCommand, tmp_path: Path) -> None:
    done = sample("-m", "method=lora,full", "method.learning_rate=1e30", "tuning=grid", "tuning.trials=1", *SHORT[1:])
    assert done.returncode == 1
    assert "none of the 1 trials was completed" in done.stdout
    trials, finals = split_by_purpose(tmp_path / "results")
    assert not finals
    assert {record.status for record in trials} == {"diverged"}
    assert [record.method for record in trials] == ["full", "lora"]


def test_nothing_is_chosen_among_fewer_trials_than_the_record_would_say(sample: RunCommand, tmp_path: Path) -> None:
    """A file stands where a trial works, so the trial leaves no record."""
    command = ("tuning=grid", *SHORT)
    assert sample(*command).returncode == 0
    chosen_before = {record.run_id for record in split_by_purpose(tmp_path / "results")[1]}
    for folder, record in records(tmp_path / "results").items():
        if not record.held_out:
            shutil.rmtree(folder)
    trial_folder = next(iter(records(tmp_path / "results")))
    shutil.rmtree(trial_folder)
    blocked = working_folder(trial_folder)
    blocked.touch()
    done = sample(*command)
    assert done.returncode == 1
    assert "1 of the 3 trials failed or left no record" in done.stdout
    blocked.unlink()
    assert sample(*command).returncode == 0
    assert {record.run_id for record in split_by_purpose(tmp_path / "results")[1]} == chosen_before
