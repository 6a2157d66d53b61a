"""Soft prompts of HF PEFT, with a classifier that reads real tokens.

Prompt tuning (Lester et al. 2021) and P-tuning (Liu et al. 2021) put `length` trained vectors before the embedded
tokens; prefix tuning (Li, Liang 2021) puts `length` trained keys and values before those of every layer. With vectors
before the tokens PEFT alone lets an encoder's head read the first of them in place of the first token, and GPT-2's
head a padding token in place of the last real one. `read_real_tokens` mends both, also in a model loaded from disk.

PEFT has no prefix for models that read images; `methods/parts/attention_prefix.py` is ours, and is saved as our own
methods are.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.backbone.kinds import KINDS
from bench.errors import SettingsError
from methods.base import TEXT_KINDS, Method
from methods.library import LibraryMethod

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch import Tensor, nn

    from bench.backbone.anatomy import Anatomy
    from bench.backbone.pretrained import Backbone

ADAPTER = "default"
PREFIX = "PREFIX_TUNING"
SAVED_PROMPT = "prompt_embeddings"


class PromptMethod(LibraryMethod):
    """A PEFT prompt method, and prefixes for images; the prompt stays beside the model, so nothing is merged."""

    def __init__(self, length: int, **settings: Any) -> None:
        super().__init__(length=length, **settings)
        self.length = length
        if self.peft_type != PREFIX:
            self.kinds = TEXT_KINDS

    def check(self, anatomy: Anatomy) -> None:
        """Every layer must take outside keys and values if a prefix is to reach it, and prompt and text must fit."""
        super().check(anatomy)
        if anatomy.find("cross_attention.query"):
            raise SettingsError("method: a soft prompt needs an encoder or a decoder; this model is both in one.")
        if anatomy.backbone.main_input_name == "pixel_values":
            self._check_prefix_of_images()
            return
        if self.peft_type == PREFIX:
            _check_takes_prefix(anatomy)
        self._check_positions(anatomy)

    def _check_positions(self, anatomy: Anatomy) -> None:
        """Raise SettingsError if the longest text finds no position embeddings after the prompt's.

        A prefix takes positions too: the models count on from the keys that they are given.
        """
        positions = anatomy.positions
        if self.max_length is None or positions is None or self.length + self.max_length <= positions:
            return
        room = positions - self.length
        remedy = f"set training.max_length={room} or less" if room > 0 else "choose a shorter prompt"
        raise SettingsError(
            f"method.length={self.length} and training.max_length={self.max_length} need "
            f"{self.length + self.max_length} positions, but the model has {positions}; {remedy}."
        )

    def _check_prefix_of_images(self) -> None:
        """Raise SettingsError for what only PEFT's prefix has."""
        for name, value in self.options.items():
            if value:
                raise SettingsError(
                    f"method.options.{name} must stay off for images: their prefix is trained as it is."
                )

    def complete(self, config: PeftConfig, backbone: Backbone, total_steps: int) -> None:
        """Input prompts are as wide as the embeddings, which ELECTRA has narrower than the hidden states."""
        if self.peft_type != PREFIX:
            config.token_dim = backbone.model.get_input_embeddings().embedding_dim

    def insert(self, backbone: Backbone, total_steps: int) -> None:
        """Add the prompt, then let the head read past it."""
        from peft.utils.other import _set_trainable

        if self._serves_images:
            from methods.parts.attention_prefix import add_prefixes

            add_prefixes(backbone.model, backbone.anatomy, self.length)
            return
        super().insert(backbone, total_steps)
        model = KINDS[backbone.kind].model
        if model == "sequence":
            read_real_tokens(backbone.model, backbone.anatomy)
        if model == "span_pair":  # PEFT trains the head of its own sequence classifier only
            _set_trainable(backbone.model, ADAPTER, list(backbone.anatomy.head), inference_mode=False)

    def save(self, folder: Path) -> None:
        """Write PEFT's own format; of images, this project's."""
        save = Method.save if self._serves_images else LibraryMethod.save
        save(self, folder)

    def stored_tensors(self) -> dict[str, Tensor]:
        """What `save` writes."""
        return Method.stored_tensors(self) if self._serves_images else super().stored_tensors()

    def load(self, folder: Path) -> None:
        """Read the finished prompt: PEFT stores it without the encoder that produced it."""
        from peft import load_peft_weights, set_peft_model_state_dict
        from torch import nn

        if self._serves_images:
            Method.load(self, folder)
            return
        weights: dict[str, Tensor] = load_peft_weights(str(folder), device="cpu")
        model = self.backbone.model
        encoder = model.prompt_encoder[ADAPTER]
        prompt = weights[SAVED_PROMPT].to(encoder.embedding.weight.device)
        encoder.embedding = nn.Embedding(prompt.shape[0], prompt.shape[1], device=prompt.device)
        set_peft_model_state_dict(model, weights)
        model.peft_config[ADAPTER].inference_mode = True

    @property
    def _serves_images(self) -> bool:
        return KINDS[self.backbone.kind].reads_images


def _check_takes_prefix(anatomy: Anatomy) -> None:
    """Raise SettingsError if PEFT's prefix cannot reach the layers."""
    _, block = anatomy.blocks[0]
    if "past_key_values" not in inspect.signature(block.forward).parameters:
        layer = type(block).__name__
        raise SettingsError(f"method: a prefix needs layers that take past keys and values; {layer} does not.")


def read_real_tokens(model: PeftModel, anatomy: Anatomy) -> None:
    """Hook a PEFT prompt model over the task model of `anatomy`, so that its head reads no prompt and no padding."""
    config = model.peft_config[ADAPTER]
    if config.peft_type == PREFIX:
        return
    if anatomy.family.causal:
        backbone = anatomy.backbone
        backbone.register_forward_hook(_keep_last_token, with_kwargs=True)
    else:
        _, last_block = anatomy.blocks[-1]
        last_block.register_forward_hook(lambda _, __, output: _without_prompt(output, config.num_virtual_tokens))


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
