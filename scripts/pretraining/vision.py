"""Pretraining of the tiny ViT that the project ships: labels of generated shape scenes, from scratch.

The class token answers for the scene (shape, colour, place and size of the largest shape, number of shapes, kind of
ground), every patch token for its own patch (shape, colour, how much of it is covered and towards which side, where
its shape's centre lies and how it is turned). The loss is the sum of the cross-entropies, each divided by the logarithm
of its number of classes, plus the weighted squared error of the geometry. Until the last steps only some of the patches
are read, those with shapes first, which halves the time of a step. Only the backbone is kept; a task gives it a new
head.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import ViTConfig, ViTModel

from scripts.pretraining.shapes import GEOMETRY, PATCH, PATCH_CLASSES, SCENE_CLASSES, SIDE, Scenes, scenes

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_BYTES = 8_000_000
GEOMETRY_WEIGHT = 30.0
INITIAL_SPREAD = 0.06
"""Standard deviation of fresh weights: near 1 / sqrt(width), as from the usual 0.02 narrow attention stays uniform."""
POSITION_SCALE, POSITION_SIZE = 50.0, 0.3
REPORT_EVERY = 100


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the machine's arithmetic."""

    seed: int = 20_191
    steps: int = 3_000
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.05
    gradient_norm: float = 1.0
    kept_patches: int = 24
    whole_share: float = 0.15
    """Share of the steps, at the end, that read all patches."""
    threads: int = 1


class Heads(nn.Module):
    """One linear head per label, on the class token or on the patch tokens; gone after pretraining."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scene = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in SCENE_CLASSES.items()})
        self.patch = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in PATCH_CLASSES.items()})
        self.geometry = nn.Linear(width, GEOMETRY)

    def forward(self, hidden: Tensor, batch: Scenes) -> Tensor:
        """The loss of the last hidden states (n, 1 + patches, width)."""
        token, patches = hidden[:, 0], hidden[:, 1:]
        terms = [self._entropy(head(token), batch.scene[name]) for name, head in self.scene.items()]
        terms += [self._entropy(head(patches), batch.patch[name]) for name, head in self.patch.items()]
        return sum(terms, GEOMETRY_WEIGHT * mse_loss(self.geometry(patches), torch.from_numpy(batch.geometry)))

    def _entropy(self, logits: Tensor, labels: np.ndarray) -> Tensor:
        loss = cross_entropy(logits.flatten(0, -2), torch.from_numpy(labels).flatten())
        return loss / math.log(logits.shape[-1])


def architecture() -> ViTConfig:
    """Six layers of width 192 on 64x64 pixels in patches of 8: 2.3 million parameters."""
    return ViTConfig(
        image_size=SIDE,
        patch_size=PATCH,
        hidden_size=192,
        num_hidden_layers=6,
        num_attention_heads=3,
        intermediate_size=576,
        architectures=["ViTForImageClassification"],
    )


def pretrain(output: Path, steps: int | None) -> None:
    """Train from scratch and write the model, its processor and its card into `output`; None takes all the steps.

    Raises ValueError if the weights outgrow what the repository may carry.
    """
    recipe = Recipe() if steps is None else Recipe(steps=steps)
    threads = torch.get_num_threads()
    torch.set_num_threads(recipe.threads)
    try:
        model, loss = _train(recipe)
    finally:
        torch.set_num_threads(threads)
    _save(model, output)
    size = (output / "model.safetensors").stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"{output}/model.safetensors has {size} bytes; at most {MOST_BYTES} are shipped.")
    (output / "README.md").write_text(_card(model, recipe, loss))


def pixel_values(images: np.ndarray) -> Tensor:
    """Images (n, 64, 64, 3) from 0 to 255 as the shipped processor hands them over: (n, 3, 64, 64) from -1 to 1."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


def _train(recipe: Recipe) -> tuple[ViTModel, float]:
    """The trained backbone and its mean loss over the last tenth of the steps."""
    torch.manual_seed(recipe.seed)
    config = architecture()
    config.initializer_range = INITIAL_SPREAD
    model = ViTModel(config, add_pooling_layer=False)
    config.initializer_range = architecture().initializer_range  # for the heads of tasks
    with torch.no_grad():
        model.embeddings.position_embeddings[0, 1:] = _positions(SIDE // PATCH, model.config.hidden_size)
    heads = Heads(model.config.hidden_size)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    losses = []
    for batch, patches in _batches(recipe):
        loss = heads(_last_hidden_state(model, batch, patches), batch.at(patches))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.gradient_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) % REPORT_EVERY == 0:
            print(f"step {len(losses)}: loss {np.mean(losses[-REPORT_EVERY:]):.3f}", flush=True)
    return model, float(np.mean(losses[-max(1, recipe.steps // 10) :]))


def _positions(across: int, width: int) -> Tensor:
    """Sines and cosines of each patch's column and row (patches, width): where learned positions start.

    Neighbours are alike from the first step, which shortens the time to the first useful attention.
    """
    frequency = POSITION_SCALE ** (-torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(across), torch.arange(across), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (column, row)]
    return POSITION_SIZE * torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)


def _batches(recipe: Recipe) -> Iterator[tuple[Scenes, np.ndarray]]:
    """Scenes, and which patches (n, kept) are read of each: covered ones first, then any."""
    rng = np.random.default_rng(recipe.seed)
    for step in range(recipe.steps):
        batch = scenes(recipe.batch_size, rng)
        order = np.argsort(rng.random(batch.geometry.shape[:2]) + (batch.geometry[..., 0] < 0.1), axis=1)
        whole = step >= (1 - recipe.whole_share) * recipe.steps
        yield batch, np.sort(order if whole else order[:, : recipe.kept_patches], axis=1)


def _last_hidden_state(model: ViTModel, batch: Scenes, patches: np.ndarray) -> Tensor:
    """What the model makes of the class token and of `patches` (n, kept): (n, 1 + kept, width)."""
    hidden = model.embeddings(pixel_values(batch.images))
    read = torch.from_numpy(np.pad(patches + 1, ((0, 0), (1, 0))))
    hidden = hidden.gather(1, read[..., None].expand(-1, -1, hidden.shape[-1]))
    for layer in model.layers:
        hidden = layer(hidden)
    return model.layernorm(hidden)


def _rate(step: int, recipe: Recipe) -> float:
    """Share of the learning rate at `step`: a linear warm-up, then half a cosine to 0."""
    warmup = max(1, round(recipe.warmup_share * recipe.steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, recipe.steps - warmup)))


def _save(model: ViTModel, output: Path) -> None:
    """Write the weights in bfloat16, without a classifier, so that any number of classes loads."""
    from safetensors.torch import save_file

    output.mkdir(parents=True, exist_ok=True)
    weights = {f"vit.{name}": tensor.to(torch.bfloat16).contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, output / "model.safetensors", metadata={"format": "pt"})
    model.config.dtype = "bfloat16"
    model.config.save_pretrained(output)
    (output / "preprocessor_config.json").write_text(json.dumps(PROCESSOR, indent=2) + "\n")


PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": SIDE, "width": SIDE},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
"""The processor's settings; resample 2 is bilinear."""


def _card(model: ViTModel, recipe: Recipe, loss: float) -> str:
    return f"""---
license: apache-2.0
---
# tiny-vit

A vision transformer of {model.num_parameters():,} parameters (six layers of width 192, 64x64 pixels in patches of 8)
that ships with the benchmark, so that vision tasks run without network in minutes on a CPU.

**Pretraining.** From scratch on {recipe.steps * recipe.batch_size:,} generated scenes of coloured shapes
(`scripts/pretraining/shapes.py`), each seen once. The class token names shape, colour, column, row and size class of
the largest shape, the number of shapes and the kind of ground; every patch token names the shape and the colour that
cover it, how much of it is covered, where the shape's centre lies and how the shape is turned. Until the last
{recipe.whole_share:.0%} of the steps, {recipe.kept_patches} of the 64 patches are read, covered ones first. No image of
the benchmark's tasks or of their generated stand-ins is used, and none of their labels.

| setting | value |
| --- | --- |
| command | `python scripts/pretrain_tiny.py tiny-vit --steps {recipe.steps}` |
| steps x batch size | {recipe.steps} x {recipe.batch_size} |
| optimizer | AdamW, learning rate {recipe.learning_rate:g}, weight decay {recipe.weight_decay:g} |
| gradient norm | at most {recipe.gradient_norm:g} |
| schedule | {recipe.warmup_share:.0%} linear warm-up, cosine to 0 |
| seed | {recipe.seed} |
| arithmetic | float32 on {recipe.threads} CPU thread; stored in bfloat16 |
| training loss, mean of the last tenth | {loss:.3f} |
| versions | torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__} |

**Files.** Weights of the backbone alone: `AutoModelForImageClassification.from_pretrained(FOLDER, num_labels=N)` adds a
new head. Images are resized to 64x64 (bilinear) and scaled to -1 .. 1.

**For** trying adaptation methods and testing the harness on generated images. **Not for** photographs, nor for any
comparison with published results: it has never seen a natural image.

Licence: Apache-2.0.
"""
