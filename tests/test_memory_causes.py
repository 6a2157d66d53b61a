"""Memory by cause against what can be counted by hand."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from bench.measure import memory_causes
from tests.methods.conftest import attached, backbone, batch

BATCH, WIDTH, HIDDEN = 5, 16, 64
FLOAT = 4


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 3))


def kept(model: nn.Module, forward: object = None) -> int:
    inputs = torch.randn(BATCH, WIDTH)
    with memory_causes.watching(model) as saved:
        output = model(inputs) if forward is None else forward(inputs)  # type: ignore[operator]
        output.sum()
    return saved.bytes


def test_a_two_layer_perceptron_keeps_its_input_and_the_hidden_layer_once() -> None:
    assert kept(mlp()) == BATCH * (WIDTH + HIDDEN) * FLOAT


def test_a_frozen_first_layer_keeps_no_input() -> None:
    model = mlp()
    model[0].requires_grad_(False)
    assert kept(model) == BATCH * HIDDEN * FLOAT


def test_a_frozen_model_keeps_nothing() -> None:
    model = mlp()
    model.requires_grad_(False)
    assert kept(model) == 0


def test_checkpointing_keeps_the_block_inputs_alone() -> None:
    model = nn.Sequential(
        *(nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH)) for _ in range(3))
    )

    def checkpointed(x: torch.Tensor) -> torch.Tensor:
        for block in model:
            x = checkpoint(block, x, use_reentrant=False)
        return x

    assert kept(model, checkpointed) == 3 * BATCH * WIDTH * FLOAT
    assert kept(model) == 3 * BATCH * (WIDTH + HIDDEN) * FLOAT


def test_the_gradients_are_the_same_under_watch() -> None:
    torch.manual_seed(0)
    model, inputs = mlp(), torch.randn(BATCH, WIDTH)
    model(inputs).square().sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    with memory_causes.watching(model):
        loss = model(inputs).square().sum()
    loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]


def test_views_of_one_storage_count_once() -> None:
    block = torch.zeros(100)
    assert memory_causes.storage_bytes([block, block[:10], block.view(10, 10)]) == 100 * FLOAT


def test_weights_are_those_of_the_safetensors_file(tmp_path: Path) -> None:
    model = backbone().model
    save_file({name: tensor.clone() for name, tensor in model.named_parameters()}, tmp_path / "model.safetensors")
    file = (tmp_path / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(file[:8], "little")
    found = memory_causes.weights(model, model.parameters())
    assert (found.base, found.method) == (len(file) - header, 0)
    assert found.total == found.base + found.buffers


def test_method_weights_are_what_was_added_and_the_head() -> None:
    base = backbone()
    pretrained = [tensor for name, tensor in base.model.named_parameters() if not base.anatomy.is_head(name)]
    plain = memory_causes.weights(base.model, pretrained)
    method = attached("lora")
    anatomy = method.backbone.anatomy
    names = {name for name, _ in base.model.named_parameters() if not anatomy.is_head(name)}
    wrapped = dict(method.backbone.model.get_base_model().named_parameters())
    own = [wrapped[name] if name in wrapped else wrapped[_inside(name)] for name in names]
    found = memory_causes.weights(method.backbone.model, own)
    rank, layers, targets, width = 8, 2, 2, 64
    head, copies = (width + 1) * 3 * FLOAT, 2  # PEFT keeps a frozen copy of the head
    assert found.base == plain.base
    assert found.method == rank * 2 * width * targets * layers * FLOAT + copies * head


def _inside(name: str) -> str:
    module, _, parameter = name.rpartition(".")
    return f"{module}.base_layer.{parameter}"


def test_gradients_and_optimizer_state_of_adamw() -> None:
    model = mlp()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(BATCH, WIDTH)).sum().backward()
    assert memory_causes.gradients(model) == parameters * FLOAT
    assert memory_causes.optimizer_state(optimizer) == 0
    optimizer.step()
    step_counters = len(list(model.parameters())) * FLOAT
    assert memory_causes.optimizer_state(optimizer) == 2 * parameters * FLOAT + step_counters


def test_a_linear_probe_keeps_far_less_than_full_fine_tuning() -> None:
    sizes = {}
    for name in ("linear_probe", "lora", "full"):
        method = attached(name)
        with memory_causes.watching(method.backbone.model) as saved:
            method.compute_loss(method.backbone.model, batch())
        sizes[name] = saved.bytes
    assert sizes["linear_probe"] < 0.05 * sizes["lora"] < sizes["full"]
