"""The contract between the harness and a task.

A task is metadata (where its data lies, which columns are text, which labels, which metric) and the two things that
follow from it: examples turned into model input, and predictions turned into scores. It knows no device, no method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from tasks.sources import Source


@dataclass(frozen=True)
class Examples:
    """One split, encoded: token ids of all examples end to end, and where each starts.

    Shapes: `input_ids` and `token_type_ids` (total tokens,), `offsets` (examples + 1,), `labels` and `ids` (examples,).
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int8] | None
    offsets: NDArray[np.int64]
    labels: NDArray[Any]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example, shape (examples,)."""
        lengths: NDArray[np.int64] = self.offsets[1:] - self.offsets[:-1]
        return lengths


@dataclass(frozen=True)
class Scores:
    """What a task reports: the headline score in percent, all metrics by name, and why a metric is absent."""

    score: float
    metrics: dict[str, float | None]
    reasons: dict[str, str] = field(default_factory=dict)


class Task(Protocol):
    """What the harness asks of a task."""

    repository: str
    revision: str | None
    config: str
    kind: str
    headline: str
    reported_splits: Sequence[str]

    def __hash__(self) -> int:
        """Equal tasks hash equally: encoded splits are kept between runs."""

    @property
    def outputs(self) -> int:
        """Width of the task head."""

    def encode(
        self, source: Source, split: str, tokenizer: PreTrainedTokenizerBase, max_length: int, at_most: int | None
    ) -> Examples:
        """One split as model input; at most `at_most` examples, drawn with a fixed seed. Raises DataError."""

    def predict(self, outputs: NDArray[np.float32]) -> NDArray[Any]:
        """Head outputs, shape (examples, outputs), to predictions, shape (examples,)."""

    def score(self, predictions: Mapping[str, NDArray[Any]], labels: Mapping[str, NDArray[Any]]) -> Scores:
        """Score the predictions of every reported split, each of shape (examples,)."""
