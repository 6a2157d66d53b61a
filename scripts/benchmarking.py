"""What the benchmark scripts share: a plan from a command line, a fresh method in its model, and its training loop."""

from __future__ import annotations

import argparse
import functools
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import hydra

from bench import settings, validation
from bench.planning import Names, Plan, plan
from bench.sweeps import sweep

if TYPE_CHECKING:
    from accelerate import Accelerator

    from bench.training.loop import TrainingLoop
    from methods.base import Method
    from tasks.base import Examples


def whole_number(text: str, at_least: int = 1) -> int:
    """A number on the command line. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < at_least:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least {at_least}")
    return int(text)


def more_than(warm_up: int) -> Callable[[str], int]:
    """The type of a number of steps of which the first ones are not counted."""
    return functools.partial(whole_number, at_least=warm_up + 1)


def planned(overrides: Sequence[str]) -> Plan:
    """The plan of a run with these overrides. Raises UserError."""
    settings.register()
    with hydra.initialize_config_dir(str(validation.CONFIGURATION), version_base="1.3"):
        config, choices = sweep.composed(overrides)
        checked = sweep.validated(config, choices, overrides)
    return plan(checked, Names.of(choices), list(overrides))


def attached(todo: Plan, seed: int, steps: int) -> Method:
    """The plan's method in a fresh model, before a run of `steps` steps."""
    from bench.backbone import pretrained
    from bench.training.randomness import seed_everything

    gc.collect()
    method = todo.method()
    seed_everything(seed, "head")
    base = pretrained.fresh(todo.settings.model, todo.task.kind, todo.task.outputs)
    seed_everything(seed, "method")
    method.attach(base, steps)
    return method


def training_loop(todo: Plan, method: Method, examples: Examples, seed: int, steps: int) -> TrainingLoop:
    """The loop that trains the attached method as a run would."""
    from bench.backbone.dropout import use_fast_dropout
    from bench.training.loop import TrainingLoop, store_frozen_in

    use_fast_dropout(method.backbone.model)
    store_frozen_in(method.backbone.model, todo.hardware.precision)
    training = replace(todo.settings.training, max_steps=steps)
    return TrainingLoop(method, examples, training, runner(todo), steps, seed)


def runner(todo: Plan) -> Accelerator:
    """A fresh Accelerator on the plan's device, in its precision."""
    from bench.training.loop import accelerator

    return accelerator(todo.hardware.device, todo.hardware.precision)
