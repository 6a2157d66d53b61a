"""The pretrained model and what prepares its input, loaded once per process and handed out fresh for every run."""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backbone import hub
from bench.backbone.anatomy import HEAD_DROPOUT_NAMES, Anatomy
from bench.backbone.kinds import KINDS, Kind
from bench.errors import SettingsError, one_line
from tasks.images import ImageFormat

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bench.settings import ModelSettings

MODEL_CLASSES = {
    "sequence": ("AutoModelForSequenceClassification", "a model that reads text"),
    "span_pair": ("AutoModelForSequenceClassification", "a model that reads text"),
    "language": ("AutoModelForCausalLM", "a decoder"),
    "image": ("AutoModelForImageClassification", "a model that reads images"),
}
"""For each model of a kind the class of transformers that loads it, and what is missing where it cannot."""


@dataclass
class Backbone:
    """A task model, the tokenizer or image format that prepares its input, and the kind of task that it serves.

    A method may wrap or replace `model`.
    """

    model: Any
    preprocessor: Any
    anatomy: Anatomy
    source: str
    kind: str = "classification"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The task's loss, a scalar."""
        return KINDS[self.kind].loss(logits, labels)


@dataclass(frozen=True)
class Origin:
    """Where pretrained weights are read from: a folder or hub id for `from_pretrained`, and its revision."""

    path: str
    revision: str | None

    @property
    def is_local(self) -> bool:
        """Whether the files lie in a folder of this machine already."""
        return Path(self.path).is_dir()

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of `from_pretrained`: the pinned revision, and no attempt at a hub that cannot be reached."""
        return {"revision": self.revision, "local_files_only": self.is_local or not hub.is_reachable()}


@dataclass(frozen=True)
class LanguageHead:
    """The pretrained head of a language model without its backbone, in float32 on the CPU.

    `model` takes the backbone's last hidden states as `inputs_embeds` and returns `logits`. A `causal` head reads the
    next token from each state; any other reads the token that the mask token hides there.
    """

    model: Any
    causal: bool


def origin(settings: ModelSettings) -> Origin:
    """The installed package that carries the model, where there is one; else the hub at the pinned revision."""
    if settings.path is not None:
        if not Path(settings.path).is_dir():
            raise SettingsError(f"model.path={settings.path} is no folder.")
        return Origin(settings.path, None)
    if settings.package is not None:
        module, _, folder = settings.package.partition("/")
        try:
            found = importlib.util.find_spec(module)
        except (ImportError, ValueError) as error:
            raise SettingsError(f"model.package={settings.package} names no package: {one_line(error)}.") from error
        if found is not None and found.submodule_search_locations:
            local = Path(found.submodule_search_locations[0]) / folder
            if local.is_dir():
                return Origin(str(local), None)
    return Origin(settings.repository, settings.revision)


def check_available(settings: ModelSettings) -> None:
    """Raise SettingsError, without importing torch, if the model is neither on this machine nor on a reachable hub."""
    from huggingface_hub import try_to_load_from_cache

    where = origin(settings)
    if where.is_local:
        return
    try:
        cached = try_to_load_from_cache(where.path, "config.json", revision=where.revision)
    except ValueError as error:
        raise SettingsError(f"model.repository={where.path} is no name of a repository: {one_line(error)}") from error
    if isinstance(cached, str):
        return
    if not hub.is_reachable():
        raise SettingsError(
            f"model={settings.name} ({where.path}) is not in the local cache and the hub cannot be reached; "
            "model.path=FOLDER takes a local copy."
        )


def skeleton(settings: ModelSettings, kind: str, outputs: int) -> Anatomy:
    """The anatomy of the task model with shapes but without weights (on the meta device); reads only the config.

    Raises SettingsError if the model cannot do this kind of task.
    """
    import torch

    config = _config(settings, outputs)
    model_class = _model_class(settings, KINDS[kind], config)
    with torch.device("meta"):
        model = _as_task_model(model_class.from_config(config, dtype=torch.float32), KINDS[kind], config.model_type)
    return Anatomy(model, config.model_type)


def fresh(settings: ModelSettings, kind: str, outputs: int) -> Backbone:
    """A copy of the pretrained model whose head is newly initialised from torch's current random state."""
    import torch

    model = copy.deepcopy(_load(settings, kind, outputs))
    anatomy = Anatomy(model, model.config.model_type)
    with torch.no_grad():
        for name in anatomy.head:
            model.get_submodule(name).apply(model._init_weights)
    return Backbone(model, preprocessor(settings, kind), anatomy, settings.repository, kind)


def preprocessor(settings: ModelSettings, kind: str) -> PreTrainedTokenizerBase | ImageFormat:
    """What turns an example into the model's input: its tokenizer, or the format of its images."""
    return _image_format(settings) if KINDS[kind].reads_images else tokenizer(settings)


def tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The model's tokenizer alone."""
    return _tokenizer(settings)


@functools.lru_cache(maxsize=4)
def weights_sha256(settings: ModelSettings) -> str | None:
    """SHA-256 of the model's `model.safetensors`; None where it is sharded."""
    from transformers.utils import cached_file

    where = origin(settings)
    found = cached_file(where.path, "model.safetensors", **where.arguments, _raise_exceptions_for_missing_entries=False)
    if found is None:
        return None
    with open(found, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=2)
def language_head(settings: ModelSettings) -> LanguageHead | str:
    """The checkpoint's own language-model head, or a sentence that says why there is none."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    config = _config(settings, 1)
    causal = type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    mapping = MODEL_FOR_CAUSAL_LM_MAPPING if causal else MODEL_FOR_MASKED_LM_MAPPING
    if type(config) not in mapping:
        return f"no language model is known for model type '{config.model_type}'"
    if not causal and _tokenizer(settings).mask_token is None:
        return "the tokenizer has no mask token"
    model, absent = _pretrained(mapping[type(config)], config, settings)
    if absent:
        return f"the checkpoint has no pretrained language-model head: {min(absent)} is missing"
    delattr(model, model.base_model_prefix)
    setattr(model, model.base_model_prefix, _hand_on)
    return LanguageHead(model.eval().requires_grad_(False), causal)


def _hand_on(*_: Any, inputs_embeds: Any, **__: Any) -> Any:
    """In place of a backbone: takes its last hidden states for its input."""
    from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

    return BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=inputs_embeds)


@functools.lru_cache(maxsize=8)
def _config(settings: ModelSettings, outputs: int) -> Any:
    from transformers import AutoConfig

    where = origin(settings)
    with _loading(settings):
        config = AutoConfig.from_pretrained(where.path, **where.arguments, num_labels=outputs)
    if settings.head_dropout is not None:
        name = next((name for name in HEAD_DROPOUT_NAMES if hasattr(config, name)), None)
        if name is None:
            raise SettingsError(f"model.head_dropout cannot be set: '{settings.name}' has no dropout before its head.")
        setattr(config, name, settings.head_dropout)
    return config


def _model_class(settings: ModelSettings, kind: Kind, config: Any) -> Any:
    """The class of transformers that loads this model for this kind of task. Raises SettingsError if there is none."""
    import transformers
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    name, needed = MODEL_CLASSES[kind.model]
    model_class = getattr(transformers, name)
    served = type(config) in model_class._model_mapping
    if kind.model == "language" and type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        served = False
    if not served:
        raise SettingsError(f"The task needs {needed}; model={settings.name} ({config.model_type}) is none.")
    return model_class


def _as_task_model(model: Any, kind: Kind, model_type: str) -> Any:
    """What transformers makes, with one layer per projection, and under a head of our own where the kind has one."""
    from bench.backbone.projections import take_apart

    take_apart(model)
    if kind.model != "span_pair":
        return model
    from bench.backbone.span_pair import SpanPairModel

    return SpanPairModel(model, Anatomy(model, model_type).family.backbone)


@functools.lru_cache(maxsize=2)
def _load(settings: ModelSettings, kind: str, outputs: int) -> PreTrainedModel:
    """Pretrained task model in float32 on the CPU; the random state stays as it is, whether this is called or not."""
    import torch

    config = _config(settings, outputs)
    model, absent = _pretrained(_model_class(settings, KINDS[kind], config), config, settings)
    _require_all_but_the_head(model, absent, settings)
    if not KINDS[kind].reads_images and model.config.pad_token_id is None:
        model.config.pad_token_id = _tokenizer(settings).pad_token_id
    with torch.random.fork_rng(devices=[]):
        return _as_task_model(model, KINDS[kind], config.model_type)


def _pretrained(model_class: Any, config: Any, settings: ModelSettings) -> tuple[Any, set[str]]:
    """The checkpoint as a model in float32 on the CPU, and the tensors that it lacks or has in another shape."""
    import torch
    from transformers.utils import logging

    where = origin(settings)
    logging.set_verbosity_error()
    with _loading(settings), torch.random.fork_rng(devices=[]):
        model, report = model_class.from_pretrained(
            where.path,
            **where.arguments,
            config=copy.deepcopy(config),
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return model, {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}


def _require_all_but_the_head(model: Any, absent: set[str], settings: ModelSettings) -> None:
    """Raise SettingsError if the checkpoint lacks a pretrained tensor; the head is initialised anew in any case."""
    anatomy = Anatomy(model, model.config.model_type)
    absent = {name for name in absent if not anatomy.is_head(name)}
    if absent:
        raise SettingsError(
            f"model '{settings.name}': {origin(settings).path} lacks pretrained weights: {min(absent)}."
        )


@functools.lru_cache(maxsize=4)
def _tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    where = origin(settings)
    with _loading(settings):
        tokenizer = AutoTokenizer.from_pretrained(where.path, **where.arguments)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _image_format(settings: ModelSettings) -> ImageFormat:
    """Size, mean and standard deviation that the model was pretrained with, from its own preprocessor's settings."""
    from transformers.utils import cached_file

    if settings.image_size is None:
        raise SettingsError(f"model '{settings.name}' needs model.image_size=PIXELS.")
    where = origin(settings)
    with _loading(settings):
        found = cached_file(where.path, "preprocessor_config.json", **where.arguments)
        stored = json.loads(Path(str(found)).read_text("utf-8"))
    return ImageFormat(settings.image_size, tuple(stored["image_mean"]), tuple(stored["image_std"]))


@contextlib.contextmanager
def _loading(settings: ModelSettings) -> Iterator[None]:
    """Turns what the hub client raises into one sentence."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError) as error:
        where = origin(settings).path
        raise SettingsError(
            f"model '{settings.name}' cannot be loaded from {where}: {one_line(error)[:300]}"
        ) from error
