"""One run from plan to record."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from bench import backbone, provenance
from bench.errors import Diverged, SettingsError, UserError, one_line
from bench.identity import settings_id
from bench.kinds import KINDS
from bench.measure import derived, memory_causes, parameters
from bench.measure.meters import Meters
from bench.measure.phases import MEASURE, Phases
from bench.planning import Plan, build
from bench.progress import display
from bench.randomness import seed_everything
from bench.record import RunRecord
from bench.schema import plain
from bench.store import RECORD_FILE, write_json
from bench.tracker import Tracker, tracker

if TYPE_CHECKING:
    from accelerate import Accelerator
    from rich.console import Console

    from bench.evaluation import Evaluation
    from bench.settings import ModelSettings
    from bench.training import LogPoint, TrainingLoop
    from methods.base import Method
    from tasks.base import Examples, Task
    from tasks.sources import Source

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "evaluate", "pandas", "tasks.metrics.glue")


@dataclass
class Run:
    """What the steps of the recipe share."""

    plan: Plan
    method: Method
    record: RunRecord
    phases: Phases
    meters: Meters
    folder: Path
    console: Console
    follower: Tracker


def execute(plan: Plan, console: Console) -> RunRecord:
    """Carry out a plan and leave its record, whatever happens.

    Raises UserError for input that turns out unusable before training (then there is no record), and
    KeyboardInterrupt again after the record of the interrupted run is written.
    """
    phases = Phases(plan.hardware.device)
    record = _opened(plan)
    meters = Meters(plan, record, phases)
    with plan.store.working_folder(plan.folder) as folder:
        try:
            with phases("import"):
                import_libraries()
                meters.start()
            method = checked_method(plan)
            with _tracker(plan, folder) as follower:
                _recipe(Run(plan, method, record, phases, meters, folder, console, follower))
        except UserError:
            raise
        except BaseException as error:
            _close_failed(record, error, folder)
            meters.close()
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise
        finally:
            if record.status != "open":
                _close(record, folder)
    return record


@functools.cache
def import_libraries() -> None:
    """Import the slow libraries at one point, so that no other phase pays for them.

    What they made is exempt from garbage collection, which every phase does before it looks at memory.
    """
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def checked_method(plan: Plan) -> Method:
    """The method object, checked against the task and against the model's shapes before anything is loaded."""
    method: Method = build(plan.settings.method)
    if plan.task.kind not in method.kinds:
        served = ", ".join(sorted(method.kinds))
        raise SettingsError(f"method={plan.names.method} serves {served}; task={plan.names.task} is {plan.task.kind}.")
    method.check(backbone.skeleton(plan.settings.model, plan.task.kind, plan.task.outputs))
    return method


def _recipe(run: Run) -> None:
    """Load, encode, attach, train, save, evaluate, merge; and measure in between.

    A task that scores the inference form is evaluated after the merge.
    """
    from bench.evaluation import evaluate

    plan, method, record, phases, meters = run.plan, run.method, run.record, run.phases, run.meters
    settings, task = plan.settings, plan.task

    with phases("load"):
        seed_everything(settings.seed, "head")
        base = backbone.fresh(settings.model, task.kind, task.outputs)
        record.model_sha256 = backbone.weights_sha256(settings.model)

    with phases("encode"):
        train_examples, reported = _encoded_splits(plan)
        _note_data(run, train_examples)

    with phases(MEASURE):
        meters.pretrained(base, train_examples)

    with phases("attach"):
        loop, runner = _attached(plan, method, base, train_examples, settings.hardware.per_device_batch_size)
        _note_parameters(record, method)

    with phases(MEASURE):
        meters.before_training(loop, base, runner)

    with phases("train"), meters.window("train"):
        seed_everything(settings.seed, "training")
        _train(run, loop)

    with phases("save"):
        method.save(run.folder / "adapter")
        record.stored_bytes = sum(file.stat().st_size for file in (run.folder / "adapter").glob("*.safetensors"))

    evaluate_now = functools.partial(evaluate, task, base, reported, settings.hardware.evaluation_batch_size, runner)
    if task.scored_form == "trained":
        scored = _scored(run, evaluate_now, reported)

    with phases(MEASURE):
        meters.trained_form(base, reported, runner)

    with phases("merge"):
        method.finish()

    if task.scored_form == "inference":
        scored = _scored(run, evaluate_now, reported)

    with phases(MEASURE):
        meters.inference_form(method, reported, scored, evaluate_now, runner)
        meters.machine()
        meters.largest_batch(functools.partial(_another_loop, run, train_examples))

    record.status = "complete"
    meters.close()
    run.follower.finish(record)


def _scored(run: Run, evaluate_now: Callable[[], Evaluation], reported: Mapping[str, Examples]) -> Evaluation:
    """The run's score, with the predictions behind it."""
    with run.phases("evaluate"), run.meters.window("evaluate"):
        scored = evaluate_now()
        _note_scores(run.record, scored)
        _write_predictions(scored, reported, run.folder)
    return scored


def _attached(
    plan: Plan, method: Method, base: backbone.Backbone, examples: Examples, micro_batch_size: int | None
) -> tuple[TrainingLoop, Accelerator]:
    """The method in place in the model, and the loop that will train it."""
    from bench.dropout import use_fast_dropout
    from bench.training import TrainingLoop, accelerator, store_frozen_in, total_steps

    settings = plan.settings
    steps = total_steps(settings.training, len(examples))
    seed_everything(settings.seed, "method")
    method.attach(base, steps)
    use_fast_dropout(base.model)
    store_frozen_in(base.model, plan.hardware.precision)
    runner = accelerator(plan.hardware.device, plan.hardware.precision)
    loop = TrainingLoop(method, examples, settings.training, runner, steps, settings.seed, micro_batch_size)
    return loop, runner


def _train(run: Run, loop: TrainingLoop) -> None:
    """Train, and write the training curve to file, tracker and screen; the speed is noted also when it fails."""
    from bench.measure.throughput import StepClock

    record, clock = run.record, StepClock(run.plan.hardware.device)
    losses: list[float] = []
    seconds: list[float] = []
    title = f"{run.plan.names.method} on {run.plan.names.task}"
    with (
        display(run.console, title, loop.steps) as show,
        (run.folder / "history.jsonl").open("w", 1, "utf-8") as history,
    ):

        def on_log(point: LogPoint) -> None:
            history.write(json.dumps(asdict(point)) + "\n")
            run.follower.log(point)
            show(point)
            losses.append(point.loss)
            seconds.append(point.seconds)

        try:
            record.final_train_loss = loop.run(clock, on_log)
        finally:
            loop.release()
            derived.note_steps(record, clock, run.phases.started_at, run.phases.seconds[MEASURE])
            derived.note_curve(record, losses, seconds)
            run.meters.after_training(loop, clock)


def _another_loop(run: Run, examples: Examples) -> TrainingLoop:
    """The run's method attached anew, for trials that must not touch the run."""
    base = backbone.fresh(run.plan.settings.model, run.plan.task.kind, run.plan.task.outputs)
    loop, _ = _attached(run.plan, checked_method(run.plan), base, examples, micro_batch_size=None)
    return loop


def _encoded_splits(plan: Plan) -> tuple[Examples, dict[str, Examples]]:
    """The training split and the splits that are scored."""
    settings, task = plan.settings, plan.task
    encode = functools.partial(_encoded, task, plan.source, settings.model, settings.training.max_length)
    splits = task.scored_splits(plan.source)
    return encode("train", None), {split: encode(split, settings.budget.evaluation_examples) for split in splits}


@functools.lru_cache(maxsize=16)
def _encoded(
    task: Task, source: Source, model: ModelSettings, max_length: int | None, split: str, at_most: int | None
) -> Examples:
    return task.encode(source, split, backbone.preprocessor(model, task.kind), max_length, at_most)


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
        scored_form=plan.task.scored_form,
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


def _note_data(run: Run, examples: Examples) -> None:
    plan, record = run.plan, run.record
    record.dropped_train_examples = examples.dropped
    record.data_subset = plan.task.subset(plan.source)
    if record.data_subset is None:
        record.reasons["data_subset"] = "the benchmark prescribes no subset"
    if KINDS[plan.task.kind].reads_images:
        image_format = asdict(backbone.preprocessor(plan.settings.model, plan.task.kind))
        record.input_processing = image_format | {"resampling": "bilinear, antialiased, whole image"}


def _note_parameters(record: RunRecord, method: Method) -> None:
    model = method.backbone.model
    counts = parameters.count(model, method.backbone.anatomy)
    record.trainable_parameters = counts.trainable
    record.trainable_percent = counts.trainable_percent
    record.head_parameters = counts.head
    record.total_parameters = counts.total
    record.trained_form_bytes = memory_causes.weights(model, ()).total


def _note_scores(record: RunRecord, scored: Evaluation) -> None:
    record.score, record.metrics = scored.scores.score, scored.scores.metrics
    record.reasons |= scored.scores.reasons
    record.evaluation_examples = scored.examples
    record.evaluation_samples_per_second = scored.examples / scored.seconds
    if scored.generation is not None:
        record.generated_tokens = scored.generation.new_tokens
        record.generated_tokens_per_second = scored.generation.new_tokens / scored.seconds
        record.truncated_share = scored.generation.truncated_share


def _write_predictions(scored: Evaluation, reported: Mapping[str, Examples], folder: Path) -> None:
    """One row per reported example."""
    import pandas as pd

    frames = [
        pd.DataFrame(
            {"split": split, "id": examples.ids, "label": examples.labels}
            | dict(scored.predictions[split])
            | dict(examples.columns)
        )
        for split, examples in reported.items()
    ]
    pd.concat(frames, ignore_index=True).to_parquet(folder / "predictions.parquet", index=False)


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


def _close(record: RunRecord, folder: Path) -> None:
    """Write the record and the settings it ran with."""
    with contextlib.suppress(ImportError, RuntimeError):
        record.hardware = provenance.machine(record.device)
    record.hostname = provenance.hostname()
    record.finished_at = provenance.now()
    (folder / "config.yaml").write_text(yaml.safe_dump(record.settings, sort_keys=False))
    write_json(folder / RECORD_FILE, plain(record))
