"""The machine reference, measured for real on the CPU, and the data sheets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from bench.measure.reference import (
    COPIED_BYTES,
    DATA_SHEETS,
    MachineReference,
    data_sheet_flops_per_second,
    machine_id,
    measured,
    stored,
)

needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")


@pytest.fixture(scope="module")
def reference() -> MachineReference:
    return measured("cpu", "fp32")


@pytest.fixture
def marker() -> MachineReference:
    """Figures that no machine has."""
    return MachineReference(machine_id("cpu", "fp32"), 1.25, 2.5, 3.75)


def test_figures_are_what_a_processor_can_do(reference: MachineReference) -> None:
    assert 1e8 < reference.matmul_flops_per_second < 1e16
    assert 1e8 < reference.copy_bytes_per_second < 1e14
    assert 1e-4 < reference.step_seconds < 60


def test_the_matrix_product_agrees_with_one_timed_by_torch(reference: MachineReference) -> None:
    from torch.utils.benchmark import Timer

    matrix = torch.rand(1024, 1024)
    seconds = Timer("matrix @ matrix", globals={"matrix": matrix}, num_threads=torch.get_num_threads()).timeit(3).mean
    assert 1 / 4 < reference.matmul_flops_per_second * seconds / (2 * 1024**3) < 4


def test_measuring_again_gives_figures_of_the_same_size(reference: MachineReference) -> None:
    again = measured("cpu", "fp32")
    assert again.machine_id == reference.machine_id
    assert 1 / 4 < again.matmul_flops_per_second / reference.matmul_flops_per_second < 4
    assert 1 / 4 < again.copy_bytes_per_second / reference.copy_bytes_per_second < 4
    assert 1 / 4 < again.step_seconds / reference.step_seconds < 4


def test_measuring_leaves_the_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    measured("cpu", "bf16")
    assert torch.equal(torch.rand(3), expected)


@needs_proc
def test_measuring_gives_its_memory_back(reference: MachineReference) -> None:
    before = resident_bytes()
    measured("cpu", "fp32")
    assert resident_bytes() - before < COPIED_BYTES / 4


def test_a_first_call_stores_what_it_returns_and_leaves_nothing_else(tmp_path: Path) -> None:
    reference = stored(tmp_path / "machines", "cpu", "fp32")
    (path,) = (tmp_path / "machines").iterdir()
    assert path.name == f"{reference.machine_id}.json"
    assert json.loads(path.read_text()) == asdict(reference)


def test_stored_figures_are_not_measured_again(tmp_path: Path, marker: MachineReference) -> None:
    path = tmp_path / f"{marker.machine_id}.json"
    path.write_text(json.dumps(asdict(marker)))
    assert stored(tmp_path, "cpu", "fp32") == marker
    assert stored(tmp_path, "cpu", "fp32", marker.matmul_flops_per_second / 2) == marker


def test_figures_that_a_run_surpassed_are_measured_again(tmp_path: Path, marker: MachineReference) -> None:
    path = tmp_path / f"{marker.machine_id}.json"
    path.write_text(json.dumps(asdict(marker)))
    renewed = stored(tmp_path, "cpu", "fp32", 2 * marker.matmul_flops_per_second)
    assert renewed != marker
    assert stored(tmp_path, "cpu", "fp32") == renewed


@pytest.mark.parametrize(
    "damage",
    [
        lambda marker: json.dumps(asdict(marker))[:-20],
        lambda marker: json.dumps({"machine_id": marker.machine_id, "matmul_tflops": 1.0}),
        lambda marker: json.dumps(asdict(marker) | {"step_seconds": 0.0}),
        lambda marker: json.dumps(asdict(replace(marker, machine_id="0123456789ab"))),
    ],
    ids=["cut off", "old format", "impossible figure", "another machine"],
)
def test_a_file_that_cannot_be_trusted_is_measured_anew(
    damage: Callable[[MachineReference], str], tmp_path: Path, marker: MachineReference
) -> None:
    path = tmp_path / f"{marker.machine_id}.json"
    path.write_text(damage(marker))
    reference = stored(tmp_path, "cpu", "fp32")
    assert reference.matmul_flops_per_second > 1e8
    assert json.loads(path.read_text()) == asdict(reference)


def test_a_machine_is_its_hardware_precision_and_threads() -> None:
    threads = torch.get_num_threads()
    own = machine_id("cpu", "fp32")
    try:
        torch.set_num_threads(threads + 1)
        with_more_threads = machine_id("cpu", "fp32")
    finally:
        torch.set_num_threads(threads)
    assert re.fullmatch("[0-9a-f]{12}", own)
    assert len({own, with_more_threads, machine_id("cpu", "bf16")}) == 3


def test_a_machine_is_not_its_hostname_or_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    own = machine_id("cpu", "fp32")
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    monkeypatch.setattr("platform.platform", lambda: "Linux-99")
    assert machine_id("cpu", "fp32") == own


@pytest.mark.parametrize(
    ("name", "fp32", "half"),
    [
        ("Tesla V100-SXM2-32GB", 15.7e12, 125e12),
        ("Tesla T4", 8.1e12, 65e12),
        ("NVIDIA A10", 31.2e12, 125e12),
        ("NVIDIA A10G", 35e12, 70e12),
        ("NVIDIA A100-SXM4-80GB", 19.5e12, 312e12),
        ("A100-SXM4-40GB", 19.5e12, 312e12),
        ("NVIDIA A100 80GB PCIe", 19.5e12, 312e12),
        ("NVIDIA A100-PCIE-40GB", 19.5e12, 312e12),
        ("NVIDIA RTX A6000", 38.7e12, 154.8e12),
        ("NVIDIA GeForce RTX 3090", 35.6e12, 71e12),
        ("NVIDIA GeForce RTX 4090", 82.6e12, 165.2e12),
        ("NVIDIA L4", 30.3e12, 121e12),
        ("NVIDIA L40S", 91.6e12, 362e12),
        ("NVIDIA H100 PCIe", 51e12, 756.5e12),
        ("NVIDIA H100 80GB HBM3", 67e12, 989.5e12),
        ("NVIDIA H200", 67e12, 989.5e12),
        ("NVIDIA B200", 75e12, 2250e12),
    ],
)
def test_data_sheets_are_found_by_the_name_that_torch_reports(name: str, fp32: float, half: float) -> None:
    assert data_sheet_flops_per_second(name, "fp32") == fp32
    assert data_sheet_flops_per_second(name, "fp16") == half


@pytest.mark.parametrize(
    "name",
    [
        "Intel Xeon",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA L40",
        "NVIDIA H100 NVL",
        "NVIDIA H200 NVL",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
    ],
)
def test_an_unknown_device_and_a_slice_of_a_known_one_have_no_data_sheet(name: str) -> None:
    assert data_sheet_flops_per_second(name, "fp32") is None


def test_tensor_cores_before_ampere_have_no_bf16() -> None:
    assert data_sheet_flops_per_second("Tesla V100-SXM2-32GB", "bf16") is None
    assert data_sheet_flops_per_second("Tesla T4", "bf16") is None
    assert data_sheet_flops_per_second("NVIDIA A100-SXM4-80GB", "bf16") == 312e12


def test_bf16_and_fp16_have_the_same_peak_where_both_exist() -> None:
    assert all(peaks["bf16"] == peaks["fp16"] for _, peaks in DATA_SHEETS if "bf16" in peaks)


def resident_bytes() -> int:
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
