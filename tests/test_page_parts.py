"""What the leaderboard page is made of: its rows, what lies behind them, and the methods' cards."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("altair")
from bench.leaderboard.boards import Boards, Sources
from bench.leaderboard.page import assembly, plots
from bench.leaderboard.page import entries as rows
from bench.leaderboard.page.cards import cards
from bench.leaderboard.page.details import COMMAND, POINTS, Details, details_of
from bench.leaderboard.page.entries import Entry, entries
from bench.leaderboard.page.known import METHODS as FOLDER
from bench.leaderboard.page.known import family_of, settings_of
from bench.records.record import RunRecord
from methods.base import FAMILIES, OTHER
from methods.card import card_of
from tests.conftest import METHODS, runs_of
from tests.test_record import record, write


def sources_of(*values: RunRecord) -> Sources:
    """Records that have no files."""
    return Sources(runs_of(values), runs_of([]), Path("nowhere"))


def entries_of(*values: RunRecord) -> list[Entry]:
    """The rows of the page of records that have no files."""
    sources = sources_of(*values)
    return entries(Boards.of(sources), sources)


class TestEntries:
    def test_the_mean_over_tasks_and_its_interval_by_hand(self) -> None:
        cells = [("glue/rte", 0, 60.0), ("glue/rte", 1, 62.0), ("glue/sst2", 0, 80.0), ("glue/sst2", 1, 84.0)]
        of_tasks = [record(settings_id="x", task=task, seed=seed, score=score) for task, seed, score in cells]
        row = entries_of(*of_tasks)[0]
        assert (row["over_tasks"], row["task"], row["seeds"]) == (True, "mean of 2 tasks", 2)
        assert row["score_mean"] == 71.5  # seeds: 70 and 73
        assert row["score_high"] - row["score_mean"] == pytest.approx(
            12.706 * 1.5, rel=1e-4
        )  # t(1), 3 / 2**0.5 / 2**0.5
        assert row["trainable_parameters"] == 73728

    def test_tasks_with_other_seeds_have_a_mean_but_no_interval_and_no_profile(self) -> None:
        cells = [("glue/rte", 0, 60.0), ("glue/rte", 1, 62.0), ("glue/sst2", 0, 80.0)]
        runs = [record(settings_id="x", task=task, seed=seed, score=score) for task, seed, score in cells]
        row = entries_of(*runs)[0]
        assert (row["score_mean"], row["score_low"], row["seed_list"], row["thresholds"]) == (70.5, None, None, [])

    def test_a_cost_that_one_task_lacks_has_no_mean(self) -> None:
        tasks = {"glue/rte": 0.01, "glue/sst2": None}
        runs = [record(settings_id="x", task=task, inference_latency_seconds_median=s) for task, s in tasks.items()]
        assert [row["inference_latency_seconds_median"] for row in entries_of(*runs)] == [None, 0.01, None]

    def test_counts_and_bytes_stay_whole_beside_their_means_over_tasks(self) -> None:
        runs = [
            record(settings_id="x", task=task, trainable_parameters=22_713_216, predicted_peak_memory_bytes=size)
            for task, size in (("glue/rte", 123_456_789), ("glue/sst2", 123_456_792))
        ]
        shown = entries_of(*runs)
        assert [row["trainable_parameters"] for row in shown] == [22_713_216] * 3
        assert [row["memory_bytes"] for row in shown] == [123_456_790, 123_456_789, 123_456_792]
        assert all(isinstance(row["trainable_parameters"], int) for row in shown)

    def test_what_lacks_a_task_stands_below_all_that_have_it_in_the_plot_of_ranks(self) -> None:
        cells = {"glue/rte": {"first": 70.0, "last": 60.0}, "glue/sst2": {"only": 99.0, "first": 80.0, "last": 70.0}}
        runs = [
            record(settings_id="x", method=method, task=task, score=score)
            for task, of_task in cells.items()
            for method, score in of_task.items()
        ]
        found = entries_of(*runs)
        group = found[0]["group"]
        plot = plots.files(found, {group: "the group"})[f"{group}/ranks.svg"].decode()
        assert sorted(("first", "last", "only"), key=lambda name: plot.index(f">{name}</text>")) == [
            "first",
            "last",
            "only",
        ]

    def test_every_task_has_its_plot_in_a_file(self) -> None:
        runs = [record(settings_id="x", method=m, task=task) for m in "ab" for task in ("glue/rte", "glue/sst2")]
        found = entries_of(*runs)
        group = found[0]["group"]
        files = plots.files(found, {group: "the group"})
        assert {name for name in files if name.endswith("scores.svg")} == {
            f"{group}/scores.svg",
            f"{group}/glue-rte/scores.svg",
            f"{group}/glue-sst2/scores.svg",
        }

    def test_a_long_board_is_cut_at_the_lowest_ranks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rows, "LIMIT", 3)
        methods = {f"method{number}": 50.0 + number for number in range(9)}
        sources = sources_of(*(record(settings_id="x", method=name, score=score) for name, score in methods.items()))
        boards = Boards.of(sources)
        shown = entries(boards, sources)
        assert [row["method"] for row in shown] == ["method8", "method7", "method6"]
        assert {row["of"] for row in shown} == {9}
        assert "This page shows 3 of 9 rows" in assembly.page(boards, shown, demonstration=False)

    def test_plots_show_the_task_that_most_methods_have(self) -> None:
        def drawn(on_the_second: str) -> str:
            tasks = {"glue/sst2": "abc", "glue/mrpc": on_the_second}
            runs = [
                record(settings_id="x", method=method, task=task)
                for task, methods in tasks.items()
                for method in methods
            ]
            found = entries_of(*runs)
            group = found[0]["group"]
            return plots.files(found, {group: "the group"})[f"{group}/scores.svg"].decode()

        assert "glue/sst2: the group" in drawn("a")
        assert "glue/sst2: the group" in drawn("ab")
        assert "mean of 2 tasks: the group" in drawn("abc")

    def test_the_front_is_what_nothing_betters_in_both(self) -> None:
        rows = {"a": (10, 50.0), "b": (20, 60.0), "c": (30, 55.0), "d": (40, 70.0)}
        runs = [record(method=m, trainable_parameters=p, score=s, settings_id="x") for m, (p, s) in rows.items()]
        assert {row["method"] for row in entries_of(*runs) if row["on_front"]} == {"a", "b", "d"}

    def test_two_settings_of_a_method_have_labels_of_their_own(self) -> None:
        runs = [record(settings_id=settings) for settings in ("abcdef", "123456")]
        assert {row["label"] for row in entries_of(*runs)} == {"lora (abcd)", "lora (1234)"}

    def test_settings_whose_first_digits_are_alike_are_shown_as_a_whole(self) -> None:
        runs = [record(settings_id=settings) for settings in ("abcdef", "abcd99")]
        assert {row["label"] for row in entries_of(*runs)} == {"lora (abcdef)", "lora (abcd99)"}

    def test_over_tasks_the_best_has_the_lowest_mean_rank_and_only_what_lies_behind_it_is_below(self) -> None:
        tasks = [f"glue/t{number}" for number in range(6)]
        scores = {"steady": [60.0] * 6, "lucky": [50.0] * 5 + [99.0], "last": [40.0] * 6}
        scores["lucky"][5] = 200.0  # the highest mean score of all
        runs = [
            record(method=method, task=task, score=score, settings_id="x")
            for method, of_method in scores.items()
            for task, score in zip(tasks, of_method, strict=True)
        ]
        over = {row["method"]: row for row in entries_of(*runs) if row["over_tasks"]}
        assert (over["lucky"]["rank"], over["steady"]["rank"]) == (1, 2)
        assert {method: row["standing"] for method, row in over.items()} == {
            "steady": "best",
            "lucky": "alike",
            "last": "below",
        }

    def test_where_friedmans_test_finds_nothing_no_method_is_below(self) -> None:
        scores = {"a": [3.0, 1.0, 2.0], "b": [1.0, 2.0, 3.0], "c": [2.0, 3.0, 1.0]}
        runs = [
            record(method=method, task=f"glue/t{task}", score=score, settings_id="x")
            for method, of_method in scores.items()
            for task, score in enumerate(of_method)
        ]
        over = [row["standing"] for row in entries_of(*runs) if row["over_tasks"]]
        assert over == ["best"] * 3


class TestDetailsOfARun:
    def test_a_run_without_files_has_none(self, tmp_path: Path) -> None:
        assert details_of(tmp_path, {}) == Details()

    def test_a_long_curve_is_thinned_and_keeps_its_end_and_a_damaged_line_ends_it(self, tmp_path: Path) -> None:
        write(tmp_path, record())
        lines = [json.dumps({"step": step, "loss": 1 / step}) for step in range(1, 1001)]
        (tmp_path / "history.jsonl").write_text("\n".join([*lines, '{"step": 10']))
        steps = details_of(tmp_path, {}).steps
        assert len(steps) <= POINTS
        assert steps[-1] == 1000

    @pytest.mark.parametrize(
        "line", ['{"step": 1e999, "loss": 1}', "[" * 100_000, '{"step": 1, "loss": 1' + "0" * 400 + "}"]
    )
    def test_a_foreign_curve_that_no_number_holds_ends_there(self, tmp_path: Path, line: str) -> None:
        write(tmp_path, record())
        (tmp_path / "history.jsonl").write_text('{"step": 1, "loss": 2.5}\n' + line)
        assert details_of(tmp_path, {}).losses == [2.5]

    def test_of_trials_at_one_learning_rate_the_best_counts(self, tmp_path: Path) -> None:
        write(tmp_path, record(trial_run_ids=["a", "b", "c", "gone"]))
        trials = {"a": (1e-2, 70.0), "b": (1e-3, 60.0), "c": (1e-2, 80.0), "other": (1.0, 99.0)}
        details = details_of(tmp_path, trials)
        assert (details.rates, details.rate_scores) == ([1e-3, 1e-2], [60.0, 80.0])

    @pytest.mark.parametrize("word", ["a=['x','y']", "a=$HOME", "a='$HOME'", "a b", 'a="b"', "a=1"])
    def test_a_shell_reads_the_command_back(self, tmp_path: Path, word: str) -> None:
        write(tmp_path, record(overrides=[word, "seed=0"]))
        (command,) = details_of(tmp_path, {}).commands
        printed = subprocess.check_output(["sh", "-c", command.replace(COMMAND, "printf '%s\\n'")], text=True)
        assert printed.splitlines() == [word, "seed=0"]


class TestMethods:
    def test_every_method_has_a_family(self) -> None:
        families = {family_of(path.stem) for path in FOLDER.glob("*.yaml")}
        assert families == set(FAMILIES) - {OTHER}
        assert family_of("of_mine") == OTHER

    def test_a_card_says_what_is_known_and_nothing_else(self) -> None:
        shown = cards({"nola": "9 on `m`", "lora": "8 on `m`", "../../x": "7 on `m`", "full": "6 on `m`"})
        texts = {card["method"]: card["text"] for card in shown}
        assert "https://arxiv.org/abs/2310.02556" in texts["nola"]
        assert "sum_{i=1..k} a_i P_i" in texts["nola"]
        assert "https://arxiv.org/abs/2106.09685" in texts["lora"]
        assert "Every parameter trains" in texts["full"]
        assert "No method of this name" in texts["../../x"]
        assert all(
            f"{count} on <code>m</code>" in text for count, text in zip((7, 6, 8, 9), texts.values(), strict=True)
        )

    def test_a_name_that_no_file_can_have_is_no_method(self) -> None:
        for name in ("../lora", "x" * 999, "a\0b", ""):
            assert family_of(name) == OTHER
            assert "No method of this name" in cards({name: "1"})[0]["text"]

    def test_a_reconstruction_is_called_one(self) -> None:
        rebuilt = [name for name in METHODS if (card := card_of(name)) is not None and card.reconstruction]
        assert rebuilt
        assert all("A reconstruction" in card["text"] for card in cards(dict.fromkeys(rebuilt, "1")))

    def test_settings_are_those_that_hydra_composes(self) -> None:
        import hydra
        from omegaconf import OmegaConf

        with hydra.initialize_config_dir(str(FOLDER.parent), version_base="1.3"):
            for name in ("kasa", "compacter_pp", "pfeiffer", "lora"):
                composed = OmegaConf.to_object(hydra.compose(f"method/{name}").method)
                assert settings_of(FOLDER / f"{name}.yaml") == composed
