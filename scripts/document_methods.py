"""Write docs/methods.md, every method with its paper and the tasks it serves, and the cards in docs/methods.

`--check` writes nothing and tells whether they are up to date.
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import hydra
import torch
from omegaconf import OmegaConf
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    RobertaConfig,
    ViTConfig,
)

from bench.backbone.anatomy import Anatomy
from bench.backbone.kinds import KINDS
from bench.backbone.pretrained import Backbone
from bench.backbone.projections import take_apart
from bench.backbone.span_pair import SpanPairModel
from bench.errors import SettingsError
from bench.measure import parameters
from bench.planning import build
from methods.base import Method
from methods.card import card_of
from methods.card import page as card_page

PAGE = ROOT / "docs" / "methods.md"
CARDS = ROOT / "docs" / "methods"
METHODS = ROOT / "conf" / "method"
WIDE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
ROBERTA_BASE = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
TOTAL_STEPS = 1000
RATIOS = (
    "step_ratio",
    "step_ratio_lowest",
    "step_ratio_highest",
    "last_third_ratio",
    "activation_ratio",
    "flops_ratio",
)
STEP_TIMES = ROOT / "results" / "published" / "step_times.csv"
INTRODUCTION = """# The methods and what they serve

Every method is one file of `conf/method` and serves every kind of task, or refuses it in one sentence before anything
is loaded. Below, a method with its default settings is checked against small models of four families: BERT stands for
encoders, LLaMA for decoders without biases, GPT-2 for decoders with, ViT for models that read images. GPT-2's fused
layers are taken apart when it is loaded, so that query, key and value are layers of their own as everywhere.
`python bench/run.py method=NAME model=NAME task=NAME` makes the same check with any settings and model.

A method that is written here, and not taken from HF PEFT, may have a card of its own behind its name: idea, equations,
defaults, published numbers, deviations.

This page is written by `python scripts/document_methods.py` from the methods themselves.

"""
STEPS_INTRODUCTION = """
## What a step costs on {2}

A training step of the methods that are written here and have a card, over one of PEFT's LoRA with the settings of the
last column, `{0}` in {1}, on the same batches, step by step in turns: median over a run, the middle 80 % of the turns,
and the median of the run's last third; then activations and FLOPs of one pass before the first step. Measured by
`python scripts/benchmark_methods.py`.

| method | step | from, to | last third | activations | FLOPs | LoRA's settings |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
"""


@dataclass(frozen=True)
class Column:
    """One family of models and the kinds of task that it stands for."""

    family: str
    kinds: tuple[str, ...]
    make: Callable[[], Any]

    @property
    def title(self) -> str:
        """Head of the column."""
        return f"{', '.join(self.kinds)} ({self.family})"

    def anatomy(self) -> Anatomy:
        """A small model of the family with shapes but without weights."""
        with torch.device("meta"):
            model = self.make()
        return Anatomy(model, model.config.model_type)

    def refusals(self, method: Method) -> Mapping[str, str]:
        """For each kind that the method does not serve, the sentence that says why."""
        only = {kind: f"It serves {_listed(sorted(method.kinds))}." for kind in self.kinds if kind not in method.kinds}
        try:
            method.check(self.anatomy())
        except SettingsError as error:
            return dict.fromkeys(self.kinds, str(error).removeprefix("method: ")) | only
        return only


def kinds_with(model: str) -> tuple[str, ...]:
    """The kinds of task that `model` of `bench/backbone/kinds.py` serves."""
    return tuple(name for name, kind in KINDS.items() if kind.model == model)


def bert() -> Any:
    """An encoder."""
    return AutoModelForSequenceClassification.from_config(BertConfig(**WIDE))


def gpt2() -> Any:
    """A decoder with learned positions and biases everywhere."""
    model = AutoModelForCausalLM.from_config(GPT2Config(n_embd=128, n_layer=2, n_head=4))
    take_apart(model)
    return model


COLUMNS = (
    Column("BERT", kinds_with("sequence"), bert),
    Column("BERT", kinds_with("span_pair"), lambda: SpanPairModel(bert(), "bert")),
    Column("LLaMA", kinds_with("language"), lambda: AutoModelForCausalLM.from_config(LlamaConfig(**WIDE))),
    Column("GPT-2", kinds_with("language"), gpt2),
    Column("ViT", kinds_with("image"), lambda: AutoModelForImageClassification.from_config(ViTConfig(**WIDE))),
)


def page() -> str:
    """The whole page as Markdown."""
    methods = {name: method_named(name) for name in sorted(file.stem for file in METHODS.glob("*.yaml"))}
    refused = {name: [column.refusals(method) for column in COLUMNS] for name, method in methods.items()}
    return INTRODUCTION + "".join((*_table(methods, refused), *_reasons(refused), *_step_times()))


def cards() -> Iterator[tuple[Path, str]]:
    """The file and the text of every method card."""
    for path in sorted(METHODS.glob("*.yaml")):
        card = card_of(path.stem)
        if card is not None:
            settings = settings_of(path.stem)
            text = card_page(path.stem, card, build(settings), settings, _trainable(settings))
            yield CARDS / f"{path.stem}.md", text


def _trainable(settings: Mapping[str, Any]) -> str:
    """What a method with these settings trains on RoBERTa-base, in words."""
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(RobertaConfig(**ROBERTA_BASE))
    method, anatomy = build(settings), Anatomy(model, "roberta")
    method.attach(Backbone(model, None, anatomy, "roberta-base"), TOTAL_STEPS)
    found = parameters.count(model, anatomy)
    return f"{found.trainable:,} on RoBERTa-base before the first step, the head's {found.head:,} apart"


@functools.cache
def settings_of(name: str) -> dict[str, Any]:
    """The settings of a method's YAML."""
    with hydra.initialize_config_dir(str(METHODS.parent), version_base="1.3"):
        return OmegaConf.to_object(hydra.compose(f"method/{name}").method)  # type: ignore[return-value]


def method_named(name: str) -> Method:
    """The method with the settings of its YAML."""
    method: Method = build(settings_of(name))
    return method


def _table(methods: Mapping[str, Method], refused: Mapping[str, list[Mapping[str, str]]]) -> Iterator[str]:
    yield f"| method | paper | {' | '.join(column.title for column in COLUMNS)} |\n"
    yield f"| --- | --- |{' --- |' * len(COLUMNS)}\n"
    for name, method in methods.items():
        cells = [_cell(column, refusals) for column, refusals in zip(COLUMNS, refused[name], strict=True)]
        title = f"`{name}`" if card_of(name) is None else f"[`{name}`](methods/{name}.md)"
        yield f"| {title} | {method.paper} | {' | '.join(cells)} |\n"


def _cell(column: Column, refusals: Mapping[str, str]) -> str:
    """Yes, no, or which kinds."""
    if not refusals:
        return "yes"
    return ", ".join(kind for kind in column.kinds if kind not in refusals) or "no"


def _reasons(refused: Mapping[str, list[Mapping[str, str]]]) -> Iterator[str]:
    yield "\n## Why not\n\n| method | model | reason |\n| --- | --- | --- |\n"
    for name, columns in refused.items():
        for column, refusals in zip(COLUMNS, columns, strict=True):
            for sentence in dict.fromkeys(refusals.values()):
                yield f"| `{name}` | {column.family} | {sentence} |\n"


def _step_times() -> Iterator[str]:
    """What `scripts/benchmark_methods.py` measured, a table per machine."""
    with STEP_TIMES.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=_where)
    for where, measured in itertools.groupby(rows, _where):
        yield STEPS_INTRODUCTION.format(*where)
        for row in measured:
            step, lowest, highest, last, activations, flops = (f"{float(row[name]):.2f}" for name in RATIOS)
            cells = (f"`{row['method']}`", step, f"{lowest} to {highest}", last, activations, flops, row["against"])
            yield f"| {' | '.join(cells)} |\n"


def _where(row: Mapping[str, str]) -> tuple[str, ...]:
    return row["model"], row["precision"], row["hardware"]


def _listed(words: list[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]} only" if len(words) > 1 else f"{words[0]} only"


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is not up to date")
    written = dict([(PAGE, page()), *cards()])
    if parser.parse_args().check:
        found = {path: path.read_text("utf-8") for path in (PAGE, *CARDS.glob("*.md")) if path.is_file()}
        stale = [path for path in written | found if written.get(path) != found.get(path)]
        print("".join(f"{path.relative_to(ROOT)} is not up to date\n" for path in stale), end="")
        return 1 if stale else 0
    CARDS.mkdir(exist_ok=True)
    for path in set(CARDS.glob("*.md")) - set(written):
        path.unlink()
    for path, text in written.items():
        path.write_text(text, "utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} and {len(written) - 1} cards")
    return 0


if __name__ == "__main__":
    sys.exit(main())
