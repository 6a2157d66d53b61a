"""Write docs/leaderboard.md: files and columns of the leaderboard; `--check` only tells whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from bench.leaderboard.columns import AVERAGED, COSTS, KEY, ROW
from bench.leaderboard.comparisons import COMPARISONS
from bench.leaderboard.overall import OVERALL
from bench.leaderboard.page.entries import GROUPS, LIMIT
from bench.leaderboard.pareto import MOST_NOISE, PARETO
from bench.leaderboard.profiles import PROFILES
from bench.leaderboard.rows import WITHOUT_SCORE
from bench.leaderboard.task_sets import HEAD
from bench.records.record import RunRecord
from bench.stats.paired import FEW

PAGE = ROOT / "docs" / "leaderboard.md"
INTRODUCTION = f"""# The leaderboard

`python scripts/leaderboard.py` writes `results/leaderboard/` from the records, and nothing else goes into it: equal
records give the same files, byte for byte. Runs on built-in samples and of two steps go to `demonstration/`, apart.

| file | what it holds |
| --- | --- |
| `index.html` | the page: one file that opens from disk without a network |
| `plots/GROUP/*.svg`, `scores.png` | its plots, of the largest groups: the task that most methods have; below, others |
| `glue.csv`, `superglue.csv`, `gsm8k.csv`, ... | one per benchmark: a row per method and its settings, task and group |
| `overall.csv` | methods over sets of tasks that all of them have |
| `averages.csv` | each benchmark's own averages |
| `profiles.csv` | performance profiles |
| `comparisons.csv` | paired tests |
| `pareto.csv` | fronts of score and cost |
| `lost.csv` | what has no row, because none of its runs ended with a score |
| `leaderboard.md`, `leaderboard.tex` | methods by tasks, for READMEs and papers |

A table without rows is not written. The page and the plots need `pip install 'parsimony[page]'`.

## Groups

Rows are ranked, tested and averaged only within a group: one model with its weights and settings, budget and recipe,
tuning effort, source and subset of the data, precision, hardware, and software. Their common name in the column `group`
is a hash of these, so it is the same wherever the same things were run. Tuned rows, defaults and rates that were set by
hand are different groups. A task whose data has two revisions counts as two tasks, and so does one with two settings of
its own, such as a template or a limit of new tokens. Several seeds of one method with one choice of settings are one
row; of several runs of one row and seed the one counts that finished last (if that is equal or unknown, the one with
the highest run id).

## Which test where

| question | test |
| --- | --- |
| How sure is a mean over seeds? | Student's t-interval, 95 %; none for a single seed |
| Do two methods differ on one task, in right answers? | McNemar's test; over several seeds the sign-flip test |
| The same in F1 or a correlation? | paired bootstrap |
| The same for several methods at once? | Holm's correction, and a stricter level against the best |
| How large is the difference? | paired bootstrap, 95 % interval |
| Do some methods differ over several tasks? | Friedman's test, in the form of Iman and Davenport |
| Which, if so? | Nemenyi's test: mean ranks at least the critical difference apart |

The paired tests speak of these trained models on new examples, not of the methods retrained with new seeds: for that,
look at the interval over seeds. Intervals over several tasks come from resampled seeds and are too short for few of
them: of n seeds the resampled variance is (n - 1) / n of the true one. With 3, an interval of a mean that is called
95 % covers about 84 % on 4 tasks and 87 % on 19.

Both methods are taken on the same examples and the seeds that both have. McNemar's test is the sign-flip test of a
single seed. The level against the best is stricter because the best was chosen by the very scores that are tested, and
only a row that scores lower on the shared seeds is told from it. Where fewer than {FEW} resamples of a paired bootstrap
lie on one side of 0, their share is too coarse for Holm's correction; the p-value is then that of the normal
approximation, difference / standard deviation of the resampled differences (Efron and Tibshirani 1993).
What is drawn or flipped is an example: of MultiRC a question with all its options, of ReCoRD a query.
Where predictions are missing there is no test, and the cell stays empty.

## The page

A table and plots of one group, which is chosen at the top. A group with several tasks opens with the means over the set
of tasks that covers most results; a task is chosen among the filters. `≈ best` marks rows that cannot be told from the
best of their task or, over several tasks, from the one with the lowest mean rank; `edge` marks a tuned learning rate at
the end of the range that tuning could choose from. A row opens to the command that repeats the run of its first seed,
tuned settings included. Bytes by cause, seconds by phase and curves are those of the first seed. A – is a number that
was not measured.

The page shows at most {LIMIT:,} rows, the best of each task first, of the {GROUPS} largest groups; where it leaves rows
out it says so. The CSV files have all of them.

## Columns

Units stand in the names. Numbers have six significant digits, whole ones all that they have. What a record measures
stands in a table as its mean over the seeds. This page is written by `python scripts/document_leaderboard.py` from the
boards' own columns.
"""
SHARED = {
    "group": "Name of the group.",
    "row": "Name of the row: a hash of what its runs have in common, which is all but the seed.",
    "tuning": "How the rate was found: `defaults`, `rate set by hand`, or the sampler with its trials and their steps, "
    "and the rates tried where they are not those around the method's own.",
    "data_revision": "Revision or content hash of the data, its first 12 characters.",
    "model_settings_id": "Hash of the model's repository and revision, weights, image size and head dropout.",
    "task_settings_id": "Hash of the task's settings but for where its data come from; `unknown` in old records.",
    "settings_id": "Hash of method settings and recipe: what the seeds of one row share; `-b` and the size of its "
    "forward passes follow where `hardware.per_device_batch_size` sets one.",
    "data_subset": "`official`, `rebuilt` or `resampled` where the benchmark prescribes a subset, else `whole`.",
    "hardware": "The device, with the number of processes where there are several.",
    "software": "Versions of the libraries that compute.",
    "task_set": "Name of the set of tasks: a hash of `tasks`.",
    "tasks": "The tasks, with spaces between them; `@` and a revision where a group has two of a task's data, "
    "`#` and `task_settings_id` where it has two settings of one.",
    "task_count": "How many they are.",
    "seeds": "Distinct seeds; over several tasks, runs of the task that has fewest.",
    "trainable_parameters": "Parameters that the method trains, at their most, the task head apart; of several tasks "
    "their mean.",
    "score_mean": "Mean of the score over seeds, in percent.",
}
"""Meanings that several tables share; all others not given below are those of the record."""
BENCHMARK = {
    "combined_score_mean": "Mean over seeds of the average of the task's metrics where its benchmark averages several, "
    "else of the score, in percent.",
    "score_std": "Standard deviation of the score over seeds (of the sample), in points.",
    "rank": "Rank of `score_mean` within the task and group; 1 is best, equal ones share the lowest.",
    "score_low": "Lower end of the 95 % t-interval of the mean over seeds, in percent.",
    "score_high": "Upper end.",
    "seed_list": "The seeds, ascending.",
    "lost_seeds": "Further seeds whose run diverged, failed or ran out of memory: no mean has them, so a row with some "
    "looks better than it is. A run that ended before its data were read is not known to belong here.",
    "learning_rate": "Learning rate, where all seeds have the same.",
    "memory_bytes": "Memory to compare methods by: `peak_memory_bytes` on CUDA, elsewhere "
    "`predicted_peak_memory_bytes`, the sum of the causes, since a process's resident set holds what it did before.",
    **{f"{name}_std": f"Standard deviation of `{name}` over seeds (of the sample)." for name in COSTS},
    "standard_error_over_examples": "Standard error over the examples, in points: of a share of right answers s / √n, "
    "of other metrics by the bootstrap, all seeds on the same draws.",
    "separable_from_best": "Whether a paired test can tell the row from the best of its task and group; empty where "
    "there is none.",
}
OVER_TASKS = {
    "lost_seeds": "Seeds without a score, over all the tasks.",
    "rank": "Rank of `mean_score` within the group and set of tasks.",
    "mean_score": "Mean over the tasks of each task's mean over seeds, in percent.",
    "interquartile_mean": "Mean of the middle half of all runs, over seeds and tasks, in percent; empty where tasks "
    "have different numbers of seeds.",
    "interquartile_mean_low": "Lower end of its 95 % interval, by the bootstrap stratified by task.",
    "interquartile_mean_high": "Upper end.",
    "mean_rank": "Mean over the tasks of the rank among the methods of this set; equal ones share the mean of theirs.",
    "friedman_p_value": "Probability of mean ranks at least as unequal if all methods were equally good (Friedman's "
    "test, F of Iman and Davenport).",
    "critical_difference": "Mean ranks this far apart differ at the 5 % level (Nemenyi), where `friedman_p_value` is "
    "at most 0.05.",
    "borda_count": "Points over all tasks: one per method that scores lower, half a point per equal one.",
    "win_rate": "Share of pairs of task and other method that the method wins, ties as half; 0 to 1.",
    "probability_over_lora": "Probability that a run beats one of LoRA's on a task drawn at random, 0 to 1; LoRA in "
    "its best settings of this group.",
    "probability_over_lora_low": "Lower end of its 95 % interval.",
    "probability_over_lora_high": "Upper end.",
}
AVERAGES = {
    "glue_average": "Mean of eight GLUE tasks, without WNLI, one headline number each, in percent.",
    "glue_average_official": "The GLUE leaderboard's score: nine tasks, several metrics of a task averaged first.",
    "superglue_average": "SuperGLUE's score: eight tasks with equal weight.",
    "vtab_mean_19": "VTAB's score: the mean of 19 tasks.",
    "vtab_mean_groups": "Mean of the three groups' means.",
    "natural": "Mean of VTAB's Natural tasks.",
    "specialized": "Mean of its Specialized tasks.",
    "structured": "Mean of its Structured tasks.",
}
OF_A_PROFILE = {
    "threshold": "A score, in percent.",
    "share": "Share of the method's runs, over seeds and tasks, that score above it, 0 to 1.",
    "share_low": "Lower end of the pointwise 95 % band; empty for a single seed.",
    "share_high": "Upper end.",
}
TESTED = {
    "against": "What the other row is: `best` of the task and group, or the best row of `full` or `lora`.",
    "other_method": "Method of that row.",
    "other_settings_id": "Its settings.",
    "test": "`McNemar`, `sign flip` or `paired bootstrap`.",
    "seeds": "Seeds that both rows have.",
    "examples": "Examples that both were scored on.",
    "difference": "The row's score less the other's, in points.",
    "difference_low": "Lower end of the 95 % interval, by the paired bootstrap.",
    "difference_high": "Upper end.",
    "p_value": "Probability of a difference at least as large on other examples if these trained models were as good.",
    "p_value_holm": "The same, corrected for the number of rows that are compared with this other one.",
    "separable": "Whether the two can be told apart: at the 5 % level; against the best at a stricter one, and only "
    "where `difference` is below 0.",
}
OF_A_FRONT = {
    "cost": "The column that is the cost: parameters, memory, training seconds, training energy, latency. One whose "
    f"relative standard deviation over the seeds of a row, pooled over the rows, is above {MOST_NOISE} has no front: "
    "the machine, not the method, would decide.",
    "value": "The row's cost, in the unit of that column.",
    "standard_error": "Of the score, in points: the larger one of that over seeds and that over examples.",
    "on_front": "Whether no other row of the task and group costs as little and scores as high, and is better in one.",
    "cheapest_within_one_standard_error": "Whether it is the cheapest row whose score lies at most one standard error "
    "of the best below the best.",
}
WITHOUT_ROW = {
    "seed_list": "The seeds that were run, ascending.",
    "endings": "How each of them ended: `diverged`, `failed` or `out_of_memory`.",
}
TABLES: Mapping[str, tuple[str, Mapping[str, str], list[str]]] = {
    "benchmark": (
        "`glue.csv`, `superglue.csv`, ...",
        BENCHMARK,
        ["group", "row", *KEY, "metric", "score_mean", "seeds", *BENCHMARK, *AVERAGED],
    ),
    "overall": ("`overall.csv`", OVER_TASKS, OVERALL),
    "averages": ("`averages.csv`", AVERAGES, [*HEAD, *ROW, *AVERAGES]),
    "profiles": ("`profiles.csv`", OF_A_PROFILE, PROFILES),
    "comparisons": ("`comparisons.csv`", TESTED, COMPARISONS),
    "pareto": ("`pareto.csv`", OF_A_FRONT, PARETO),
    "lost": ("`lost.csv`", WITHOUT_ROW, WITHOUT_SCORE),
}
"""Title, own meanings and columns of each kind of table."""
RECORDED = {column.name: column.metadata for column in fields(RunRecord)}


def page() -> str:
    """The whole page as Markdown."""
    return INTRODUCTION + "".join(line for name in TABLES for line in _section(name))


def meanings(table: str) -> dict[str, str]:
    """The meaning of every column of a kind of table, in the order of the columns."""
    _, own, columns = TABLES[table]
    return {name: own.get(name) or SHARED.get(name) or _recorded(name) for name in columns}


def _recorded(name: str) -> str:
    """The meaning of a record's own column."""
    meaning, formula = str(RECORDED[name]["meaning"]), RECORDED[name]["formula"]
    return f"{meaning} `{formula}`" if formula else meaning


def _section(table: str) -> Iterator[str]:
    yield f"\n### {TABLES[table][0]}\n\n| column | meaning |\n| --- | --- |\n"
    for name, meaning in meanings(table).items():
        yield f"| `{name}` | {meaning.replace('|', chr(92) + '|')} |\n"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is not up to date")
    if parser.parse_args().check:
        return 0 if PAGE.is_file() and PAGE.read_text("utf-8") == page() else 1
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
