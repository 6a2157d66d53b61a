"""What tasks for decoders share: a prompt and the text that should follow it, as one row of tokens."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.errors import DataError, SettingsError, suggestion
from bench.requirements import require_known
from tasks.base import StoredTask
from tasks.rows import drawn, require_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from tasks.sources import Source

FORMS = ("inference", "trained")


@dataclass(frozen=True, kw_only=True)
class PromptedTask(StoredTask):
    """A task that a decoder answers to a prompt, the `template` filled with a question.

    `form` is the form of the model that answers: "inference" (merged where the method merges) or "trained".
    """

    outputs: ClassVar[int] = 1

    template: str
    form: str
    max_length: int
    epochs: float

    def __post_init__(self) -> None:
        super().__post_init__()
        require_known("task.form", self.form, FORMS)
        check_template(self.template, ("question",))

    @property
    def scored_form(self) -> str:  # type: ignore[override]
        """The form of the model that answers."""
        return self.form

    def drawn_rows(
        self,
        source: Source,
        split: str,
        tokenizer: PreTrainedTokenizerBase,
        columns: Sequence[str],
        at_most: int | None,
    ) -> tuple[list[dict[str, Any]], NDArray[np.int64]]:
        """At most `at_most` rows with these columns, and their positions. Raises DataError for what cannot be used."""
        table = source.read(split)
        require_columns(table, columns, f"split '{split}' in {source.folder}")
        require_decoder(tokenizer)
        chosen = drawn(table.num_rows, at_most)
        ids = np.arange(table.num_rows) if chosen is None else chosen
        return table.select(list(columns)).take(ids).to_pylist(), ids


@dataclass(frozen=True)
class Row:
    """Token ids of a prompt and what follows it, and where the prompt ends."""

    tokens: list[int]
    prompt_length: int


def rows(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], targets: Sequence[str], closed: bool) -> list[Row]:
    """Each prompt with its target, tokenised as one text; `closed` adds the end-of-sequence token.

    The prompt keeps the tokens that it has alone, which are those that evaluation begins with. Where a tokenizer would
    merge across the border, the target is therefore tokenised by itself.
    """
    end = [tokenizer.eos_token_id] if closed else []
    heads = [_open(ids, tokenizer) for ids in tokenizer(list(prompts))["input_ids"]]
    if not any(targets):
        return [Row([*head, *end], len(head)) for head in heads]
    texts = tokenizer([prompt + target for prompt, target in zip(prompts, targets, strict=True)])["input_ids"]
    joined = []
    for head, whole, target in zip(heads, texts, targets, strict=True):
        tail = _open(whole, tokenizer)[len(head) :]
        if whole[: len(head)] != head:
            tail = tokenizer(target, add_special_tokens=False)["input_ids"]
        joined.append(Row([*head, *tail, *end], len(head)))
    return joined


def _open(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Without the end-of-sequence token that some tokenizers add."""
    return tokens[:-1] if tokens and tokens[-1] == tokenizer.eos_token_id else tokens


def filled(template: str, row: Mapping[str, Any]) -> str:
    """The template with a row's columns in its fields."""
    return template.format_map(row)


def check_template(template: str, columns: Sequence[str]) -> None:
    """Raise SettingsError for a template that cannot be filled with these columns, or that leaves one of them out.

    White space at its end is refused too: the target begins with its own.
    """
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        for name in sorted(fields.difference(columns)):
            raise SettingsError(f"task.template has the field '{name}'.{suggestion(name, columns)}")
        filled(template, dict.fromkeys(columns, ""))
    except ValueError as error:
        raise SettingsError(f"task.template cannot be filled: {error}.") from error
    for name in columns:
        if name not in fields:
            raise SettingsError(f"task.template lacks the field '{name}'.")
    if template != template.rstrip():
        raise SettingsError("task.template ends in white space; the target begins with its own.")


def require_decoder(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise DataError for a tokenizer that cannot end a text."""
    if tokenizer.eos_token_id is None:
        raise DataError("The model's tokenizer has no end-of-sequence token, so that no completion could end.")
