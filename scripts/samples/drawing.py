"""How the rows of a sample are drawn: labels in given shares, and no text twice."""

from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")


def labels_in_shares(shares: tuple[float, ...], count: int) -> list[int]:
    """`count` label ids in ascending order, of which each takes its share."""
    limits = list(accumulate(shares))[:-1]
    return [bisect(limits, (row + 0.5) / count) for row in range(count)]


def draw_unseen(draw: Callable[[], T], text_of: Callable[[T], str], seen: set[str]) -> T:
    """Draw until the text of the drawn thing is not among `seen`, to which it is added."""
    while True:
        drawn = draw()
        if text_of(drawn) not in seen:
            seen.add(text_of(drawn))
            return drawn
