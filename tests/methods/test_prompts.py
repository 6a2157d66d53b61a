"""Soft prompts and models with a limited number of positions."""

from __future__ import annotations

import pytest
import torch

from bench.backbone.pretrained import Backbone
from bench.errors import SettingsError
from tests.families import backbone, classifier
from tests.methods.conftest import method_named

POSITIONS = {"bert": 32, "roberta": 30, "electra": 32, "gpt2": 32}
"""Of models with 32 position embeddings: RoBERTa's padding token takes the second, and none uses the first."""
LENGTH = 5
every_prompt = pytest.mark.parametrize("name", ["prompt_tuning", "p_tuning", "prefix_tuning"])


def short(family: str) -> Backbone:
    return backbone(classifier(family, max_position_embeddings=32))


def read(base: Backbone, tokens: int) -> None:
    ids = torch.full((2, tokens), 7)
    base.model(input_ids=ids, attention_mask=torch.ones_like(ids))


@every_prompt
@pytest.mark.parametrize("family", POSITIONS)
def test_texts_that_find_no_position_after_the_prompt_are_refused_and_no_others(name: str, family: str) -> None:
    method, base = method_named(name, length=LENGTH), short(family)
    room = POSITIONS[family] - LENGTH
    method.max_length = room + 1
    with pytest.raises(SettingsError, match=rf"need {room + 6} positions, .* has {room + 5}; .*max_length={room} or"):
        method.check(base.anatomy)

    method.max_length = room
    method.check(base.anatomy)
    method.attach(base, 10)
    read(base, room)
    with pytest.raises((IndexError, RuntimeError)):
        read(base, room + 1)


@every_prompt
def test_a_prompt_that_fills_the_model_is_refused(name: str) -> None:
    method = method_named(name, length=32)
    method.max_length = 8
    with pytest.raises(SettingsError, match="need 40 positions, but the model has 32; choose a shorter prompt"):
        method.check(short("bert").anatomy)


@every_prompt
def test_a_model_without_a_table_of_positions_takes_any_length(name: str) -> None:
    method = method_named(name, length=LENGTH)
    method.max_length = 64
    anatomy = short("llama").anatomy
    assert anatomy.backbone.config.max_position_embeddings < LENGTH + 64
    method.check(anatomy)
