"""The plots, each defined once: the page fills in the entries of one group and task, the files those of a whole group.

Every chart takes entries (`entries.py`), as data or as the name that the page gives them, and looks up what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from bench.records.summary import CAUSES, MEBIBYTE
from methods.base import FAMILIES, OTHER

DATA = "entries"
"""The name of the data on the page."""
VEGA_LITE = ".".join(alt.VEGALITE_VERSION.split(".")[:2])
"""The version that altair writes for, as vl_convert names it."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#56b4e9", "#cc79a7", "#e69f00", "#9a7b1f")
"""Okabe and Ito's palette, which the colour-blind can tell apart, its yellow darkened; read on white and on black."""
GREY, LIGHT_GREY = "#6f7680", "#a3a9b2"
FAMILY_COLOURS = dict(zip(FAMILIES, (*COLOURS, GREY, LIGHT_GREY), strict=True))
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "circle", "square")
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
PHASES = ["load", "train", "evaluate", "measure"]
REST = "rest"
"""All other phases, each of which takes next to no time."""
HEIGHT = 340
FRONT: Mapping[str, Any] = {"interpolate": "step-after", "color": GREY, "strokeWidth": 1.5}
ROUND = "indexof(['1', '3'], slice(format(datum.value, '.0e'), 0, 1)) >= 0"
"""Whether a tick of a logarithmic axis begins with 1 or 3."""
NAMES_ABOVE = (-4, -17, 18)
"""How far from their marks the names of neighbours stand, in pixels, so that they do not run into each other."""
STEP = 20
"""Height of a bar with its gap, in pixels."""

Data = Any
"""Entries as Altair takes data."""

ONE, TASK, MEAN, EVERY = "one", "task", "mean", "every"
"""What a plot shows at a time: one task or one mean over tasks, a task only, a mean only, every task."""


@dataclass(frozen=True)
class Plot:
    """A chart with its title, and a sentence on how to read it."""

    title: str
    reading: str
    chart: Callable[[Data, Sequence[str]], Any]
    scope: str = ONE
    needs: str | None = None
    """The list that an entry must have to appear in it."""
    lines: bool = False
    """Whether it has a line for each method."""

    def entries(self, members: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those that it can show."""
        unfit = {TASK: True, EVERY: True, MEAN: False}.get(self.scope)
        fitting = [entry for entry in members if entry["over_tasks"] is not unfit]
        return [entry for entry in fitting if self.needs is None or entry[self.needs]]


def scores(data: Data, families: Sequence[str]) -> Any:
    """Score against trainable parameters; `families` are those that the colours are for.

    A method that trains the head alone has no place on a logarithmic axis and becomes a line across.
    """
    some = alt.Chart(data).transform_filter("datum.trainable_parameters > 0")
    none = alt.Chart(data).transform_filter("datum.trainable_parameters === 0")
    named = some.transform_filter("datum.on_front || datum.family == 'references'").transform_window(
        number="row_number()", sort=[alt.SortField("trainable_parameters")]
    )
    bars = (
        some.transform_filter("isValid(datum.score_low)")
        .transform_joinaggregate(lowest="min(score_mean)", highest="max(score_mean)")
        .transform_calculate(margin="max(1, (datum.highest - datum.lowest) / 4)")
        .transform_calculate(
            low="max(datum.score_low, datum.lowest - datum.margin)",
            high="min(datum.score_high, datum.highest + datum.margin)",
        )
    )
    scale = alt.Scale(type="log", nice=False, padding=28)
    across = alt.X("trainable_parameters:Q", title="trainable parameters", scale=scale, axis=_decades())
    up = alt.Y("score_mean:Q", title="score, %", scale=alt.Scale(zero=False))
    beside: dict[str, Any] = {"align": "left", "baseline": "bottom", "fontSize": 11}
    return alt.layer(
        none.mark_rule(strokeDash=[4, 4], color=GREY).encode(y=up),
        none.mark_text(**beside, dx=4, dy=-3).encode(x=alt.value(0), y=up, text="label:N"),
        some.transform_filter("datum.on_front").mark_line(**FRONT).encode(x=across, y=up),
        bars.mark_rule(opacity=0.55).encode(
            x=across, y=alt.Y("low:Q", title="score, %"), y2="high:Q", color=_family(families)
        ),
        some.mark_point(filled=True, size=75, opacity=1).encode(
            x=across, y=up, color=_family(families), shape=_shape(families), tooltip=_tooltip()
        ),
        *(
            named.transform_filter(f"datum.number % {len(NAMES_ABOVE)} == {place}")
            .mark_text(**beside, dx=6, dy=dy)
            .encode(x=across, y=up, text="label:N")
            for place, dy in enumerate(NAMES_ABOVE)
        ),
    ).properties(height=HEIGHT)


def memory(data: Data, families: Sequence[str]) -> Any:
    """Bytes by cause, stacked."""
    return _stack(data, ["causes", "cause_bytes"], list(CAUSES), COLOURS, "MiB", 1 / MEBIBYTE)


def time(data: Data, families: Sequence[str]) -> Any:
    """Seconds by phase, stacked."""
    colours = [*COLOURS[: len(PHASES)], LIGHT_GREY]
    return _stack(data, ["phases", "phase_seconds"], [*PHASES, REST], colours, "seconds", 1.0)


def _stack(
    data: Data, columns: list[Any], order: Sequence[str], colours: Sequence[str], unit: str, factor: float
) -> Any:
    """A bar per method, the shortest on top, made of parts in this order; those that it lacks count as the rest."""
    scale = alt.Scale(domain=list(order), range=list(colours[: len(order)]))
    return (
        alt.Chart(data)
        .transform_flatten(columns, ["name", "amount"])
        .transform_calculate(
            value=f"datum.amount * {factor!r}",
            part=f"indexof({list(order)!r}, datum.name) < 0 ? '{REST}' : datum.name",
        )
        .transform_calculate(place=f"indexof({list(order)!r}, datum.part)")
        .transform_aggregate(value="sum(value)", groupby=["label", "part", "place"])
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title=unit, axis=alt.Axis(orient="top")),
            y=alt.Y("label:N", title=None, sort=alt.EncodingSortField("value", op="sum"), axis=_names()),
            color=alt.Color("part:N", title=None, scale=scale),
            order=alt.Order("place:Q"),
            tooltip=[
                alt.Tooltip("label:N", title="method"),
                alt.Tooltip("part:N", title="part"),
                alt.Tooltip("value:Q", title=unit, format=",.3~f"),
            ],
        )
        .properties(height=alt.Step(STEP))
    )


def learning_rates(data: Data, families: Sequence[str]) -> Any:
    """Held-out score by learning rate, as tuning found it; a ring around the rate that was chosen."""
    near = alt.selection_point(name="near", fields=["label"], on="pointerover", clear="pointerout")
    base = alt.Chart(data)
    scale = alt.Scale(type="log", nice=False, padding=12)
    across = alt.X("relative:Q", title="rate, times the method's own", scale=scale, axis=_decades())
    up = alt.Y("held_out:Q", title="held-out score, %", scale=alt.Scale(zero=False))
    tooltip = [
        alt.Tooltip("label:N", title="method"),
        alt.Tooltip("rate:Q", title="learning rate", format=".3~e"),
        alt.Tooltip("held_out:Q", title="held-out score, %", format=".2f"),
    ]
    lines = base.mark_line(strokeWidth=1.75).encode(x=across, y=up, detail="label:N", **_lit(near, families))
    points = base.mark_point(filled=True, size=40).encode(x=across, y=up, tooltip=tooltip, **_lit(near, families))
    chosen = base.transform_filter("datum.rate == datum.learning_rate").mark_point(size=150, strokeWidth=1.75)
    layers = lines, points.add_params(near), chosen.encode(x=across, y=up, **_lit(near, families))
    return (
        alt.layer(*layers)
        .transform_flatten(["rates", "rate_scores"], ["rate", "held_out"])
        .transform_filter("datum.own_rate > 0")
        .transform_calculate(relative="datum.rate / datum.own_rate")
        .properties(height=HEIGHT)
    )


def training(data: Data, families: Sequence[str]) -> Any:
    """Training loss by step, of the first seed."""
    across = alt.X("step:Q", title="optimizer step")
    up = alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False))
    return _curves(data, families, across, up).transform_flatten(["steps", "losses"], ["step", "loss"])


def profiles(data: Data, families: Sequence[str]) -> Any:
    """The share of runs that score above each threshold."""
    across = alt.X("threshold:Q", title="score, %", scale=alt.Scale(zero=False, nice=False))
    up = alt.Y("share:Q", title="share of runs above it", axis=alt.Axis(format="%"))
    return _curves(data, families, across, up).transform_flatten(["thresholds", "shares"], ["threshold", "share"])


def _curves(data: Data, families: Sequence[str], across: Any, up: Any) -> Any:
    """A line per method, which is pointed at within a few pixels."""
    near = alt.selection_point(name="near", fields=["label"], on="pointerover", clear="pointerout")
    line = alt.Chart(data).encode(x=across, y=up, detail="label:N")
    tooltip = [alt.Tooltip("label:N", title="method"), alt.Tooltip("family:N", title="family")]
    return alt.layer(
        line.mark_line(strokeWidth=1.75).encode(**_lit(near, families)),
        line.mark_line(strokeWidth=12, opacity=0).encode(tooltip=tooltip).add_params(near),
    ).properties(height=HEIGHT)


def ranks(data: Data, families: Sequence[str]) -> Any:
    """Rank of every method on every task."""
    base = (
        alt.Chart(data)
        .transform_calculate(place="datum.of > 1 ? (datum.rank - 1) / (datum.of - 1) : 0")
        .transform_joinaggregate(tasks="count()", groupby=["label"])
        .transform_calculate(order="datum.place - datum.tasks")
    )
    across = alt.X("task:N", title=None, axis=alt.Axis(orient="top", labelAngle=-35, domain=False, ticks=False))
    down = alt.Y("label:N", title=None, sort=alt.EncodingSortField("order", op="mean"), axis=_names())
    colour = alt.Color(
        "place:Q",
        scale=alt.Scale(domain=[0, 1], range=["#08519c", "#6baed6", "#eff3ff"]),
        legend=None,  # the cells say it
    )
    text = alt.condition("datum.place < 0.2", alt.value("#ffffff"), alt.value("#000000"))
    return alt.layer(
        base.mark_rect(cornerRadius=2, stroke=None).encode(x=across, y=down, color=colour, tooltip=_tooltip()),
        base.mark_text(fontSize=11).encode(x=across, y=down, text="rank:Q", color=text),
    ).properties(height=alt.Step(STEP))


def mean_ranks(data: Data, families: Sequence[str]) -> Any:
    """Mean rank with a bar of one critical difference in length around it."""
    base = alt.Chart(data).transform_calculate(
        low="datum.mean_rank - datum.critical_difference / 2", high="datum.mean_rank + datum.critical_difference / 2"
    )
    down = alt.Y("label:N", title=None, sort=alt.EncodingSortField("mean_rank", op="min"), axis=_names())
    across = alt.Scale(zero=False)
    return alt.layer(
        base.mark_rule(strokeWidth=2, opacity=0.55).encode(
            x=alt.X("low:Q", title="mean rank", scale=across, axis=alt.Axis(orient="top")),
            x2="high:Q",
            y=down,
            color=_family(families),
        ),
        base.mark_point(filled=True, size=60, opacity=1).encode(
            x=alt.X("mean_rank:Q", title="mean rank", scale=across, axis=alt.Axis(orient="top")),
            y=down,
            color=_family(families),
            tooltip=[
                alt.Tooltip("label:N", title="method"),
                alt.Tooltip("mean_rank:Q", title="mean rank", format=".2f"),
                alt.Tooltip("critical_difference:Q", title="critical difference", format=".2f"),
            ],
        ),
    ).properties(height=alt.Step(STEP))


PLOTS: Mapping[str, Plot] = {
    "scores": Plot(
        "Score and trainable parameters",
        "Up and to the left is better. A bar is the 95 % interval over seeds, cut off where it would dwarf the scores. "
        "The line is the Pareto front: no other method has a higher score with as few parameters. A dashed line is a "
        "method that trains the task head alone.",
        scores,
    ),
    "memory": Plot(
        "Memory by cause",
        "One forward and backward pass at the run's largest batch shape, and the optimizer's state; first seed.",
        memory,
        needs="causes",
    ),
    "time": Plot("Time by phase", "Wall clock of a whole run; first seed.", time, needs="phases"),
    "learning-rates": Plot(
        "Learning rates",
        "What tuning found on held-out training examples. A ring is the rate that was chosen.",
        learning_rates,
        TASK,
        needs="rates",
        lines=True,
    ),
    "training": Plot("Training curves", "Training loss; first seed.", training, TASK, "steps", lines=True),
    "profiles": Plot(
        "Performance profiles",
        "The share of a method's runs, over seeds and tasks, that score above a threshold. Higher is better.",
        profiles,
        MEAN,
        needs="thresholds",
        lines=True,
    ),
    "critical-differences": Plot(
        "Mean ranks and critical differences",
        "1 is best. A bar is as long as the critical difference of Nemenyi's test at 5 %: methods whose bars overlap "
        "cannot be told apart over these tasks, and none can where Friedman's p-value (open a row) is over 0.05.",
        mean_ranks,
        MEAN,
    ),
    "ranks": Plot(
        "Ranks by task",
        "Methods from the best mean place to the worst; below them those that have fewer tasks, likewise.",
        ranks,
        EVERY,
    ),
}
"""The plots by name, in their order on the page."""


def families_of(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The families that these entries have, in the order of the colours."""
    found = {entry["family"] for entry in entries}
    return [family for family in FAMILIES if family in found]


def _family(families: Sequence[str]) -> Any:
    colours = [FAMILY_COLOURS.get(family, FAMILY_COLOURS[OTHER]) for family in families]
    return alt.Color("family:N", title=None, scale=alt.Scale(domain=list(families), range=colours))


def _shape(families: Sequence[str]) -> Any:
    shapes = [SHAPES[FAMILIES.index(family)] for family in families]
    return alt.Shape("family:N", title=None, scale=alt.Scale(domain=list(families), range=shapes))


def _lit(near: Any, families: Sequence[str]) -> dict[str, Any]:
    """Colour by family; where one line is pointed at, the others fade."""
    return {"color": _family(families), "opacity": alt.condition(near, alt.value(0.95), alt.value(0.12))}


def _tooltip() -> list[Any]:
    return [
        alt.Tooltip("label:N", title="method"),
        alt.Tooltip("task:N", title="task"),
        alt.Tooltip("score_mean:Q", title="score, %", format=".2f"),
        alt.Tooltip("score_low:Q", title="interval from", format=".2f"),
        alt.Tooltip("score_high:Q", title="to", format=".2f"),
        alt.Tooltip("rank:Q", title="rank"),
        alt.Tooltip("trainable_parameters:Q", title="trainable parameters", format=","),
    ]


def _decades() -> Any:
    """A logarithmic axis with a line and a label at 1, 3, 10, 30, ..., as in 30k."""
    return alt.Axis(
        labelExpr=f"{ROUND} ? replace(format(datum.value, datum.value < 1 ? '~g' : '~s'), 'G', 'B') : ''",
        labelOverlap=True,
        ticks=False,
        gridOpacity=alt.condition(ROUND, alt.value(1), alt.value(0)),
    )


def _names() -> Any:
    """An axis of names without lines."""
    return alt.Axis(domain=False, ticks=False, labelPadding=6, labelLimit=200)
