"""What a model is called with at once: tensors, and how much of them is real."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Model input of some examples, labels among it.

    `inputs` holds tensors whose first dimension counts rows: one per example, or as many per example as it has choices.
    Their last dimension is the padded length. There is an attention mask only where the batch has padding. `tokens`
    counts what is no padding.
    """

    inputs: dict[str, Tensor]
    samples: int
    tokens: int

    @property
    def shape(self) -> tuple[int, int]:
        """Examples and padded length."""
        return self.samples, int(self.inputs["input_ids"].shape[-1])

    @property
    def unlabelled(self) -> dict[str, Tensor]:
        """What a model takes to answer: everything but the labels."""
        return {name: tensor for name, tensor in self.inputs.items() if name != "labels"}

    def on(self, device: Any) -> Batch:
        """The batch on a device, copied without waiting."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self.inputs.items()}
        return replace(self, inputs=moved)

    def resized(self, samples: int, length: int) -> Batch:
        """The examples repeated or cut to another shape, without padding; what they say plays no part."""
        padded = self.shape[1]

        def fit(tensor: Tensor) -> Tensor:
            rows = tensor.shape[0] // self.samples * samples
            repeated = tensor.repeat(-(-samples // self.samples), *(1 for _ in tensor.shape[1:]))[:rows]
            if tensor.ndim == 1:
                return repeated
            return repeated.repeat(*(1 for _ in tensor.shape[1:]), -(-length // padded))[..., :length]

        inputs = {name: fit(tensor) for name, tensor in self.inputs.items() if name != "attention_mask"}
        return Batch(inputs, samples, samples * length)


@dataclass(frozen=True)
class ImageBatch(Batch):
    """Images as bytes, `pixel_values` (examples, channels, height, width), which become numbers on the device.

    Each channel becomes (byte / 255 - mean) / std. An image counts as no tokens.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Examples, and 1: all images have one size."""
        return self.samples, 1

    def on(self, device: Any) -> ImageBatch:
        """The batch on a device, with its pixels normalised there."""
        import torch

        moved = super().on(device).inputs
        mean, std = _per_channel(self.mean, device), _per_channel(self.std, device)
        pixels = moved["pixel_values"]
        if pixels.dtype == torch.uint8:
            pixels = (pixels.float() - mean) / std
        return replace(self, inputs=moved | {"pixel_values": pixels})

    def resized(self, samples: int, length: int) -> ImageBatch:
        """The images repeated or cut to another number of examples."""
        times = -(-samples // self.samples)
        inputs = {n: t.repeat(times, *(1 for _ in t.shape[1:]))[:samples] for n, t in self.inputs.items()}
        return replace(self, inputs=inputs, samples=samples)


@functools.cache
def _per_channel(values: tuple[float, ...], device: Any) -> Tensor:
    """Values for bytes, (channels, 1, 1), copied to a device once: a copy waits for what the device still has to do."""
    import torch

    with torch.inference_mode(False):  # training uses it as well
        return torch.tensor(values, device=device)[:, None, None] * 255
