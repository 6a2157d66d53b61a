"""Soft prompts of HF PEFT, with the classifier reading what the papers' classifiers read.

Prompt tuning (Lester et al. 2021) and P-tuning (Liu et al. 2021) put `length` trained vectors before the embedded
tokens; prefix tuning (Li, Liang 2021) puts `length` trained keys and values before those of every layer. PEFT alone
falls short of three of these for classification: an encoder's head would read a prompt vector instead of the first
token, GPT-2's head a padding token instead of the last real one, and an encoder of transformers 5 drops the prefix.
`complete_prompt` mends this with forward hooks on any PEFT model, one just loaded from disk included.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import SettingsError
from methods.library import LibraryMethod

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn

    from bench.anatomy import Anatomy
    from bench.backbone import Backbone

ADAPTER = "default"
SAVED_PROMPT = "prompt_embeddings"


class PromptMethod(LibraryMethod):
    """A PEFT prompt method; the prompt stays beside the model, so nothing is merged."""

    def check(self, anatomy: Anatomy) -> None:
        """An encoder's attention must take outside keys and values if a prefix is to reach it."""
        super().check(anatomy)
        if self.peft_type == "PREFIX_TUNING" and not anatomy.family.pre_norm:
            for attention in _attentions(anatomy):
                if "past_key_values" not in inspect.signature(attention.forward).parameters:
                    name = type(attention).__name__
                    raise SettingsError(f"method=prefix_tuning needs attention that takes a prefix; {name} does not.")

    def complete(self, config: PeftConfig, backbone: Backbone, total_steps: int) -> None:
        """Input prompts are as wide as the embeddings, which ELECTRA has narrower than the hidden states."""
        if self.peft_type != "PREFIX_TUNING":
            config.token_dim = backbone.model.get_input_embeddings().embedding_dim

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Add the prompt, then let the head read past it."""
        super().insert(backbone, total_steps)
        complete_prompt(backbone.model, backbone.anatomy)

    def load(self, folder: Path) -> None:
        """Read the finished prompt: PEFT stores it without the encoder that produced it."""
        from peft import load_peft_weights, set_peft_model_state_dict
        from torch import nn

        weights: dict[str, Tensor] = load_peft_weights(str(folder), device="cpu")
        model = self.backbone.model
        encoder = model.prompt_encoder[ADAPTER]
        device = encoder.embedding.weight.device
        encoder.embedding = nn.Embedding.from_pretrained(weights[SAVED_PROMPT].to(device), freeze=False)
        set_peft_model_state_dict(model, weights)
        model.peft_config[ADAPTER].inference_mode = True


def complete_prompt(model: PeftModel, anatomy: Anatomy) -> None:
    """Hook a PEFT prompt model over the task model of `anatomy`, so that its head reads real tokens only."""
    config = model.peft_config[ADAPTER]
    length = config.num_virtual_tokens
    causal = anatomy.family.pre_norm
    backbone = model.get_base_model().get_submodule(anatomy.family.backbone)
    if config.peft_type == "PREFIX_TUNING":
        if not causal:
            _pass_prefix(backbone, anatomy, length)
    elif causal:
        backbone.register_forward_hook(_keep_last_token, with_kwargs=True)
    else:
        last_block = anatomy.blocks[-1][1]
        last_block.register_forward_hook(lambda _, __, output: _without_prompt(output, length))


def _without_prompt(output: Any, length: int) -> Any:
    """The last block's hidden states (batch, length + tokens, width) from the first real token on."""
    if isinstance(output, tuple):
        return (output[0][:, length:], *output[1:])
    return output[:, length:]


def _keep_last_token(_: nn.Module, __: Any, keywords: dict[str, Any], output: Any) -> Any:
    """Reduce the hidden states to the last real token's: transformers pools position -1 of embedded inputs."""
    import torch

    hidden, mask = output.last_hidden_state, keywords["attention_mask"]
    if mask is not None:
        positions = torch.arange(mask.shape[1], device=mask.device)
        last = (mask.bool() * positions).argmax(dim=1)
        output.last_hidden_state = hidden[torch.arange(len(hidden), device=hidden.device), last].unsqueeze(1)
    return output


def _pass_prefix(backbone: nn.Module, anatomy: Anatomy, length: int) -> None:
    """Hand PEFT's keys and values to every self-attention; the encoder itself would drop them.

    The prefix takes no position: tokens count from 0 and the encoder sees their mask alone.
    """
    import torch.nn.functional as F

    current: dict[str, Any] = {}

    def take_from_model(_: nn.Module, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = keywords["attention_mask"]
        current["prefix"] = keywords["past_key_values"]
        return arguments, {
            **keywords,
            "past_key_values": None,
            "attention_mask": None if mask is None else mask[:, length:].long(),
        }

    def give_to_attention(_: nn.Module, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = keywords["attention_mask"]
        if mask is not None:
            mask = F.pad(mask, (length, 0), value=mask.dtype == torch_bool)
        return arguments, {**keywords, "past_key_values": current["prefix"], "attention_mask": mask}

    from torch import bool as torch_bool

    backbone.register_forward_pre_hook(take_from_model, with_kwargs=True)
    for attention in _attentions(anatomy):
        attention.register_forward_pre_hook(give_to_attention, with_kwargs=True)


def _attentions(anatomy: Anatomy) -> list[nn.Module]:
    """The self-attention modules in block order: the parents of the query projections."""
    blocks = dict(anatomy.blocks)
    attentions = []
    for part in anatomy.find("attention.query"):
        prefix = anatomy.blocks[part.block][0]
        path = part.name.removeprefix(f"{prefix}.").rpartition(".")[0]
        attentions.append(blocks[prefix].get_submodule(path))
    return attentions
