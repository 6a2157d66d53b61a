"""The main job as a user starts it: real processes, real files, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.conftest import CONFIGURATION, ROOT, RunCommand, records, the_record


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal, with exit code 2 and no traceback."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_run_leaves_a_valid_record_with_its_files(sample: RunCommand, tmp_path: Path) -> None:
    done = sample("method=lora", "task=glue/mnli", "seed=3")
    assert done.returncode == 0, done.stderr
    folder, record = the_record(tmp_path / "results")
    assert folder.relative_to(tmp_path / "results/runs").parts == ("glue", "mnli", "minilm", "lora", record.run_id)
    assert (record.status, record.seed, record.budget, record.data_source) == ("complete", 3, "smoke", "sample")
    assert (record.train_steps, record.train_samples, record.evaluation_examples) == (2, 64, 128)
    assert set(record.metrics) == {"accuracy_matched", "accuracy_mismatched", "combined_score"}
    assert {"import", "load", "encode", "train", "evaluate", "save"} <= set(record.phase_seconds)
    assert sum(record.phase_seconds.values()) == pytest.approx(record.wall_seconds, rel=0.02)
    assert yaml.safe_load((folder / "config.yaml").read_text())["training"]["batch_size"] == 32
    assert (folder / "adapter" / "adapter_model.safetensors").stat().st_size == record.stored_bytes
    history = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [point["step"] for point in history] == [2]
    assert "budget smoke, data sample" in done.stdout


def test_predictions_reproduce_the_score(sample: RunCommand, tmp_path: Path) -> None:
    sample("method=bitfit", "task=glue/sst2")
    folder, record = the_record(tmp_path / "results")
    rows = pd.read_parquet(folder / "predictions.parquet")
    assert list(rows.columns) == ["split", "id", "label", "prediction", "scores"]
    assert len(rows) == rows["id"].nunique() == 64
    assert 100 * (rows["label"] == rows["prediction"]).mean() == record.score
    assert all(row.scores.argmax() == row.prediction for row in rows.itertuples())


def test_the_same_run_again_is_a_no_op_and_rerun_keeps_the_first(sample: RunCommand, tmp_path: Path) -> None:
    sample("method=lora")
    folder, record = the_record(tmp_path / "results")
    written = (folder / "record.json").stat().st_mtime_ns
    again = sample("method=lora")
    assert "already finished" in again.stdout
    assert (folder / "record.json").stat().st_mtime_ns == written
    assert sample("method=lora", "rerun=true").returncode == 0
    both = records(tmp_path / "results")
    assert {path.name for path in both} == {record.run_id, f"{record.run_id}~1"}
    assert {found.score for found in both.values()} == {record.score}, "the same to the last digit"


def test_an_adapter_of_a_library_method_loads_with_peft(sample: RunCommand, tmp_path: Path, tiny_bert: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from tasks.locating import SAMPLES

    sample("method=lora", "task=glue/rte", "hardware.precision=fp32")
    folder, _ = the_record(tmp_path / "results")
    base = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    model = PeftModel.from_pretrained(base, str(folder / "adapter")).eval()
    rows = pd.read_parquet(folder / "predictions.parquet")
    texts = pd.read_parquet(SAMPLES / "nyu-mll/glue/rte/validation-00000-of-00001.parquet").set_index("idx")
    first = texts.loc[rows["id"][0]]
    inputs = AutoTokenizer.from_pretrained(tiny_bert)(first.sentence1, first.sentence2, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    torch.testing.assert_close(logits, torch.tensor(rows["scores"][0]), atol=1e-5, rtol=1e-4)


def test_a_sweep_runs_every_combination_in_one_process_and_skips_finished_ones(
    sample: RunCommand, tmp_path: Path
) -> None:
    sample("method=lora", "task=glue/rte")
    done = sample("-m", "method=lora,bitfit", "seed=0,1", "task=glue/rte,glue/mrpc")
    assert done.returncode == 0, done.stderr
    found = {(r.method, r.seed, r.task) for r in records(tmp_path / "results").values()}
    assert len(found) == 8
    assert "8 runs, 1 of them finished" in done.stdout
    assert done.stdout.count("glue/rte: data") == 3, "nothing is done twice"
    assert done.stdout.rstrip().endswith("8 complete")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["method=lroa"], "method=lroa is unknown."),
        (["task=glue/sst3"], "Did you mean 'glue/sst2'?"),
        (["model=minilmm"], "Did you mean 'minilm'?"),
        (["metod=lora"], "Did you mean 'method'?"),
        (["method.rnk=4"], "method.rnk is no setting. Did you mean 'rank'?"),
        (["+method.rnk=4"], "method.rnk is no setting. Did you mean 'rank'?"),
        (["training.learning_rte=1"], "Did you mean 'learning_rate'?"),
        (["method.rank=-1"], "method.rank=-1 must be at least 1."),
        (["method.rank=four"], "method.rank=four must be a whole number"),
        (["method.dropout=2"], "method.dropout=2 must be at least 0 and below 1."),
        (["training.batch_size=0"], "training.batch_size=0 must be at least 1."),
        (["training.epochs=abc"], "training.epochs=abc"),
        (["training.learning_rate=nan"], "training.learning_rate=nan must be a finite number."),
        (["seed=-1"], "seed=-1 must be at least 0 and below 4294967296."),
        (["seed=0,1"], "add -m to sweep over it"),
        (["method.rank=65"], "method.rank=65 is above the size of"),
        (["method.targets=[querry]"], "'querry' matches no module. Did you mean 'query'?"),
        (["method._target_=os.system"], "cannot be set"),
        (["hardware.device=cuda"], "no CUDA device"),
        (["hardware.precision=fp64"], "hardware.precision=fp64 is unknown."),
        (["data=mirror"], "data=mirror needs data.root=FOLDER"),
        (["data=mirror", "data.root=/nowhere"], "data.root=/nowhere is no folder."),
        (["data=hub"], "the hub cannot be reached"),
        (["model.path=/nowhere"], "model.path=/nowhere is no folder."),
        (["results.dir=/proc/nowhere"], "cannot be written"),
        (["-m", "method.rank=4,-1"], "method.rank=-1 must be at least 1."),
        (["-m", "method=glob(l*)"], "glob() cannot be used here"),
        (["hardware.slurm.partition=gpu"], "Settings below hardware.slurm belong to hardware=slurm/NAME."),
        (["method.alpha=null"], "method.alpha=null must be a whole number, like its default 16."),
        (["method=houlsby", "method.scale=nan"], "method.scale=nan must be a finite number."),
        (["method=svfit", "method.energy=abc"], "method.energy=abc must be a number."),
        (["method.targets=[]"], "method.targets=[] must name at least one"),
        (["tuning.extra.method.dropout=[0.1]"], "write +tuning.extra.method.dropout=VALUE to add it."),
        (["+tuning.extra.method.dropout=[0.1]"], "tuning.extra needs tuning=grid or tuning=optuna."),
        (["training.max_length=541"], "training.max_length=541 is more than model=minilm has positions; at most 540 "),
        (["method=adalora", "method.init_warmup=2"], "their sum has to be below the run's 2 steps."),
        (["task=glue/_base"], "task=glue/_base is unknown."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gets_one_sentence_before_anything_is_trained(
    arguments: list[str], expected: str, sample: RunCommand, tmp_path: Path
) -> None:
    assert expected in sentence(sample(*arguments))
    assert records(tmp_path / "results") == {}


def test_a_run_that_does_not_fit_is_refused_before_the_others_of_its_sweep_train(
    sample: RunCommand, tmp_path: Path
) -> None:
    done = sample("-m", "method.rank=4,65")
    assert done.returncode == 2, done.stdout + done.stderr
    refused, trained = (done.stdout.index(words) for words in ("method.rank=65 is above", "lora on glue/sst2: data"))
    assert refused < trained
    assert [record.settings["method"]["rank"] for record in records(tmp_path / "results").values()] == [4]


def test_a_method_that_does_not_fit_the_model_says_so(command: RunCommand, tmp_path: Path) -> None:
    from transformers import DistilBertConfig

    DistilBertConfig().save_pretrained(tmp_path / "odd")
    message = sentence(command(f"model.path={tmp_path / 'odd'}", "data=sample"))
    assert "No anatomy is known for model type 'distilbert'" in message


def test_data_that_cannot_be_used_is_refused_with_its_place(sample: RunCommand, tmp_path: Path) -> None:
    folder = tmp_path / "mirror/nyu-mll/glue/sst2"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        (folder / f"{split}-0.parquet").write_text("no parquet")
    message = sentence(sample("data=mirror", f"data.root={tmp_path / 'mirror'}"))
    assert str(folder) in message
    assert "cannot be read" in message
    assert "does not exist" in sentence(sample("data=mirror", f"data.root={tmp_path / 'mirror'}", "task=glue/rte"))


def test_the_whole_traceback_is_there_on_request(sample: RunCommand) -> None:
    assert "Traceback" in sample("method.rank=-1", HYDRA_FULL_ERROR="1").stderr


def test_a_run_that_diverges_leaves_a_record_without_a_score(sample: RunCommand, tmp_path: Path) -> None:
    done = sample(
        "method=full", "training.learning_rate=1e30", "training.max_steps=20", "training.max_gradient_norm=1e30"
    )
    assert done.returncode == 1
    _, record = the_record(tmp_path / "results")
    assert (record.status, record.score) == ("diverged", None)
    assert "not finite" in str(record.error) or "nan" in str(record.error)
    assert record.train_samples


def test_a_failure_while_running_leaves_a_record_that_says_why(
    sample: RunCommand, tmp_path: Path, tiny_bert: Path
) -> None:
    """The tokenizer's ids exceed the model's vocabulary: found by the first forward pass."""
    from transformers import BertConfig, BertForSequenceClassification

    broken = tmp_path / "broken"
    shutil.copytree(tiny_bert, broken)
    config = BertConfig.from_pretrained(broken)
    config.vocab_size = 8
    BertForSequenceClassification(config).save_pretrained(broken)
    done = sample(f"model.path={broken}", f"results.dir={tmp_path / 'other'}")
    assert done.returncode == 1
    folder, record = the_record(tmp_path / "other")
    assert record.status == "failed"
    assert "IndexError" in str(record.error)
    assert "Traceback" in (folder / "traceback.txt").read_text()


def test_wandb_really_logs_offline(sample: RunCommand, tmp_path: Path) -> None:
    done = sample("tracker=wandb", "training.max_steps=20", WANDB_MODE="offline", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    files = list((tmp_path / "results").rglob("run-*.wandb"))
    assert len(files) == 1
    logged = files[0].read_bytes()
    assert b"train/loss" in logged
    assert b"trainable_parameters" in logged


EXPERIMENTS = [
    str(p.relative_to(CONFIGURATION / "experiment").with_suffix(""))
    for p in (CONFIGURATION / "experiment").rglob("*.yaml")
]


@pytest.fixture(scope="module")
def composed() -> Iterator[Any]:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from bench import settings
    from bench.sweeps import sweep

    settings.register()

    def validated(*overrides: str) -> Any:
        return sweep.validated(*sweep.composed(overrides))

    with hydra.initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        yield validated
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize("axis", ["method", "model", "hardware", "data", "budget", "tracker", "experiment", "task"])
def test_every_choice_of_every_axis_composes_and_validates(axis: str, composed: Any) -> None:
    files = [file for file in (CONFIGURATION / axis).rglob("*.yaml") if not file.name.startswith("_")]
    assert files
    for file in files:
        name = file.relative_to(CONFIGURATION / axis).with_suffix("").as_posix()
        of_vtab = ["task=vtab/dtd"] if name.startswith("vtab_") else []
        assert composed(f"{axis}={name}", *of_vtab).training.learning_rate > 0


def test_the_adalora_recipe_is_the_dossiers_row_for_rte(composed: Any) -> None:
    settings = composed("experiment=adalora-deberta-v3-base/rte")
    assert (settings.method["rank"], settings.method["initial_rank"], settings.method["alpha"]) == (1, 2, 32)
    assert (settings.method["init_warmup"], settings.method["final_warmup"], settings.method["mask_interval"]) == (
        600,
        1800,
        1,
    )
    assert (settings.training.learning_rate, settings.training.epochs, settings.training.max_length) == (
        1.2e-3,
        50,
        320,
    )
    assert (settings.model.name, settings.task["config"], settings.budget.name) == ("deberta-v3-base", "rte", "full")


def test_the_command_line_wins_over_an_experiment(composed: Any) -> None:
    assert composed("experiment=adalora-deberta-v3-base/rte", "training.epochs=1").training.epochs == 1


def test_nothing_slow_is_imported_for_a_refusal(sample: RunCommand) -> None:
    code = (
        "import sys, runpy; sys.argv = ['run.py', 'method.rank=-1']\n"
        f"try: runpy.run_path({str(ROOT / 'bench/run.py')!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'peft', 'datasets', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), cwd=ROOT)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr
