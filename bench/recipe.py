"""What one attempt at a run does, from the data to the measurements: the recipe."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backbone import pretrained
from bench.backbone.kinds import KINDS
from bench.bookkeeping import closed, is_out_of_memory, note_failure, opened, traceback_file
from bench.context import Run, Terms
from bench.errors import UserError
from bench.measure import memory_causes, parameters
from bench.measure.meters import Meters
from bench.measure.phases import MEASURE, Phases
from bench.planning import Plan
from bench.processes.signals import Stopped
from bench.records.record import RunRecord
from bench.records.store import ADAPTER_FOLDER, HISTORY_FILE, PREDICTIONS_FILE
from bench.records.workspace import ClaimLost
from bench.tracker import NoTracker, Tracker, tracker
from bench.training.randomness import seed_everything, stream_seed
from bench.training.resumable import ResumableTraining, checkpoints_of, earlier_work

if TYPE_CHECKING:
    from accelerate import Accelerator

    from bench.backbone.pretrained import Backbone
    from bench.evaluation import Evaluation
    from bench.settings import ModelSettings
    from bench.training.loop import TrainingLoop
    from methods.base import Method
    from tasks.base import Examples, Task
    from tasks.sources import Source

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "evaluate", "pandas", "tasks.metrics.glue")


def attempt(plan: Plan, terms: Terms) -> RunRecord:
    """Carry out a plan and leave its record in the folder, whatever happens.

    Raises UserError for input that turns out unusable before training, and ClaimLost; then there is no record. Raises
    after the record is written what interrupts a run, and OSError, which may be the disk's fault and not the run's.
    """
    phases = Phases(plan.hardware.device)
    record = opened(plan)
    record.micro_batch_size, record.processes = terms.micro_batch_size, terms.team.size
    if terms.micro_batch_size is None:
        record.reasons["micro_batch_size"] = "a process takes its whole share of a batch at once"
    record.machines, record.too_large_micro_batches = plan.settings.hardware.machines, list(terms.too_large)
    meters = Meters(plan, record, phases, terms.team)
    try:
        with phases("import"):
            import_libraries()
            meters.start()
        method = plan.method()
        with _tracker(plan, terms) as follower:
            _recipe(Run(plan, terms, method, record, phases, meters, checkpoints_of(plan, terms.folder), follower))
    except (UserError, ClaimLost):
        raise
    except BaseException as error:
        note_failure(record, error, traceback_file(terms.folder, terms.team))
        meters.close()
        if isinstance(error, (Stopped, KeyboardInterrupt, SystemExit, OSError)):
            raise
    finally:
        if record.status != "open" and terms.team.is_first:
            closed(record, terms.folder)
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


def _recipe(run: Run) -> None:
    """Load, encode, attach, train, save, evaluate, merge; and measure in between."""
    plan, record, meters = run.plan, run.record, run.meters
    earlier = earlier_work(run)

    with run.phase("load"):
        seed_everything(plan.settings.seed, "head")
        base = pretrained.fresh(plan.settings.model, plan.task.kind, plan.task.outputs)
        record.model_sha256 = pretrained.weights_sha256(plan.settings.model)

    with run.phase("encode"):
        train_examples, reported = _encoded_splits(plan)
        _note_data(run, train_examples)

    with run.phase(MEASURE, at_once=True):
        meters.pretrained(base, train_examples)

    with run.phase("attach"):
        loop, runner = _attached(run, run.method, base, train_examples)
        _note_parameters(record, run.method)

    with run.phase(MEASURE, at_once=True):
        meters.before_training(loop, base, runner)

    with run.phase("train"), meters.window("train"):
        _train(run, loop, earlier)

    _note_outcome(record, run.method)
    with run.phase("save"):
        _save(run)

    _evaluate_both_forms(run, base, reported, runner)

    with run.phase(MEASURE, at_once=True):
        meters.machine()
        meters.largest_batch(functools.partial(_another_loop, run, train_examples))

    _complete(run)


def _train(run: Run, loop: TrainingLoop, earlier: dict[str, Any] | None) -> None:
    """Train, from where an earlier process had come."""
    team = run.terms.team
    seed_everything(run.plan.settings.seed, "training" if team.is_first else f"training of process {team.rank}")
    ResumableTraining(run, loop).run(earlier)
    loop.let_go_of_optimizer()


def _evaluate_both_forms(run: Run, base: Backbone, reported: Mapping[str, Examples], runner: Accelerator) -> None:
    """Evaluate and measure the trained form, then merge and measure the inference form; one of them is scored."""
    method, record, meters = run.method, run.record, run.meters
    evaluate_now = functools.partial(_evaluation, run, base, reported, runner)
    if record.scored_form == "trained":
        scored = _scored(run, evaluate_now, reported)

    if method.forms:
        with run.phase("evaluate_forms", at_once=True):
            record.form_scores = _form_scores(method, evaluate_now)

    with run.phase(MEASURE, at_once=True):
        meters.trained_form(base, reported, runner)

    with run.phase("merge"):
        if not run.plan.settings.hardware.split:
            method.finish()

    if record.scored_form == "inference":
        scored = _scored(run, evaluate_now, reported)

    with run.phase(MEASURE, at_once=True):
        meters.inference_form(method, reported, scored, evaluate_now, runner)


def _complete(run: Run) -> None:
    """Close a run that has done everything."""
    if run.terms.team.is_first:
        _check_files(run.terms.folder)
    run.record.status = "complete"
    run.meters.close()
    run.follower.finish(run.record)


def _check_files(folder: Path) -> None:
    """Raise FileNotFoundError if a file of the run has vanished, as when its folder was elsewhere for a while."""
    for name in (ADAPTER_FOLDER, HISTORY_FILE, PREDICTIONS_FILE):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} has vanished; the folder was not there all the time")


def _save(run: Run) -> None:
    """The trained form, by the first process; the others lend their parts of what is split."""
    method, folder = run.method, run.terms.folder / ADAPTER_FOLDER
    if run.terms.team.is_first:
        method.save(folder)
        run.record.stored_bytes = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    elif run.plan.settings.hardware.split:
        method.stored_tensors()


def _scored(run: Run, evaluate_now: Callable[[], Evaluation], reported: Mapping[str, Examples]) -> Evaluation:
    """The run's score, with the predictions behind it."""
    with run.phase("evaluate", at_once=True), run.meters.window("evaluate"):
        scored = evaluate_now()
        _note_scores(run.record, scored)
        if run.terms.team.is_first:
            _write_predictions(scored, reported, run.terms.folder)
    return scored


def _evaluation(run: Run, base: Backbone, reported: Mapping[str, Examples], runner: Accelerator) -> Evaluation:
    """The model evaluated as it is now; in smaller batches from now on where they do not fit in memory."""
    from bench.evaluation import evaluate

    record, team = run.record, run.terms.team
    while True:
        size = record.evaluation_batch_size
        assert size is not None
        try:
            return evaluate(run.plan.task, base, reported, size, runner, run.meters.answering)
        except Exception as error:
            if size == 1 or team.size > 1 or not is_out_of_memory(error):
                raise
        record.evaluation_batch_size = size // 2


def _form_scores(method: Method, evaluate_now: Callable[[], Evaluation]) -> dict[str, float]:
    """The headline metric of every other form of the trained method."""
    scores = {}
    for name in method.forms:
        with method.form(name):
            scores[name] = evaluate_now().scores.score
    return scores


def _attached(run: Run, method: Method, base: Backbone, examples: Examples) -> tuple[TrainingLoop, Accelerator]:
    """The method in place in the model, and the loop that will train it."""
    from bench.backbone.dropout import use_fast_dropout
    from bench.training.loop import TrainingLoop, accelerator, store_frozen_in, total_steps

    plan, settings = run.plan, run.plan.settings
    steps = total_steps(settings.training, len(examples))
    seed_everything(settings.seed, "method")
    method.attach(base, steps)
    method.seed = stream_seed(settings.seed, "decisions")
    use_fast_dropout(base.model)
    store_frozen_in(base.model, plan.hardware.precision)
    runner = accelerator(plan.hardware.device, plan.hardware.precision)
    loop = TrainingLoop(
        method,
        examples,
        settings.training,
        runner,
        steps,
        settings.seed,
        run.terms.micro_batch_size,
        run.terms.team,
        settings.hardware.split,
    )
    return loop, runner


def _another_loop(run: Run, examples: Examples) -> TrainingLoop:
    """The run's method attached anew, for trials that must not touch the run, whose own model makes room for them."""
    run.method.backbone.model.to("cpu")
    base = pretrained.fresh(run.plan.settings.model, run.plan.task.kind, run.plan.task.outputs)
    whole = replace(run, terms=replace(run.terms, micro_batch_size=None))
    loop, _ = _attached(whole, run.plan.method(), base, examples)
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
    return task.encode(source, split, pretrained.preprocessor(model, task.kind), max_length, at_most)


def _tracker(plan: Plan, terms: Terms) -> contextlib.AbstractContextManager[Tracker]:
    if not terms.team.is_first:
        return contextlib.nullcontext(NoTracker())
    name = f"{plan.names.method}-{plan.names.task}-{plan.settings.seed}"
    return tracker(plan.settings.tracker, name, plan.run_id, asdict(plan.settings), terms.folder)


def _note_data(run: Run, examples: Examples) -> None:
    plan, record = run.plan, run.record
    record.dropped_train_examples = examples.dropped
    record.data_subset = plan.task.subset(plan.source)
    if record.data_subset is None:
        record.reasons["data_subset"] = "the benchmark prescribes no subset"
    if KINDS[plan.task.kind].reads_images:
        image_format = asdict(pretrained.preprocessor(plan.settings.model, plan.task.kind))
        record.input_processing = image_format | {"resampling": "bilinear, antialiased, whole image"}


def _note_parameters(record: RunRecord, method: Method) -> None:
    model = method.backbone.model
    counts = parameters.count(model, method.backbone.anatomy)
    record.trainable_parameters = counts.trainable
    record.trainable_percent = counts.trainable_percent
    record.head_parameters = counts.head
    record.total_parameters = counts.total
    record.trained_form_bytes = memory_causes.weights(model, ()).total


def _note_outcome(record: RunRecord, method: Method) -> None:
    """What training made of the method."""
    assert record.trainable_parameters is not None
    final = parameters.count(method.backbone.model, method.backbone.anatomy).trainable
    record.final_trainable_parameters = final
    if final > record.trainable_parameters:
        _note_parameters(record, method)
    record.method_report = method.report()


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
    pd.concat(frames, ignore_index=True).to_parquet(folder / PREDICTIONS_FILE, index=False)
