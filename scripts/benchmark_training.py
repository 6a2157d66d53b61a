"""How fast the harness trains, against itself unmetered, a bare PyTorch loop, and transformers' Trainer with PEFT.

    python scripts/benchmark_training.py data.root=FOLDER [method=lora] [--pairs 5] [--steps 200]

All train the same model with the same method and learning rate, turn by turn from another seed. The unmetered harness
has no clock per step, no energy window and no sampling, so its ratio is what measuring costs; the bare loop takes the
harness's batches and precision, so its ratio is the harness's own overhead or gain; the Trainer is left at its defaults
(float32, random batches padded to their longest), so its ratio is what a user gains. They take turns, and ratios are
formed within a turn, because machines drift. Each is scored on the validation set, outside its time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.table import Table

from bench.commands import exit_code_of
from scripts.benchmarking import attached, more_than, planned, runner, training_loop, whole_number

if TYPE_CHECKING:
    from bench.planning import Plan
    from bench.training.loop import TrainingLoop
    from methods.base import Method

CONTESTANTS = ("harness", "unmetered", "bare", "trainer")
WARM_UP_STEPS = 10


class Contest:
    """The contestants over one plan; each call trains a model anew and returns samples per second."""

    def __init__(self, todo: Plan, steps: int) -> None:
        from bench.backbone import pretrained

        self._plan = todo
        self._steps = steps
        preprocessor = pretrained.preprocessor(todo.settings.model, todo.task.kind)
        self._examples, *reported = (
            todo.task.encode(todo.source, split, preprocessor, todo.settings.training.max_length, at_most=None)
            for split in ("train", *todo.task.reported_splits)
        )
        self._reported = dict(zip(todo.task.reported_splits, reported, strict=True))

    def turn(self, name: str, seed: int) -> tuple[float, float]:
        """Train as the contestant `name`; samples per second and the score in percent."""
        from bench.evaluation import evaluate

        method = attached(self._plan, seed, self._steps)
        speed: float = getattr(self, name)(method, seed)
        return speed, evaluate(self._plan.task, method.backbone, self._reported, 128, runner(self._plan)).scores.score

    def harness(self, method: Method, seed: int) -> float:
        """The harness's own training loop, dropout and batches, with every meter of the training phase on."""
        from bench.measure.energy import EnergyMeter
        from bench.measure.throughput import StepClock
        from bench.measure.utilisation import sampled

        device = self._plan.hardware.device
        clock = StepClock(device)
        with EnergyMeter(device).window("train"), sampled(device):
            self._loop(method, seed).run(clock, lambda point: None)
        steady = clock.steady_state()
        assert steady is not None
        return steady.samples_per_second

    def unmetered(self, method: Method, seed: int) -> float:
        """The same without meters: two looks at the clock."""
        from bench.measure.throughput import StepClock

        class Stopwatch(StepClock):
            done = samples_done = 0
            started = 0.0

            @property
            def seconds(self) -> float:
                return time.perf_counter()

            def step_done(self, samples: int, tokens: int, shapes: Any = ()) -> None:
                self.done += 1
                if self.done == WARM_UP_STEPS:
                    self.started = self.seconds
                elif self.done > WARM_UP_STEPS:
                    self.samples_done += samples

        stopwatch = Stopwatch(self._plan.hardware.device)
        self._loop(method, seed).run(stopwatch, lambda point: None)
        return stopwatch.samples_done / (stopwatch.seconds - stopwatch.started)

    def _loop(self, method: Method, seed: int) -> TrainingLoop:
        return training_loop(self._plan, method, self._examples, seed, self._steps)

    def bare(self, method: Method, seed: int) -> float:
        """The shortest loop over the same PEFT model, batches (with the usual mask) and precision."""
        import torch

        from bench.training.batching import training_order
        from bench.training.randomness import generator

        training, here = self._plan.settings.training, runner(self._plan)
        model = method.backbone.model.to(here.device).train()
        groups = method.parameter_groups(training.learning_rate, training.weight_decay)
        optimizer = torch.optim.AdamW(groups)
        parameters = [parameter for group in groups for parameter in group["params"]]
        order = training_order(self._examples.lengths, training.batch_size, self._steps, generator(seed, "order"))
        start, samples = time.perf_counter(), 0
        for step, indices in enumerate(order):
            if step == WARM_UP_STEPS:
                start, samples = time.perf_counter(), 0
            inputs = self._examples.batch(indices).on(here.device).inputs
            inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
            with here.autocast():
                loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, training.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad()
            samples += len(indices)
        return samples / (time.perf_counter() - start)

    def trainer(self, method: Method, seed: int) -> float:
        """transformers' Trainer over the PEFT model with its default collator, sampler and float32."""
        from datasets import Dataset
        from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

        from tasks.examples import TextExamples

        class Stopwatch(TrainerCallback):
            seconds = 0.0

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == WARM_UP_STEPS:
                    self.seconds = time.perf_counter()

            def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                self.seconds = time.perf_counter() - self.seconds

        training, examples, stopwatch = self._plan.settings.training, self._examples, Stopwatch()
        assert isinstance(examples, TextExamples)
        rows = [examples.tokens.row(index) for index in range(len(examples))]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                max_steps=self._steps,
                per_device_train_batch_size=training.batch_size,
                learning_rate=training.learning_rate,
                max_grad_norm=training.max_gradient_norm,
                seed=seed,
                report_to=[],
                disable_tqdm=True,
                save_strategy="no",
                use_cpu=self._plan.hardware.device == "cpu",
            )
            collator = DataCollatorWithPadding(method.backbone.preprocessor)
            data = Dataset.from_dict({"input_ids": rows, "labels": examples.labels})
            Trainer(method.backbone.model, arguments, collator, data, callbacks=[stopwatch]).train()
        return training.batch_size * (self._steps - WARM_UP_STEPS) / stopwatch.seconds


def main() -> int:
    """Let the contestants take turns and print speeds and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=whole_number, default=5)
    parser.add_argument("--steps", type=more_than(WARM_UP_STEPS), default=200)
    parser.add_argument("--without", nargs="*", default=[], choices=CONTESTANTS[1:])
    arguments, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as results:
        contest = Contest(planned([*overrides, f"results.dir={results}"]), arguments.steps)
        names = [name for name in CONTESTANTS if name not in arguments.without]
        speeds: dict[str, list[float]] = {name: [] for name in names}
        scores: dict[str, list[float]] = {name: [] for name in names}
        for seed in range(arguments.pairs):
            for name in names:
                speed, score = contest.turn(name, seed)
                speeds[name].append(speed)
                scores[name].append(score)
            line = (f"{name} {speeds[name][-1]:.1f} samples/s, score {scores[name][-1]:.2f}" for name in names)
            print(f"turn {seed + 1}: " + "; ".join(line), flush=True)
    Console(soft_wrap=True).print(_summary(speeds, scores))
    return 0


def _summary(speeds: dict[str, list[float]], scores: dict[str, list[float]]) -> Table:
    table = Table(title="training speed in samples/s, score in percent", title_justify="left")
    columns = ("contestant", "median", "lowest", "highest", "harness / it, median (lowest to highest)", "mean score")
    for column in columns:
        table.add_column(column)
    for name, values in speeds.items():
        ratios = [a / b for a, b in zip(speeds["harness"], values, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        range_ = (f"{function(values):.1f}" for function in (statistics.median, min, max))
        table.add_row(name, *range_, spread, f"{statistics.mean(scores[name]):.2f}")
    return table


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
