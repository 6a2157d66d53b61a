"""What a training step of each method costs, against PEFT's LoRA of the same rank and targets.

    python scripts/benchmark_methods.py [data.root=FOLDER] [model=minilm] [--methods mos nola] [--steps 60]

Method and LoRA train the same model on the same batches and take turns step by step, so that a machine that slows down
slows both; the ratio is formed within a turn. A run of `--steps` steps goes through all phases of a method's schedule,
and the ratio is given for the whole of it and for its last third. A method without targets is set against LoRA as it
is configured. Activations and FLOPs are those of one forward and backward pass over the longest batch before the first
step, counted as in a run. `--table FILE` adds the figures to a CSV file, in place of earlier ones of the same methods;
`scripts/document_methods.py` shows those of `results/published/step_times.csv`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd
from rich.console import Console

from bench.commands import exit_code_of
from bench.errors import SettingsError, UserError
from bench.hardware import description
from scripts.benchmarking import attached, more_than, planned, training_loop

if TYPE_CHECKING:
    from bench.planning import Plan
    from tasks.base import Examples

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = "lora"
WARM_UP_STEPS = 3


@dataclass(frozen=True)
class Row:
    """One method beside LoRA; each ratio is the method's figure over LoRA's."""

    method: str
    against: str
    model: str
    hardware: str
    precision: str
    trainable_parameters: int
    step_milliseconds: float
    step_ratio: float
    step_ratio_lowest: float
    step_ratio_highest: float
    last_third_ratio: float
    activation_ratio: float
    flops_ratio: float


class Contestant:
    """A method that trains, one step at a time."""

    def __init__(self, todo: Plan, examples: Examples, steps: int) -> None:
        from bench.measure import parameters, probe
        from bench.measure.throughput import StepClock

        seed = todo.settings.seed
        method = attached(todo, seed, steps)
        self.loop = training_loop(todo, method, examples, seed, steps)
        base = method.backbone
        self.trainable_parameters = parameters.count(base.model, base.anatomy).trainable
        self.one_pass = probe.one_pass(self.loop, self.loop.longest_batch())
        self._clock = StepClock(todo.hardware.device)
        self.loop.model.train()

    def seconds_of(self, indices: Any) -> float:
        """Train one step over these examples."""
        import torch

        start = time.perf_counter()
        self.loop.train_on(indices, self._clock)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start


def compared(name: str, overrides: Sequence[str], steps: int) -> Row:
    """One method against LoRA."""
    todo = planned([*overrides, f"method={name}"])
    examples = _examples(todo)
    ours = Contestant(todo, examples, steps)
    rank, targets = _equal_lora(todo.settings.method)
    try:
        equal = [*rank, *targets]
        theirs = Contestant(planned([*overrides, f"method={REFERENCE}", *equal]), examples, steps)
    except SettingsError:  # a rank that counts something else, and is too large for LoRA
        equal = targets
        theirs = Contestant(planned([*overrides, f"method={REFERENCE}", *equal]), examples, steps)
    turns = np.array(list(_turns(ours, theirs, examples, todo, steps)))[WARM_UP_STEPS:]
    ratios = turns[:, 0] / turns[:, 1]
    lowest, highest = np.percentile(ratios, (10, 90))
    return Row(
        method=name,
        against=" ".join(word.removeprefix("method.") for word in equal) or "its defaults",
        model=todo.names.model,
        hardware=description(todo.hardware.device),
        precision=todo.hardware.precision,
        trainable_parameters=ours.trainable_parameters,
        step_milliseconds=float(1000 * np.median(turns[:, 0])),
        step_ratio=float(np.median(ratios)),
        step_ratio_lowest=float(lowest),
        step_ratio_highest=float(highest),
        last_third_ratio=float(np.median(ratios[-len(ratios) // 3 :])),
        activation_ratio=ours.one_pass.activation_bytes / theirs.one_pass.activation_bytes,
        flops_ratio=_flops(ours) / _flops(theirs),
    )


def _turns(
    ours: Contestant, theirs: Contestant, examples: Examples, todo: Plan, steps: int
) -> Iterator[tuple[float, float]]:
    """Seconds of both for every step; each goes first every other time."""
    from bench.training.batching import training_order
    from bench.training.randomness import generator

    batch_size, order = todo.settings.training.batch_size, generator(todo.settings.seed, "order")
    for step, indices in enumerate(training_order(examples.lengths, batch_size, steps, order)):
        if step % 2:
            after, before = theirs.seconds_of(indices), ours.seconds_of(indices)
            yield before, after
        else:
            yield ours.seconds_of(indices), theirs.seconds_of(indices)


def _equal_lora(method: Any) -> tuple[list[str], list[str]]:
    """The overrides that give LoRA the method's rank, and those that give it its targets, where it has them."""
    rank = [f"method.rank={method['rank']}"] if isinstance(method.get("rank"), int) else []
    targets = [f"method.targets=[{','.join(method['targets'])}]"] if method.get("targets") else []
    return rank, targets


def _examples(todo: Plan) -> Examples:
    from bench.backbone import pretrained

    settings = todo.settings
    preprocessor = pretrained.preprocessor(settings.model, todo.task.kind)
    return todo.task.encode(todo.source, "train", preprocessor, settings.training.max_length, at_most=2000)


def _flops(contestant: Contestant) -> float:
    flops = contestant.one_pass.flops
    return flops.forward + flops.backward


def _sentence(row: Row) -> str:
    spread = f"{row.step_ratio_lowest:.2f} to {row.step_ratio_highest:.2f}; last third {row.last_third_ratio:.2f}"
    return (
        f"{row.method}: {row.step_milliseconds:.0f} ms, {row.step_ratio:.2f} of LoRA ({spread}), "
        f"activations {row.activation_ratio:.2f}, FLOPs {row.flops_ratio:.2f}, LoRA with {row.against}"
    )


def main() -> int:
    """Compare the methods one by one and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
    parser.add_argument("--methods", nargs="+", default=every, choices=every, metavar="METHOD")
    parser.add_argument("--steps", type=more_than(WARM_UP_STEPS), default=60)
    parser.add_argument("--table", type=Path)
    arguments, overrides = parser.parse_known_args()
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory() as results:
        for name in arguments.methods:
            try:
                row = compared(name, [*overrides, f"results.dir={results}"], arguments.steps)
            except UserError as error:
                console.print(f"{name}: {error}")
                continue
            console.print(_sentence(row), markup=False)
            if arguments.table:
                _add(row, arguments.table)
    return 0


def _add(row: Row, file: Path) -> None:
    """Put a row into the table in place of an earlier one of its method."""
    rows = pd.DataFrame([asdict(row)])
    if file.exists():
        earlier = pd.read_csv(file)
        rows = pd.concat([earlier[earlier["method"] != row.method], rows])
    rows.sort_values("method").to_csv(file, index=False, float_format="%.4g")


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
