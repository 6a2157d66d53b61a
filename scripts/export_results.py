"""Pack runs into two compact files: `python scripts/export_results.py FOLDER [--results results]`.

FOLDER gets `records.parquet` and `predictions.parquet`, with every run on real data that ended, with a score or
without, and the trials behind them, completed or not; `--all` takes sample and smoke runs as well.
`scripts/import_results.py FOLDER` reads them back. A FOLDER that holds other runs than these is left as it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.commands import exit_code_of
from bench.errors import UserError
from bench.leaderboard.index import Index
from bench.leaderboard.publish import is_demonstration
from bench.records.bundle import pack, run_ids
from bench.records.store import Store


def main() -> int:
    """Write the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    parser.add_argument("--all", action="store_true", help="sample and smoke runs as well")
    arguments = parser.parse_args()
    if not arguments.results.is_dir():
        raise UserError(f"{arguments.results} is no folder.")
    return export(arguments.results, arguments.folder, arguments.all)


def export(results: Path, folder: Path, everything: bool) -> int:
    """Write the bundle unless it would lose runs. Returns the exit code. Raises UserError and RecordError."""
    folders = chosen_folders(Index.refreshed(results), everything)
    others = set(run_ids(folder)) - {chosen.name for chosen in folders}
    if others:
        raise UserError(
            f"{folder} holds {len(others)} runs that would be lost; "
            f"`python scripts/import_results.py {folder}` merges them into the results first."
        )
    print(f"{pack(folders, folder)} runs in {folder}")
    return 0


def chosen_folders(index: Index, everything: bool) -> list[Path]:
    """The folders of runs and trials that are complete, of runs that were lost, and of other trials that runs name."""
    store, kinds = Store(index.results), [index.runs, index.trials, index.lost]
    if not everything:
        kinds = [runs[~is_demonstration(runs)] for runs in kinds]
    runs, _, lost = kinds
    ended = [store.ended(store.root / folder) for folder in (*runs["folder"], *lost["folder"])]
    named = {trial for record in ended if record is not None for trial in record.trial_run_ids}
    behind = [folder for folder, run_id in index.held_out.items() if run_id in named]
    folders = [folder for of_kind in kinds for folder in of_kind["folder"]]
    return [store.root / folder for folder in dict.fromkeys([*folders, *behind])]


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
