"""What a person sees of a command: its console, the sentence that refuses it, its exit code."""

from __future__ import annotations

import os
import sys

from rich.console import Console

from bench.errors import UserError, one_line

FULL_ERROR = "HYDRA_FULL_ERROR"
WANTS_TRACEBACK = os.environ.get(FULL_ERROR) == "1"
FAILED = 1
"""Exit code of a run that failed and left a record."""


def new_console(quiet: bool = False) -> Console:
    """Where runs show what they do, unless they are to be quiet."""
    return Console(soft_wrap=True, highlight=False, markup=False, quiet=quiet)


def refuse(error: UserError) -> int:
    """Print one sentence and give its exit code; the whole traceback on request."""
    if WANTS_TRACEBACK:
        raise error
    print(f"error: {one_line(error)}", file=sys.stderr)
    return error.exit_code
