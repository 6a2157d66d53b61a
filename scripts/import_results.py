"""Merge records from elsewhere into a results folder: `python scripts/import_results.py SOURCE [--results results]`.

SOURCE is another results folder, or a folder with `records.parquet` and `predictions.parquet`
(`scripts/export_results.py`). All of it is checked first (`scripts/validate_results.py`); if anything is wrong, nothing
is merged. Runs that are here already stay as they are. Records, predictions and training curves are taken over, nothing
else, and nothing in them is executed. Exit codes: 0 merged, 1 something is wrong with the source, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.audit import audit, record_files
from bench.commands import exit_code_of
from bench.errors import UserError
from bench.records.bundle import is_bundle, pack, unpack
from bench.records.schema import RecordError

REPORTED = 20


def main() -> int:
    """Check the source and merge it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    arguments = parser.parse_args()
    if not (is_bundle(arguments.source) or (arguments.source / "runs").is_dir()):
        raise UserError(f"{arguments.source} is neither a results folder nor a bundle of records.")
    try:
        return merge(arguments.source, arguments.results)
    except (UserError, RecordError) as error:
        print(f"{arguments.source}: {error}")
        return 1


def merge(source: Path, results: Path) -> int:
    """Merge a source that is as it should be; else say what is wrong. Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="parsimony-import-") as scratch:
        copy, bundle = Path(scratch) / "results", source
        if not is_bundle(source):
            bundle = Path(scratch) / "bundle"
            pack([file.parent for file in record_files(source)], bundle)
        unpack(bundle, copy)
        findings = audit(copy, from_elsewhere=True)
        for finding in findings[:REPORTED]:
            print(f"{finding.path.relative_to(copy)}: {finding.what}")
        if findings:
            print(f"nothing was merged: {len(findings)} findings")
            return 1
        print(f"{unpack(bundle, results)} new runs in {results}")
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
