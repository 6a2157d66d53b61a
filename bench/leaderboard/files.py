"""Tables and texts as files, with stable columns and rounding, so that equal records give equal bytes."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.files import replacing
from bench.leaderboard.rows import as_list

FLOATS = "%.6g"
FORMULA = re.compile(r"[=+\-@\t\r]")


def as_csv(table: pd.DataFrame) -> str:
    """The table as CSV, as pandas writes it, in a fraction of the time.

    Text that a spreadsheet would take for a formula is marked as text, by an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(zip(*(_cells(table[name]) for name in table), strict=True))
    return text.getvalue()


def _cells(column: pd.Series[Any]) -> list[Any]:
    """The cells of a column, empty where a value is missing."""
    if pd.api.types.is_float_dtype(column):
        values = column.to_numpy(dtype=float, na_value=math.nan).tolist()
        return ["" if math.isnan(value) else _text(value) for value in values]
    if isinstance(column.dtype, pd.StringDtype):
        marked = {text: f"'{text}" for text in column.unique() if FORMULA.match(str(text))}
        return as_list(column.replace(marked) if marked else column)
    return ["" if pd.isna(value) else value for value in as_list(column)]


def _text(value: float) -> str:
    """A number with six significant digits; a whole one, which may be a count, with all that it has."""
    return str(int(value)) if value.is_integer() else FLOATS % value


def joined(texts: Sequence[str]) -> str:
    """Tables of the same columns as one."""
    first, *others = texts
    return first + "".join(text.partition("\n")[2] for text in others)


def write(content: bytes, path: Path) -> Path:
    """Write the file unless it holds this already."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_bytes() == content:
            return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path
