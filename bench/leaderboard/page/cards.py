"""What a reader wants to know of the methods on a board: their cards as HTML.

A method with a card (`methods/card.py`) shows it as it stands in the documentation; of the others the page tells what
their settings and class do: paper, start, end, defaults.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from markdown_it import MarkdownIt

from bench.identity import DESCRIPTIVE
from bench.leaderboard.page.families import family_of
from bench.planning import build
from bench.validation import CONFIGURATION
from methods.card import ABSTRACTS, card_of
from methods.card import page as card_page

if TYPE_CHECKING:
    from methods.base import Method

METHODS = CONFIGURATION / "method"
ITSELF = "_self_"
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
NAME = re.compile(r"\w+")
HIDDEN = ("_target_", *DESCRIPTIVE)
SMALLER = {"h2": "h4"}
"""A card's headings as parts of a longer page."""


def cards(trainable: Mapping[str, str]) -> list[dict[str, str]]:
    """Name, family and text (HTML) of each method; `trainable` says in words what each trains on the board."""
    return [
        {"method": name, "family": family_of(name), "text": _html(_text(name, words))}
        for name, words in sorted(trainable.items())
    ]


def _text(name: str, trainable: str) -> str:
    """What is known of a method, as Markdown."""
    path = METHODS / f"{name}.yaml"
    if not NAME.fullmatch(name) or not path.is_file():
        return f"No method of this name stands in `conf/method`.\n\n- **Trainable parameters:** {trainable}\n"
    settings = settings_of(path)
    method, card = build(settings), card_of(name)
    if card is None:
        return _short(method, settings, trainable)
    title, _, body = card_page(name, card, method, settings, trainable).partition("\n")
    return f"**{title.rpartition(': ')[2] or card.title}**\n{body}"


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of a method's YAML over those of the methods that it names as its defaults.

    What `hydra.compose` gives, without the sixty milliseconds that it takes for each.
    """
    own: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    parents = [settings_of(path.with_stem(name)) for name in own.pop("defaults", []) if name != ITSELF]
    return functools.reduce(_merged, [*parents, own])


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both as one; where both have a mapping, their mappings as one."""
    both = {name for name in below.keys() & above.keys() if isinstance(below[name], dict)}
    return below | above | {name: _merged(below[name], above[name]) for name in both}


def _short(method: Method, settings: Mapping[str, Any], trainable: str) -> str:
    """A method without a card: what its settings and its class tell."""
    library = settings.get("peft_type")
    about = f"HF PEFT's `{library}`." if library else inspect.cleandoc(type(method).__doc__ or "")
    paper = ARXIV.sub(rf"[arXiv:\1]({ABSTRACTS}\1)", method.paper)
    defaults = (f"- `{name}`: `{value}`" for name, value in settings.items() if name not in HIDDEN)
    return "\n".join(
        (
            f"{about}\n",
            f"- **Paper:** {paper or 'none'}",
            f"- **Trainable parameters:** {trainable}",
            f"- **At the start:** the output {'is' if method.identity_at_start else 'differs from'} the base model's",
            f"- **After training:** {'merges into' if method.mergeable else 'stays beside'} the base model\n",
            "## Defaults\n",
            *defaults,
        )
    )


@functools.cache
def _renderer() -> MarkdownIt:
    """Markdown in which HTML is text."""
    return MarkdownIt("commonmark", {"html": False}).enable("table")


def _html(text: str) -> str:
    tokens = _renderer().parse(text)
    for token in tokens:
        token.tag = SMALLER.get(token.tag, token.tag)
    return str(_renderer().renderer.render(tokens, _renderer().options, {}))
