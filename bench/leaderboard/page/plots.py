"""The plots as files: SVG, and PNG where a README shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import vl_convert

from bench.leaderboard.page import charts
from bench.leaderboard.page.charts import DATA, EVERY, PLOTS, VEGA_LITE, Plot
from bench.leaderboard.page.entries import Entry

GROUPS = 3
"""Of more groups only the largest have plots in files."""
WIDTH = 640
SMALL, HEIGHT_OF_SMALL, COLUMNS = 190, 110, 4
"""Of a plot that is drawn method by method."""
AS_PNG = "scores"
PIXELS_PER_POINT = 2
INK, FAINT, LINES = "#1d2530", "#5b6573", "#e3e7ec"
CONFIG: Mapping[str, Any] = {
    "aria": False,
    "background": "#ffffff",
    "font": charts.FONT,
    "padding": 12,
    "view": {"stroke": None},
    "axis": {
        **{"labelColor": FAINT, "titleColor": INK, "titleFontWeight": "normal", "labelFontSize": 11},
        **{"titleFontSize": 12, "gridColor": LINES, "domainColor": LINES, "tickColor": LINES},
    },
    "legend": {"orient": "top", "labelColor": INK, "labelFontSize": 11, "columns": 5, "symbolOpacity": 1},
    "title": {"color": INK, "subtitleColor": FAINT, "anchor": "start", "fontSize": 13, "offset": 10},
    "header": {"labelColor": INK, "labelFontWeight": "bold"},
    "text": {"color": INK},
}


def files(entries: Sequence[Entry], titles: Mapping[str, str]) -> dict[str, bytes]:
    """The plots of the largest groups by the name of their file; `titles` says what a group's rows have in common."""
    families = charts.families_of(entries)
    found: dict[str, bytes] = {}
    for group in list(dict.fromkeys(entry["group"] for entry in entries))[:GROUPS]:
        members = [entry for entry in entries if entry["group"] == group]
        for name, plot in PLOTS.items():
            for part, shown in _parts(plot, members).items():
                specification = _specification(plot, shown, families, titles[group])
                if specification is not None:
                    place = "/".join(filter(None, (group, part, name)))
                    found[f"{place}.svg"] = vl_convert.vegalite_to_svg(specification, VEGA_LITE).encode()
                    if name == AS_PNG:
                        png = vl_convert.vegalite_to_png(specification, VEGA_LITE, scale=PIXELS_PER_POINT)
                        found[f"{place}.png"] = png
    return found


def _parts(plot: Plot, members: Sequence[Entry]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """What a plot shows at a time, by the folder of its files: the task or mean with most methods has none."""
    shown = plot.entries(members)
    if plot.scope == EVERY:
        return {"": shown}
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for entry in shown:
        by_task.setdefault(entry["task"], []).append(entry)
    widest = max(by_task.values(), key=lambda entries: (len(entries), entries[0]["over_tasks"]), default=None)
    return {"" if entries is widest else _folder(task): entries for task, entries in by_task.items()}


def _folder(task: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", task.lower()).strip("-")


def _specification(
    plot: Plot, shown: Sequence[Mapping[str, Any]], families: Sequence[str], title: str
) -> dict[str, Any] | None:
    """A plot with its data; None where there is too little to compare.

    What draws lines, which only pointing at tells apart, has a panel for each method.
    """
    tasks = list(dict.fromkeys(entry["task"] for entry in shown))
    if len({entry["label"] for entry in shown}) < 2 or (plot.scope == EVERY and len(tasks) < 2):
        return None
    chart = plot.chart(alt.NamedData(name=DATA), families)
    if plot.lines:
        facets = alt.Facet("label:N", title=None)
        chart = chart.properties(width=SMALL, height=HEIGHT_OF_SMALL).facet(facet=facets, columns=COLUMNS)
    else:
        chart = chart.properties(width=WIDTH)
    subtitle = f"{tasks[0]}: {title}" if len(tasks) == 1 else title
    named = chart.properties(title=alt.TitleParams(plot.title, subtitle=subtitle))
    specification: dict[str, Any] = named.configure(**CONFIG).to_dict()
    return specification | {"datasets": {DATA: shown}}
