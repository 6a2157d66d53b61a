"""Boards for READMEs and papers: methods by tasks, in Markdown and in LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from bench.leaderboard.rows import together

MISSING = "–"
Cell = Mapping[Any, Any]
"""A row of the board."""
FIRST = ["method", "trainable parameters"]
NOT_SEPARABLE = "°"
LEGEND = (
    f"Mean score in percent ± half of its 95 % interval over seeds; {NOT_SEPARABLE} cannot be told from the best of "
    f"its column (paired test, corrected for the number of methods); {MISSING} not run. Rows of one table share model, "
    "recipe, tuning effort, data, precision, hardware and software; nothing is compared across tables."
)


def markdown(rows: pd.DataFrame) -> str:
    """All groups, each a table of methods by tasks, the best mean first."""
    parts = [f"{LEGEND}\n"]
    for title, header, body in _tables(rows):
        lines = [header, ["---"] + ["---:"] * (len(header) - 1), *body]
        table = "\n".join(f"| {' | '.join(map(_in_markdown, line))} |" for line in lines)
        parts.append(f"**{_in_markdown(title)}**\n\n{table}\n")
    return "\n".join(parts)


def latex(rows: pd.DataFrame) -> str:
    """The same as `table` environments for the package booktabs."""
    parts = [f"% {LEGEND}"]
    for title, header, body in _tables(rows):
        lines = [" & ".join(map(_in_latex, line)) + r" \\" for line in (header, *body)]
        parts += [
            r"\begin{table}",
            rf"\caption{{{_in_latex(title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    return "\n".join(parts) + "\n"


def _tables(rows: pd.DataFrame) -> Iterable[tuple[str, list[str], list[list[str]]]]:
    """Title, header and cells of each group."""
    records = rows.to_dict("records")
    for members in together(rows, ["group"]):
        of_group = [records[position] for position in members]
        tasks = sorted({cell["task"] for cell in of_group})
        methods: dict[tuple[str, str], list[Cell]] = {}
        for cell in of_group:
            methods.setdefault((cell["method"], cell["settings_id"]), []).append(cell)
        complete_first = sorted(methods, key=lambda key: (-len(methods[key]), -_mean_score(methods[key]), key))
        names = _distinct([method for method, _ in complete_first])
        body = [
            [name, f"{methods[key][0]['trainable_parameters']:,}", *_cells(methods[key], tasks)]
            for name, key in zip(names, complete_first, strict=True)
        ]
        yield _title(of_group[0]), [*FIRST, *tasks], body


def _mean_score(cells: Sequence[Cell]) -> float:
    return sum(cell["score_mean"] for cell in cells) / len(cells)


def _title(cell: Cell) -> str:
    """What the rows of a group have in common, in words."""
    return (
        f"{cell['model']}, {cell['budget']} ({cell['recipe_id']}), {cell['tuning']}, "
        f"{cell['data_source']} data, {cell['precision']}, {cell['hardware']}, {cell['software']}"
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Names, numbered where several settings of one method stand in a table."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _cells(cells: Sequence[Cell], tasks: Sequence[str]) -> list[str]:
    by_task = {cell["task"]: _shown(cell) for cell in cells}
    return [by_task.get(task, MISSING) for task in tasks]


def _shown(cell: Cell) -> str:
    half_width = cell["score_high"] - cell["score_mean"]
    text = f"{cell['score_mean']:.1f}" if math.isnan(half_width) else f"{cell['score_mean']:.1f} ± {half_width:.1f}"
    return text + NOT_SEPARABLE if cell["separable_from_best"] is False else text


def _escaped(text: str, characters: str) -> str:
    return "".join(f"\\{character}" if character in characters else character for character in text)


def _in_markdown(text: str) -> str:
    return _escaped(" ".join(text.split()), "\\|<`")


def _in_latex(text: str) -> str:
    replaced = {"±": r"$\pm$", NOT_SEPARABLE: r"$^\circ$", MISSING: "--", "\\": r"\textbackslash{}"}
    return "".join(replaced.get(character) or _escaped(character, "&%$#_{}") for character in text)
