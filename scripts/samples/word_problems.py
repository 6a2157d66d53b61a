"""Arithmetic word problems: their words, and how a template becomes a question and its worked lines.

A template is a question with slots and the lines that answer it, in which `[d = a + b]` names an intermediate result
d; the sum is realised as "3 + 4 = 7", or with a calculator annotation as "3 + 4 = <<3+4=7>>7". "(red|blue)" leaves a
choice.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from scripts.samples.text import split_words

LARGEST_RESULT = 200
NAMES = split_words(
    "Ada Ben Cleo Dan Eva Finn Gina Hugo Iris Jack Kira Leo Mara Nils Olga Paul Rosa Sam Tina Umar Vera Will Yara Zoe"
)
THINGS = split_words(
    "apples books cards coins cups eggs flowers hats keys lemons marbles pears pencils plums rings shells stamps"
    " stones toys tickets"
)
CONTAINERS = split_words("bags baskets boxes bowls jars shelves trays crates")
SUM = re.compile(r"\[(\w) = (\w) ([-+*/]) (\w)\]")
CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")


@dataclass(frozen=True)
class Template:
    """A question and its worked lines, each with one sum, over the numbers that `choices` allows for every letter."""

    question: str
    lines: tuple[str, ...]
    choices: dict[str, Sequence[int]]


def problem(rng: random.Random, template: Template, annotated: bool) -> tuple[str, list[str], int]:
    """Question, worked lines and result for random words and numbers that keep every result from 1 to the largest.

    Raises ValueError if a line of the template has no sum.
    """
    a, b, c = rng.sample(NAMES, 3)
    words = {"A": a, "B": b, "C": c, "things": rng.choice(THINGS), "boxes": rng.choice(CONTAINERS)}
    results: list[int] | None = None
    while results is None:
        numbers = {letter: rng.choice(choices) for letter, choices in template.choices.items()}
        results = _results(template.lines, numbers)
    filled = words | {letter: str(number) for letter, number in numbers.items()}
    lines = [choose(rng, _with_sum(line, numbers, annotated)).format(**filled) for line in template.lines]
    return choose(rng, template.question).format(**filled), lines, results[-1]


def operate(left: int, operator: str, right: int) -> int | None:
    """Value of one operation; None where it is not a whole number from 1 to the largest."""
    if operator == "/":
        return left // right if left % right == 0 else None
    value = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return value if 1 <= value <= LARGEST_RESULT else None


def choose(rng: random.Random, text: str) -> str:
    """The text with one side of every choice."""
    return CHOICE.sub(lambda found: rng.choice(found[1].split("|")), text)


def _results(lines: tuple[str, ...], numbers: dict[str, int]) -> list[int] | None:
    """Results of the lines' sums, which join `numbers`; None if one is out of bounds."""
    results = []
    for line in lines:
        letter, left, operator, right = _sum(line).groups()
        result = operate(numbers[left], operator, numbers[right])
        if result is None:
            return None
        numbers[letter] = result
        results.append(result)
    return results


def _with_sum(line: str, numbers: dict[str, int], annotated: bool) -> str:
    """The line with its sum in figures."""
    found = _sum(line)
    left, operator, right, result = numbers[found[2]], found[3], numbers[found[4]], numbers[found[1]]
    annotation = f"<<{left}{operator}{right}={result}>>" if annotated else ""
    return line.replace(found[0], f"{left} {operator} {right} = {annotation}{result}")


def _sum(line: str) -> re.Match[str]:
    found = SUM.search(line)
    if found is None:
        raise ValueError(f"The line '{line}' has no sum such as [c = a + b].")
    return found
