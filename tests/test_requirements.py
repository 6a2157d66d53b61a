"""What single settings must be, and the sentences that refuse the others."""

from __future__ import annotations

import re

import pytest

from bench.errors import SettingsError
from bench.requirements import (
    NOT_NEGATIVE,
    PROBABILITY,
    SHARE,
    Range,
    require_known,
    require_number,
    require_whole,
)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "words"),
    [
        (PROBABILITY, [0, 0.5, 0.999], [-0.1, 1], "at least 0 and below 1"),
        (SHARE, [1e-9, 1], [0, 1.001], "above 0 and at most 1"),
        (NOT_NEGATIVE, [0, 1e30], [-1e-30], "at least 0"),
        (Range(at_least=0, below=2**32), [0, 2**32 - 1], [2**32], "at least 0 and below 4294967296"),
    ],
)
def test_bounds_hold_where_their_words_say(
    bounds: Range, inside: list[float], outside: list[float], words: str
) -> None:
    for value in inside:
        require_number("a", value, bounds)
    for value in outside:
        with pytest.raises(SettingsError, match=f"^a={re.escape(str(value))} must be {words}.$"):
            require_number("a", value, bounds)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (float("inf"), "a=inf must be a finite number."),
        (float("nan"), "a=nan must be a finite number."),
        (True, "a=True must be a number."),
        ("1", "a=1 must be a number."),
    ],
)
def test_only_finite_numbers_are_numbers(value: object, sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"^{sentence}$"):
        require_number("a", value, NOT_NEGATIVE)


@pytest.mark.parametrize("value", [0, 1.0, True, "1", None])
def test_whole_numbers_are_neither_decimals_nor_truths(value: object) -> None:
    with pytest.raises(SettingsError, match=f"^a={value} must be a whole number of at least 1.$"):
        require_whole("a", value)


def test_a_whole_number_may_be_bounded_by_another_setting() -> None:
    require_whole("a", 4, 4, "b")
    with pytest.raises(SettingsError, match=r"^a=3 must be a whole number of at least b=4\.$"):
        require_whole("a", 3, 4, "b")


def test_an_unknown_word_is_refused_with_its_nearest_match() -> None:
    require_known("a", "soft", ("soft", "hard"))
    with pytest.raises(SettingsError, match=r"^a=sofft is unknown\. Did you mean 'soft'\? Allowed: hard, soft\.$"):
        require_known("a", "sofft", ("soft", "hard"))


def test_swapped_letters_are_nearer_than_other_ones() -> None:
    with pytest.raises(SettingsError, match=r"Did you mean 'lora'\?"):
        require_known("method", "lroa", ("lora", "road"))
