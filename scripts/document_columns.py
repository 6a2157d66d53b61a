"""Write docs/measurement.md from the record's columns; `--check` only tells whether it is up to date."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from bench.records.record import SCHEMA_VERSION, RunRecord

PAGE = ROOT / "docs" / "measurement.md"
SECTIONS = {
    "run_id": "What ran",
    "metric": "How well",
    "trainable_parameters": "Parameters and size",
    "wall_seconds": "Time",
    "train_samples_per_second": "Training throughput",
    "probe_batch_size": "Memory by cause",
    "peak_memory_bytes": "Memory by phase",
    "forward_flops_per_sample": "Compute",
    "inference_form": "Inference",
    "energy_source": "Energy",
    "feature_cka_start": "Forgetting",
    "amu_gb": "EfficientLLM's six",
    "ppt_c1e7": "Composite scores",
    "machine_id": "The machine's own pace",
    "data_revision": "Provenance",
}
"""Titles by the first column of each section."""
INTRODUCTION = f"""# The columns of a record

Every run leaves one `record.json` with these columns (schema version {SCHEMA_VERSION}). Units stand in the names. A
number that was not measured is null, and `reasons` says why. Columns marked with a switch are filled while that setting
is true, which is the default except for `measure.sweep_batch`; `measure=none` switches them all off.
`python scripts/explain.py RUN_ID` prints a record for a person; [how the meters work](measuring.md) says how far each
can be trusted.

This page is written by `python scripts/document_columns.py` from `bench/records/record.py`.
"""


def page() -> str:
    """The whole page as Markdown."""
    return INTRODUCTION + "".join(_lines())


def _lines() -> Iterator[str]:
    titled = set()
    for column in fields(RunRecord):
        if column.name in SECTIONS:
            titled.add(column.name)
            yield f"\n## {SECTIONS[column.name]}\n\n| column | meaning |\n| --- | --- |\n"
        yield f"| `{column.name}` | {_meaning(column)} |\n"
    assert titled == SECTIONS.keys(), "a section begins at a column that does not exist"


def _meaning(column: Field[object]) -> str:
    text = str(column.metadata["meaning"])
    if column.metadata["formula"]:
        text += f" `{column.metadata['formula']}`"
    if column.metadata["meter"]:
        text += f" (`measure.{column.metadata['meter']}`)"
    return text.replace("|", "\\|")


def main() -> int:
    """Write or check the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is not up to date")
    if parser.parse_args().check:
        return 0 if PAGE.read_text() == page() else 1
    PAGE.write_text(page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
