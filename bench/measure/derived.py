"""Columns that follow from other columns of the same record; each is null where one of those is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.measure import composites, memory, reference
from bench.measure.phases import MEASURE
from bench.measure.throughput import percentile, seconds_to_quality

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.measure.energy import EnergyMeter
    from bench.measure.phases import Phases
    from bench.measure.reference import MachineReference
    from bench.measure.throughput import StepClock
    from bench.measure.utilisation import Utilisation
    from bench.records.record import RunRecord

GIGA, TERA = 1e9, 1e12
JOULES_PER_MILLIWATT_HOUR = 3.6


def note_steps(record: RunRecord, clock: StepClock, run_started_at: float, measure_seconds: float) -> None:
    """Steady-state throughput and step times, and the time to the first step."""
    record.train_steps, record.train_samples = clock.steps, clock.samples
    steady = clock.steady_state()
    if steady is None:
        return
    if record.first_step_seconds is None and clock.first_step_at is not None:  # else an earlier process did that step
        record.first_step_seconds = clock.first_step_at - run_started_at - measure_seconds
    record.train_samples_per_second = steady.samples_per_second
    record.train_tokens_per_second = steady.tokens_per_second if steady.tokens else None
    record.step_seconds_p10 = percentile(steady.step_seconds, 10)
    record.step_seconds_median = percentile(steady.step_seconds, 50)
    record.step_seconds_p90 = percentile(steady.step_seconds, 90)
    record.step_seconds_p99 = percentile(steady.step_seconds, 99)
    record.al_seconds = steady.seconds / len(steady.step_seconds)


def note_curve(record: RunRecord, losses: Sequence[float], seconds: Sequence[float]) -> None:
    """When the training loss came close to its end."""
    record.seconds_to_quality = seconds_to_quality(losses, seconds)


def note_phases(record: RunRecord, phases: Phases) -> None:
    """Time and memory of the phases so far."""
    ran = {name: seconds for name, seconds in phases.seconds.items() if name != MEASURE}
    record.phase_seconds = ran | {MEASURE: phases.seconds.get(MEASURE, 0.0)}
    record.phase_peak_memory_bytes = dict(phases.peak_memory_bytes)
    record.train_seconds = phases.seconds.get("train")
    record.peak_memory_bytes = memory.headline(phases.peak_memory_bytes.get("train", {}))
    record.train_memory_growth_bytes = phases.memory_growth_bytes("train")
    record.wall_seconds = phases.wall_seconds
    causes = (
        record.base_weight_bytes,
        record.method_weight_bytes,
        record.buffer_bytes,
        record.gradient_bytes,
        record.activation_bytes,
        record.optimizer_bytes,
    )
    known = [cause for cause in causes if cause is not None]
    record.predicted_peak_memory_bytes = sum(known) if len(known) == len(causes) else None


def note_reference(record: RunRecord, machine: MachineReference, device_name: str) -> None:
    """The machine's own pace, and the run's FLOPs against it."""
    record.machine_id = machine.machine_id
    record.reference_matmul_flops_per_second = machine.matmul_flops_per_second
    record.reference_copy_bytes_per_second = machine.copy_bytes_per_second
    record.reference_step_seconds = machine.step_seconds
    record.data_sheet_flops_per_second = reference.data_sheet_flops_per_second(device_name, record.precision)
    if record.data_sheet_flops_per_second is None:
        reason = f"no data sheet figure is known for {device_name} in {record.precision}"
        record.reasons |= dict.fromkeys(("data_sheet_flops_per_second", "model_flops_utilisation_data_sheet"), reason)
    achieved = _ratio(record.achieved_flops_per_second, record.processes)
    record.model_flops_utilisation = _ratio(achieved, machine.matmul_flops_per_second)
    record.model_flops_utilisation_data_sheet = _ratio(achieved, record.data_sheet_flops_per_second)


def note_energy(record: RunRecord, meter: EnergyMeter) -> None:
    """Joules per phase and per sample, and the mean power."""
    record.energy_source = meter.source
    record.train_energy_joules = meter.joules.get("train")
    record.evaluation_energy_joules = meter.joules.get("evaluate")
    record.train_watt_hours_per_1000_samples = _watt_hours_per_1000(record.train_energy_joules, record.train_samples)
    record.evaluation_watt_hours_per_1000_samples = _watt_hours_per_1000(
        record.evaluation_energy_joules, record.evaluation_examples
    )
    record.aec_watts = _ratio(record.train_energy_joules, record.train_seconds)


def note_utilisation(record: RunRecord, means: Utilisation, capacity_bytes: int | None) -> None:
    """EfficientLLM's memory and compute utilisation, on a device with this much memory."""
    record.amu_gb = _ratio(means.memory_bytes, GIGA)
    record.amu_fraction = _ratio(means.memory_bytes, capacity_bytes)
    record.pcu = means.compute


def note_composites(record: RunRecord) -> None:
    """EfficientLLM's throughput and compression rate, PPT and PSCP."""
    record.st_samples_per_second_per_parameter = _ratio(record.train_samples_per_second, record.total_parameters)
    sizes, scores = (record.trained_form_bytes, record.inference_form_bytes), (record.score, record.inference_score)
    if None not in (*sizes, *scores) and record.score:
        record.mcr = composites.model_compression_rate(*sizes, *scores)  # type: ignore[arg-type]
    if record.score is None or record.trainable_parameters is None:
        return
    record.ppt_c1e7 = composites.ppt(record.score / 100, record.trainable_parameters)
    total, base = record.forward_flops_512_tokens, record.base_forward_flops_512_tokens
    if total is None or base is None or record.peak_memory_bytes is None:
        return
    gigabytes = record.peak_memory_bytes / GIGA

    def pscp(flops: float, exponent: int) -> float:
        assert record.score is not None
        assert record.trainable_parameters is not None
        return composites.pscp(record.score, record.trainable_parameters, flops / TERA, gigabytes, exponent)

    record.pscp_b1_overhead = pscp(total - base, 1)
    record.pscp_b2_overhead = pscp(total - base, 2)
    record.pscp_b1_total = pscp(total, 1)


def _ratio(value: float | None, by: float | None) -> float | None:
    return None if value is None or not by else value / by


def _watt_hours_per_1000(joules: float | None, samples: int | None) -> float | None:
    """Watt-hours per 1,000 samples, which is milliwatt-hours per sample."""
    return _ratio(joules, None if samples is None else samples * JOULES_PER_MILLIWATT_HOUR)
