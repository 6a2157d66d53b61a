"""Methods that HF PEFT provides: one class, one YAML each.

The YAML speaks the field's words (`rank`, `alpha`, `dropout`, `targets`, `length`); they are mapped here to whatever
the PEFT configuration class calls them. `options` passes further PEFT settings verbatim.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backbone.kinds import KINDS
from bench.errors import SettingsError, one_line, suggestion
from methods.base import OTHER, Method

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor, nn

    from bench.backbone.anatomy import Anatomy, Part
    from bench.backbone.pretrained import Backbone

OWN_NAMES = {"rank": "r", "alpha": "alpha", "dropout": "dropout", "length": "num_virtual_tokens"}
FEED_FORWARD = ("ffn.down",)
TASK_TYPES = {"sequence": "SEQ_CLS", "span_pair": "FEATURE_EXTRACTION", "language": "CAUSAL_LM", "image": None}
"""What PEFT calls each model of `bench/backbone/kinds.py`; it has no word for images."""
RANDOM_DIRECTIONS = ("VERA", "PVERA")
"""Tuners whose rank counts shared random directions and may exceed the width of the model."""
VECTORS = {"ia3_l", "boft_s", "beft_bias"}
"""PEFT's scales and biases that it stores as matrices of one row or column."""
IDENTITY_TOLERANCE = 1e-3
"""Relative change of a layer's output that an adapter at its start may make by rounding."""


class LibraryMethod(Method):
    """A PEFT tuner behind the harness's contract.

    `facts` states what the shared tests and the method cards check: `identity_at_start`, `mergeable`, `paper`,
    and may name a `family`.
    """

    def __init__(
        self,
        learning_rate: float,
        peft_type: str,
        facts: Mapping[str, Any],
        targets: Sequence[str] | None = None,
        rank: int | None = None,
        alpha: float | None = None,
        dropout: float | None = None,
        length: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(learning_rate)
        self.peft_type = peft_type
        self.identity_at_start = bool(facts["identity_at_start"])
        self.mergeable = bool(facts["mergeable"])
        self.family = str(facts.get("family", OTHER))
        self.paper = str(facts["paper"])
        self.targets = [targets] if isinstance(targets, str) else targets
        self.words = {"rank": rank, "alpha": alpha, "dropout": dropout, "length": length}
        self.options = dict(options or {})

    def check(self, anatomy: Anatomy) -> None:
        """Targets must match, the rank must fit every matched module, the options and modules must suit PEFT."""
        parts = self._parts(anatomy)
        rank = self.words["rank"]
        for part in parts:
            weight = _weight(part.module)
            limit = min(weight.shape)
            if rank is not None and self.peft_type not in RANDOM_DIRECTIONS and weight.ndim == 2 and rank > limit:
                raise SettingsError(f"method.rank={rank} is above the size of {part.name} ({limit}).")
        config = self._config(parts, anatomy.head)
        if parts:
            _rehearse(config, parts, self.identity_at_start, self.mergeable)

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Wrap the model with the PEFT tuner; PEFT copies the head and trains the copy."""
        from peft import get_peft_model

        config = self._config(self._parts(backbone.anatomy), backbone.anatomy.head)
        config.base_model_name_or_path = backbone.source
        config.task_type = TASK_TYPES[KINDS[backbone.kind].model]
        self.complete(config, backbone, total_steps)
        with warnings.catch_warnings(), _quiet_peft():
            warnings.simplefilter("ignore")
            backbone.model = get_peft_model(backbone.model, config, autocast_adapter_dtype=True)

    def complete(self, config: PeftConfig, backbone: Backbone, total_steps: int) -> None:
        """Set what depends on the model or on the length of the run; nothing for most methods."""

    def is_vector(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether a trainable tensor is a vector, whatever shape it is stored in."""
        return super().is_vector(name, parameter) or not VECTORS.isdisjoint(name.split("."))

    def finish(self) -> None:
        """Merge into the base weights where the tuner can; a prompt stays beside the model."""
        if self.mergeable:
            model = self.backbone.model
            for name, parameter in model.named_parameters():
                if model.base_model.prefix in name:  # a frozen part of the adapter may be stored in half precision
                    parameter.data = parameter.data.float()
            _unwrap_head(model.get_base_model(), self.backbone.anatomy.head)
            self.backbone.model = model.merge_and_unload()

    def save(self, folder: Path) -> None:
        """Write PEFT's own format, so that `PeftModel.from_pretrained` reads it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.backbone.model.save_pretrained(str(folder), safe_serialization=True)

    def load(self, folder: Path) -> None:
        """Read PEFT's own format into the attached model."""
        from peft import load_peft_weights, set_peft_model_state_dict

        weights: dict[str, Tensor] = load_peft_weights(str(folder), device="cpu")
        set_peft_model_state_dict(self.backbone.model, weights)

    def stored_tensors(self) -> dict[str, Tensor]:
        """What PEFT writes: the adapter, the head, and random bases where PEFT keeps them."""
        from peft import get_peft_model_state_dict

        return dict(get_peft_model_state_dict(self.backbone.model))

    def _parts(self, anatomy: Anatomy) -> list[Part]:
        return anatomy.match(self.targets) if self.targets else []

    def _config(self, parts: Sequence[Part], head: Sequence[str]) -> PeftConfig:
        """The PEFT configuration for these modules; raises SettingsError for what PEFT does not take."""
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        config_class = PEFT_TYPE_TO_CONFIG_MAPPING[self.peft_type]
        fields = {field.name for field in dataclasses.fields(config_class)}
        settings: dict[str, Any] = {"modules_to_save": list(head) or None, **self.options}
        settings |= {_peft_name(word, fields): value for word, value in self.words.items() if value is not None}
        if parts:
            settings["target_modules"] = [part.name for part in parts]
        if "feedforward_modules" in fields and parts:
            settings["feedforward_modules"] = [part.name for part in parts if part.role in FEED_FORWARD]
        for name in settings:
            if name not in fields:
                known = suggestion(name, fields)
                raise SettingsError(f"method.options.{name} is no setting of {config_class.__name__}.{known}")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return config_class(**settings)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"method: PEFT refuses the settings: {error}") from error


def _peft_name(word: str, fields: set[str]) -> str:
    """What a PEFT configuration class with these fields calls the setting `word`."""
    own = OWN_NAMES[word]
    if own in fields:
        return own
    named = sorted(field for field in fields if field.endswith(f"_{own}"))
    preferred = [name for name in named if name.split("_")[0] not in ("rank", "module", "encoder")]
    if not named:
        raise SettingsError(f"method.{word} is no setting of this method.")
    return (preferred or named)[0]


def _rehearse(config: PeftConfig, parts: Sequence[Part], identity: bool, mergeable: bool) -> None:
    """Adapt, call and merge one stand-in for every kind of matched module, so that PEFT's refusals come early.

    Raises SettingsError: the module's type is unsupported, a block size does not divide a width, PEFT
    passes the module over or changes it at once although the method starts as the `identity`, a bias has none to merge
    into.
    """
    import torch

    first = {(type(part.module), _weight(part.module).shape): part for part in reversed(parts)}
    kinds = ", ".join(sorted({kind.__name__ for kind, _ in first}))
    refusal = f"method: PEFT's {config.peft_type.value} cannot adapt the targets ({kinds})"
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings(), _quiet_peft():
        warnings.simplefilter("ignore")
        try:
            reason = _reason_against(config, list(first.values()), identity, mergeable)
        except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise SettingsError(f"{refusal}: {_first_sentence(one_line(error))}.") from error
    if reason is not None:
        raise SettingsError(f"{refusal}: {reason}.")


def _reason_against(config: PeftConfig, parts: Sequence[Part], identity: bool, mergeable: bool) -> str | None:
    """What PEFT does wrong with stand-ins for `parts`; raises whatever PEFT raises."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from torch import nn

    stand_ins = nn.Module()
    for part in parts:
        _place(stand_ins, part.name, _materialised(part.module))
    before = _outputs(stand_ins, parts)
    alone = dataclasses.replace(config, modules_to_save=None)
    tuner = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](stand_ins, alone, "default")
    after = _outputs(stand_ins.eval(), parts)
    if any(type(stand_ins.get_submodule(part.name)) is type(part.module) for part in parts):
        return "it passes them over"
    changes = [float((a - b).norm() / b.norm()) for a, b in zip(after, before, strict=True)]
    if identity and max(changes) > IDENTITY_TOLERANCE:
        return "it does not start from their weights"
    if mergeable:
        tuner.merge_and_unload()
    return None


def _outputs(stand_ins: nn.Module, parts: Sequence[Part]) -> list[Tensor]:
    """What each stand-in makes of one vector."""
    import torch

    inputs = {part.name: torch.linspace(-1, 1, _input_width(part.module))[None, None] for part in parts}
    return [stand_ins.get_submodule(name)(vector) for name, vector in inputs.items()]


def _first_sentence(text: str) -> str:
    """Up to the first full stop, which is none of "e.g."."""
    return re.split(r"(?<=[\w)`]{2})\.(?:\s|$)", text, maxsplit=1)[0]


def _input_width(module: nn.Module) -> int:
    """Features that the module takes: transformers' Conv1D stores (in, out), Linear (out, in), a norm one width."""
    weight = _weight(module)
    return weight.shape[0] if weight.ndim == 1 or hasattr(module, "nf") else weight.shape[1]


def _weight(module: nn.Module) -> Tensor:
    weight: Tensor = module.get_parameter("weight")
    return weight


def _materialised(module: nn.Module) -> nn.Module:
    """A copy of the module in float32, as training has it; one without weights gets random ones."""
    import torch

    if not _weight(module).is_meta:
        return copy.deepcopy(module).float()
    copied = copy.deepcopy(module).to_empty(device="cpu").float()
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.normal_(std=0.02)
    return copied


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Register `module` under a dotted name, with empty modules in between."""
    from torch import nn

    *path, last = name.split(".")
    for step in path:
        if not hasattr(root, step):
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    root.add_module(last, module)


def _unwrap_head(model: nn.Module, head: Sequence[str]) -> None:
    """Put the trained copy of the head in place of PEFT's wrapper, which most tuners can only do for one Linear."""
    from peft.utils import ModulesToSaveWrapper

    for name in head:
        module = model.get_submodule(name)
        if isinstance(module, ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapters[0]])


class _quiet_peft:
    """Keeps PEFT's notes on things that the harness decides on purpose out of the progress display."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("peft")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *exception: object) -> None:
        self._logger.setLevel(self._level)
