"""Compare greedy generation with that of lm-evaluation-harness's Hugging Face backend.

Usage: python scripts/benchmark_generation.py [--pairs 3] [--batch-size 64] [--problems 250] [overrides ...]

A method is trained on task=gsm8k as `overrides` say (like those of bench/run.py) and merged; then both generate with
the same model object, prompts, stop strings, limit of new tokens and batch size, turn by turn in the same minutes.
Every completion that differs is shown with the difference of the two best logits at the first token that does: a near
tie explains it. Needs the optional packages: pip install -c constraints.txt '.[benchmark]'
"""

from __future__ import annotations

import argparse
import functools
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.commands import exit_code_of
from scripts.benchmarking import attached, planned, runner, training_loop, whole_number

if TYPE_CHECKING:
    from bench.backbone.pretrained import Backbone
    from bench.planning import Plan
    from tasks.base import Examples
    from tasks.examples import PromptedExamples

CONTESTANTS = ("harness", "lm-eval")


class Contest:
    """Both contestants over one trained and merged model."""

    def __init__(self, todo: Plan, problems: int, batch_size: int) -> None:
        from bench.backbone import pretrained
        from bench.generation import Decoding

        task: Any = todo.task
        settings = todo.settings
        encode = functools.partial(task.encode, todo.source)
        preprocessor, length = pretrained.preprocessor(settings.model, task.kind), settings.training.max_length
        self.problems: PromptedExamples = encode(task.reported_splits[0], preprocessor, length, problems)
        self._base, self._runner = _trained(todo, encode("train", preprocessor, length, None)), runner(todo)
        self._decoding = Decoding(task.max_new_tokens, task.stops)
        self._batch_size = batch_size
        self._requests = self._instances()
        self._language_model = _language_model(self._base, batch_size)

    def harness(self) -> list[str]:
        """Completions by the harness."""
        from bench.generation import complete

        runner = self._runner
        found = complete(self._base, self.problems, self._decoding, self._batch_size, runner.device, runner.autocast())
        return [completion.text for completion in found]

    def lm_eval(self) -> list[str]:
        """Completions by lm-evaluation-harness."""
        found: list[str] = self._language_model.generate_until(self._requests, disable_tqdm=True)
        return found

    def gap(self, problem: int, ours: str, theirs: str) -> str:
        """Where two completions part, and by how much the two best logits differ there."""
        import torch

        tokenizer = self._base.preprocessor
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (ours, theirs)]
        common = next((i for i, pair in enumerate(zip(*ids, strict=False)) if pair[0] != pair[1]), min(map(len, ids)))
        prompt = self.problems.tokens.row(problem).tolist()
        with torch.inference_mode(), self._runner.autocast():
            inputs = torch.tensor([[*prompt, *ids[0][:common]]], device=self._runner.device)
            best = self._base.model(input_ids=inputs).logits[0, -1].float().topk(2).values
        apart = float(best[0] - best[1])
        return f"problem {problem}: differs from new token {common} on, best two logits {apart:.2e} apart"

    def _instances(self) -> list[Any]:
        from lm_eval.api.instance import Instance

        tokenizer, count = self._base.preprocessor, len(self.problems)
        prompts = [tokenizer.decode(self.problems.tokens.row(i), skip_special_tokens=True) for i in range(count)]
        rules = {"until": list(self._decoding.stops), "max_gen_toks": self._decoding.max_new_tokens, "do_sample": False}
        return [Instance("generate_until", {}, (prompt, rules), index) for index, prompt in enumerate(prompts)]


def _trained(todo: Plan, examples: Examples) -> Backbone:
    """The task's model after the planned training, merged."""
    from bench.measure.throughput import StepClock
    from bench.training.loop import total_steps

    settings = todo.settings
    steps = total_steps(settings.training, len(examples))
    method = attached(todo, settings.seed, steps)
    loop = training_loop(todo, method, examples, settings.seed, steps)
    loop.run(StepClock(todo.hardware.device), lambda point: None)
    loop.release()
    method.finish()
    method.backbone.model.eval()
    return method.backbone


def _language_model(base: Backbone, batch_size: int) -> Any:
    """lm-evaluation-harness's wrapper around the same model and tokenizer."""
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(
        pretrained=base.model,
        tokenizer=base.preprocessor,
        batch_size=batch_size,
        add_bos_token=base.preprocessor.bos_token_id is not None,
        device=str(base.model.device),
    )


def timed(generate: Callable[[], list[str]], problems: int) -> tuple[float, list[str]]:
    """Problems per second and the completions."""
    start = time.perf_counter()
    texts = generate()
    return problems / (time.perf_counter() - start), texts


def main() -> int:
    """Run both contestants turn by turn and print medians, their ratio and what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=whole_number, default=3)
    parser.add_argument("--batch-size", type=whole_number, default=64)
    parser.add_argument("--problems", type=whole_number, default=250)
    arguments, overrides = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as results:
        todo = planned(["task=gsm8k", *overrides, f"results.dir={results}"])
        contest = Contest(todo, arguments.problems, arguments.batch_size)
        count = len(contest.problems)
        speeds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
        for turn in range(arguments.pairs):
            speed, ours = timed(contest.harness, count)
            speeds["harness"].append(speed)
            speed, theirs = timed(contest.lm_eval, count)
            speeds["lm-eval"].append(speed)
            line = "; ".join(f"{name} {values[-1]:.2f} problems/s" for name, values in speeds.items())
            print(f"turn {turn + 1}: {line}", flush=True)
    different = [i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1]]
    Console(soft_wrap=True).print(_summary(speeds, count, len(different)))
    for problem in different[:20]:
        print(contest.gap(problem, ours[problem], theirs[problem]))
    return 0


def _summary(speeds: Mapping[str, Sequence[float]], count: int, different: int) -> Table:
    title = f"greedy generation of {count} completions, problems/s; {count - different} are identical"
    table = Table(title=title, title_justify="left")
    for column in ("contestant", "median", "lowest", "highest", "harness / it, median (lowest to highest)"):
        table.add_column(column)
    for name, values in speeds.items():
        ratios = np.array(speeds["harness"]) / np.array(values)
        spread = f"{statistics.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        table.add_row(name, *(f"{function(values):.2f}" for function in (statistics.median, min, max)), spread)
    return table


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
