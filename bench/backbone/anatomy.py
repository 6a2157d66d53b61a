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
    "attention.output",
    "cross_attention.query",
    "cross_attention.key",
    "cross_attention.value",
    "cross_attention.output",
    "ffn.up",
    "ffn.gate",
    "ffn.down",
)
NORM_ROLES = ("norm.attention", "norm.cross_attention", "norm.ffn")
SPAN_HEAD = "span_classifier"
OUTPUT_LAYER = "lm_head"
POSITION_EMBEDDINGS = ("position_embeddings", "wpe")
"""What encoders and GPT-2 call their tables of learned positions."""
HEAD_DROPOUT_NAMES = ("cls_dropout", "classifier_dropout", "summary_first_dropout")
"""How families' configurations call the dropout before the head, where they set it apart."""


@dataclass(frozen=True)
class Family:
    """The names of one family's parts.

    `backbone` is the attribute of the task model that holds the pretrained part. `blocks` maps where blocks lie in the
    backbone to their parts' roles, whose paths are relative to one block; the entries follow each other as the blocks
    do. In either path a step `*` stands for every child in order and `a|b` for whichever of the two there is. `head`
    names the freshly initialised modules of the family's classification model; the backbone has no module so named.
    `pre_norm` tells whether a sublayer normalises its input (GPT-2) or the sum after it (BERT); `causal` whether a
    position sees only those before it, so that a classifier reads the last.

    "attention" is a block's self-attention. A decoder's view of its encoder is "cross_attention", which is its own
    group of targets and no part of "attention"; the group "norm" has the norms of both. The `sublayer.*_output` roles
    are the modules whose output tensor is a sublayer's contribution to the residual stream: its own dropout or layer
    scale where it has one, its last linear layer where it has none (LLaMA) or shares one dropout (ViT, Swin).
    """

    backbone: str
    blocks: Mapping[str, Mapping[str, str]]
    head: tuple[str, ...]
    pre_norm: bool = False
    causal: bool = False

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role that some block of the family may have."""
        return tuple(dict.fromkeys(role for roles in self.blocks.values() for role in roles))


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
    "attention.query": "attn.c_attn.query",
    "attention.key": "attn.c_attn.key",
    "attention.value": "attn.c_attn.value",
    "attention.output": "attn.c_proj",
    "ffn.up": "mlp.c_fc",
    "ffn.down": "mlp.c_proj",
    "norm.attention": "ln_1",
    "norm.ffn": "ln_2",
    "sublayer.attention_output": "attn.resid_dropout",
    "sublayer.ffn_output": "mlp.dropout",
}
_LLAMA_ROLES = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.gate": "mlp.gate_proj",
    "ffn.down": "mlp.down_proj",
    "norm.attention": "input_layernorm",
    "norm.ffn": "post_attention_layernorm",
    "sublayer.attention_output": "self_attn.o_proj",
    "sublayer.ffn_output": "mlp.down_proj",
}
_T5_ENCODER_ROLES = {
    "attention.query": "layer.0.SelfAttention.q",
    "attention.key": "layer.0.SelfAttention.k",
    "attention.value": "layer.0.SelfAttention.v",
    "attention.output": "layer.0.SelfAttention.o",
    "ffn.up": "layer.1.DenseReluDense.wi|wi_1",
    "ffn.gate": "layer.1.DenseReluDense.wi_0",
    "ffn.down": "layer.1.DenseReluDense.wo",
    "norm.attention": "layer.0.layer_norm",
    "norm.ffn": "layer.1.layer_norm",
    "sublayer.attention_output": "layer.0.dropout",
    "sublayer.ffn_output": "layer.1.dropout",
}
_T5_DECODER_ROLES = {role: path.replace("layer.1.", "layer.2.") for role, path in _T5_ENCODER_ROLES.items()} | {
    "cross_attention.query": "layer.1.EncDecAttention.q",
    "cross_attention.key": "layer.1.EncDecAttention.k",
    "cross_attention.value": "layer.1.EncDecAttention.v",
    "cross_attention.output": "layer.1.EncDecAttention.o",
    "norm.cross_attention": "layer.1.layer_norm",
    "sublayer.cross_attention_output": "layer.1.dropout",
}
_VIT_ROLES = {
    "attention.query": "attention.q_proj",
    "attention.key": "attention.k_proj",
    "attention.value": "attention.v_proj",
    "attention.output": "attention.o_proj",
    "ffn.up": "mlp.fc1",
    "ffn.down": "mlp.fc2",
    "norm.attention": "layernorm_before",
    "norm.ffn": "layernorm_after",
    "sublayer.attention_output": "attention.o_proj",
    "sublayer.ffn_output": "mlp.fc2",
}
_DINOV2_ROLES = _VIT_ROLES | {
    "ffn.up": "mlp.fc1|up_proj",
    "ffn.gate": "mlp.gate_proj",
    "ffn.down": "mlp.fc2|down_proj",
    "norm.attention": "norm1",
    "norm.ffn": "norm2",
    "sublayer.attention_output": "layer_scale1",
    "sublayer.ffn_output": "layer_scale2",
}
_BERT_BLOCKS = {"encoder.layer.*": _BERT_ROLES}
_LLAMA_BLOCKS = {"layers.*": _LLAMA_ROLES}
_T5_BLOCKS = {"encoder.block.*": _T5_ENCODER_ROLES, "decoder.block.*": _T5_DECODER_ROLES}

FAMILIES: Mapping[str, Family] = {
    "bert": Family("bert", _BERT_BLOCKS, ("classifier",)),
    "roberta": Family("roberta", _BERT_BLOCKS, ("classifier",)),
    "electra": Family("electra", _BERT_BLOCKS, ("classifier",)),
    "deberta-v2": Family("deberta", {"encoder.layer.*": _DEBERTA_ROLES}, ("pooler", "classifier")),
    "gpt2": Family("transformer", {"h.*": _GPT2_ROLES}, ("score",), pre_norm=True, causal=True),
    "llama": Family("model", _LLAMA_BLOCKS, ("score",), pre_norm=True, causal=True),
    "qwen2": Family("model", _LLAMA_BLOCKS, ("score",), pre_norm=True, causal=True),
    "gemma": Family("model", _LLAMA_BLOCKS, ("score",), pre_norm=True, causal=True),
    "t5": Family("transformer", _T5_BLOCKS, ("classification_head",), pre_norm=True),
    "vit": Family("vit", {"layers.*": _VIT_ROLES}, ("classifier",), pre_norm=True),
    "swin": Family("swin", {"encoder.layers.*.blocks.*": _VIT_ROLES}, ("classifier",), pre_norm=True),
    "dinov2": Family("dinov2", {"encoder.layer.*": _DINOV2_ROLES}, ("classifier",), pre_norm=True),
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
        """Names of the freshly initialised modules that this task model has; none in a language model."""
        children = dict(self._model.named_children())
        return tuple(name for name in (*self.family.head, SPAN_HEAD) if name in children)

    @property
    def backbone(self) -> nn.Module:
        """The module that holds the pretrained part; wrapping the task model or adapting inside leaves it in place.

        A task model that has no such attribute (T5ForConditionalGeneration) is its own backbone, output layer included.
        """
        return dict(self._model.named_children()).get(self.family.backbone, self._model)

    @property
    def output_layer(self) -> nn.Module | None:
        """A language model's pretrained projection to its vocabulary, whose weight may be the embeddings' as well."""
        return dict(self._model.named_children()).get(OUTPUT_LAYER)

    @property
    def blocks(self) -> list[tuple[str, nn.Module]]:
        """The transformer blocks in order, over all stages and an encoder before its decoder; each with full name."""
        return [(name, block) for name, block, _ in self._blocks_with_roles()]

    @property
    def positions(self) -> int | None:
        """How many tokens the learned position embeddings serve; None where there are none, and any length will do.

        RoBERTa's positions begin after the row of its padding token.
        """
        from torch import nn

        for name, module in self.backbone.named_modules():
            if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in POSITION_EMBEDDINGS:
                unused = 0 if module.padding_idx is None else module.padding_idx + 1
                return module.num_embeddings - unused
        return None

    def is_head(self, parameter_name: str) -> bool:
        """Whether a parameter of the task model (or of a wrapper around it) belongs to the task head."""
        return not set(self.head).isdisjoint(parameter_name.split("."))

    def find(self, role: str) -> list[Part]:
        """The parts that play `role`, in block order; blocks that have no such part are left out."""
        return [
            Part(role, part_name, index, module)
            for index, (name, block, roles) in enumerate(self._blocks_with_roles())
            if role in roles
            for part_name, module in _reached(name, block, roles[role])
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
        for role in (*LINEAR_ROLES, *NORM_ROLES):
            if role == target or role.startswith(f"{target}."):
                yield from self.find(role)

    def _by_name(self, target: str) -> Iterator[Part]:
        for name, module in self._linear_modules():
            if name == target or name.endswith(f".{target}"):
                block = next((i for i, (prefix, _) in enumerate(self.blocks) if name.startswith(f"{prefix}.")), -1)
                yield Part("", name, block, module)

    def _linear_modules(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self.backbone.named_modules(prefix=self._backbone_name):
            if getattr(module, "weight", None) is not None and not list(module.children()):
                yield name, module

    def _blocks_with_roles(self) -> Iterator[tuple[str, nn.Module, Mapping[str, str]]]:
        for path, roles in self.family.blocks.items():
            for name, block in _reached(self._backbone_name, self.backbone, path):
                yield name, block, roles

    @property
    def _backbone_name(self) -> str:
        return "" if self.backbone is self._model else self.family.backbone


def _reached(name: str, root: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    """The modules that a path of the table leads to from `root`, which is called `name`; with full names."""
    reached = [(name, root)]
    for step in path.split("."):
        reached = [
            (f"{above}.{below}".removeprefix("."), child)
            for above, module in reached
            for below, child in module.named_children()
            if step == "*" or below in step.split("|")
        ]
    return reached
