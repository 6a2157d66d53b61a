"""A record's first and last lines: what runs, how it ended, where."""

from __future__ import annotations

import contextlib
import traceback
from dataclasses import asdict
from pathlib import Path

import yaml

from bench import validation
from bench.errors import Diverged, one_line
from bench.files import write_json
from bench.identity import recipe_id, settings_id
from bench.planning import Plan
from bench.processes.signals import Stopped
from bench.processes.team import ALONE, Team
from bench.records import provenance
from bench.records.record import RunRecord
from bench.records.schema import plain
from bench.records.store import RECORD_FILE, TRACEBACK_FILE
from bench.settings import RunSettings

OUT_OF_MEMORY = ("can't allocate memory", "Cannot allocate memory", "out of memory", "ALLOC_FAILED")

TRACEBACKS = "traceback*.txt"
"""Where the processes of a run leave their tracebacks."""


def traceback_file(folder: Path, team: Team = ALONE) -> Path:
    """Where a failed run's process leaves its traceback."""
    return folder / (TRACEBACK_FILE if team.is_first else f"traceback-of-process-{team.rank}.txt")


def opened(plan: Plan) -> RunRecord:
    """A record that says what runs, with status "open" until it ends."""
    settings = plan.settings
    commit, dirty = provenance.git_state()
    record = RunRecord(
        run_id=plan.run_id,
        status="open",
        method=plan.names.method,
        model=plan.names.model,
        task=plan.names.task,
        seed=settings.seed,
        budget=settings.budget.name,
        held_out=settings.budget.held_out,
        data_source=plan.source.kind,
        precision=plan.hardware.precision,
        device=plan.hardware.device,
        metric=plan.task.headline,
        scored_form="trained" if settings.hardware.split else plan.task.scored_form,
        evaluation_batch_size=settings.hardware.evaluation_batch_size,
        data_revision=plan.source.revision,
        model_repository=settings.model.repository,
        model_revision=settings.model.revision,
        settings_id=settings_id(settings),
        recipe_id=recipe_id(settings),
        settings=asdict(settings),
        overrides=plan.overrides,
        git_commit=commit,
        git_dirty=dirty,
        versions=provenance.versions(),
        started_at=provenance.now(),
    )
    record.method_learning_rate = _own_rate(plan)
    _note_tuning(record, settings)
    return record


def _own_rate(plan: Plan) -> float | None:
    """The learning rate that the method brings where nobody chooses one."""
    found = validation.described("method", plan.names.method, validation.search_paths(plan.overrides))
    return found.get("learning_rate")


def _note_tuning(record: RunRecord, settings: RunSettings) -> None:
    tuning = settings.tuning
    record.tuning = tuning.name
    if tuning.name == "none":
        reason = "nothing was tuned"
        record.reasons |= {"tuning_steps": reason, "tuned_at_edge": reason}
        return
    record.tuning_trials, record.tuning_steps = tuning.trials, tuning.steps
    record.tuned_settings = settings.values(tuning.keys)
    record.tuned_at_edge = settings.tuned_at_edge
    record.trial_run_ids = list(tuning.run_ids)


def note_failure(record: RunRecord, error: BaseException, trace: Path) -> None:
    """Note how the run failed. What was measured stays; a score does not."""
    record.status = _status(error)
    record.error = f"{type(error).__name__}: {one_line(error)}"
    record.score, record.metrics = None, {}
    with contextlib.suppress(OSError):
        trace.write_text("".join(traceback.format_exception(error)))


def _status(error: BaseException) -> str:
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, (Stopped, KeyboardInterrupt, SystemExit)):
        return "interrupted"
    return "out_of_memory" if is_out_of_memory(error) else "failed"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether device or host had no memory left. PyTorch and CUDA's libraries often say so in words only."""
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return known or (isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY))


def closed(record: RunRecord, folder: Path) -> None:
    """Write the ended run's record and the settings it ran with."""
    with contextlib.suppress(ImportError, RuntimeError, AssertionError):  # torch without CUDA asserts
        record.hardware = provenance.machine(record.device)
    record.hostname = provenance.hostname()
    record.finished_at = provenance.now()
    if record.error is None:
        traceback_file(folder).unlink(missing_ok=True)  # of an earlier process that was interrupted
    (folder / "config.yaml").write_text(yaml.safe_dump(record.settings, sort_keys=False))
    write_json(folder / RECORD_FILE, plain(record))
