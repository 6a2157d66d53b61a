"""What is decided about jobs of a cluster before there is one: settings, options of sbatch, states, refusals."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
import pytest
from rich.console import Console

from bench import hardware as resolution
from bench import settings as schema
from bench.cluster import node, slurm, submission, watching
from bench.errors import SettingsError
from bench.hardware import Hardware
from bench.settings import HardwareSettings, RunSettings, SlurmSettings
from bench.sweeps import sweep
from tests.cluster_jobs import Note
from tests.conftest import CONFIGURATION, run_in

Composed = Callable[..., RunSettings]
MACHINES = {
    "cpu": ("cpu", "fp32", 1, 1, None),
    "cpu-2x1": ("cpu", "fp32", 2, 1, None),
    "a100": ("cuda", "bf16", 1, 1, "gpu:a100:1"),
    "a100-1x8": ("cuda", "bf16", 1, 8, "gpu:a100:8"),
    "a100-2x8": ("cuda", "bf16", 2, 8, "gpu:a100:8"),
    "h100": ("cuda", "bf16", 1, 1, "gpu:h100:1"),
    "h100-1x8": ("cuda", "bf16", 1, 8, "gpu:h100:8"),
    "h100-2x8": ("cuda", "bf16", 2, 8, "gpu:h100:8"),
}


@pytest.fixture
def composed(tmp_path: Path) -> Composed:
    """Settings as the command line would make them, from a copy of the configuration without a local file."""
    schema.register()
    shutil.copytree(CONFIGURATION, tmp_path / "conf", ignore=shutil.ignore_patterns("local"))

    def compose(*overrides: str, local: str = "") -> RunSettings:
        if local:
            (tmp_path / "conf/local").mkdir()
            (tmp_path / "conf/local/default.yaml").write_text(f"# @package _global_\n{local}\n")
        with hydra.initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
            return sweep.validated(*sweep.composed(overrides))

    return compose


def use_scripts(folder: Path, monkeypatch: pytest.MonkeyPatch, **texts: str) -> None:
    """Let shell scripts stand in for commands."""
    for name, text in texts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_every_slurm_hardware_is_described_here() -> None:
    assert {file.stem for file in (CONFIGURATION / "hardware/slurm").glob("[!_]*.yaml")} == MACHINES.keys()


@pytest.mark.parametrize("choice", MACHINES)
def test_slurm_hardware_names_its_machine_and_never_falls_back_to_samples(choice: str, composed: Composed) -> None:
    settings = composed(f"hardware=slurm/{choice}")
    found = settings.hardware
    assert found.on_slurm
    assert found.name == f"slurm/{choice}"
    assert (found.device, found.precision, found.machines, found.processes, found.slurm.gres) == MACHINES[choice]
    assert settings.data.source == "hub"


def test_the_command_line_chooses_other_data_for_slurm(composed: Composed) -> None:
    assert composed("hardware=slurm/cpu", "data=sample").data.source == "sample"


def test_a_local_file_beats_the_hardware_and_loses_to_the_command_line(composed: Composed) -> None:
    local = "hardware: {slurm: {partition: ours, time_minutes: 60, cpus_per_task: 2}}"
    slurm = composed("hardware=slurm/cpu", "hardware.slurm.time_minutes=30", local=local).hardware.slurm
    assert (slurm.partition, slurm.cpus_per_task, slurm.time_minutes, slurm.memory_gb) == ("ours", 2, 30, 16)


def test_a_local_file_submits_nothing_by_itself(composed: Composed) -> None:
    assert not composed(local="hardware: {slurm: {partition: ours}}").hardware.on_slurm


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("hardware.slurm.time_minutes=0", "hardware.slurm.time_minutes=0 must be at least 1."),
        ("hardware.slurm.memory_gb=-1", "hardware.slurm.memory_gb=-1.0 must be above 0."),
        (
            "hardware.slurm.time_minutes=2",
            "hardware.slurm.signal_delay_seconds=120 leaves nothing of hardware.slurm.time_minutes=2.",
        ),
    ],
)
def test_settings_that_slurm_could_not_use_are_refused(override: str, sentence: str, composed: Composed) -> None:
    with pytest.raises(SettingsError) as refusal:
        composed("hardware=slurm/cpu", override)
    assert str(refusal.value) == sentence


def test_several_machines_without_slurm_are_refused(composed: Composed) -> None:
    with pytest.raises(SettingsError, match=r"^hardware.machines=2 needs SLURM, .*: choose hardware=slurm/NAME\.$"):
        composed("hardware=cpu", "hardware.machines=2")


def test_submitting_needs_no_gpu_here_and_a_job_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "cuda_capability", lambda: None)
    wanted = HardwareSettings("slurm/a100", "cuda", "bf16", slurm=SlurmSettings(submit=True))
    assert resolution.resolve(wanted) == Hardware("cuda", "bf16")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    with pytest.raises(SettingsError, match="no CUDA device is visible"):
        resolution.resolve(wanted)


def test_auto_means_nothing_on_a_machine_elsewhere() -> None:
    with pytest.raises(SettingsError, match=r"^hardware=slurm/x is another machine: hardware.device=auto and"):
        resolution.resolve(HardwareSettings("slurm/x", "auto", "bf16", slurm=SlurmSettings(submit=True)))


def test_settings_become_options_of_sbatch(tmp_path: Path) -> None:
    from submitit.slurm.slurm import _make_sbatch_string

    slurm = SlurmSettings(
        partition="gpu",
        account="us",
        memory_gb=0.5,
        time_minutes=90,
        signal_delay_seconds=60,
        requeue=False,
        extra={"exclusive": "", "mail-user": "me@here"},
        setup=["module load cuda"],
    )
    wanted = HardwareSettings("x", "cuda", "bf16", processes=8, machines=2, slurm=slurm)
    lines = _make_sbatch_string("python", tmp_path, **submission.parameters(wanted)).splitlines()
    expected = "account=us partition=gpu mem=512M time=90 signal=USR2@60 gres=gpu:8 nodes=2 ntasks-per-node=1"
    expected += " cpus-per-task=4 no-requeue exclusive mail-user=me@here"
    assert {f"#SBATCH --{option}" for option in expected.split()} <= set(lines)
    assert not any(line.startswith(("#SBATCH --qos", "#SBATCH --constraint")) for line in lines)
    assert "module load cuda" in lines
    assert any(line.startswith("srun") and "--kill-on-bad-exit=1 --cpus-per-task=4" in line for line in lines)


def test_jobs_that_the_controller_has_forgotten_are_found_in_the_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = "printf '7_0|CANCELLED by 1000\\n7_1|OUT_OF_MEMORY\\n7_1.batch|FAILED\\n8_0|FAILED\\n'"
    use_scripts(tmp_path, monkeypatch, squeue="exit 1", sacct=accounts)
    assert slurm.states(["7_0", "7_1", "7_2"]) == {"7_0": "CANCELLED", "7_1": "OUT_OF_MEMORY"}


def test_a_job_that_nobody_knows_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from submitit.slurm.slurm import SlurmJob

    use_scripts(tmp_path, monkeypatch, squeue="exit 1", sacct="exit 1")
    monkeypatch.setattr(watching, "POLL_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(watching, "PATIENCE_SECONDS", {None: 0.1})
    (outcome,) = watching.watch([SlurmJob(tmp_path, "7")], Console(quiet=True))
    assert (outcome.state, outcome.index, outcome.job_id) == ("UNKNOWN", 0, "7")
    assert outcome.error.startswith("SLURM does not know job 7 any more, without a result")


@pytest.mark.parametrize(
    ("variables", "address", "port"),
    [
        ({}, "127.0.0.1", None),
        ({"SLURM_JOB_ID": "10003", "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "gpu7"}, "127.0.0.1", 10003),
        ({"SLURM_JOB_ID": "20004", "SLURM_NNODES": "3", "SLURM_JOB_NODELIST": "gpu[07-08],cpu1"}, "gpu07", 10004),
    ],
)
def test_where_the_processes_of_a_job_meet(
    variables: dict[str, str], address: str, port: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_NNODES", "SLURM_JOB_NODELIST", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (node.node_rank(), node.master_address(), node.master_port()) == (0, address, port)


def test_what_is_missing_for_slurm_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = HardwareSettings("slurm/cpu", "cpu", "fp32", slurm=SlurmSettings(submit=True))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"^hardware=slurm/cpu needs SLURM, but there is no sbatch"):
        submission.submit([Note("")], wanted, tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SettingsError, match=r"^hardware=slurm/cpu needs the package submitit: pip install"):
        submission.submit([Note("")], wanted, tmp_path)


@pytest.mark.parametrize(("own", "submitted"), [({}, "unset"), ({"HYDRA_FULL_ERROR": "0"}, "0")])
def test_jobs_print_sentences_unless_the_user_asks_for_tracebacks(
    own: dict[str, str], submitted: str, tmp_path: Path, tiny_bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sbatch = f"echo ${{HYDRA_FULL_ERROR-unset}} > {tmp_path / 'found'}; echo refused >&2; exit 1"
    use_scripts(tmp_path, monkeypatch, sbatch=sbatch, srun="exit 1")
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    done = run_in(tmp_path, "hardware=slurm/cpu", "data=sample", f"model.path={tiny_bert}", **own)
    assert (done.returncode, done.stderr) == (2, "error: SLURM refuses the jobs of hardware=slurm/cpu: refused.\n")
    assert (tmp_path / "found").read_text().strip() == submitted
