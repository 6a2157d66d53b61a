"""Errors that a user can act on: each is one sentence, and each has an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend; printed as one sentence, without a traceback, with exit code 2."""

    exit_code = 2


class SettingsError(UserError):
    """A setting that is unknown, of the wrong type, out of range or at odds with another one."""


class DataError(UserError):
    """Data that is missing, unreadable or not what the task declares."""


class StorageError(UserError):
    """A results folder that cannot take a record."""


class Diverged(Exception):
    """The training loss or a model output is not finite any more."""


def one_line(error: BaseException) -> str:
    """The error's message folded to one line; its class name where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def suggestion(name: str, choices: Iterable[str]) -> str:
    """The tail of an error sentence: the nearest match, if there is one, and what is allowed."""
    allowed = sorted(choices)
    return f"{nearest(name, allowed)} Allowed: {', '.join(allowed)}."


def nearest(name: str, choices: Iterable[str]) -> str:
    """A question after the nearest match, if there is one, else nothing; swapped letters are nearer than other ones."""
    near = difflib.get_close_matches(name, sorted(choices), cutoff=0.5)
    near.sort(key=lambda choice: sorted(choice) != sorted(name))
    return f" Did you mean '{near[0]}'?" if near else ""
