"""The rows of a table of examples, whatever the task: drawing some of them, and checking what they hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

SUBSET_SEED = 20_190_101

Columns = Mapping[str, Any]
"""Values per example, in arrays or lists under the names that `predictions.parquet` gives them."""


def drawn(examples: int, at_most: int | None) -> NDArray[np.int64] | None:
    """Positions of at most `at_most` of so many examples, ascending, drawn with a fixed seed; None for all."""
    if at_most is None or examples <= at_most:
        return None
    chosen: NDArray[np.int64] = np.sort(np.random.default_rng(SUBSET_SEED).permutation(examples)[:at_most])
    return chosen


def require_columns(table: pa.Table, columns: Sequence[str], where: str) -> None:
    """Raise DataError if a column is missing or has empty cells."""
    for column in columns:
        if column not in table.column_names:
            raise DataError(f"The {where} lacks the column '{column}'; it has {', '.join(table.column_names)}.")
        if table.column(column).null_count:
            raise DataError(f"The column '{column}' of the {where} has empty cells.")


def require_numbers(table: pa.Table, column: str, where: str, whole: bool = True) -> None:
    """Raise DataError if a column holds anything but numbers, or anything but `whole` ones."""
    import pyarrow as pa

    kind = table.schema.field(column).type
    fits = pa.types.is_integer(kind) or pa.types.is_boolean(kind) or (pa.types.is_floating(kind) and not whole)
    if not fits:
        wanted = "whole numbers" if whole else "numbers"
        raise DataError(f"The column '{column}' of the {where} holds {kind}; it must hold {wanted}.")


def require_between(labels: NDArray[Any], top: float, where: str) -> None:
    """Raise DataError if a label lies outside 0 to `top`."""
    wrong = labels[~((labels >= 0) & (labels <= top))]
    if len(wrong):
        raise DataError(f"The {where} has the label {wrong[0]}; labels must lie between 0 and {top:g}.")


def class_names(table: pa.Table, column: str = "label") -> Sequence[str] | None:
    """Names of the label's classes as the parquet file's own metadata lists them."""
    metadata = (table.schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    names: Sequence[str] | None = json.loads(metadata)["info"]["features"].get(column, {}).get("names")
    return names
