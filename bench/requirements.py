"""What a single setting must be; every refusal is one sentence with the setting, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from bench.errors import SettingsError, suggestion


@dataclass(frozen=True)
class Range:
    """Bounds of a number; `above` and `below` exclude the bound itself."""

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.at_most is None or value <= self.at_most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """The bounds in words, such as "at least 0 and below 1"."""
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{word} {bound:.10g}" for word, bound in bounds.items() if bound is not None)


COUNT = Range(at_least=1)
POSITIVE = Range(above=0)
NOT_NEGATIVE = Range(at_least=0)
PROBABILITY = Range(at_least=0, below=1)
SHARE = Range(above=0, at_most=1)
INNER_SHARE = Range(above=0, below=1)


def require_known(setting: str, value: object, known: Collection[str]) -> None:
    """Raise SettingsError for a word that is none of the known ones."""
    if value not in known:
        raise SettingsError(f"{setting}={value} is unknown.{suggestion(str(value), known)}")


def require_number(setting: str, value: object, bounds: Range) -> None:
    """Raise SettingsError for what is no finite number, or lies out of bounds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SettingsError(f"{setting}={value} must be a number.")
    if not math.isfinite(value):
        raise SettingsError(f"{setting}={value} must be a finite number.")
    if value not in bounds:
        raise SettingsError(f"{setting}={value} must be {bounds}.")


def require_whole(setting: str, value: object, least: int = 1, least_setting: str | None = None) -> None:
    """Raise SettingsError for what is no whole number, or below `least`, which `least_setting` says where it is one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        floor = least if least_setting is None else f"{least_setting}={least}"
        raise SettingsError(f"{setting}={value} must be a whole number of at least {floor}.")
