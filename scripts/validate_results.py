"""Check a folder of records: `python scripts/validate_results.py [RESULTS]`.

Schema, places, duplicates, impossible values; ids, derived columns and, from the predictions, scores worked out again;
tuned runs against their trials. Exit codes: 0 nothing is wrong, 1 with a list of what is, 2 bad input.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.audit import audit, record_files
from bench.commands import exit_code_of
from bench.errors import UserError


def main() -> int:
    """Print what is wrong, one line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"), help="default: results")
    results = parser.parse_args().results
    if not results.is_dir():
        raise UserError(f"{results} is no folder.")
    if not record_files(results):
        raise UserError(f"{results} has no records; scripts/import_results.py checks a bundle.")
    found = audit(results)
    for finding in found:
        print(f"{finding.path}: {finding.what}")
    print(f"{len(record_files(results))} records, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
