"""Greedy generation from a decoder: prompts padded at the start, a cache of keys and values, early leavers dropped.

A batch of sequences lasts as long as its longest. Prompts of similar length go together, and a sequence that has ended
leaves the batch, so that the few long ones do not cost the width of the whole batch. What is generated does not depend
on when it leaves: a text is cut at its first end-of-sequence token and at its first stop string in any case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.processes.team import ALONE, Team
from bench.training.batching import evaluation_order

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from bench.backbone.pretrained import Backbone
    from tasks.base import Examples

LOOK_EVERY = 8
"""Steps between looks at what was generated: each makes the host wait for the device."""
LEAVING_SHARE = 8
"""Ended sequences leave when they are at least one in so many."""


@dataclass(frozen=True)
class Decoding:
    """How far a completion may go: new tokens at most, and strings at which it ends."""

    max_new_tokens: int
    stops: Sequence[str]


@dataclass(frozen=True)
class Completion:
    """One generated text, cut at its end; `truncated` where the limit of new tokens ended it."""

    text: str
    new_tokens: int
    truncated: bool


def complete(
    base: Backbone,
    examples: Examples,
    decoding: Decoding,
    batch_size: int,
    device: Any,
    autocast: AbstractContextManager[Any],
    team: Team = ALONE,
) -> list[Completion]:
    """A greedy completion of every prompt, in the examples' order."""
    import torch

    from bench.decode import cheap_steps

    completions: dict[int, Completion] = {}
    base.model.eval()
    generator = _Generator(base, decoding)
    with torch.inference_mode(), autocast, positions_from_masks(base.model), cheap_steps(base.model):
        for indices in team.share(evaluation_order(examples.lengths, batch_size)):
            found = generator.completions(examples.question(indices).on(device).unlabelled)
            completions.update(zip(indices.tolist(), found, strict=True))
    return team.merged(completions)


class _Generator:
    """One model with its rules of ending."""

    def __init__(self, base: Backbone, decoding: Decoding) -> None:
        self._model = base.model
        # A soft prompt, which the wrapper around the decoder would put in again, is in the cache that goes on.
        self._decoder = _unwrapped(base.model)
        self._tokenizer: PreTrainedTokenizerBase = base.preprocessor
        self._decoding = decoding
        self._ends = _end_tokens(self._decoder, self._tokenizer)

    def completions(self, inputs: dict[str, Tensor]) -> list[Completion]:
        """Completions of a batch of prompts, shape (prompts, longest)."""
        rows = [_Row() for _ in range(len(inputs["input_ids"]))]
        for live, tokens in self._steps(inputs, rows):
            for row, new in zip(live, tokens.tolist(), strict=True):
                self._extend(row, new)
        return [self._completion(row) for row in rows]

    def _steps(self, inputs: dict[str, Tensor], rows: list[_Row]) -> Iterator[tuple[list[_Row], Tensor]]:
        """New tokens of the sequences in the batch, (sequences, at most LOOK_EVERY), until all have ended."""
        import torch

        from bench.decode import give_room

        output = self._model(**inputs, use_cache=True, logits_to_keep=1)
        cache, mask = output.past_key_values, inputs.get("attention_mask")
        give_room(cache)
        if mask is not None:
            mask = torch.nn.functional.pad(mask, (cache.get_seq_length() - mask.shape[1], 0), value=1)
        live, pending = rows, [output.logits[:, -1].argmax(-1)]
        for made in range(1, self._decoding.max_new_tokens + 1):
            if made % LOOK_EVERY == 0 or made == self._decoding.max_new_tokens:
                yield live, torch.stack(pending, 1)
                staying = [position for position, row in enumerate(live) if not row.ended]
                if not staying or made == self._decoding.max_new_tokens:
                    return
                last, pending = pending[-1], []
                if LEAVING_SHARE * (len(live) - len(staying)) >= len(live):
                    live, kept = [live[position] for position in staying], torch.tensor(staying, device=last.device)
                    cache.batch_select_indices(kept)
                    last, mask = last[kept], None if mask is None else mask[kept]
            else:
                last = pending[-1]
            if mask is not None:
                mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
            output = self._decoder(input_ids=last[:, None], attention_mask=mask, past_key_values=cache, use_cache=True)
            pending.append(output.logits[:, -1].argmax(-1))

    def _extend(self, row: _Row, new: list[int]) -> None:
        """Add tokens to a row up to its end."""
        if row.ended:
            return
        end = next((position for position, token in enumerate(new) if token in self._ends), None)
        row.tokens += new if end is None else new[:end]
        row.made += len(new) if end is None else end + 1
        row.ended = end is not None or (bool(self._decoding.stops) and self._stopped(self._text(row)) is not None)

    def _completion(self, row: _Row) -> Completion:
        text = self._text(row)
        return Completion(text[: self._stopped(text)], row.made, truncated=not row.ended)

    def _text(self, row: _Row) -> str:
        return self._tokenizer.decode(row.tokens, skip_special_tokens=True)

    def _stopped(self, text: str) -> int | None:
        """Where the first stop string begins; None where there is none."""
        found = [text.find(stop) for stop in self._decoding.stops]
        return min((position for position in found if position >= 0), default=None)


@dataclass
class _Row:
    """One sequence on its way: tokens before its end, how many were made, whether it has ended."""

    tokens: list[int] = field(default_factory=list)
    made: int = 0
    ended: bool = False


def _unwrapped(model: Any) -> Any:
    """The model without PEFT's wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a text: the tokenizer's, and those that the checkpoint's generation settings name."""
    named = model.generation_config.eos_token_id
    listed = named if isinstance(named, list) else [named]
    return {int(token) for token in (*listed, tokenizer.eos_token_id) if token is not None}


@contextlib.contextmanager
def positions_from_masks(model: Any) -> Iterator[None]:
    """Lets a decoder count positions over what is no padding, so that padding ahead of a text changes nothing.

    Set inside the decoder because PEFT drops the positions that a model with a soft prompt is given.
    """

    def count(_: Any, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = keywords.get("attention_mask")
        if mask is None or keywords.get("position_ids") is not None:
            return arguments, keywords
        embedded = keywords.get("inputs_embeds")
        length = (keywords["input_ids"] if embedded is None else embedded).shape[1]
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
        return arguments, keywords | {"position_ids": positions}

    hook = _unwrapped(model).register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
