"""What each kind of task asks of a model: which model class, which loss, how it answers.

A task names its kind; this table is the one place that says what follows from it. Nothing here imports torch until a
loss is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Kind:
    """One kind of task.

    `model` is what the pretrained backbone gets on top: "sequence", "span_pair" and "image" have a new head, "language"
    keeps its pretrained output layer. `loss` takes the model's logits and the batch's labels. `answers` says what
    evaluation looks at: "outputs" of the head, generated "completions", or the "likelihoods" of given ones.
    """

    model: str
    loss: Loss
    answers: str = "outputs"

    @property
    def reads_images(self) -> bool:
        """Whether the model takes pixels and not tokens."""
        return self.model == "image"


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy; logits (examples, classes), labels (examples,)."""
    from torch.nn import functional

    return functional.cross_entropy(logits, labels)


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error; logits (examples, 1), labels (examples,)."""
    from torch.nn import functional

    return functional.mse_loss(logits.squeeze(-1), labels)


def choice_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over each example's choices; logits (examples * choices, 1), labels (examples,)."""
    return cross_entropy(logits.view(len(labels), -1), labels)


def next_token_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled tokens of the batch, each predicted from the token before it.

    Logits (examples, length or more, vocabulary), labels (examples, length), -100 where nothing is predicted. Logits
    ahead of the labels belong to a method's soft prompt.
    """
    from torch.nn import functional

    predicted = logits[:, -labels.shape[1] : -1]
    return functional.cross_entropy(predicted.flatten(0, 1), labels[:, 1:].flatten())


KINDS: Mapping[str, Kind] = {
    "classification": Kind("sequence", cross_entropy),
    "regression": Kind("sequence", squared_error),
    "choice": Kind("sequence", choice_cross_entropy),
    "span_pair": Kind("span_pair", cross_entropy),
    "generation": Kind("language", next_token_cross_entropy, "completions"),
    "likelihood": Kind("language", next_token_cross_entropy, "likelihoods"),
    "image_classification": Kind("image", cross_entropy),
}
