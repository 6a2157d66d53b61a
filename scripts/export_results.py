"""Pack complete runs into two compact files: `python scripts/export_results.py FOLDER [--results results]`.

FOLDER gets `records.parquet` and `predictions.parquet`, with every run on real data that stands on a board, and the
trials behind it; `--all` takes sample and smoke runs as well. `scripts/import_results.py FOLDER` reads them back. A
FOLDER that holds other runs than these is left as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import pandas as pd

from bench.bundle import pack, run_ids
from bench.errors import DataError
from bench.index import Index
from bench.leaderboard.publish import is_demonstration
from bench.store import Store


def main() -> int:
    """Write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    parser.add_argument("--all", action="store_true", help="sample and smoke runs as well")
    arguments = parser.parse_args()
    if not arguments.results.is_dir():
        print(f"error: {arguments.results} is no folder.", file=sys.stderr)
        return 2
    index = Index.refreshed(arguments.results)
    runs = pd.concat([index.runs, index.trials])
    if not arguments.all:
        runs = runs[~is_demonstration(runs)]
    try:
        others = set(run_ids(arguments.folder)) - {Path(folder).name for folder in runs["folder"]}
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if others:
        print(
            f"error: {arguments.folder} holds {len(others)} runs that would be lost; "
            f"`python scripts/import_results.py {arguments.folder}` merges them into the results first.",
            file=sys.stderr,
        )
        return 2
    root = Store(arguments.results).root
    count = pack([root / folder for folder in runs["folder"]], arguments.folder)
    print(f"{count} runs in {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
