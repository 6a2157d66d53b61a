"""One run from plan to record."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench import backbone, provenance
from bench.errors import Diverged, SettingsError, UserError, one_line
from bench.identity import settings_id
from bench.measure import memory, parameters
from bench.measure.phases import Phases
from bench.planning import Plan, build
from bench.progress import display
from bench.randomness import seed_everything
from bench.record import RunRecord
from bench.store import RECORD_FILE, write_json
from bench.tracker import Tracker, tracker

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray
    from rich.console import Console

    from bench.settings import ModelSettings
    from bench.training import LogPoint
    from methods.base import Method
    from tasks.base import Examples, Task
    from tasks.sources import Source

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "evaluate", "pandas", "tasks.metrics.glue")


def execute(plan: Plan, console: Console) -> RunRecord:
    """Carry out a plan and leave its record, whatever happens.

    Raises UserError for input that turns out unusable before training (then there is no record), and
    KeyboardInterrupt again after the record of the interrupted run is written.
    """
    phases = Phases(plan.hardware.device)
    record = _opened(plan)
    with plan.store.working_folder(plan.folder) as folder:
        try:
            with phases("import"):
                import_libraries()
            method = checked_method(plan)
            with _tracker(plan, folder) as follower:
                _run(plan, method, record, phases, folder, console, follower)
        except UserError:
            raise
        except BaseException as error:
            _close_failed(record, error, folder)
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        finally:
            if record.status != "open":
                _close(record, phases, folder)
    return record


def import_libraries() -> None:
    """Import the slow libraries at one point, so that no other phase pays for them."""
    for name in LIBRARIES:
        importlib.import_module(name)


def checked_method(plan: Plan) -> Method:
    """The method object, checked against the task and against the model's shapes before anything is loaded."""
    method: Method = build(plan.settings.method)
    if plan.task.kind not in method.kinds:
        served = ", ".join(sorted(method.kinds))
        raise SettingsError(f"method={plan.names.method} serves {served}; task={plan.names.task} is {plan.task.kind}.")
    method.check(backbone.skeleton(plan.settings.model, plan.task.outputs))
    return method


def _run(
    plan: Plan,
    method: Method,
    record: RunRecord,
    phases: Phases,
    folder: Path,
    console: Console,
    follower: Tracker,
) -> None:
    """The recipe: load, encode, attach, train, evaluate, save, finish."""
    from bench.dropout import use_fast_dropout
    from bench.training import accelerator, store_frozen_in, total_steps

    settings, task = plan.settings, plan.task

    with phases("load"):
        seed_everything(settings.seed, "head")
        base = backbone.fresh(settings.model, task.outputs)
        record.model_sha256 = backbone.weights_sha256(settings.model)

    with phases("encode"):
        encode = functools.partial(_encoded, task, plan.source, settings.model, settings.training.max_length)
        train_examples = encode("train", None)
        reported = {split: encode(split, settings.budget.evaluation_examples) for split in task.reported_splits}
        steps = total_steps(settings.training, len(train_examples))

    with phases("attach"):
        seed_everything(settings.seed, "method")
        method.attach(base, steps)
        use_fast_dropout(base.model)
        store_frozen_in(base.model, plan.hardware.precision)
        _note_parameters(record, method)

    with phases("train"):
        runner = accelerator(plan.hardware.device, plan.hardware.precision)
        _train(plan, method, train_examples, steps, runner, record, folder, console, follower)

    with phases("save"):
        method.save(folder / "adapter")
        record.stored_bytes = sum(file.stat().st_size for file in (folder / "adapter").glob("*.safetensors"))

    with phases("evaluate"):
        outputs = {
            split: _outputs(base, examples, settings.hardware.evaluation_batch_size, runner)
            for split, examples in reported.items()
        }
        _note_scores(record, task, outputs, reported, folder)

    with phases("finish"):
        method.finish()
        record.inference_parameters = parameters.total(base.model)

    seconds = sum(len(examples) for examples in reported.values()) / phases.seconds["evaluate"]
    record.evaluation_samples_per_second = seconds
    record.status = "complete"
    _note_phases(record, phases)
    follower.finish(record)


def _train(
    plan: Plan,
    method: Method,
    examples: Examples,
    steps: int,
    runner: Accelerator,
    record: RunRecord,
    folder: Path,
    console: Console,
    follower: Tracker,
) -> None:
    """Train, and write the training curve to file, tracker and screen; the speed is noted also when it fails."""
    from bench.measure.throughput import StepClock
    from bench.training import TrainingLoop

    settings, padding_id = plan.settings, method.backbone.padding_id
    micro_batch_size = settings.hardware.per_device_batch_size
    loop = TrainingLoop(method, examples, settings.training, runner, steps, settings.seed, micro_batch_size, padding_id)
    seed_everything(settings.seed, "training")
    clock = StepClock(plan.hardware.device)
    title = f"{plan.names.method} on {plan.names.task}"
    with display(console, title, steps) as show, (folder / "history.jsonl").open("w", 1, "utf-8") as history:

        def on_log(point: LogPoint) -> None:
            history.write(json.dumps(asdict(point)) + "\n")
            follower.log(point)
            show(point)

        try:
            record.final_train_loss = loop.run(clock, on_log)
        finally:
            loop.release()
            _note_throughput(record, clock)


@functools.lru_cache(maxsize=16)
def _encoded(
    task: Task, source: Source, model: ModelSettings, max_length: int, split: str, at_most: int | None
) -> Examples:
    return task.encode(source, split, backbone.tokenizer(model), max_length, at_most)


def _outputs(base: backbone.Backbone, examples: Examples, batch_size: int, runner: Any) -> NDArray[Any]:
    from bench.evaluation import outputs

    return outputs(base.model, examples, batch_size, runner.device, runner.autocast(), base.padding_id)


def _opened(plan: Plan) -> RunRecord:
    """A record that says what runs, with status "open" until it ends."""
    settings = plan.settings
    commit, dirty = provenance.git_state()
    return RunRecord(
        run_id=plan.run_id,
        status="open",
        method=plan.names.method,
        model=plan.names.model,
        task=plan.names.task,
        seed=settings.seed,
        budget=settings.budget.name,
        data_source=plan.source.kind,
        precision=plan.hardware.precision,
        device=plan.hardware.device,
        metric=plan.task.headline,
        data_revision=plan.source.revision,
        model_repository=settings.model.repository,
        model_revision=settings.model.revision,
        settings_id=settings_id(settings),
        settings=asdict(settings),
        overrides=plan.overrides,
        git_commit=commit,
        git_dirty=dirty,
        versions=provenance.versions(),
        started_at=provenance.now(),
    )


def _tracker(plan: Plan, folder: Path) -> contextlib.AbstractContextManager[Tracker]:
    name = f"{plan.names.method}-{plan.names.task}-{plan.settings.seed}"
    return tracker(plan.settings.tracker, name, plan.run_id, asdict(plan.settings), folder)


def _note_parameters(record: RunRecord, method: Method) -> None:
    counts = parameters.count(method.backbone.model, method.backbone.anatomy)
    record.trainable_parameters = counts.trainable
    record.trainable_percent = counts.trainable_percent
    record.head_parameters = counts.head
    record.total_parameters = counts.total


def _note_throughput(record: RunRecord, clock: Any) -> None:
    steady = clock.throughput()
    record.train_steps, record.train_samples = clock.steps, clock.samples
    if steady is not None:
        record.train_samples_per_second = steady.samples_per_second
        record.train_tokens_per_second = steady.tokens_per_second


def _note_scores(
    record: RunRecord,
    task: Task,
    outputs: Mapping[str, NDArray[Any]],
    reported: Mapping[str, Examples],
    folder: Path,
) -> None:
    """Score the outputs and write one row per reported example."""
    import pandas as pd

    predictions = {split: task.predict(values) for split, values in outputs.items()}
    scores = task.score(predictions, {split: examples.labels for split, examples in reported.items()})
    record.score, record.metrics = scores.score, scores.metrics
    record.reasons |= scores.reasons
    record.evaluation_examples = sum(len(examples) for examples in reported.values())
    frames = [
        pd.DataFrame(
            {
                "split": split,
                "id": examples.ids,
                "label": examples.labels,
                "prediction": predictions[split],
                "scores": list(outputs[split]),
            }
        )
        for split, examples in reported.items()
    ]
    pd.concat(frames, ignore_index=True).to_parquet(folder / "predictions.parquet", index=False)


def _note_phases(record: RunRecord, phases: Phases) -> None:
    record.phase_seconds = dict(phases.seconds)
    record.phase_peak_memory_bytes = dict(phases.peak_memory_bytes)
    record.train_seconds = phases.seconds.get("train")
    record.peak_memory_bytes = memory.headline(phases.peak_memory_bytes.get("train", {}))
    record.wall_seconds = phases.wall_seconds


def _close_failed(record: RunRecord, error: BaseException, folder: Path) -> None:
    """Note how the run failed. What was measured stays; a score does not."""
    record.status = _status(error)
    record.error = f"{type(error).__name__}: {one_line(error)}"
    record.score, record.metrics = None, {}
    with contextlib.suppress(OSError):
        (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))


def _status(error: BaseException) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return "interrupted"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out_of_memory"
    return "failed"


def _close(record: RunRecord, phases: Phases, folder: Path) -> None:
    """Write the record and the settings it ran with."""
    _note_phases(record, phases)
    with contextlib.suppress(ImportError, RuntimeError):
        record.hardware = provenance.machine(record.device)
    record.hostname = provenance.hostname()
    record.finished_at = provenance.now()
    (folder / "config.yaml").write_text(yaml.safe_dump(record.settings, sort_keys=False))
    write_json(folder / RECORD_FILE, record.to_dict())
