"""The contract between the harness and a task.

A task is metadata (where its data lies, which columns are text, which labels, which metric) and what follows from it:
examples turned into model input, the model's answers turned into predictions, predictions into scores. It knows no
device, no method. What its kind asks of the model stands in `bench/backbone/kinds.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from bench.errors import SettingsError
from tasks.rows import Columns
from tasks.sources import TRAIN_SPLIT, Source

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from tasks.batch import Batch


class Examples(Protocol):
    """One encoded split: `tasks/examples.py` for text, `tasks/images.py` for images.

    `labels`, `ids` and `lengths` have shape (examples,); `columns` holds what else scoring needs.
    """

    @property
    def dropped(self) -> int:
        """Examples that were left out because they are too long to train on."""

    @property
    def labels(self) -> NDArray[Any]:
        """What predictions are compared with."""

    @property
    def ids(self) -> NDArray[np.int64]:
        """The examples' own numbers where the benchmark gives them some, else their positions in what was read."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Size of each example as far as it decides the size of a batch."""

    @property
    def loss_terms(self) -> NDArray[np.int64]:
        """How many terms each example adds to the mean that is the loss of a batch, shape (examples,)."""

    @property
    def columns(self) -> Columns:
        """Further values per example."""

    def __len__(self) -> int:
        """Number of examples."""

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """Some examples with labels, to train on."""

    def question(self, indices: NDArray[np.int64]) -> Batch:
        """Some examples as the model meets them in evaluation."""


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
    scored_form: str
    """The form of the model that is scored: "trained" as training leaves it, or "inference" (merged, pruned)."""

    def __hash__(self) -> int:
        """Equal tasks hash equally: encoded splits are kept between runs."""

    @property
    def configs(self) -> Sequence[str]:
        """Folders of the repository that the task reads."""

    @property
    def local_folders(self) -> Sequence[str]:
        """Below the root of a mirror: where the task's files lie, first choice first."""

    @property
    def source_splits(self) -> Sequence[str]:
        """Splits of the files that the task reads."""

    def local_splits(self, folder: Path) -> Sequence[str]:
        """Splits that the task reads from this folder of a mirror."""

    def scored_splits(self, source: Source) -> Sequence[str]:
        """The splits that are scored: the reported ones, and others that the task knows and the source has."""

    def subset(self, source: Source) -> str | None:
        """Which examples were taken, where the benchmark prescribes a subset; None elsewhere."""

    def held_out(self, source: Source) -> tuple[Task, Source]:
        """The task and source that train on a part of the training split and score another part of it."""

    @property
    def outputs(self) -> int:
        """Width of the task head."""

    def encode(
        self, source: Source, split: str, preprocessor: Any, max_length: int | None, at_most: int | None
    ) -> Examples:
        """One split as model input; at most `at_most` examples, drawn with a fixed seed. Raises DataError.

        `preprocessor` is a tokenizer, or the `ImageFormat` of a model that reads images.
        """

    def predict(self, answers: Any, examples: Examples) -> Columns:
        """The model's answers (for most kinds head outputs, (examples, outputs)) as columns, `prediction` first."""

    def score(self, predictions: Mapping[str, Columns], examples: Mapping[str, Examples]) -> Scores:
        """Score the predictions of every reported split."""


@dataclass(frozen=True, kw_only=True)
class StoredTask:
    """What every task is: splits of a data set that lies in files, some of them reported.

    `repository`, `revision` and `config` (a folder of the repository) name the files on the hub.
    """

    scored_form: ClassVar[str] = "trained"
    reports_several: ClassVar[bool] = False
    """Whether there may be several reported splits."""

    repository: str
    revision: str | None
    config: str
    reported_splits: Sequence[str]

    def __post_init__(self) -> None:
        self.make_tuple("reported_splits")
        if len(self.reported_splits) != 1 and not (self.reports_several and self.reported_splits):
            wanted = "one split or several" if self.reports_several else "one split"
            raise SettingsError(f"task.reported_splits={list(self.reported_splits)} must be {wanted}.")

    def make_tuple(self, name: str) -> None:
        """Keep a list among the settings as a tuple, which can be hashed. Raises SettingsError for anything else."""
        value = getattr(self, name)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise SettingsError(f"task.{name}={value} must be a list, such as task.{name}=[{value}].")
        object.__setattr__(self, name, tuple(value))

    @property
    def configs(self) -> Sequence[str]:
        """Folders of the repository that the task reads."""
        return (self.config,)

    @property
    def local_folders(self) -> Sequence[str]:
        """Where a mirror holds the task, first choice first."""
        return (f"{self.repository}/{self.config}",)

    @property
    def source_splits(self) -> Sequence[str]:
        """Splits of the files that the task reads."""
        return (TRAIN_SPLIT, *self.reported_splits)

    def local_splits(self, folder: Path) -> Sequence[str]:
        """Splits that the task reads from a folder of a mirror."""
        return self.source_splits

    def scored_splits(self, source: Source) -> Sequence[str]:
        """The splits that are scored."""
        return self.reported_splits

    @property
    def context_column(self) -> str | None:
        """Column whose equal values mark training rows that belong together; None where every row stands alone."""
        return None

    @property
    def phrase_column(self) -> str | None:
        """Column of texts of which many training rows hold a part of another row's; None elsewhere."""
        return None

    def subset(self, source: Source) -> str | None:
        """Which examples were taken where a benchmark prescribes a subset."""
        return None

    def held_out(self, source: Source) -> tuple[Self, Source]:
        """The same task on two parts of the training split; one is scored, however many splits are reported."""
        from tasks.held_out import HeldOutSource

        scored = self.reported_splits[:1]
        task = replace(self, reported_splits=scored)
        return task, HeldOutSource.cut(source, scored, self.context_column, self.phrase_column)
