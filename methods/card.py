"""Method cards: what a reader wants to know of a method before choosing it, from its module, its YAML and its facts.

The equations are the docstring of the method's module; the defaults are its YAML in `conf/method`; what neither tells,
the idea in two sentences, the typology of PEFT-Ref (arXiv:2304.12410), published numbers with their source, and
deviations from the authors' code, stands in `methods/cards/<name>.yaml`.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from methods.base import Method

FOLDER = Path(__file__).parent / "cards"
ABSTRACTS = "https://arxiv.org/abs/"
CODE = "https://github.com/"


@dataclass(frozen=True)
class Typology:
    """Where a method stands among its relatives, in the terms of PEFT-Ref."""

    intra_connectivity: str
    """Within an added module: dense or sparse."""
    inter_connectivity: str
    """Between added modules: none, fixed, or dynamic."""
    parameters: str
    """Added beside the model's, or a reparameterisation of them."""
    sharing: str
    """None, within a module, or across layers or modules."""
    input: str
    """What the modules read: hidden states, weights or data."""
    insertion: str
    """Sequential or parallel."""
    insertions: str
    """How many modules there are."""
    integration: str
    """Direct, scaled or gated addition, concatenation or rescaling."""
    workspace: str
    """What they act on: projections of the attention, the feed-forward part, a block's output, embeddings."""


@dataclass(frozen=True)
class Published:
    """Numbers that others published, with where they stand."""

    setting: str
    numbers: str
    source: str


@dataclass(frozen=True)
class Card:
    """The facts of one method that neither its code nor its settings tell."""

    title: str
    authors: str
    year: int
    idea: str
    acts_on: str
    trains: str
    typology: Typology
    count: str | None = None
    """Its trainable parameters in words, where they follow from more than the model's shapes."""
    arxiv: str | None = None
    code: str | None = None
    """The authors' repository as owner/name."""
    published: list[Published] = field(default_factory=list)
    deviations: list[str] = field(default_factory=list)
    reconstruction: bool = False


@functools.cache
def card_of(name: str) -> Card | None:
    """The card of the method called `name` in `conf/method`; None where it has none. Raises msgspec.ValidationError."""
    path = FOLDER / f"{name}.yaml"
    return msgspec.yaml.decode(path.read_bytes(), type=Card) if path.is_file() else None


def page(name: str, card: Card, method: Method, settings: Mapping[str, Any], trainable: str) -> str:
    """The card as Markdown; `settings` are the method's defaults, `trainable` says what it trains on some model."""
    parts = (
        _opening(name, card),
        f"{card.idea}\n",
        f"- **Acts on:** {card.acts_on}",
        f"- **Trains:** {card.trains}",
        f"- **Trainable parameters:** {card.count or trainable}",
        f"- **At the start:** {_start(method)}",
        f"- **After training:** {_end(method)}\n",
        "## How it works\n",
        f"{_explanation(method)}\n",
        "## Where it stands among its relatives\n",
        *_table(("property", "here"), _places(card.typology)),
        "\n## Defaults\n",
        *_table(("setting", "value"), _defaults(settings)),
        *_published(card),
        *_deviations(card),
    )
    return "\n".join(parts) + "\n"


def _opening(name: str, card: Card) -> str:
    paper = f"[arXiv:{card.arxiv}]({ABSTRACTS}{card.arxiv})" if card.arxiv else "no arXiv number"
    code = f"[{card.code}]({CODE}{card.code})" if card.code else "no authors' code is known"
    warning = "\n**A reconstruction:** there is no authors' code to follow; results are to be labelled so.\n"
    source = f"{card.authors}, {card.year}; {paper}; {code}."
    return f"# `{name}`: {card.title}\n\n{source}\n{warning if card.reconstruction else ''}"


def _start(method: Method) -> str:
    return "the output is the base model's" if method.identity_at_start else "the output differs from the base model's"


def _end(method: Method) -> str:
    return "merges into the base model" if method.mergeable else "stays beside the base model"


def _explanation(method: Method) -> str:
    """The docstring of the method's module after its title."""
    module = sys.modules[type(method).__module__]
    _, _, rest = inspect.cleandoc(module.__doc__ or "").partition("\n\n")
    return rest


def _places(typology: Typology) -> Iterator[tuple[str, str]]:
    return ((entry.name.replace("_", " "), getattr(typology, entry.name)) for entry in fields(Typology))


def _defaults(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    return ((f"`{key}`", f"`{_plain(value)}`") for key, value in settings.items() if key != "_target_")


def _plain(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else "null" if value is None else str(value)


def _table(head: tuple[str, str], rows: Iterator[tuple[str, str]]) -> Iterator[str]:
    yield f"| {head[0]} | {head[1]} |\n| --- | --- |"
    for row in rows:
        yield f"| {row[0]} | {row[1]} |"


def _published(card: Card) -> Iterator[str]:
    yield "\n## Published numbers\n"
    if not card.published:
        yield "None that can be quoted with a source."
        return
    yield "| setting | numbers | source |\n| --- | --- | --- |"
    for row in card.published:
        yield f"| {row.setting} | {row.numbers} | {row.source} |"


def _deviations(card: Card) -> Iterator[str]:
    yield "\n## Deviations from the authors\n"
    yield from (f"- {sentence}" for sentence in card.deviations or ["None known."])
