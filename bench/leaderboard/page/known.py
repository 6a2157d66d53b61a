"""What `conf/method` and the code tell of a method that a board names."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from bench.planning import build
from bench.validation import CONFIGURATION
from methods.base import FAMILIES, OTHER

if TYPE_CHECKING:
    from methods.base import Method

METHODS = CONFIGURATION / "method"
ITSELF = "_self_"


@functools.cache
def method_of(name: str) -> Method | None:
    """The method called so in `conf/method`, with its defaults; None where there is none."""
    return build(settings_of(METHODS / f"{name}.yaml")) if name in _names() else None


@functools.cache
def _names() -> frozenset[str]:
    """The methods in `conf/method`; a record may name any other."""
    return frozenset(path.stem for path in METHODS.glob("*.yaml"))


def family_of(name: str) -> str:
    """Its family: what the plots colour and the table filters by."""
    method = method_of(name)
    return method.family if method is not None and method.family in FAMILIES else OTHER


def settings_of(path: Path) -> dict[str, Any]:
    """The settings of a method's YAML over those of the methods that it names as its defaults.

    What `hydra.compose` gives, without the sixty milliseconds that it takes for each.
    """
    own: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    parents = [settings_of(path.with_stem(name)) for name in own.pop("defaults", []) if name != ITSELF]
    return functools.reduce(_merged, [*parents, own])


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both as one; where both have a mapping, their mappings as one."""
    both = {name for name in below.keys() & above.keys() if isinstance(below[name], dict)}
    return below | above | {name: _merged(below[name], above[name]) for name in both}
