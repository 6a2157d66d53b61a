"""GLUE tasks: the declared table, encoding, data checks and scoring over splits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from bench.backbone import hub
from bench.errors import DataError, SettingsError
from bench.planning import build
from bench.settings import DataSettings
from tasks.examples import TextExamples, Tokens
from tasks.glue import GlueTask
from tasks.locating import SAMPLES, resolve
from tasks.sources import Source
from tasks.text import tokenised
from tests.conftest import CONFIGURATION, task_named

# The benchmark's own table: rows of train and of each reported split on the hub.
GLUE = {
    "cola": (8551, [1043]),
    "sst2": (67349, [872]),
    "mrpc": (3668, [408]),
    "qqp": (363846, [40430]),
    "stsb": (5749, [1500]),
    "mnli": (392702, [9815, 9832]),
    "qnli": (104743, [5463]),
    "rte": (2490, [277]),
    "wnli": (635, [71]),
}
MIRRORED = ["mrpc", "rte", "sst2", "stsb", "wnli"]


def task(config: str) -> GlueTask:
    with hydra.initialize_config_dir(str(CONFIGURATION), version_base="1.3"):
        return build(OmegaConf.to_object(hydra.compose(f"task/glue/{config}").task))  # type: ignore[arg-type]


def source(folder: Path) -> Source:
    return Source("mirror", folder, "test", "test")


@pytest.fixture
def tokenizer(tiny_bert: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_bert)


def test_all_nine_tasks_are_there() -> None:
    names = {file.stem for file in (CONFIGURATION / "task/glue").glob("*.yaml")} - {"_base"}
    assert names == set(GLUE)


@pytest.mark.parametrize("config", MIRRORED)
@pytest.mark.real_data
def test_the_real_splits_have_the_benchmarks_rows_columns_and_classes(
    config: str, real_data: Path, tokenizer: Any
) -> None:
    described = task(config)
    found = resolve(DataSettings("mirror", str(real_data)), described)
    for split, rows in zip(described.reported_splits, GLUE[config][1], strict=True):
        assert len(described.encode(found, split, tokenizer, 64, None)) == rows
    assert found.read("train").num_rows == GLUE[config][0]


@pytest.mark.parametrize("config", sorted(GLUE))
def test_every_sample_encodes(config: str, tokenizer: Any) -> None:
    described = task(config)
    found = resolve(DataSettings("sample"), described)
    for split in ("train", *described.reported_splits):
        examples = described.encode(found, split, tokenizer, 64, None)
        assert len(examples) > 50
        assert examples.lengths.max() <= 64
        assert set(np.unique(examples.labels)) <= set(range(described.outputs)) or described.kind == "regression"


def test_an_encoded_example_decodes_to_its_text(tokenizer: Any) -> None:
    described = task("sst2")
    found = resolve(DataSettings("sample"), described)
    examples = described.encode(found, "validation", tokenizer, 128, None)
    third = examples.tokens.row(2)
    text = found.read("validation").column("sentence")[2].as_py()
    assert list(third) == tokenizer(text)["input_ids"]


def test_pairs_have_segments_and_single_sentences_have_none(tokenizer: Any) -> None:
    pair, single = task("rte"), task("sst2")
    encoded = pair.encode(resolve(DataSettings("sample"), pair), "validation", tokenizer, 128, None)
    assert encoded.tokens.token_type_ids is not None
    assert set(np.unique(encoded.tokens.token_type_ids)) == {0, 1}
    assert (
        single.encode(resolve(DataSettings("sample"), single), "validation", tokenizer, 128, None).tokens.token_type_ids
        is None
    )


def test_a_limited_split_is_the_same_subset_every_time(tokenizer: Any) -> None:
    described = task("sst2")
    found = resolve(DataSettings("sample"), described)
    first = described.encode(found, "train", tokenizer, 32, 40)
    second = described.encode(found, "train", tokenizer, 32, 40)
    assert len(first) == 40
    assert np.array_equal(first.ids, second.ids)
    assert not np.array_equal(first.ids, np.sort(first.ids)[:40] * 0 + np.arange(40)), "drawn, not the first rows"


def labelled(labels: list[Any]) -> TextExamples:
    """Examples of which only the labels matter."""
    rows = Tokens.of([[1]] * len(labels), padding_id=0)
    return TextExamples(rows, np.array(labels), np.arange(len(labels)))


def test_mnli_scores_both_splits_under_their_own_names() -> None:
    described = task("mnli")
    examples = {"validation_matched": labelled([0, 1, 2, 1]), "validation_mismatched": labelled([0, 0])}
    predictions = {"validation_matched": [0, 1, 2, 0], "validation_mismatched": [0, 1]}
    scores = described.score({split: {"prediction": np.array(found)} for split, found in predictions.items()}, examples)
    assert scores.metrics == {"accuracy_matched": 0.75, "accuracy_mismatched": 0.5, "combined_score": 0.625}
    assert scores.score == 75.0


def test_constant_predictions_on_stsb_score_zero_with_a_reason() -> None:
    predictions = {"validation": {"prediction": np.full(4, 2.5)}}
    scores = task("stsb").score(predictions, {"validation": labelled([0.0, 1.0, 2.0, 5.0])})
    assert scores.score == 0.0
    assert scores.metrics["pearson"] is None
    assert "constant" in scores.reasons["pearson"]


def test_argmax_takes_the_lowest_class_among_equals() -> None:
    outputs = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]], np.float32)
    assert list(task("mnli").predict(outputs, labelled([0, 0]))["prediction"]) == [0, 1]


def write(folder: Path, split: str, **columns: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sentence": ["a"], "idx": [0]}, "lacks the column 'label'"),
        ({"text": ["a"], "label": [0], "idx": [0]}, "lacks the column 'sentence'"),
        ({"sentence": ["a"], "label": [2], "idx": [0]}, "label 2; labels must lie between 0 and 1"),
        ({"sentence": ["a"], "label": [-1], "idx": [0]}, "label -1"),
        ({"sentence": [None], "label": [0], "idx": [0]}, "empty cells"),
        ({"sentence": pa.array([], pa.string()), "label": pa.array([], pa.int64()), "idx": []}, "has no rows"),
    ],
)
def test_unusable_data_is_refused_in_one_sentence(
    columns: dict[str, Any], message: str, tmp_path: Path, tokenizer: Any
) -> None:
    write(tmp_path, "train", **columns)
    with pytest.raises(DataError, match=message):
        task("sst2").encode(source(tmp_path), "train", tokenizer, 32, None)


def test_swapped_class_names_are_noticed(tmp_path: Path, tokenizer: Any) -> None:
    table = pa.table({"sentence": ["a"], "label": [0], "idx": [0]})
    features = {"info": {"features": {"label": {"names": ["positive", "negative"], "_type": "ClassLabel"}}}}
    table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, tmp_path / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="classes"):
        task("sst2").encode(source(tmp_path), "train", tokenizer, 32, None)


def test_a_broken_file_and_a_missing_split_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        source(tmp_path).read("train")
    with pytest.raises(DataError, match="no parquet file of the split 'validation'"):
        source(tmp_path).read("validation")


def test_auto_takes_the_mirror_first_and_the_sample_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    described = task("sst2")
    monkeypatch.delenv("PARSIMONY_DATA", raising=False)
    assert resolve(DataSettings("auto"), described).kind == "sample"
    monkeypatch.setenv("PARSIMONY_DATA", str(SAMPLES))
    assert resolve(DataSettings("auto"), described).kind == "mirror"
    assert resolve(DataSettings("auto", str(SAMPLES)), described).kind == "mirror"


def test_hub_data_in_the_local_cache_is_found_without_the_network(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    described = task("sst2")
    snapshot = tmp_path / "datasets--nyu-mll--glue" / "snapshots" / str(described.revision)
    snapshot.mkdir(parents=True)
    (snapshot / "sst2").symlink_to(SAMPLES / "nyu-mll/glue/sst2")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = resolve(DataSettings("auto"), described)
    assert (found.kind, found.revision) == ("hub", described.revision)
    assert found.read("validation").num_rows > 0


@pytest.mark.parametrize("config", GLUE)
def test_a_glue_task_knows_the_names_of_its_metrics(config: str) -> None:
    described, labels = task(config), np.array([0, 1, 1, 0])
    examples = dict.fromkeys(described.reported_splits, labelled(labels.tolist()))
    scores = described.score({split: {"prediction": labels} for split in examples}, examples)
    assert sorted(scores.metrics) == sorted(described.metric_names)
    assert scores.score == 100


def test_long_tables_are_tokenised_in_parts(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    firsts, seconds = ["a film", "dull", "the best of all films"], ["b", "not dull", "c d"]
    whole = tokenised(tokenizer, [firsts, seconds], 8)
    monkeypatch.setattr("tasks.text.BLOCK", 2)
    parts = tokenised(tokenizer, [firsts, seconds], 8)
    assert whole.token_type_ids is not None
    assert parts.token_type_ids is not None
    for a, b in ((whole.input_ids, parts.input_ids), (whole.offsets, parts.offsets)):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.token_type_ids, parts.token_type_ids)


@pytest.fixture
def hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub cache of its own; every data set in it is empty."""
    from huggingface_hub import constants

    monkeypatch.delenv("PARSIMONY_DATA", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.parquet").write_bytes(b"")


def test_a_branch_in_the_local_cache_is_recorded_by_its_commit(hub_cache: Path) -> None:
    described = task_named("vtab/kitti")
    root = hub_cache / "datasets--dpdl-benchmark--kitti"
    for commit in ("a" * 40, "b" * 40):
        put(root / "snapshots" / commit / "data", *(f"{split}-00000-of-00001" for split in described.source_splits))
    (root / "refs").mkdir()
    (root / "refs/main").write_text("b" * 40)
    found = resolve(DataSettings("auto"), described)
    assert (found.kind, found.revision, found.folder) == ("hub", "b" * 40, root / "snapshots" / ("b" * 40) / "data")


def test_what_was_downloaded_is_recorded_by_its_commit(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    root = hub_cache / "snapshots" / ("c" * 40)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(root))
    found = resolve(DataSettings("hub"), task_named("vtab/kitti"))
    assert (found.revision, found.folder) == ("c" * 40, root / "data")


def test_nothing_is_downloaded_for_a_run_that_is_refused(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse() -> None:
        raise SettingsError("method.rank=65 is too large.")

    fetched: list[str] = []
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: fetched.append(name))
    for source in ("auto", "hub"):
        with pytest.raises(SettingsError, match="too large"):
            resolve(DataSettings(source), task_named("vtab/kitti"), before_download=refuse)
    assert fetched == []


@pytest.mark.parametrize(
    "absent", ["rte/train-00001-of-00002", "rte/validation-00000-of-00001", "axb/test-00001-of-00002", "axg"]
)
def test_half_a_download_is_not_taken_for_the_data_set(absent: str, hub_cache: Path) -> None:
    described = task_named("superglue/rte")
    root = hub_cache / "datasets--aps--super_glue" / "snapshots" / described.revision
    files = {
        "rte": ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"],
        "axb": ["test-00000-of-00002", "test-00001-of-00002"],
        "axg": ["test-00000-of-00001"],
    }
    for config, names in files.items():
        put(root / config, *(name for name in names if not f"{config}/{name}".startswith(absent)))
    assert resolve(DataSettings("auto"), described).kind == "sample"
    with pytest.raises(DataError, match="not as a whole, in the local cache"):
        resolve(DataSettings("hub"), described)
    for config, names in files.items():
        put(root / config, *names)
    assert resolve(DataSettings("auto"), described).kind == "hub"


def test_a_mirror_with_missing_shards_is_refused_in_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "nyu-mll/glue/sst2"
    put(folder, "train-00001-of-00003", "validation-00000-of-00001")
    with pytest.raises(DataError, match=r"sst2 lacks train-00000-of-00003\.parquet and 1 more\.$"):
        resolve(DataSettings("mirror", str(tmp_path)), task("sst2"))


def test_a_text_file_in_a_mirror_does_not_hide_what_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "nyu-mll/glue/sst2"
    write(folder, "train", sentence=["a"], label=[0], idx=[0])
    write(folder, "validation", sentence=["b"], label=[1], idx=[0])
    first = resolve(DataSettings("mirror", str(tmp_path)), task("sst2")).revision
    (folder / "LICENSE.txt").write_text("free")
    assert resolve(DataSettings("mirror", str(tmp_path)), task("sst2")).revision == first
    write(folder, "validation", sentence=["c"], label=[1], idx=[0])
    assert resolve(DataSettings("mirror", str(tmp_path)), task("sst2")).revision != first


def test_a_mirrors_revision_is_the_hash_of_the_names_and_bytes_that_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "nyu-mll/glue/sst2"
    put(folder, "train-00000-of-00001", "validation-00000-of-00001", "test-00000-of-00001")
    (folder / "train-00000-of-00001.parquet").write_bytes(b"rows")
    expected = hashlib.sha256(b"train-00000-of-00001.parquetrowsvalidation-00000-of-00001.parquet").hexdigest()
    assert resolve(DataSettings("mirror", str(tmp_path)), task("sst2")).revision == expected


def test_a_mirrors_revision_follows_its_contents(tmp_path: Path) -> None:
    described = task("sst2")
    folder = tmp_path / "nyu-mll/glue/sst2"
    write(folder, "train", sentence=["a"], label=[0], idx=[0])
    write(folder, "validation", sentence=["b"], label=[1], idx=[0])
    first = resolve(DataSettings("mirror", str(tmp_path)), described).revision
    assert resolve(DataSettings("mirror", str(tmp_path)), described).revision == first
    write(folder, "validation", sentence=["c"], label=[1], idx=[0])
    assert resolve(DataSettings("mirror", str(tmp_path)), described).revision != first
