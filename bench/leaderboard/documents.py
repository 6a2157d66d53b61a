"""Boards for READMEs and papers: methods by tasks, in Markdown and in LaTeX."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from bench.leaderboard.columns import GROUP

MISSING = "–"
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
        table = "\n".join(f"| {' | '.join(_escaped(cell, '|') for cell in line)} |" for line in lines)
        parts.append(f"**{title}**\n\n{table}\n")
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
    for _, members in rows.groupby("group", sort=False):
        tasks = sorted(members["task"].unique())
        title = _title(members.iloc[0])
        methods = members.groupby(["method", "settings_id"], sort=False)
        complete_first = sorted(methods, key=lambda item: (-len(item[1]), -item[1]["score_mean"].mean(), item[0]))
        names = _distinct([str(method) for (method, _), _ in complete_first])
        body = [
            [name, f"{int(of_method['trainable_parameters'].iloc[0]):,}", *_cells(of_method, tasks)]
            for name, (_, of_method) in zip(names, complete_first, strict=True)
        ]
        yield title, [*FIRST, *tasks], body


def _title(row: pd.Series[Any]) -> str:
    """What the rows of a group have in common, in words."""
    values = {name: str(row[name]) for name in GROUP}
    return (
        f"{values['model']}, {values['budget']} ({values['recipe_id']}), {values['tuning']}, "
        f"{values['data_source']} data, {values['precision']}, {values['hardware']}, {values['software']}"
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Names, numbered where several settings of one method stand in a table."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def _cells(of_method: pd.DataFrame, tasks: Sequence[str]) -> list[str]:
    by_task = {row["task"]: _cell(row) for _, row in of_method.iterrows()}
    return [by_task.get(task, MISSING) for task in tasks]


def _cell(row: pd.Series[Any]) -> str:
    half_width = row["score_high"] - row["score_mean"]
    text = f"{row['score_mean']:.1f}" if pd.isna(half_width) else f"{row['score_mean']:.1f} ± {half_width:.1f}"
    alike = not pd.isna(row["separable_from_best"]) and not row["separable_from_best"]
    return text + NOT_SEPARABLE if alike else text


def _escaped(text: str, characters: str) -> str:
    return "".join(f"\\{character}" if character in characters else character for character in text)


def _in_latex(text: str) -> str:
    replaced = {"±": r"$\pm$", NOT_SEPARABLE: r"$^\circ$", MISSING: "--", "\\": r"\textbackslash{}"}
    return "".join(replaced.get(character) or _escaped(character, "&%$#_{}") for character in text)
