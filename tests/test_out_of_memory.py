"""Runs whose batches do not fit in memory. The limits are real: on the address space of the process."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from bench.measure import batch_sweep
from bench.records.record import RunRecord
from tests.conftest import ROOT, the_record

ROOM = 100 * 2**20
"""Bytes by which two sizes must differ for a limit to lie between them."""


@pytest.fixture(scope="module")
def wide(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of one layer whose batches take far more memory than it does itself."""
    folder = tmp_path_factory.mktemp("wide")
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 4096, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=540, pad_token_id=0, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_the_largest_batch_is_the_last_before_memory_ran_out_however_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def speed(loop: Any, indices: np.ndarray, device: str) -> float:
        if len(indices) > 4:
            raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
        return 10.0 * len(indices)

    monkeypatch.setattr(batch_sweep, "_speed", speed)
    loop: Any = SimpleNamespace(longest_batch_indices=[7])
    assert batch_sweep.samples_per_second(loop, "cpu", 1.0) == {1: 10.0, 2: 20.0, 4: 40.0}


def arguments(model: Path, *more: str) -> list[str]:
    return [f"model.path={model}", "data=sample", "task=superglue/boolq", "measure=none", "training.max_steps=1", *more]


def peak(folder: Path, settings: list[str]) -> int:
    """Bytes of address space that a run takes at most."""
    program = (
        f"import runpy, sys; sys.argv = ['run.py', 'results.dir={folder}', *{settings!r}]\n"
        f"try: runpy.run_path('{ROOT / 'bench/run.py'}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print('peak', next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmPeak')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return 1024 * int(done.stdout.rpartition("peak ")[2])


def limited(folder: Path, limit: int, settings: list[str]) -> RunRecord:
    """The record of a run that may take so many bytes of address space."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench/run.py"), f"results.dir={folder}", *settings],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return the_record(folder)[1]


def test_a_training_batch_that_does_not_fit_is_halved_until_it_does(tiny_bert: Path, tmp_path: Path) -> None:
    settings = arguments(tiny_bert, "method=full", "training.batch_size=512", "budget=smoke")
    small, large = (peak(tmp_path / str(n), [*settings, f"hardware.per_device_batch_size={n}"]) for n in (128, 512))
    assert large - small > ROOM
    record = limited(tmp_path / "limited", (small + large) // 2, settings)
    assert record.too_large_micro_batches[0] == 512
    assert record.micro_batch_size == record.too_large_micro_batches[-1] // 2
    assert record.train_samples == 300, "all of the sample"


def test_an_evaluation_batch_that_does_not_fit_is_halved_and_nothing_is_trained_anew(
    wide: Path, tmp_path: Path
) -> None:
    settings = arguments(wide, "method=linear_probe", "training.batch_size=2", "budget.evaluation_examples=96")
    small, large = (peak(tmp_path / str(n), [*settings, f"hardware.evaluation_batch_size={n}"]) for n in (12, 96))
    assert large - small > ROOM
    record = limited(tmp_path / "limited", (small + large) // 2, [*settings, "hardware.evaluation_batch_size=96"])
    assert record.evaluation_batch_size in (48, 24, 12)
    assert record.evaluation_examples == 96
    assert record.too_large_micro_batches == []
