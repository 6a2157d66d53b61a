"""Boards for READMEs and papers: methods by tasks, in Markdown and in LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.leaderboard.columns import GROUP, ROW, WHOLE
from bench.leaderboard.rows import as_records, method_labels, shared, together
from bench.leaderboard.task_sets import labels

MISSING = "–"
Cell = Mapping[Any, Any]
"""A row of the board."""
Table = tuple[str, list[str], list[list[str]]]
"""Title, header and cells."""
MARKDOWN_FILE, LATEX_FILE = "leaderboard.md", "leaderboard.tex"
CELL = [*ROW, "rank", "trainable_parameters", "score_mean", "score_high", "separable_from_best", "lost_seeds"]
"""The columns that are used of it."""
FIRST = ["method", "trainable parameters"]
BEST, NOT_SEPARABLE, UNTESTED, LOST_SEEDS = "★", "°", "†", "‡"
LEGEND = (
    f"Mean score in percent ± half of its 95 % interval over seeds; {BEST} the best of its column; {NOT_SEPARABLE} "
    f"cannot be told from it (paired test, corrected for the number of methods); {UNTESTED} not tested against it, as "
    f"predictions or a test are missing; {LOST_SEEDS} further seeds ended without a score, or, alone, all of them; "
    f"{MISSING} not run. Methods that have every task come first, best mean first; below them those with the same "
    "fewer tasks together, likewise. The test speaks of "
    "these trained models on new examples, not of the methods retrained with new seeds. Rows of one table share model, "
    "recipe, tuning effort, data, precision, hardware and software; nothing is compared across tables."
)
MARKDOWN = str.maketrans({character: f"\\{character}" for character in "\\|<`*_[]!#~"})
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {
        "±": r"$\pm$",
        BEST: r"$^\star$",
        NOT_SEPARABLE: r"$^\circ$",
        UNTESTED: r"$^\dagger$",
        LOST_SEEDS: r"$^\ddagger$",
    }
    | {MISSING: "--"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}
)
LEGEND_IN_MARKDOWN = f"{LEGEND}\n"
LEGEND_IN_LATEX = f"% {LEGEND}\n"


def documents(rows: pd.DataFrame, lost: pd.DataFrame) -> dict[str, str]:
    """All groups, each a table of methods by tasks, by the name of their file; without legends.

    `lost` is what has no row because no run ended with a score.
    """
    tables = list(_tables(rows, lost))
    return {MARKDOWN_FILE: _markdown(tables), LATEX_FILE: _latex(tables)}


def _markdown(tables: Iterable[Table]) -> str:
    parts = []
    for title, header, body in tables:
        lines = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
        table = "\n".join(f"| {' | '.join(map(in_markdown, line))} |" for line in lines)
        parts.append(f"**{in_markdown(title)}**\n\n{table}\n")
    return "\n".join(parts)


def _latex(tables: Iterable[Table]) -> str:
    """Tables for the packages longtable and booktabs: a table of many methods goes on on the next page."""
    parts: list[str] = []
    for title, header, body in tables:
        lines = [" & ".join(map(_in_latex, line)) + r" \\" for line in (header, *body)]
        parts += [
            rf"\begin{{longtable}}{{l{'r' * (len(header) - 1)}}}",
            rf"\caption{{{_in_latex(title)}}} \\",
            r"\toprule",
            lines[0],
            r"\midrule",
            r"\endhead",
            *lines[1:],
            r"\bottomrule",
            r"\end{longtable}",
        ]
    return "\n".join(parts) + "\n"


def _tables(rows: pd.DataFrame, lost: pd.DataFrame) -> Iterable[Table]:
    """Title, header and cells of each group."""
    rows = pd.concat([rows, lost], ignore_index=True)
    records = as_records(rows[CELL].assign(task=labels(rows), label=method_labels(rows)))
    groups = together(rows, ["group"])
    for members, head in zip(groups, shared(rows, groups, GROUP), strict=True):
        of_group = [records[position] for position in members]
        tasks = sorted({cell["task"] for cell in of_group})
        methods: dict[str, list[Cell]] = {}
        for cell in of_group:
            methods.setdefault(cell["label"], []).append(cell)
        body = [
            [label, _parameters(methods[label]), *_cells(methods[label], tasks)]
            for label in sorted(methods, key=lambda label: _place(label, methods[label]))
        ]
        yield _title(head), [*FIRST, *tasks], body


def _place(label: str, cells: Sequence[Cell]) -> tuple[Any, ...]:
    """What the rows of a table are sorted by: how many tasks have a score, which ones, and the mean over these."""
    scores = {cell["task"]: cell["score_mean"] for cell in cells if not pd.isna(cell["score_mean"])}
    return -len(scores), sorted(scores), -sum(scores.values()), label


def _parameters(cells: Sequence[Cell]) -> str:
    """Those on the first task that has a score."""
    known = [cell["trainable_parameters"] for cell in cells if not pd.isna(cell["trainable_parameters"])]
    return f"{known[0]:,}" if known else MISSING


def _title(head: Mapping[str, Any]) -> str:
    """What the rows of a group have in common, in words."""
    subset = "" if head["data_subset"] == WHOLE else f" ({head['data_subset']} subset)"
    return (
        f"{head['model']} ({head['model_settings_id']}), {head['budget']} ({head['recipe_id']}), {head['tuning']}, "
        f"{head['data_source']} data{subset}, {head['precision']}, {head['hardware']}, {head['software']}"
    )


def _cells(cells: Sequence[Cell], tasks: Sequence[str]) -> list[str]:
    by_task = {cell["task"]: score(cell) for cell in cells}
    return [by_task.get(task, MISSING) for task in tasks]


def score(cell: Cell) -> str:
    """Mean, half of its interval, how it stands against the best of its task, and what was lost."""
    if pd.isna(cell["score_mean"]):
        return LOST_SEEDS
    half_width = cell["score_high"] - cell["score_mean"]
    text = f"{cell['score_mean']:.1f}" if math.isnan(half_width) else f"{cell['score_mean']:.1f} ± {half_width:.1f}"
    return text + standing(cell) + (LOST_SEEDS if cell["lost_seeds"] else "")


def standing(cell: Cell) -> str:
    """The mark of a score against the best of its task; none for what is told from it."""
    if cell["rank"] == 1:
        return BEST
    separable = cell["separable_from_best"]
    return UNTESTED if pd.isna(separable) else "" if separable else NOT_SEPARABLE


def in_markdown(text: str) -> str:
    """Free text with Markdown's marks escaped, in one line."""
    return " ".join(text.split()).translate(MARKDOWN)


def _in_latex(text: str) -> str:
    return " ".join(text.split()).translate(LATEX)
