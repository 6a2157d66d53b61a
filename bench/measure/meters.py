"""The meters of one run, each called at its moment; every one fills its columns or says why it could not.

A meter never changes a run and does not end it: what it computes on the model is undone, and an error inside it becomes
the reason why its columns are null, unless other processes would wait for this one for ever. What the meters cost
outside the timed phases is the phase `measure`.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from bench import cache
from bench.backbone.kinds import KINDS
from bench.errors import Diverged, one_line
from bench.evaluation import answers_of
from bench.hardware import description
from bench.identity import digest
from bench.measure import batch_sweep, derived, forgetting, inference, memory_causes, parameters, probe, reference
from bench.measure.energy import EnergyMeter
from bench.measure.memory import capacity
from bench.measure.utilisation import Utilisation, Window, sampled
from bench.processes.team import ALONE, Team

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray
    from torch import Tensor

    from bench.backbone.pretrained import Backbone
    from bench.evaluation import Evaluation
    from bench.measure.compute import FlopsByShape
    from bench.measure.inference import Latency
    from bench.measure.phases import Phases
    from bench.measure.throughput import StepClock
    from bench.planning import Plan
    from bench.records.record import RunRecord
    from bench.training.loop import TrainingLoop
    from methods.base import Method
    from tasks.base import Examples

REFERENCE_TOKENS = 512
"""Length at which the forward FLOPs of different runs are compared, as in PEFT-Bench."""
PER_TOKEN = (
    "probe_length",
    "train_tokens_per_second",
    "train_flops_per_token",
    "base_forward_flops_512_tokens",
    "forward_flops_512_tokens",
    "inference_forward_flops_512_tokens",
    "pscp_b1_overhead",
    "pscp_b2_overhead",
    "pscp_b1_total",
)
"""Columns that count or compare tokens."""
OF_GENERATION = (
    "generated_tokens",
    "generated_tokens_per_second",
    "truncated_share",
    "first_token_seconds_median",
    "first_token_seconds_p95",
)
"""Columns of greedy generation."""
SHARED = ("inference",)
"""Meters in which the processes of a run wait for each other."""
_FLOPS: dict[str, FlopsByShape] = {}


class Meters:
    """Fills a record's columns as the run passes by."""

    def __init__(self, plan: Plan, record: RunRecord, phases: Phases, team: Team = ALONE) -> None:
        self._plan = plan
        self._team = team
        self._settings = plan.settings.measure
        self._record = record
        self._phases = phases
        self._energy: EnergyMeter | None = None
        self._watch: Window | None = None
        self._earlier_utilisation = Utilisation()
        self._capacity_bytes: int | None = None
        self._failures: dict[str, str] = {}
        self._pretrained: dict[str, Tensor] = {}
        self._base: forgetting.Observation | None = None
        self._flops: FlopsByShape | None = None
        self._latency: Latency | None = None
        self._fingerprint: list[tuple[str, ...]] = []
        self._trained_outputs: dict[str, NDArray[np.float32]] = {}
        self._kind = KINDS[plan.task.kind]
        self.answering = ALONE if plan.settings.hardware.split else team
        """Who shares the examples of an evaluation: where weights are split, all processes go through all of them."""
        self._out_of_place: dict[str, str] = {}
        if self._kind.reads_images:
            self._out_of_place["forgetting"] = "the passages are text, and this backbone reads images"
        if plan.settings.hardware.split:
            reason = "the weights are split over the processes"
            self._out_of_place |= dict.fromkeys(("memory", "compute", "forgetting", "sweep_batch"), reason)

    def start(self) -> None:
        """Find the energy counters and the device's memory, while it certainly answers."""
        if self._settings.energy:
            self._capacity_bytes = capacity(self._plan.hardware.device)
            self._energy = EnergyMeter(self._plan.hardware.device, int(os.environ.get("LOCAL_RANK", "0")))

    def pretrained(self, base: Backbone, examples: Examples) -> None:
        """The untouched model: which tensors are pretrained, what a forward pass costs."""
        anatomy = base.anatomy
        self._pretrained = {name: tensor for name, tensor in base.model.named_parameters() if not anatomy.is_head(name)}

        def compute() -> None:
            batch = examples.question(np.arange(1)).on("cpu")
            flops = self._remembered("base", lambda: probe.inference_flops(base.model, batch))
            self._record.base_forward_flops_512_tokens = self._at_512_tokens(flops)

        self._attempt("compute", compute)

    def before_training(self, loop: TrainingLoop, backbone: Backbone, runner: Accelerator) -> None:
        """The attached model before its first step: memory by cause, FLOPs by shape, distance from the base."""
        record, batch = self._record, loop.longest_batch()
        largest = functools.cache(lambda: probe.one_pass(loop, batch))

        def memory() -> None:
            record.probe_batch_size, record.probe_length = batch.shape
            if self._kind.reads_images:
                record.probe_length = None
            weights = memory_causes.weights(backbone.model, self._pretrained.values())
            record.base_weight_bytes, record.method_weight_bytes = weights.base, weights.method
            record.buffer_bytes = weights.buffers
            record.activation_bytes, record.gradient_bytes = largest().activation_bytes, largest().gradient_bytes

        def compute() -> None:
            self._flops = self._remembered("training", lambda: probe.training_flops(loop, batch, largest()))
            record.forward_flops_512_tokens = self._at_512_tokens(self._flops)

        def forgetting_at_start() -> None:
            self._note_base()
            found = self._against_base(backbone, runner)
            record.feature_cka_start, record.feature_distance_start = found.feature_cka, found.feature_distance
            record.language_loss_rise_start = found.language_loss_rise

        self._attempt("memory", memory)
        self._attempt("compute", compute)
        self._attempt("forgetting", forgetting_at_start)

    @contextlib.contextmanager
    def window(self, name: str) -> Iterator[None]:
        """Energy of a phase, and of the training phase the sampled utilisation."""
        if self._energy is None:
            yield
            return
        with self._energy.window(name):
            if name != "train":
                yield
                return
            with sampled(self._plan.hardware.device) as self._watch:
                yield

    def state_dict(self) -> dict[str, Any]:
        """What the window `train` has measured so far, as plain values."""
        if self._energy is None:
            return {}
        return {"joules": self._energy.read("train"), "utilisation": asdict(self._train_utilisation())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Add what an earlier process of the same run had measured."""
        if self._energy is None:
            return
        self._energy.add(state.get("joules"))
        if state:
            self._earlier_utilisation = Utilisation(**state["utilisation"])

    def _train_utilisation(self) -> Utilisation:
        here = Utilisation() if self._watch is None else self._watch.means()
        return here.after(self._earlier_utilisation)

    def after_training(self, loop: TrainingLoop, clock: StepClock) -> None:
        """What only the end of training tells: optimizer state and the FLOPs of the steps that really ran."""
        record, flops, steady = self._record, self._flops, clock.steady_state()

        def memory() -> None:
            record.optimizer_bytes = memory_causes.optimizer_state(loop.optimizer)

        def compute() -> None:
            if flops is None or steady is None:
                return
            done = flops.over(clock.shapes)
            record.train_flops = done.total
            record.forward_flops_per_sample = done.forward / clock.samples
            record.backward_flops_per_sample = done.backward / clock.samples
            record.train_flops_per_token = done.total / clock.tokens if clock.tokens else None
            record.achieved_flops_per_second = flops.over(steady.shapes).total / steady.seconds

        self._attempt("memory", memory)
        self._attempt("compute", compute)

    def trained_form(self, backbone: Backbone, reported: Mapping[str, Examples], runner: Accelerator) -> None:
        """The trained form at its end: latency of single examples, distance from the base."""
        record, examples = self._record, next(iter(reported.values()))

        def latency() -> None:
            self._fingerprint = inference.fingerprint(backbone.model)
            if record.scored_form == "inference":
                size = record.evaluation_batch_size
                assert size is not None
                self._trained_outputs = answers_of(backbone, reported, size, runner, self.answering)
            self._latency = inference.latency(backbone.model, examples, runner.device, runner.autocast())
            record.trained_latency_seconds_median = self._latency.median
            record.trained_latency_seconds_p95 = self._latency.p95

        def forgetting_at_end() -> None:
            found = self._against_base(backbone, runner)
            record.feature_cka, record.feature_distance = found.feature_cka, found.feature_distance
            record.language_loss_rise = found.language_loss_rise

        self._attempt("inference", latency)
        self._attempt("forgetting", forgetting_at_end)

    def inference_form(
        self,
        method: Method,
        reported: Mapping[str, Examples],
        scored: Evaluation,
        evaluate: Callable[[], Evaluation],
        runner: Accelerator,
    ) -> None:
        """The form that `finish` left: its size and FLOPs, and where it is another model, its pace and its outputs.

        `scored` is the evaluation of the form that the task scores.
        """
        record, backbone, examples = self._record, method.backbone, next(iter(reported.values()))
        record.inference_parameters = parameters.total(backbone.model)
        record.inference_form_bytes = memory_causes.weights(backbone.model, ()).total

        def compute() -> None:
            batch = examples.question(np.arange(1)).on(runner.device)
            with runner.autocast():
                flops = self._remembered("inference", lambda: probe.inference_flops(backbone.model, batch))
            record.inference_forward_flops_512_tokens = self._at_512_tokens(flops)

        def serve() -> None:
            if inference.fingerprint(backbone.model) == self._fingerprint:
                record.inference_form, served, latency = "trained", scored, self._latency
            else:
                record.inference_form = "merged" if method.mergeable else "pruned"
                served = evaluate() if record.scored_form == "trained" else scored
                latency = inference.latency(backbone.model, examples, runner.device, runner.autocast())
            assert latency is not None
            if self._kind.answers == "completions":
                record.first_token_seconds_median, record.first_token_seconds_p95 = latency.median, latency.p95
            record.inference_latency_seconds_median, record.inference_latency_seconds_p95 = latency.median, latency.p95
            record.inference_samples_per_second = served.examples / served.seconds
            record.inference_score = served.scores.score
            before = scored.outputs if record.scored_form == "trained" else self._trained_outputs
            apart = inference.difference(before, served.outputs)
            record.form_max_absolute_difference, record.form_max_relative_difference = apart.absolute, apart.relative
            record.forms_differ = apart.exceeds(record.precision)

        self._attempt("compute", compute)
        self._attempt("inference", serve)

    def machine(self) -> None:
        """The machine's own pace, measured if it is not known yet."""

        def pace() -> None:
            if not self._team.is_first:
                return
            record, folder = self._record, cache.FOLDER / "machines"
            achieved = record.achieved_flops_per_second or 0.0
            machine = reference.stored(folder, record.device, record.precision, achieved)
            derived.note_reference(record, machine, description(record.device))

        self._attempt("reference", pace)

    def largest_batch(self, new_loop: Callable[[], TrainingLoop]) -> None:
        """Train larger and larger batches of the run's greatest length, in a model of their own."""
        record = self._record

        def climb() -> None:
            if self._team.size > 1:
                raise ValueError("the largest batch is sought by runs of one process")
            found = batch_sweep.samples_per_second(new_loop(), record.device, self._bytes_per_example())
            record.batch_samples_per_second = {str(size): speed for size, speed in found.items()}
            record.largest_batch_size = max(found)
            record.largest_batch_samples_per_second = found[record.largest_batch_size]

        self._attempt("sweep_batch", climb)

    def close(self) -> None:
        """What follows from the columns so far, and a reason for every column that a meter left null."""
        record = self._record
        derived.note_phases(record, self._phases)
        self._count_all_processes()
        if self._energy is not None:
            derived.note_energy(record, self._energy)
            derived.note_utilisation(record, self._train_utilisation(), self._capacity_bytes)
        derived.note_composites(record)
        for name, reason in self._not_applicable().items():
            record.reasons.setdefault(name, reason)
        for column in fields(record):
            meter = column.metadata["meter"]
            if meter is not None and getattr(record, column.name) is None:
                record.reasons.setdefault(column.name, self._reason(meter))

    def _count_all_processes(self) -> None:
        """Take in what the other processes of a complete run measured of themselves: peaks and energy."""
        record = self._record
        alone = record.status != "complete"
        peaks = [record.peak_memory_bytes] if alone else self._team.gathered(record.peak_memory_bytes)
        known = [peak for peak in peaks if peak is not None]
        record.peak_memory_bytes = max(known, default=None)
        record.total_peak_memory_bytes = sum(known) if known else None
        if self._energy is not None and not alone:
            for joules in self._team.gathered(self._energy.own)[1:]:
                self._energy.add(joules)

    def _not_applicable(self) -> dict[str, str]:
        """Columns that this kind of task has nothing for, with the reason."""
        reasons = dict.fromkeys(PER_TOKEN, "images have no tokens") if self._kind.reads_images else {}
        if self._kind.answers != "completions":
            reasons |= dict.fromkeys(OF_GENERATION, "the task generates no text")
        return reasons

    def _reason(self, meter: str) -> str:
        if not getattr(self._settings, meter):
            return f"measure.{meter}=false"
        if meter == "energy" and self._energy is not None and self._energy.reason is not None:
            return self._energy.reason
        status = self._record.status
        unknown = "this machine does not tell" if status == "complete" else f"the run was {status} before it"
        return self._out_of_place.get(meter) or self._failures.get(meter, unknown)

    def _remembered(self, form: str, count: Callable[[], FlopsByShape]) -> FlopsByShape:
        """Counted once per process for one form of this method on this model: FLOPs do not depend on the seed."""
        settings = self._plan.settings
        method = None if form == "base" else dict(settings.method)
        task = {"kind": self._plan.task.kind, "outputs": self._plan.task.outputs}
        what = {"method": method, "model": asdict(settings.model), "task": task}
        key = digest({"form": form, "precision": self._record.precision} | what)
        if key not in _FLOPS:
            _FLOPS[key] = count()
        return _FLOPS[key]

    def _at_512_tokens(self, flops: FlopsByShape) -> float | None:
        return None if self._kind.reads_images else flops.of(1, REFERENCE_TOKENS).forward

    def _bytes_per_example(self) -> float | None:
        kept, samples = self._record.activation_bytes, self._record.probe_batch_size
        return None if kept is None or samples is None else kept / samples

    def _note_base(self) -> None:
        """What the untouched model, stored as this run stores it, makes of the passages."""
        record, model = self._record, self._plan.settings.model
        in_half = record.precision != "fp32"
        trained = frozenset(name for name, tensor in self._pretrained.items() if in_half and tensor.requires_grad)
        task = self._plan.task
        self._base = forgetting.base_observation(
            model, task.kind, task.outputs, record.device, record.precision, trained
        )
        self._record.base_language_loss = self._base.language_loss
        reason = forgetting.language_head_reason(self._plan.settings.model)
        if reason is not None:
            names = ("base_language_loss", "language_loss_rise_start", "language_loss_rise")
            self._record.reasons |= dict.fromkeys(names, reason)

    def _against_base(self, backbone: Backbone, runner: Accelerator) -> forgetting.Forgetting:
        assert self._base is not None
        adapted = forgetting.observe(backbone, self._plan.settings.model, runner.device, runner.autocast())
        return forgetting.compare(self._base, adapted)

    def _attempt(self, meter: str, measure: Callable[[], None]) -> None:
        """Run a meter that is switched on; an error becomes the reason of its columns.

        Raises an error that one process alone may have had in a meter that needs them all.
        """
        if meter in self._out_of_place or not getattr(self._settings, meter):
            return
        try:
            measure()
        except Exception as error:  # whatever goes wrong in a meter, the run goes on
            if self._team.size > 1 and meter in SHARED and not isinstance(error, Diverged):
                raise
            self._failures.setdefault(meter, f"{type(error).__name__}: {one_line(error)}")  # later ones follow from it
