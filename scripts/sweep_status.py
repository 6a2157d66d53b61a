"""How far a sweep is: `python scripts/sweep_status.py [SWEEP] [--results results]`.

Reads what lies in the results folder alone, so it works while the sweep is under way, from any machine that sees the
folder. Without an id it shows the sweep that was started last; with --list, all of them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.commands import exit_code_of
from bench.console import new_console
from bench.errors import StorageError, one_line
from bench.records import status
from bench.sweeps import sweep


def main() -> int:
    """Show the status; the exit code is 0 if every run is complete, 1 if not, 2 if there is no such sweep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", help="id of a sweep, or its first characters; default: the latest")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    parser.add_argument("--list", action="store_true", help="list the sweeps")
    arguments = parser.parse_args()
    console = new_console()
    if arguments.list:
        for found in _sweeps(arguments.results):
            command = " ".join(found["command"])
            console.print(f"{found['id']}  {found['started_at']}  {len(found['runs'])} runs  {command}")
        return 0
    chosen = _chosen(arguments.results, arguments.sweep or "")
    runs = status.of_runs(arguments.results, [arguments.results / run["folder"] for run in chosen["runs"]])
    console.print(f"sweep {chosen['id']}: {len(runs)} runs, started {chosen['started_at']}")
    console.print(status.table(runs))
    return 0 if all(run.status == status.DONE for run in runs) else 1


def _chosen(results: Path, prefix: str) -> dict[str, Any]:
    """The sweep whose id begins so, or the latest for an empty prefix. Raises StorageError."""
    found = _sweeps(results, prefix)
    if not found:
        raise StorageError(f"{results} has no sweep {prefix}".rstrip() + ".")
    if prefix and len(found) > 1:
        raise StorageError(f"{prefix} may be any of the sweeps {', '.join(sorted(one['id'] for one in found))}.")
    return found[-1]


def _sweeps(results: Path, prefix: str = "") -> list[dict[str, Any]]:
    """What is written down of every sweep whose id begins so, the latest last. Raises StorageError."""
    files = [path for path in (results / sweep.FOLDER).glob("*.json") if path.stem.startswith(prefix)]
    return sorted(map(_read, files), key=lambda one: one["started_at"])


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return {name: found[name] for name in ("id", "command", "started_at", "runs")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path} is damaged ({one_line(error)}); the same sweep started again mends it.") from error


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
