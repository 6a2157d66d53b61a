"""The record of one run: flat columns under stable names, each with its meaning.

Units stand in the names. A number that was not measured is null, and `reasons` says why. What a column means is said
here once; `docs/measurement.md` is written from it. `bench/records/schema.py` validates, reads and writes records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 7


def column(meaning: str, formula: str | None = None, default: Any = None, meter: str | None = None) -> Any:
    """A column: its meaning in one sentence, its formula where it has one, and the switch under `measure` it needs."""
    metadata = {"meaning": meaning, "formula": formula, "meter": meter}
    if isinstance(default, (dict, list)):
        return field(default_factory=type(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def required(meaning: str) -> Any:
    """A column that every record has from the start."""
    return field(metadata={"meaning": meaning, "formula": None, "meter": None})


@dataclass(kw_only=True)
class RunRecord:
    """Everything known about one run."""

    # What ran
    run_id: str = required("Hash of everything that can change the result; equal on every machine.")
    method: str = required("Name of the adaptation method in `conf/method`.")
    model: str = required("Name of the pretrained backbone in `conf/model`.")
    task: str = required("Name of the task in `conf/task`.")
    seed: int = required("Seed of the head, the method, the data order and dropout.")
    budget: str = required("How much training and evaluation: smoke, quick, full, trial, vtab_select or vtab_final.")
    data_source: str = required("Where the data came from: hub, mirror or sample.")
    precision: str = required("What matrix products compute in: fp32, bf16 or fp16.")
    device: str = required("Kind of device: cpu, cuda or mps.")
    schema_version: int = column("Version of these columns.", default=SCHEMA_VERSION)
    status: str = column("complete, diverged, failed, interrupted or out_of_memory.", default="failed")
    error: str | None = column("What ended a run that is not complete.")

    # How well
    metric: str | None = column("The task's headline metric.")
    score: float | None = column("The headline metric of the scored form, in percent.")
    scored_form: str | None = column(
        "The form of the model behind the score: `trained` as training leaves it, or `inference` (merged, pruned), "
        "which generation uses unless `task.form=trained`."
    )
    metrics: dict[str, float | None] = column("All metrics of the task as its benchmark defines them.", default={})
    inference_score: float | None = column("The headline metric of the inference form, in percent.", meter="inference")
    form_scores: dict[str, float] = column(
        "The headline metric, in percent, of other forms that the trained method has, such as DyLoRA's lower ranks.",
        default={},
    )
    evaluation_examples: int | None = column("Number of examples evaluated, diagnostic sets included.")
    dropped_train_examples: int | None = column("Training examples left out because they exceed `training.max_length`.")
    data_subset: str | None = column(
        "Which examples were taken where a benchmark prescribes a subset: `official` or `rebuilt`, which are the same, "
        "or `resampled` with a hash."
    )
    input_processing: dict[str, Any] = column(
        "How images were prepared: size, resampling, mean and standard deviation.", default={}
    )
    processes: int = column("Processes that trained together, over all machines.", default=1)
    machines: int = column("Machines on which they ran.", default=1)
    micro_batch_size: int | None = column(
        "Examples per forward pass in one process; null is the process's whole share of the batch."
    )
    too_large_micro_batches: list[int] = column(
        "Sizes of forward passes that were tried before and did not fit in memory.", default=[]
    )
    evaluation_batch_size: int | None = column(
        "Examples per forward pass in evaluation: `hardware.evaluation_batch_size`, halved until they fit in memory."
    )
    interruptions: list[dict[str, Any]] = column(
        "For each time that the run was taken up again: the step, when its checkpoint was written, when and where it "
        "went on. Times and energy are those of the work that the result rests on.",
        default=[],
    )
    held_out: bool = column(
        "Whether the run was scored on a part of the training split that it was not trained on, as a tuning's trials "
        "are; such runs stand on no board.",
        default=False,
    )
    tuning: str = column("How the run's settings were chosen: none (by nothing), grid or optuna.", default="none")
    tuning_trials: int = column("Trials among which the settings were chosen.", default=0)
    tuning_steps: int | None = column("Optimizer steps of each trial.")
    tuned_settings: dict[str, Any] = column("The settings that were chosen, by name.", default={})
    tuned_at_edge: bool | None = column(
        "Whether the chosen learning rate is the lowest or highest that could be chosen."
    )
    trial_run_ids: list[str] = column("The trials, by run id.", default=[])
    method_learning_rate: float | None = column("Learning rate in the method's YAML, whatever the run was told.")
    selection: str = column("Which weights are scored: those after the last step.", default="last")

    # Parameters and size
    trainable_parameters: int | None = column("Parameters that the method trains, at their most, the task head apart.")
    final_trainable_parameters: int | None = column(
        "The same after the last step: a method may add parameters while it trains, or retire some."
    )
    method_report: dict[str, Any] = column(
        "What the method decided while it trained, beside its weights: ranks, densities, shares of masks.", default={}
    )
    trainable_percent: float | None = column(
        "Share of the trained form's parameters that the method trains.",
        "100 * trainable_parameters / total_parameters",
    )
    head_parameters: int | None = column("Parameters of the task head.")
    total_parameters: int | None = column("Parameters of the trained form, shared ones once.")
    inference_parameters: int | None = column("Parameters of the inference form (merged or pruned), shared ones once.")
    trained_form_bytes: int | None = column("Parameters and buffers of the trained form in memory.")
    inference_form_bytes: int | None = column("Parameters and buffers of the inference form in memory.")
    stored_bytes: int | None = column("Size of the saved adapter with its head, in safetensors.")

    # Time
    wall_seconds: float | None = column("Wall clock of the whole run.")
    phase_seconds: dict[str, float] = column(
        "Wall clock per named phase; the phases follow each other and add up to `wall_seconds`. `measure` is what the "
        "meters outside the timed phases cost.",
        default={},
    )
    train_seconds: float | None = column("Wall clock of the phase `train` alone.", "phase_seconds.train")
    first_step_seconds: float | None = column(
        "Wall clock from the start of the run to the end of its first optimizer step, the phase `measure` taken off."
    )
    step_seconds_p10: float | None = column("10th percentile of the duration of the steady-state optimizer steps.")
    step_seconds_median: float | None = column("Median duration of the steady-state optimizer steps.")
    step_seconds_p90: float | None = column("90th percentile of the duration of the steady-state optimizer steps.")
    step_seconds_p99: float | None = column("99th percentile of the duration of the steady-state optimizer steps.")
    seconds_to_quality: float | None = column(
        "Training time until the loss, as a mean over a tenth of the run, first was within 5 % of its final value.",
        "first t with loss(t) <= 1.05 * loss(end)",
    )

    # Throughput
    train_samples_per_second: float | None = column(
        "Training examples per second of the steady state: the first tenth of the steps (1 to 10) is cut off, and as "
        "many after an interruption."
    )
    train_tokens_per_second: float | None = column("Training tokens per second of the steady state, padding excluded.")
    train_steps: int | None = column("Optimizer steps done.")
    train_samples: int | None = column("Training examples processed.")
    final_train_loss: float | None = column("Mean task loss over the last logged steps.")
    padding: str = column("How batches are padded.", default="longest in batch")
    largest_batch_size: int | None = column(
        "Largest power of two of examples at the run's greatest length that trains in this device's memory "
        "(`measure.sweep_batch=true`).",
        meter="sweep_batch",
    )
    largest_batch_samples_per_second: float | None = column(
        "Training examples per second at `largest_batch_size`.", meter="sweep_batch"
    )
    batch_samples_per_second: dict[str, float] = column(
        "Training examples per second by batch size, up to `largest_batch_size`.", default={}
    )

    # Memory by cause, on one forward and backward pass at the run's largest batch shape
    probe_batch_size: int | None = column("Examples in the probed forward pass.", meter="memory")
    probe_length: int | None = column(
        "Padded length of the probed forward pass: the greatest of the run.", meter="memory"
    )
    base_weight_bytes: int | None = column("Pretrained parameters.", meter="memory")
    method_weight_bytes: int | None = column("Parameters that the method added, and the task head.", meter="memory")
    buffer_bytes: int | None = column("Buffers of the model.", meter="memory")
    gradient_bytes: int | None = column("Gradients after the backward pass.", meter="memory")
    activation_bytes: int | None = column(
        "What the forward pass keeps for the backward pass: distinct storages of the tensors that autograd saves, "
        "parameters and buffers excluded.",
        meter="memory",
    )
    optimizer_bytes: int | None = column("State of the optimizer after training.", meter="memory")
    predicted_peak_memory_bytes: int | None = column(
        "Sum of the causes.",
        "base_weight_bytes + method_weight_bytes + buffer_bytes + gradient_bytes + activation_bytes + optimizer_bytes",
        meter="memory",
    )

    # Memory by phase
    peak_memory_bytes: int | None = column(
        "Peak of the phase `train`: bytes allocated on CUDA, resident set of the process elsewhere; of several "
        "processes the greatest."
    )
    total_peak_memory_bytes: int | None = column(
        "Sum of the processes' own peaks of the phase `train`; the same for a run of one process."
    )
    train_memory_growth_bytes: int | None = column(
        "How far the phase `train` rose above its own start; to be compared with gradients, activations and optimizer "
        "state.",
        "peak of `train` - memory at the start of `train`",
    )
    phase_peak_memory_bytes: dict[str, dict[str, int]] = column(
        "Peak per phase and kind, forgotten at the phase's start: `active`, `allocated` and `reserved` on CUDA with "
        "`device`, what the whole device had in use at the phase's end; `resident` elsewhere (the kernel's own "
        "record).",
        default={},
    )

    # Compute: matrix products, convolutions and attention; 2 FLOPs per multiply-add; nothing recomputed is counted
    forward_flops_per_sample: float | None = column(
        "Forward FLOPs of the run's steps per training example.", meter="compute"
    )
    backward_flops_per_sample: float | None = column(
        "Backward FLOPs of the run's steps per training example, as this method needs them: no weight gradient of "
        "frozen weights, nothing below the first trainable parameter.",
        meter="compute",
    )
    train_flops_per_token: float | None = column(
        "Forward and backward FLOPs per training token, padding excluded.", meter="compute"
    )
    train_flops: float | None = column("Forward and backward FLOPs of all optimizer steps.", meter="compute")
    achieved_flops_per_second: float | None = column(
        "FLOPs of the steady-state steps per second.", "steady-state FLOPs / steady-state seconds", meter="compute"
    )
    model_flops_utilisation: float | None = column(
        "Achieved FLOPs per second against what this device does in a plain matrix product of this precision.",
        "achieved_flops_per_second / processes / reference_matmul_flops_per_second",
        meter="compute",
    )
    data_sheet_flops_per_second: float | None = column(
        "The maker's dense peak for this GPU and precision.", meter="reference"
    )
    model_flops_utilisation_data_sheet: float | None = column(
        "Achieved FLOPs per second against the maker's figure.",
        "achieved_flops_per_second / processes / data_sheet_flops_per_second",
        meter="compute",
    )
    base_forward_flops_512_tokens: float | None = column(
        "Forward FLOPs of the untouched model for one example of 512 tokens (each choice of 512).", meter="compute"
    )
    forward_flops_512_tokens: float | None = column("Forward FLOPs of the trained form for the same.", meter="compute")
    inference_forward_flops_512_tokens: float | None = column(
        "Forward FLOPs of the inference form for the same.", meter="compute"
    )

    # Inference: the trained form is what training leaves, the inference form what `finish` makes of it
    inference_form: str | None = column(
        "`merged` or `pruned` where `finish` changed the model's structure, `trained` where both forms are the same.",
        meter="inference",
    )
    trained_latency_seconds_median: float | None = column(
        "Median time from one encoded example on the host to its output on the host (of a prompt: the logits of its "
        "first new token), trained form, after warm-up.",
        meter="inference",
    )
    trained_latency_seconds_p95: float | None = column("95th percentile of the same.", meter="inference")
    inference_latency_seconds_median: float | None = column(
        "Median latency of one example, inference form.", meter="inference"
    )
    inference_latency_seconds_p95: float | None = column("95th percentile of the same.", meter="inference")
    evaluation_samples_per_second: float | None = column("Evaluation examples per second, scored form.")
    inference_samples_per_second: float | None = column(
        "Evaluation examples per second, inference form.", meter="inference"
    )
    form_max_absolute_difference: float | None = column(
        "Largest difference between both forms' outputs on the evaluated examples: head outputs, log-likelihoods, or "
        "the next token's logits after the first 64 prompts.",
        "max |trained - inference|",
        meter="inference",
    )
    form_max_relative_difference: float | None = column(
        "The same against the largest output.", "max |trained - inference| / max |trained|", meter="inference"
    )
    forms_differ: bool | None = column(
        "Whether the relative difference exceeds the precision's tolerance: 1e-3 in fp32, 2e-2 in fp16, 1e-1 in bf16.",
        meter="inference",
    )

    # Generation, greedy, scored form; null where the task generates nothing
    generated_tokens: int | None = column("New tokens of all completions, end-of-sequence tokens included.")
    generated_tokens_per_second: float | None = column(
        "New tokens per second of the whole evaluation, reading of the prompts included.",
        "generated_tokens / seconds of the completions",
    )
    truncated_share: float | None = column("Share of completions that the limit of new tokens ended.")
    first_token_seconds_median: float | None = column(
        "Median time from one tokenised prompt on the host to its first token, inference form, after warm-up.",
        meter="inference",
    )
    first_token_seconds_p95: float | None = column("95th percentile of the same.", meter="inference")

    # Energy of this job's own devices
    energy_source: str | None = column("Counters read: `gpu` (NVML), `cpu` (RAPL packages), or both.", meter="energy")
    train_energy_joules: float | None = column("Energy of the phase `train`.", meter="energy")
    evaluation_energy_joules: float | None = column("Energy of the phase `evaluate`.", meter="energy")
    train_watt_hours_per_1000_samples: float | None = column(
        "Training energy per 1,000 examples.", "train_energy_joules / 3.6 / train_samples", meter="energy"
    )
    evaluation_watt_hours_per_1000_samples: float | None = column(
        "Evaluation energy per 1,000 examples.", "evaluation_energy_joules / 3.6 / evaluation_examples", meter="energy"
    )

    # Forgetting: the adapted backbone against the untouched one on fixed built-in passages
    feature_cka_start: float | None = column(
        "Linear CKA (Kornblith et al. 2019) of the last hidden states with the untouched backbone's, before the first "
        "step; 1 is the same up to rotation and scale.",
        meter="forgetting",
    )
    feature_cka: float | None = column("The same after training.", meter="forgetting")
    feature_distance_start: float | None = column(
        "Relative distance of the last hidden states from the untouched backbone's, before the first step; 0 for a "
        "method that starts as the identity.",
        "||F - F0|| / ||F0||",
        meter="forgetting",
    )
    feature_distance: float | None = column("The same after training.", "||F - F0|| / ||F0||", meter="forgetting")
    base_language_loss: float | None = column(
        "Cross-entropy of the untouched model with its pretrained language head, in nats per predicted token.",
        meter="forgetting",
    )
    language_loss_rise_start: float | None = column("Rise of that loss before the first step.", meter="forgetting")
    language_loss_rise: float | None = column("Rise of that loss after training.", meter="forgetting")

    # EfficientLLM's six (arXiv:2505.13840), over the phase `train`
    amu_gb: float | None = column(
        "Average memory utilisation: time mean of the device memory in use (the process's resident set on the CPU), "
        "in 1e9 bytes.",
        "(1/T) integral of memory dt / 1e9",
        meter="energy",
    )
    amu_fraction: float | None = column(
        "The same as a fraction of the device's memory.", "amu / device memory", meter="energy"
    )
    pcu: float | None = column(
        "What EfficientLLM calls peak compute utilisation: the time mean of the utilisation that NVML reports; on the "
        "CPU, processor time over wall clock and usable cores. Not FLOP-based.",
        "(1/T) integral of utilisation dt",
        meter="energy",
    )
    al_seconds: float | None = column(
        "Average latency of a training iteration.", "sum of (computation + communication) / steps"
    )
    st_samples_per_second_per_parameter: float | None = column(
        "Sample throughput normalised by size.", "samples / (parameters * seconds)"
    )
    aec_watts: float | None = column(
        "Average energy consumption, which is a mean power.", "train_energy_joules / train_seconds", meter="energy"
    )
    mcr: float | None = column(
        "Model compression rate from the trained to the inference form.",
        "(trained_form_bytes / inference_form_bytes) * (inference_score / score)",
        meter="inference",
    )

    # Composite scores
    ppt_c1e7: float | None = column(
        "Performance-parameter trade-off of V-PETL Bench.", "score/100 * exp(-log10(trainable_parameters / 1e7 + 1))"
    )
    pscp_b1_overhead: float | None = column(
        "PEFT-Bench's PSCP with exponent 1 and the forward tera-FLOPs above the base model at 512 tokens.",
        "score / (1 + P/5e8) / (1 + F/10) / (1 + M/94), P = trainable_parameters, F = (forward - base forward) "
        "FLOPs / 1e12, M = peak_memory_bytes / 1e9",
        meter="compute",
    )
    pscp_b2_overhead: float | None = column(
        "The same with exponent 2.", "score / ((1 + P/5e8) * (1 + F/10) * (1 + M/94))^2", meter="compute"
    )
    pscp_b1_total: float | None = column(
        "The same with exponent 1 and the whole model's forward tera-FLOPs.",
        "as pscp_b1_overhead, F = forward / 1e12",
        meter="compute",
    )

    # The machine's own pace: a fixed short job, stored once per machine; for reading side by side, never to rescale
    machine_id: str | None = column("Hash of hardware, precision, threads and torch version.", meter="reference")
    reference_matmul_flops_per_second: float | None = column(
        "Best rate of a square matrix product in this precision.", meter="reference"
    )
    reference_copy_bytes_per_second: float | None = column(
        "Bytes read and written per second by a large memory copy.", meter="reference"
    )
    reference_step_seconds: float | None = column(
        "One training step of a fixed tiny transformer, median.", meter="reference"
    )

    # Provenance
    data_revision: str | None = column("Revision or content hash of the data.")
    model_repository: str | None = column("The backbone on the hub.")
    model_revision: str | None = column("Its pinned revision.")
    model_sha256: str | None = column("SHA-256 of its safetensors file.")
    settings_id: str | None = column("Hash of method settings and recipe: what the seeds of one board row share.")
    recipe_id: str | None = column(
        "Hash of the recipe without the learning rate, and of the budget: what rows that are compared must share."
    )
    settings: dict[str, Any] = column("Every setting of the run.", default={})
    overrides: list[str] = column("What the command line said.", default=[])
    git_commit: str | None = column("Commit of this checkout.")
    git_dirty: bool | None = column("Whether tracked files differed from it.")
    versions: dict[str, str] = column("Versions of Python and the libraries that shape a result.", default={})
    hardware: dict[str, Any] = column("Device, processor, cores, threads and platform.", default={})
    hostname: str | None = column("Name of the machine.")
    started_at: str | None = column("Start in UTC.")
    finished_at: str | None = column("End in UTC.")
    reasons: dict[str, str] = column("Why a column is null.", default={})
