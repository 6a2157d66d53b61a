"""Where a transformer family keeps its parts.

Methods ask for *roles* ("attention.query", "ffn.down", "norm.ffn"); this module alone knows the module names behind
them. A new family is one more row in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import SettingsError, suggestion

if TYPE_CHECKING:
    from torch import nn

LINEAR_ROLES = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.qkv",
    "attention.output",
    "ffn.up",
    "ffn.gate",
    "ffn.down",
)
NORM_ROLES = ("norm.attention", "norm.ffn")


@dataclass(frozen=True)
class Family:
    """The names of one family's parts.

    `backbone` is the attribute of the task model that holds the pretrained part; `blocks`, `embeddings` and
    `final_norm` are relative to it; `roles` are relative to one block; `head` names the freshly initialised modules
    of the task model. `pre_norm` tells whether a sublayer normalises its input (GPT-2) or the sum after it (BERT).
    The `*_output` roles are the modules whose output is a sublayer's contribution to the residual stream.
    """

    backbone: str
    blocks: str
    embeddings: str
    head: tuple[str, ...]
    roles: Mapping[str, str]
    pre_norm: bool = False
    fused_qkv: bool = False


_BERT_ROLES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "ffn.up": "intermediate.dense",
    "ffn.down": "output.dense",
    "norm.attention": "attention.output.LayerNorm",
    "norm.ffn": "output.LayerNorm",
    "sublayer.attention_output": "attention.output.dropout",
    "sublayer.ffn_output": "output.dropout",
}
_DEBERTA_ROLES = _BERT_ROLES | {
    "attention.query": "attention.self.query_proj",
    "attention.key": "attention.self.key_proj",
    "attention.value": "attention.self.value_proj",
}
_GPT2_ROLES = {
    "attention.qkv": "attn.c_attn",
    "attention.output": "attn.c_proj",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
    "norm.attention": "ln_1",
    "norm.ffn": "ln_2",
    "sublayer.attention_output": "attn.resid_dropout",
    "sublayer.ffn_output": "mlp.dropout",
}

FAMILIES: Mapping[str, Family] = {
    "bert": Family("bert", "encoder.layer", "embeddings", ("classifier",), _BERT_ROLES),
    "roberta": Family("roberta", "encoder.layer", "embeddings", ("classifier",), _BERT_ROLES),
    "electra": Family("electra", "encoder.layer", "embeddings", ("classifier",), _BERT_ROLES),
    "deberta-v2": Family("deberta", "encoder.layer", "embeddings", ("pooler", "classifier"), _DEBERTA_ROLES),
    "gpt2": Family("transformer", "h", "wte", ("score",), _GPT2_ROLES, pre_norm=True, fused_qkv=True),
}


@dataclass(frozen=True)
class Part:
    """One module of a block: its role, its full name in the task model, the block's index and the module."""

    role: str
    name: str
    block: int
    module: nn.Module


class Anatomy:
    """The parts of one task model, found by role."""

    def __init__(self, model: nn.Module, model_type: str) -> None:
        if model_type not in FAMILIES:
            raise SettingsError(f"No anatomy is known for model type '{model_type}'.{suggestion(model_type, FAMILIES)}")
        self.family = FAMILIES[model_type]
        self._model = model

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the task head's modules in the task model."""
        return self.family.head

    @property
    def backbone(self) -> nn.Module:
        """The module that holds the pretrained part; wrapping the task model or adapting inside leaves it in place."""
        return self._model.get_submodule(self.family.backbone)

    @property
    def blocks(self) -> list[tuple[str, nn.Module]]:
        """The transformer blocks in order, each with its full name."""
        prefix = f"{self.family.backbone}.{self.family.blocks}"
        container = self._model.get_submodule(prefix)
        return [(f"{prefix}.{index}", block) for index, block in container.named_children()]

    def is_head(self, parameter_name: str) -> bool:
        """Whether a parameter of the task model (or of a wrapper around it) belongs to the task head."""
        padded = f".{parameter_name}"
        return f".{self.family.backbone}." not in padded and any(f".{head}." in padded for head in self.head)

    def find(self, role: str) -> list[Part]:
        """The parts that play `role`, in block order; empty where the family has no such role."""
        path = self.family.roles.get(role)
        if path is None:
            return []
        return [
            Part(role, f"{name}.{path}", index, block.get_submodule(path))
            for index, (name, block) in enumerate(self.blocks)
        ]

    def match(self, targets: Sequence[str]) -> list[Part]:
        """The parts that `targets` name: roles, groups of roles ("attention", "ffn", "norm") or module names.

        Raises SettingsError for a target that matches nothing.
        """
        found: dict[str, Part] = {}
        for target in targets:
            parts = list(self._by_role(target)) or list(self._by_name(target))
            if not parts:
                names = {name.rsplit(".", 1)[-1] for name, _ in self._linear_modules()}
                allowed = [role for role in self.family.roles if not role.startswith("sublayer.")]
                raise SettingsError(
                    f"method.targets: '{target}' matches no module.{suggestion(target, [*allowed, *names])}"
                )
            found.update((part.name, part) for part in parts)
        order = {name: position for position, (name, _) in enumerate(self._model.named_modules())}
        return sorted(found.values(), key=lambda part: order[part.name])

    def _by_role(self, target: str) -> Iterator[Part]:
        fused = self.family.fused_qkv and target in ("attention.query", "attention.key", "attention.value")
        wanted = "attention.qkv" if fused else target
        for role in (*LINEAR_ROLES, *NORM_ROLES):
            if role == wanted or role.startswith(f"{wanted}."):
                yield from self.find(role)

    def _by_name(self, target: str) -> Iterator[Part]:
        for name, module in self._linear_modules():
            if name == target or name.endswith(f".{target}"):
                block = next((i for i, (prefix, _) in enumerate(self.blocks) if name.startswith(f"{prefix}.")), -1)
                yield Part("", name, block, module)

    def _linear_modules(self) -> Iterator[tuple[str, nn.Module]]:
        prefix = self.family.backbone
        for name, module in self._model.get_submodule(prefix).named_modules(prefix=prefix):
            if getattr(module, "weight", None) is not None and not list(module.children()):
                yield name, module
