"""Print a record for a person: `python scripts/explain.py RUN_ID [--results results]`, or a path to a record.

Where the memory went, where the time went, what the method costs to compute and to serve, what it forgot, and why a
number is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from rich.console import Console
from rich.table import Table

from bench.commands import exit_code_of
from bench.errors import UserError, suggestion
from bench.leaderboard.index import Index
from bench.records.record import RunRecord
from bench.records.schema import decode
from bench.records.store import RECORD_FILE, Store
from bench.records.summary import MEBIBYTE, headline, memory_by_cause

BAR_WIDTH = 40
LISTED = 20
"""Of more records than this the run ids are not listed."""
FORMS = {
    "parameters": ("total_parameters", "inference_parameters", "{:,.0f}", 1),
    "size, MiB": ("trained_form_bytes", "inference_form_bytes", "{:,.1f}", 1 / MEBIBYTE),
    "latency of one example, ms": ("trained_latency_seconds_median", "inference_latency_seconds_median", "{:.2f}", 1e3),
    "latency, 95th percentile, ms": ("trained_latency_seconds_p95", "inference_latency_seconds_p95", "{:.2f}", 1e3),
    "examples per second": ("evaluation_samples_per_second", "inference_samples_per_second", "{:,.0f}", 1),
    "forward GFLOPs at 512 tokens": (
        "forward_flops_512_tokens",
        "inference_forward_flops_512_tokens",
        "{:,.2f}",
        1e-9,
    ),
    "score, %": ("score", "inference_score", "{:.2f}", 1),
}


def find(name: str, results: Path) -> RunRecord:
    """The record at a path, or with a run id (or its beginning). Raises UserError."""
    path = Path(name)
    if path.is_dir():
        path = path / RECORD_FILE
    if path.is_file():
        try:
            return decode(path.read_bytes())
        except ValueError as error:
            raise UserError(f"{path} is no record: {error}.") from error
    known = Index.refreshed(results).run_ids
    found = {folder: run_id for folder, run_id in known.items() if run_id.startswith(name)}
    if len(found) == 1:
        return decode((Store(results).root / found.popitem()[0] / RECORD_FILE).read_bytes())
    if not found:
        hint = suggestion(name, set(known.values())) if 0 < len(known) <= LISTED else ""
        raise UserError(f"No record in {results} has the run id {name}.{hint}")
    raise UserError(f"{len(found)} records in {results} begin with {name}: {', '.join(found.values())}.")


def explain(record: RunRecord, console: Console) -> None:
    """Print every part that the record has figures for."""
    console.print(f"[bold]{headline(record)}[/bold]", highlight=False)
    if record.score is not None:
        console.print(f"{record.metric} {record.score:.2f} % of {record.evaluation_examples} examples")
    if record.error is not None:
        console.print(f"{record.status}: {record.error}", markup=False)
    memory = {label: size / MEBIBYTE for label, size in memory_by_cause(record).items()}
    bars(console, "Memory by cause, MiB", memory)
    bars(console, "Time by phase, s", record.phase_seconds)
    console.print(*_compute(record), sep="\n")
    console.print(_forms(record))
    console.print(*_forgetting(record), sep="\n")
    _missing(record, console)


def bars(console: Console, title: str, values: Mapping[str, float]) -> None:
    """One bar per value, with its share of the sum."""
    total = sum(values.values())
    if total <= 0:
        return
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, value in values.items():
        length = round(BAR_WIDTH * value / total)
        table.add_row(name, f"{value:,.1f}", f"{100 * value / total:.0f} %", "█" * length)
    table.add_row("sum", f"{total:,.1f}")
    console.print(table)


def _compute(record: RunRecord) -> list[str]:
    lines = []
    if record.forward_flops_per_sample is not None and record.backward_flops_per_sample is not None:
        forward, backward = record.forward_flops_per_sample / 1e9, record.backward_flops_per_sample / 1e9
        lines.append(f"Compute: {forward:.2f} GFLOPs forward and {backward:.2f} backward per training example")
    if record.achieved_flops_per_second is not None:
        used = record.model_flops_utilisation
        share = "" if used is None else f", {100 * used:.0f} % of a plain matrix product on this machine"
        lines.append(f"Pace: {record.achieved_flops_per_second / 1e9:,.0f} GFLOPs per second{share}")
    if record.step_seconds_median is not None and record.step_seconds_p99 is not None:
        median, slow = 1e3 * record.step_seconds_median, 1e3 * record.step_seconds_p99
        lines.append(f"Step: {median:.1f} ms in the median, {slow:.1f} ms at the 99th percentile")
    if record.train_energy_joules is not None:
        lines.append(f"Energy: {record.train_energy_joules:,.0f} J in training ({record.energy_source})")
    return lines


def _forms(record: RunRecord) -> Table:
    """Both forms side by side."""
    same = record.inference_form == "trained"
    title = (
        "Serving: both forms are the same model" if same else f"Serving: trained form and {record.inference_form} form"
    )
    table = Table("", "trained", "inference", title=title, title_justify="left")
    for label, (trained, inference, text, factor) in FORMS.items():
        values = (getattr(record, trained), getattr(record, inference))
        table.add_row(label, *("" if value is None else text.format(value * factor) for value in values))
    if record.form_max_relative_difference is not None:
        verdict = "more than rounding explains" if record.forms_differ else "within rounding"
        table.add_row("outputs differ by at most", "", f"{record.form_max_relative_difference:.1e} ({verdict})")
    return table


def _forgetting(record: RunRecord) -> list[str]:
    lines = []
    if record.feature_distance is not None and record.feature_cka is not None:
        moved = f"{100 * record.feature_distance:.1f} %, linear CKA {record.feature_cka:.4f}"
        lines.append(f"Forgetting: features moved by {moved}, from {100 * (record.feature_distance_start or 0):.1f} %")
    if record.language_loss_rise is not None and record.base_language_loss is not None:
        lines.append(f"Language loss: {record.base_language_loss:.3f} {record.language_loss_rise:+.3f} nats per token")
    return lines


def _missing(record: RunRecord, console: Console) -> None:
    columns_by_reason = defaultdict(list)
    for column, reason in record.reasons.items():
        columns_by_reason[reason].append(column)
    for reason, columns in columns_by_reason.items():
        console.print(f"Not measured, because {reason}: {', '.join(columns)}", markup=False, style="dim")


def main() -> int:
    """Find the record and explain it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", help="a run id, its beginning, or the path of a record or its folder")
    parser.add_argument("--results", type=Path, default=Path("results"), help="results folder (default: results)")
    arguments = parser.parse_args()
    explain(find(arguments.record, arguments.results), Console(soft_wrap=True, highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
