"""The fixed passages of plain English on which forgetting is measured, as model input."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backbone.pretrained import tokenizer

if TYPE_CHECKING:
    from torch import Tensor

    from bench.settings import ModelSettings

PASSAGES = Path(__file__).with_name("passages.txt")
BATCH_SIZE = 16
MAX_LENGTH = 64
GAP_EVERY = 7


@dataclass(frozen=True)
class Passages:
    """Some passages as model input, padded at the end; all tensors have shape (passages, longest).

    `text` marks the passages' own tokens: neither padding nor what the tokenizer adds by itself.
    """

    inputs: dict[str, Tensor]
    text: Tensor

    @property
    def real(self) -> Tensor:
        """Positions that are no padding."""
        return self.inputs["attention_mask"].bool()

    @property
    def gaps(self) -> Tensor:
        """Positions that are hidden from a masked language model: every seventh token of each passage's text."""
        return self.text & (self.text.cumsum(dim=1) % GAP_EVERY == 0)

    def with_gaps(self, mask_token: int) -> dict[str, Tensor]:
        """The input with the mask token in the gaps."""
        return self.inputs | {"input_ids": self.inputs["input_ids"].masked_fill(self.gaps, mask_token)}

    def on(self, device: Any) -> Passages:
        """The same on a device."""
        return Passages({name: tensor.to(device) for name, tensor in self.inputs.items()}, self.text.to(device))


@functools.lru_cache(maxsize=4)
def in_batches(settings: ModelSettings) -> tuple[Passages, ...]:
    """All passages in the model's own tokens, shortest first so that there is little padding."""
    passages = sorted(PASSAGES.read_text("utf-8").splitlines(), key=len)
    chunks = [passages[i : i + BATCH_SIZE] for i in range(0, len(passages), BATCH_SIZE)]
    return tuple(_encoded(tokenizer(settings), chunk) for chunk in chunks)


def _encoded(encode: Any, passages: Sequence[str]) -> Passages:
    inputs = dict(
        encode(
            list(passages),
            truncation=True,
            max_length=MAX_LENGTH,
            padding=True,
            padding_side="right",
            return_special_tokens_mask=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
    )
    added = inputs.pop("special_tokens_mask").bool()
    return Passages(inputs, inputs["attention_mask"].bool() & ~added)
