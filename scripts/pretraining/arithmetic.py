"""Text that teaches a tiny decoder to count: bare sums, stories with their sums in running text, plain sentences.

All text is made up here. It shares word lists and skills with the word problems of `scripts.samples.gsm8k`, but neither
templates nor layout: "Problem: ... Solution: ... So the result is 12." is one of many.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from scripts.pretraining.lessons import LESSONS
from scripts.samples.text import as_sentence, split_phrases, split_words
from scripts.samples.word_problems import CONTAINERS, NAMES, THINGS, operate, problem

MORE_THINGS = THINGS + split_words("trees pages dollars miles people children seats vans")
FRAMES = (  # what stands before the story, and between the story and the work
    ("", " "),
    ("", "\n"),
    ("", "\nWork: "),
    ("Problem: ", "\nSolution: "),
    ("Quiz. ", "\nReply. "),
    ("Task: ", "\nSteps: "),
    ("Puzzle: ", "\nResponse: "),
    ("Story: ", "\nSums: "),
    ("Query: ", "\nWorking. "),
)
ENDINGS = split_phrases(
    "So the result is {n}. | So the result is {n}. | The result is {n}. | Result: {n}"
    " | # {n} | ## {n} | ### {n} | = {n}"
)
GIVEN = split_phrases(
    "{a} has {n} {t} | {a} owns {n} {t} | there are {n} {t} in a room | {a} starts with {n} {t} | {a} counts {n} {t}"
    " | {n} {t} stand in a row | {a} keeps {n} {t} at home"
)
PRODUCTS = split_phrases(
    "{a} has {p} {boxes} with {q} {t} in each | {a} makes {q} {t} a day for {p} days | there are {p} rows of {q} {t}"
    " | {a} brings {q} {t} for each of {p} children | {p} {boxes} hold {q} {t} each | every hour {a} makes {q} {t},"
    " and this goes on for {p} hours | {a} buys {p} {boxes} of {q} {t} | {p} people each bring {q} {t}"
)
GAINS = split_phrases(
    "{b} gives {a} {k} more {t} | {a} finds {k} more {t} | then {k} new {t} arrive | {b} adds {k} {t} | {a} gets {k}"
    " more | {k} more come | {k} {t} are added | {b} brings {k} {t} | {a} makes another {k} {t}"
)
LOSSES = split_phrases(
    "{a} gives {k} {t} to {b} | {a} loses {k} {t} | {k} of the {t} break | {a} sells {k} of them | {b} takes {k} {t}"
    " | then {k} go away | {a} gives away {k} | {k} {t} are taken | {a} uses {k} {t} | {k} {t} fall down"
)
MULTIPLES = split_phrases(
    "{b} brings {k} times as many, and takes the old ones | soon there are {k} times as many | the number of {t} grows"
    " to {k} times that | each of them costs {k} dollars, and {a} wants to pay for all | {k} friends get that many each"
)
PARTS = split_phrases(
    "{a} splits them into {k} equal heaps and keeps one heap | {k} people share them equally and {a} is one of them"
    " | {a} deals them out evenly over {k} {boxes} and looks into one | they go in {k} equal groups and {a} counts one"
    " | {a} packs {k} of them into one of the {boxes} until all are packed, and counts the {boxes}"
)
RELATIONS = {
    "+": split_phrases(
        "{b} has {k} more {t} than {a} | {b} owns {k} more than that | {b} counts {k} more {t} than {a}"
    ),
    "-": split_phrases("{b} has {k} fewer {t} than {a} | {b} owns {k} fewer than that | {b} has {k} less {t} than {a}"),
    "*": split_phrases("{b} has {k} times as many {t} | {b} owns {k} times as many {t} as {a}"),
}
EVENTS = {"+": GAINS, "-": LOSSES, "*": MULTIPLES, "/": PARTS}
ASKED = split_phrases(
    "how many are there at the end | how many is that now | what is the number of {t} then | how many {t} are left"
)
TOTAL_ASKED = split_phrases("how many {t} is that together | what do {a} and {b} have in total")
DIFFERENCE_ASKED = split_phrases("what is the difference | how many more are there of one than of the other")
WORKED = {
    "+": split_phrases(
        "{s} | {a} has {s} {t} | then there are {s} {t} | that makes {s} {t} | with the new ones there are {s} {t}"
        " | together that is {s} {t}"
    ),
    "-": split_phrases("{s} | {a} has {s} {t} | {s} {t} are left | {a} still has {s} {t} | now there are {s} {t}"),
    "*": split_phrases("{s} | at first there are {s} {t} | that is {s} {t} | {a} has {s} {t} | all of it makes {s}"),
    "/": split_phrases("{s} | each has {s} {t} | each gets {s} {t} | one has {s} {t} | a part is {s} {t}"),
}
PLAIN = split_phrases(
    "{a} likes the {t} of {b} | the {t} are in the {boxes} | {a} and {b} live in the same street | {a} is older than"
    " {b} | {b} wants to buy {t} for {a} | {a} works in a shop that sells {t} | in the morning {a} walks to the bus"
    " | {a} put the {boxes} next to the {t} | {b} has a red hat and {a} has a blue one | on Monday {a} reads a book"
    " | on Tuesday {b} plants a tree on the farm | the teachers take the children to a farm by van | {a} pays with"
    " a bill and gets money back | {b} has a cousin who is a farmer | the bus has a stop at the school | {a} helps"
    " {b} | after the storm {a} picks up the {t} | {b} needs a pen and a book | the two run every day | {b} asks"
    " how old {a} is | a class has many children and a few teachers | both of them earn a few dollars an hour"
)


@dataclass
class Story:
    """What is told so far, the worked lines that follow from it, and the number that the next event changes."""

    words: dict[str, str]
    number: int = 0
    told: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def tell(self, rng: random.Random, phrases: tuple[str, ...], **numbers: int) -> None:
        """Add a statement."""
        self.told.append(as_sentence(rng.choice(phrases).format(**self.words, **numbers)))

    def ask(self, rng: random.Random, phrases: tuple[str, ...]) -> None:
        """Add a question."""
        self.told.append(as_sentence(rng.choice(phrases).format(**self.words), "?"))

    def work_out(self, rng: random.Random, left: int, operator: str, right: int) -> None:
        """Add a line with a sum, whose result becomes the number."""
        self.number = _value(left, operator, right)
        text = rng.choice(WORKED[operator]).format(s=_figures(left, operator, right), **self.words)
        self.lines.append(as_sentence(text))


def documents(seed: int) -> Iterator[str]:
    """An endless stream of documents, the same for the same seed."""
    rng = random.Random(f"{seed} pretraining")
    while True:
        (kind,) = rng.choices(list(SHARES), list(SHARES.values()))
        yield kind(rng)


def _value(left: int, operator: str, right: int) -> int:
    value = operate(left, operator, right)
    assert value is not None
    return value


def _figures(left: int, operator: str, right: int) -> str:
    return f"{left} {operator} {right} = {_value(left, operator, right)}"


def _operand(rng: random.Random, number: int, operators: str) -> tuple[str, int]:
    """An operator and a second operand that take `number` to a whole number from 1 to the largest."""
    while True:
        operator = rng.choice(operators)
        operand = rng.randint(2, 12) if operator in "*/" or rng.random() < 0.5 else rng.randint(1, 60)
        if operate(number, operator, operand) is not None:
            return operator, operand


def _sum(rng: random.Random) -> str:
    """One true statement about two numbers."""
    operator = rng.choice("++--**/")
    left, right = rng.randint(2, 12), rng.randint(2, 12)
    if operator == "/":
        return f"{left * right} / {left} = {right}"
    if operator in "+-":
        left = rng.randint(1, rng.choice((20, 60, 110)))
        operator, right = _operand(rng, left, operator if left > 2 else "+")
    if rng.random() < 0.85:
        return _figures(left, operator, right)
    if operator in "+-" and rng.random() < 0.5:
        low, high = sorted((left, right))
        return f"{high} is more than {low}" if low != high else f"{low} is equal to {high}"
    word = {"+": "plus", "-": "minus", "*": "times"}[operator]
    return f"{left} {word} {right} is {_value(left, operator, right)}"


def _sums(rng: random.Random) -> str:
    """Independent sums, or a chain in which each starts from the last result."""
    count, separator = rng.randint(3, 8), rng.choice((". ", ", ", "\n", "; "))
    if rng.random() < 0.7:
        return separator.join(_sum(rng) for _ in range(count)) + "."
    number, chain = rng.randint(2, 60), []
    for _ in range(count):
        operator, operand = _operand(rng, number, "+-*/")
        chain.append(_figures(number, operator, operand))
        number = _value(number, operator, operand)
    return separator.join(chain) + "."


def _sentences(rng: random.Random) -> str:
    """Plain sentences about two people and some objects."""
    words = _words(rng)
    return " ".join(as_sentence(rng.choice(PLAIN).format(**words)) for _ in range(rng.randint(1, 4)))


def _words(rng: random.Random) -> dict[str, str]:
    a, b = rng.sample(NAMES, 2)
    return {"a": a, "b": b, "t": rng.choice(MORE_THINGS), "boxes": rng.choice(CONTAINERS)}


def _start(rng: random.Random, story: Story) -> None:
    """Introduce a number, given or as a product."""
    if rng.random() < 0.5:
        story.number = rng.randint(3, 60)
        story.tell(rng, GIVEN, n=story.number)
    else:
        count, each = rng.randint(2, 12), rng.randint(2, 8)
        story.tell(rng, PRODUCTS, p=count, q=each)
        story.work_out(rng, count, "*", each)


def _events(rng: random.Random, story: Story) -> None:
    """Up to three things that happen to the number, one after the other."""
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
        operator, operand = _operand(rng, story.number, "++--*//")
        story.tell(rng, EVENTS[operator], k=operand)
        story.work_out(rng, story.number, operator, operand)


def _comparison(rng: random.Random, story: Story) -> None:
    """A second number, related to the first or not, and the sum of both or their difference."""
    first = story.number
    if rng.random() < 0.5:
        operator, operand = _operand(rng, first, "+-*")
        story.tell(rng, RELATIONS[operator], k=operand)
        story.work_out(rng, first, operator, operand)
    else:
        story.words |= {"a": story.words["b"], "b": story.words["a"]}
        _start(rng, story)
    second = story.number
    summable = operate(first, "+", second) is not None
    if summable and (rng.random() < 0.6 or first == second):
        story.ask(rng, TOTAL_ASKED)
        story.work_out(rng, first, "+", second)
    else:
        story.ask(rng, DIFFERENCE_ASKED)
        story.work_out(rng, max(first, second), "-", min(first, second))


def _story(rng: random.Random) -> str:
    """A story in sentences, its sums worked out, and the result."""
    story = Story(_words(rng))
    _start(rng, story)
    if rng.random() < 0.3:
        _comparison(rng, story)
    else:
        _events(rng, story)
        story.ask(rng, ASKED)
    return _framed(rng, " ".join(story.told), story.lines, story.number)


def _lesson(rng: random.Random) -> str:
    """A word problem from a template, its sums worked out, and the result."""
    return _framed(rng, *problem(rng, rng.choice(LESSONS), annotated=False))


def _framed(rng: random.Random, question: str, lines: list[str], result: int) -> str:
    """Question, work and result in one of several layouts."""
    before, between = rng.choice(FRAMES)
    ending = rng.choice(ENDINGS).format(n=result)
    separator = "\n" if not ending.endswith(".") else rng.choice((" ", "\n"))
    return before + question + between + separator.join([*lines, ending])


SHARES: dict[Callable[[random.Random], str], float] = {_sums: 0.27, _story: 0.27, _lesson: 0.4, _sentences: 0.06}
"""How often each kind of document is drawn."""
