"""The built-in GLUE samples look like the hub's files, keep train and validation apart, and can be regenerated."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features, Value

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "tasks" / "samples" / "nyu-mll" / "glue"
HUB_CONFIGS = {  # text columns and label names in the order of the hub repository; stsb has a score instead
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "stsb": (("sentence1", "sentence2"), ()),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "wnli": (("sentence1", "sentence2"), ("not_entailment", "entailment")),
}
VALIDATION_SPLITS = [(config, "validation") for config in HUB_CONFIGS if config != "mnli"]
VALIDATION_SPLITS += [("mnli", "validation_matched"), ("mnli", "validation_mismatched")]
ALL_SPLITS = [(config, "train") for config in HUB_CONFIGS] + VALIDATION_SPLITS


def _path(directory: Path, config: str, split: str) -> Path:
    return directory / config / f"{split}-00000-of-00001.parquet"


def _texts(config: str, split: str) -> list[tuple[str, ...]]:
    table = pq.read_table(_path(SAMPLES, config, split))
    return list(zip(*(table[column].to_pylist() for column in HUB_CONFIGS[config][0]), strict=True))


@pytest.fixture(scope="module")
def regenerated(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two directories, each written by a process of its own with another hash seed."""
    directories = [tmp_path_factory.mktemp("samples") for _ in range(2)]
    for hash_seed, directory in enumerate(directories, start=1):
        command = [sys.executable, str(ROOT / "scripts" / "make_samples.py"), str(directory)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": str(hash_seed)})
    return directories


@pytest.mark.parametrize(("config", "split"), ALL_SPLITS)
def test_sample_has_columns_and_label_names_of_the_hub(config: str, split: str) -> None:
    columns, label_names = HUB_CONFIGS[config]
    schema = pq.read_schema(_path(SAMPLES, config, split))
    label_type = pa.int64() if label_names else pa.float32()
    assert list(zip(schema.names, schema.types, strict=True)) == [
        *((column, pa.string()) for column in columns),
        ("label", label_type),
        ("idx", pa.int32()),
    ]
    label_feature = Features.from_arrow_schema(schema)["label"]
    assert label_feature == (ClassLabel(names=list(label_names)) if label_names else Value("float32"))


@pytest.mark.parametrize(("config", "split"), ALL_SPLITS)
def test_every_class_occurs_and_no_other(config: str, split: str) -> None:
    labels = pq.read_table(_path(SAMPLES, config, split))["label"].to_pylist()
    if config == "stsb":
        assert min(labels) == 0.0
        assert max(labels) == 5.0
    else:
        assert set(labels) == set(range(len(HUB_CONFIGS[config][1])))


@pytest.mark.parametrize(("config", "split"), VALIDATION_SPLITS)
def test_no_validation_row_occurs_in_train(config: str, split: str) -> None:
    first_texts_of_train = {texts[0] for texts in _texts(config, "train")}
    assert first_texts_of_train.isdisjoint(texts[0] for texts in _texts(config, split))


@pytest.mark.parametrize(("config", "split"), ALL_SPLITS)
def test_rows_are_distinct(config: str, split: str) -> None:
    rows = _texts(config, split)
    assert len(rows) == (600 if split == "train" else 200)
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize(("config", "split"), ALL_SPLITS)
def test_regenerating_gives_identical_bytes(regenerated: list[Path], config: str, split: str) -> None:
    first, second = (_path(directory, config, split) for directory in regenerated)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("config", "split"), ALL_SPLITS)
def test_committed_sample_is_what_the_script_generates(regenerated: list[Path], config: str, split: str) -> None:
    # Rows instead of bytes, because a file also names the pyarrow version that wrote it.
    assert pq.read_table(_path(SAMPLES, config, split)).equals(pq.read_table(_path(regenerated[0], config, split)))
