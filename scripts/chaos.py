"""Does a sweep survive everything? `python scripts/chaos.py [--kills 30] [--seed 0] [--runs 12] [overrides ...]`.

Small real runs: first a sweep in peace, then the same sweep while its processes are killed at random and at delicate
moments, submitted twice, robbed of the ends of their files, left without room on the disk or without their folder, and
started again until it is complete. The results must be the same to the last digit, with nothing lost, nothing done
twice and nothing left lying around. Exit codes: 0 they are, 1 they are not, 2 the sweep in peace fails.

Overrides replace the sweep (`method=lora,bitfit task=glue/rte`). With --folder everything stays there to be looked at:
the results of the calm sweep and of each stormy round, and what every start said.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.soak.comparison import planned
from scripts.soak.storm import Storm, Stuck, Tally
from scripts.soak.submissions import Submission

METHODS = ("lora", "adalora", "bitfit")
TASKS = ("glue/sst2", "glue/mrpc")
SHORT = (
    "data=sample",
    "measure=none",
    "budget.evaluation_examples=40",
    "training.batch_size=4",
    "training.max_steps=12",
    "training.checkpoint_steps=2",
    "training.log_steps=1",
)


def main() -> int:
    """Let the storm pass over a sweep and say what it left; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="signals to be sent (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule (default: 0)")
    parser.add_argument("--runs", type=int, default=12, help="at least so many runs in the default sweep (default: 12)")
    parser.add_argument("--folder", type=Path, help="an empty folder for everything (default: a temporary one)")
    parser.add_argument("--limit-minutes", type=float, default=30, help="give up then (default: 30)")
    arguments, overrides = parser.parse_known_args()
    if arguments.kills < 0 or arguments.runs < 1:
        parser.error("--kills must be at least 0, and --runs at least 1.")
    if arguments.folder is not None and arguments.folder.exists() and any(arguments.folder.iterdir()):
        parser.error(f"--folder {arguments.folder} is not empty.")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job's children would ignore it
    with _folder(arguments.folder) as folder:
        return soak(
            folder.resolve(),
            overrides or default_sweep(arguments.runs),
            arguments.kills,
            arguments.seed,
            time.monotonic() + 60 * arguments.limit_minutes,
        )


def default_sweep(runs: int) -> list[str]:
    """At least so many short runs."""
    seeds = range(-(-runs // (len(METHODS) * len(TASKS))))
    grid = [f"method={','.join(METHODS)}", f"task={','.join(TASKS)}", f"seed={','.join(map(str, seeds))}"]
    return [*grid, *SHORT]


def soak(folder: Path, overrides: Sequence[str], kills: int, seed: int, deadline: float) -> int:
    """The sweep in peace and in the storm; returns the exit code. `deadline` is a time of `time.monotonic`."""
    (folder / "calm").mkdir(parents=True)
    (folder / "log").mkdir()
    print(f"python bench/run.py -m {' '.join(overrides)}")
    started = time.monotonic()
    calm = Submission(folder / "calm", overrides, folder / "log" / "calm.txt")
    try:
        ended = calm.ends_within(deadline - started)
    finally:
        calm.kill()
    if not ended or calm.code != 0:
        print(f"error: the sweep in peace ended with exit code {calm.code}: {calm.last_words}", file=sys.stderr)
        return 2
    seconds = time.monotonic() - started
    print(f"calm: {len(planned(folder / 'calm/results'))} runs in {seconds:.0f} s", flush=True)
    with Storm(folder, overrides, seconds, random.Random(seed), deadline) as storm:
        try:
            storm.pass_over(kills)
        except Stuck as stuck:
            storm.tally.faults.append(f"stuck: {stuck}")
        except KeyboardInterrupt:
            storm.tally.faults.append("the soak was interrupted")
    report(storm.tally, time.monotonic() - started - seconds)
    return 1 if storm.tally.faults else 0


def report(tally: Tally, seconds: float) -> None:
    """Print what happened and the verdict."""
    print(f"storm: {tally.runs} runs in {tally.rounds} rounds, {tally.starts} starts, {seconds:.0f} s")
    print(f"  {sum(tally.kills.values())} kills by kind: {_counts(tally.kills)}")
    print(f"  by phase: {_counts(tally.phases)}")
    print(f"  by moment: {_counts(tally.moments)}")
    print(f"  damage: {_counts(tally.damages)}")
    print(f"  exit codes: {_counts(tally.exit_codes)}")
    again = tally.attempts - tally.runs
    print(
        f"  work redone: {tally.attempts} attempts, {again} more than runs; {tally.resumed} went on from a checkpoint"
    )
    if os.geteuid() == 0:
        print("  no read-only folder: root is not held up by modes")
    for remark in tally.remarks:
        print(f"  {remark}")
    for fault in tally.faults:
        print(f"FAULT {fault}")
    print(f"verdict: {len(tally.faults)} faults" if tally.faults else "verdict: equal, nothing lost, nothing twice")


def _counts(counter: Counter[Any]) -> str:
    return ", ".join(f"{key} {count}" for key, count in counter.most_common()) or "none"


@contextlib.contextmanager
def _folder(chosen: Path | None) -> Iterator[Path]:
    if chosen is not None:
        yield chosen
        return
    with tempfile.TemporaryDirectory(prefix="parsimony-chaos-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
