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

from rich.console import Console

from bench import status, sweep


def main() -> int:
    """Show the status; the exit code is 0 if every run is complete, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", help="id of a sweep, or its first characters; default: the latest")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    parser.add_argument("--list", action="store_true", help="list the sweeps")
    arguments = parser.parse_args()
    console = Console(soft_wrap=True, highlight=False)
    known = _sweeps(arguments.results)
    if arguments.list:
        for found in known:
            command = " ".join(found["command"])
            console.print(f"{found['id']}  {found['started_at']}  {len(found['runs'])} runs  {command}")
        return 0
    chosen = [found for found in known if found["id"].startswith(arguments.sweep or "")]
    if not chosen:
        print(f"error: {arguments.results} has no sweep {arguments.sweep or ''}".rstrip() + ".", file=sys.stderr)
        return 2
    runs = status.of_runs(arguments.results, [arguments.results / run["folder"] for run in chosen[-1]["runs"]])
    console.print(f"sweep {chosen[-1]['id']}: {len(runs)} runs, started {chosen[-1]['started_at']}")
    console.print(status.table(runs))
    return 0 if all(run.status == status.DONE for run in runs) else 1


def _sweeps(results: Path) -> list[dict[str, Any]]:
    """What is written down of every sweep, the latest last."""
    found = [json.loads(path.read_text()) for path in (results / sweep.FOLDER).glob("*.json")]
    return sorted(found, key=lambda one: one["started_at"])


if __name__ == "__main__":
    sys.exit(main())
