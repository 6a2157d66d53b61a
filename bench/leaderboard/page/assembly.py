"""The page: one file that holds its data, its plots and every script, and asks no network for anything."""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import altair as alt
import vl_convert

from bench.leaderboard.boards import Boards
from bench.leaderboard.page.cards import cards
from bench.leaderboard.page.charts import DATA, FAMILY_COLOURS, PLOTS, VEGA_LITE, families_of
from bench.leaderboard.page.entries import Entry, groups

FOLDER = Path(__file__).parent
SCRIPTS = ("table.js", "plots.js", "page.js")
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'; script-src"
"""Nothing is loaded from anywhere, and no script runs but those whose hashes follow."""
DEMONSTRATION = (
    "<strong>A demonstration.</strong> These runs use the built-in samples or train for two steps. They show what the "
    "page looks like and say nothing about any method."
)
SHORTENED = (
    "This page shows {shown:,} of {all:,} rows: the best of each task in the largest groups. The CSV files beside it "
    "have all of them."
)


def page(boards: Boards, entries: Sequence[Entry], demonstration: bool) -> str:
    """The page as HTML; equal boards give equal text."""
    scripts = {"vega": _vega(), "script": "\n".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS)}
    return Template((FOLDER / "template.html").read_text("utf-8")).substitute(
        policy=f"{POLICY} {' '.join(map(_hash, scripts.values()))}",
        style=(FOLDER / "style.css").read_text("utf-8"),
        notes="\n".join(f'<p class="note">{note}</p>' for note in _notes(boards, entries, demonstration)),
        methods="\n".join(map(_card, cards(_trainable(entries, groups(boards, entries))))),
        content=_json(_content(boards, entries)),
        **scripts,
    )


@functools.cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", VEGA_LITE)
    return script.replace("</script", "<\\/script")


def _hash(script: str) -> str:
    """A script's hash as a content security policy names it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _notes(boards: Boards, entries: Sequence[Entry], demonstration: bool) -> list[str]:
    shown, rows = sum(not entry["over_tasks"] for entry in entries), len(boards.rows)
    shortened = [SHORTENED.format(shown=shown, all=rows)] if shown < rows else []
    return [DEMONSTRATION, *shortened] if demonstration else shortened


def _content(boards: Boards, entries: Sequence[Entry]) -> dict[str, Any]:
    """What the page's script reads; rows as lists, since names repeated for every row would double the file."""
    families = families_of(entries)
    columns = list(entries[0])
    return {
        "groups": groups(boards, entries),
        "families": [{"name": name, "colour": FAMILY_COLOURS[name]} for name in families],
        "columns": columns,
        "rows": [[entry[name] for name in columns] for entry in entries],
        "plots": {name: _plot(name, families) for name in PLOTS},
    }


def _plot(name: str, families: Sequence[str]) -> dict[str, Any]:
    """A plot's texts, and its specification without data."""
    plot = PLOTS[name]
    chart = plot.chart(alt.NamedData(name=DATA), families).properties(width="container", description=plot.title)
    described = {key: getattr(plot, key) for key in ("title", "reading", "scope", "needs")}
    return described | {"specification": chart.to_dict()}


def _trainable(entries: Sequence[Entry], found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What each method trains, in words, by model."""
    models = {group["name"]: group["model"] for group in found}
    counts: dict[str, dict[str, None]] = {}
    for entry in entries:
        if not entry["over_tasks"]:
            text = f"{entry['trainable_parameters']:,} on `{models[entry['group']]}`"
            counts.setdefault(entry["method"], {})[text] = None
    return {method: "; ".join(sorted(texts)) for method, texts in counts.items()}


def _card(card: Mapping[str, str]) -> str:
    name, family = html.escape(card["method"]), html.escape(card["family"])
    summary = f"<summary>{name}<span>{family}</span></summary>"
    return f'<details class="card" data-method="{name}">{summary}<div>{card["text"]}</div></details>'


def _json(value: Any) -> str:
    """JSON that no text in it can end the script element that holds it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
