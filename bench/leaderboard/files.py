"""Tables and texts as files, with stable columns and rounding, so that equal records give equal bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

FLOATS = "%.6g"
FORMULA = r"[=+\-@\t\r]"


def as_csv(table: pd.DataFrame) -> str:
    """The table as CSV. Text that a spreadsheet would take for a formula is marked as text, by an apostrophe."""
    texts = {str(name): column for name, column in table.items() if pd.api.types.is_string_dtype(column)}
    marked = {name: column.where(~column.str.match(FORMULA, na=False), "'" + column) for name, column in texts.items()}
    plain = {name: column.to_numpy(dtype=object) for name, column in marked.items()}  # written several times as fast
    return table.assign(**plain).to_csv(index=False, lineterminator="\n", float_format=FLOATS)


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
    path.write_bytes(content)
    return path
