"""The schema of a run's settings.

Dataclasses give every fixed section names and types; `method` and `task` are open sections whose YAML is their own
schema (see `bench/validation.py`). Nothing here imports torch: a wrong setting is reported in about a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

LEARNING_RATE = "training.learning_rate"


@dataclass(unsafe_hash=True)
class ModelSettings:
    """A pretrained backbone: its hub repository at a pinned revision, or where else the same weights lie."""

    name: str = MISSING
    repository: str = MISSING
    revision: str | None = None
    package: str | None = None
    """"module/folder" of an installed Python package that carries the weights; used in place of the hub."""
    path: str | None = None
    """A local folder with config, safetensors and tokenizer; used in place of everything else."""
    image_size: int | None = None
    """Height and width, in pixels, of the images that a vision model reads; null where it reads text."""
    head_dropout: float | None = None
    """Dropout before the task head; null keeps the model's own."""


@dataclass
class DataSettings:
    """Where task data is read from."""

    source: str = "auto"
    root: str | None = None
    """A folder laid out as the hub lays it out: <root>/<repository>/<config>/<split>-*.parquet."""


@dataclass
class BudgetSettings:
    """How much training and evaluation a run gets."""

    name: str = MISSING
    max_steps: int | None = None
    evaluation_examples: int | None = None
    """At most this many examples of each reported split, drawn once with a fixed seed; null is all."""
    held_out: bool = False
    """Whether a part of the training split is held out and scored in place of the reported splits."""


@dataclass
class TuningSettings:
    """How settings are chosen before the runs that count: an equal number of short trials for every method.

    A trial is a run of the budget `trial` with its own seed, scored on examples held out of the training split.
    """

    name: str = "none"
    trials: int = 6
    """Trials per method, model, task and budget, whatever is chosen in them."""
    steps: int = 150
    """Optimizer steps of a trial."""
    seed: int = 1000
    """Seed of every trial; no run that counts may have it."""
    span: float = 10.0
    """Learning rates lie between the method's own divided and multiplied by this."""
    extra: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    """Values of further settings of `method` and `training` to choose among, within the same number of trials."""
    run_ids: list[str] = field(default_factory=list)
    """The trials behind a run's settings; filled in when they are done."""

    @property
    def to_do(self) -> bool:
        """Whether there are trials to do before the run."""
        return self.name != "none" and not self.run_ids

    @property
    def keys(self) -> list[str]:
        """The settings that are chosen."""
        return [] if self.name == "none" else [LEARNING_RATE, *self.choices]

    @property
    def choices(self) -> dict[str, list[Any]]:
        """The values in `extra` by setting, such as `method.rank`."""
        return {f"{section}.{name}": found for section, names in self.extra.items() for name, found in names.items()}


@dataclass
class TrainingSettings:
    """The optimisation recipe; the same for every method but for the learning rate."""

    learning_rate: float = MISSING
    epochs: float = MISSING
    max_steps: int | None = None
    """Optimizer steps; null trains for `epochs`."""
    batch_size: int = 32
    """Examples per optimizer step, over all processes."""
    max_length: int | None = MISSING
    """Tokens of an example, at most; null for images."""
    weight_decay: float = 0.01
    warmup_ratio: float = 0.06
    warmup_steps: int | None = None
    """Overrides `warmup_ratio` where a recipe counts its warm-up in steps."""
    schedule: str = "linear"
    max_gradient_norm: float = 1.0
    log_steps: int = 10
    checkpoint_steps: int | None = None
    """Write a checkpoint every so many optimizer steps; null leaves it to `checkpoint_minutes`."""
    checkpoint_minutes: float | None = 10.0
    """Write a checkpoint after so many minutes; null leaves it to `checkpoint_steps`."""


@dataclass
class SlurmSettings:
    """What each run asks of SLURM; null leaves it to the cluster."""

    submit: bool = False
    """Whether runs become jobs. `hardware=slurm/...` says so; a local file with the other settings need not."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    """Generic resources of each node, such as gpu:a100:8; null on CUDA is one GPU per process."""
    time_minutes: int = 240
    memory_gb: float | None = None
    """Main memory of each node, in GiB."""
    cpus_per_task: int = 4
    """Processor cores of each node: one task runs there and starts the node's processes."""
    array_parallelism: int = 16
    """Runs of one array that SLURM may have running at the same time; a large sweep makes several arrays."""
    requeue: bool = True
    """Whether a run that is preempted or meets its time limit is queued again and goes on from its checkpoint."""
    signal_delay_seconds: int = 120
    """How long before its time limit a run is asked to write its checkpoint and stop."""
    extra: dict[str, str] = field(default_factory=dict)
    """Further options of sbatch by their long names; an empty text makes a flag."""
    setup: list[str] = field(default_factory=list)
    """Lines of shell that each job's script runs first."""


@dataclass
class HardwareSettings:
    """What a run may use; `auto` is resolved in `bench/hardware.py`."""

    name: str = MISSING
    device: str = "auto"
    precision: str = "auto"
    processes: int = 1
    machines: int = 1
    split: bool = False
    """Whether the processes hold a part of the frozen weights each (FSDP2), for models that do not fit on one device;
    such a run is scored in its trained form and by its own meters only."""
    step_timeout_minutes: float | None = 60.0
    """A run in which no optimizer step ends for so long has failed; null waits for ever."""
    per_device_batch_size: int | None = None
    """Examples per forward pass; null is the whole batch."""
    evaluation_batch_size: int = 128
    slurm: SlurmSettings | None = None
    """null runs here."""

    @property
    def on_slurm(self) -> bool:
        """Whether runs become jobs of SLURM."""
        return self.slurm is not None and self.slurm.submit


@dataclass
class MeasureSettings:
    """Which meters run beside the ones that cost nothing; none of them changes a result."""

    name: str = MISSING
    memory: bool = True
    """Memory by cause, on one pass at the run's largest batch shape."""
    compute: bool = True
    """FLOPs."""
    inference: bool = True
    """Latency, throughput and outputs of the trained and of the inference form."""
    energy: bool = True
    """Energy counters and sampled utilisation."""
    forgetting: bool = True
    """Drift of the backbone's features and language loss on fixed passages."""
    reference: bool = True
    """The machine's own pace, measured once per machine."""
    sweep_batch: bool = False
    """The largest batch that fits, and the throughput up to it."""


@dataclass
class TrackerSettings:
    """An experiment tracker that follows the run beside the record."""

    name: str = "none"
    project: str = "parsimony"


@dataclass
class ResultsSettings:
    """Where records go."""

    dir: str = "results"


@dataclass
class RunSettings:
    """Everything one run is made of."""

    method: Any = MISSING
    task: Any = MISSING
    model: ModelSettings = field(default_factory=ModelSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    data: DataSettings = field(default_factory=DataSettings)
    budget: BudgetSettings = field(default_factory=BudgetSettings)
    tuning: TuningSettings = field(default_factory=TuningSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    tracker: TrackerSettings = field(default_factory=TrackerSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    results: ResultsSettings = field(default_factory=ResultsSettings)
    seed: int = 0
    rerun: bool = False

    def values(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of these settings, `method.NAME` or `training.NAME`."""
        sections: dict[str, Mapping[str, Any]] = {"method": self.method, "training": vars(self.training)}
        return {key: sections[section][name] for key in keys for section, _, name in [key.partition(".")]}

    @property
    def tuned_at_edge(self) -> bool:
        """Whether the learning rate is the lowest or highest that tuning could choose, so that others may be better."""
        away = abs(math.log(self.training.learning_rate / self.method["learning_rate"]))
        return away > 0.99 * math.log(self.tuning.span)


def register() -> None:
    """Make the schema known to Hydra under the name that `conf/config.yaml` lists first."""
    ConfigStore.instance().store(name="settings", node=RunSettings)
