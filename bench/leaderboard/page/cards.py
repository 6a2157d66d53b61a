"""What a reader wants to know of the methods on a board: their cards as HTML.

A method with a card (`methods/card.py`) shows it as it stands in the documentation; of the others the page tells what
their settings and class do: paper, start, end, defaults.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markdown_it import MarkdownIt

from bench.identity import DESCRIPTIVE
from bench.leaderboard.page.known import METHODS, family_of, method_of, settings_of
from methods.card import ABSTRACTS, card_of
from methods.card import page as card_page

if TYPE_CHECKING:
    from methods.base import Method

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
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
    method = method_of(name)
    if method is None:
        return f"No method of this name stands in `conf/method`.\n\n- **Trainable parameters:** {trainable}\n"
    settings, card = settings_of(METHODS / f"{name}.yaml"), card_of(name)
    if card is None:
        return _short(method, settings, trainable)
    title, _, body = card_page(name, card, method, settings, trainable).partition("\n")
    return f"**{title.rpartition(': ')[2] or card.title}**\n{body}"


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
