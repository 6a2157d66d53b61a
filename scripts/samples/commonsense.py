"""Samples of multiple-choice questions, in the layout of the hub repositories allenai/ai2_arc and allenai/openbookqa.

ARC-Easy asks for one step, ARC-Challenge for two; OpenBookQA's stems are the beginning of a sentence that the right
choice completes. Everything is about numbers, things and people, within reach of a tiny pretrained decoder.
"""

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value

from scripts.samples.drawing import draw_unseen
from scripts.samples.files import write_split
from scripts.samples.text import GIVEN_NAMES, Texts, read_vocabulary

SEED = 19
COUNTS = {"train": 200, "validation": 60, "test": 60}
LETTERS, DIGITS = ("A", "B", "C", "D"), ("1", "2", "3", "4")
DIGITS_EVERY = 10  # one ARC row in so many numbers its choices, as a few of the hub's do

Question = tuple[str, str, list[str]]  # question or stem, right choice, three wrong ones
Asker = Callable[[random.Random], Question]

KINDS = read_vocabulary("""
    food: Which of these can you eat?/Which of these is food? \
        | When you are hungry, you can eat \
        | a loaf of bread/an apple/cheese/soup/a boiled egg/rice with beans/a ripe pear/cake/a bowl of porridge
    animal: Which of these is an animal?/Which of these can have young? \
        | Something that breathes and runs is \
        | a dog/a horse/a brown monkey/a cat/an old tiger/a mouse/a fox with a long tail/a wolf/a young lion
    vehicle: Which of these can take you to another town?/What do people travel in? \
        | To travel to another town, you can take \
        | a bus/a train/a car/the night ferry/a taxi/an airplane/a coach with forty seats/a lorry
    clothes: Which of these can you wear?/What do you put on when it is cold? \
        | When you get dressed, you put on \
        | a coat/a pair of socks/a hat/a woollen scarf/gloves/a shirt with long sleeves/trousers/a jacket
    furniture: Which of these is furniture?/What would you put into an empty living room? \
        | An empty living room needs \
        | a table/a chair/a bookcase with six shelves/a sofa/an armchair/a cupboard/a wooden bench
""")  # questions | beginning of a sentence | what belongs to the kind
USES = read_vocabulary("""
    a sharp knife: cut bread
    a pen: write a letter
    a key: open a locked door
    a broom: sweep the floor
    a lamp: read in the dark
    an umbrella: stay dry in the rain
    a cup: drink tea
    a warm bed: sleep well
    a small boat: cross a lake
    a clock: know the time
    a guitar: play a song for your friends
    soap: wash your hands
    a ladder: climb onto the roof
    a needle and thread: sew on a button
    an oven: bake a cake
    a bucket: carry ten litres of water
    a comb: tidy your hair
    a map: find the way
""")
OPPOSITES = read_vocabulary("""
    pairs: hot/cold | big/small | happy/sad | day/night | open/closed | full/empty | young/old | wet/dry | fast/slow \
        | up/down | light/heavy | loud/quiet | rich/poor | strong/weak | clean/dirty | first/last | easy/difficult
""")["pairs"]
WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
GOODS = ("apples", "books", "coins", "pencils", "marbles", "eggs", "stamps", "shells", "cards", "buttons")
NEIGHBOURS = (-2, -1, 1, 2, 10)
COMPARISONS = (("taller", "the tallest"), ("older", "the oldest"), ("faster", "the fastest"), ("richer", "the richest"))


def _kind(rng: random.Random) -> tuple[Texts, str, str, list[str]]:
    """Questions and stem for one kind of thing, a thing of this kind, and three of other kinds."""
    (questions, (stem,), members), *others = rng.sample(list(KINDS.values()), 4)
    return questions, stem, rng.choice(members), [rng.choice(things) for _, _, things in others]


def _which_kind(rng: random.Random) -> Question:
    """What kind a thing is of."""
    questions, _, right, wrong = _kind(rng)
    return rng.choice(questions), right, wrong


def _complete_kind(rng: random.Random) -> Question:
    """A sentence to complete by a thing of the right kind."""
    _, stem, right, wrong = _kind(rng)
    return stem, right, wrong


def _odd_one_out(rng: random.Random) -> Question:
    """Three things of one kind and one of another."""
    (*_, members), (*_, strangers) = rng.sample(list(KINDS.values()), 2)
    return "Which of these does not belong with the others?", rng.choice(strangers), rng.sample(members, 3)


def _tool(rng: random.Random, template: str) -> Question:
    """Which thing serves a purpose."""
    tool, *others = rng.sample(list(USES), 4)
    return template.format(USES[tool][0][0]), tool, others


def _purpose(rng: random.Random) -> Question:
    """Which purpose a thing serves."""
    tool, *others = rng.sample(list(USES), 4)
    return f"What can you do with {tool}?", USES[tool][0][0], [USES[other][0][0] for other in others]


def _opposite(rng: random.Random, template: str) -> Question:
    """The opposite of a word, among words that have other opposites."""
    (word, right), *others = (rng.sample(pair, 2) for pair in rng.sample(OPPOSITES, 4))
    return template.format(word), right, [other for _, other in others]


def _weekday(rng: random.Random, template: str, days: int) -> Question:
    """A day so many days after another."""
    today = rng.randrange(len(WEEK))
    right, *others = (WEEK[(today + days + shift) % len(WEEK)] for shift in (0, *rng.sample(range(1, len(WEEK)), 3)))
    return template.format(WEEK[today]), right, others


def _extreme_number(rng: random.Random) -> Question:
    """The largest or the smallest of four numbers."""
    numbers, largest = rng.sample(range(1, 200), 4), rng.random() < 0.5
    right = max(numbers) if largest else min(numbers)
    question = f"Which number is {'larger' if largest else 'smaller'} than the other three?"
    return question, str(right), [str(number) for number in numbers if number != right]


def _second_number(rng: random.Random) -> Question:
    """The second largest of four numbers."""
    numbers = sorted(rng.sample(range(1, 100), 4))
    right = numbers.pop(2)
    return "Which number is the second largest?", str(right), [str(number) for number in numbers]


def _near_misses(rng: random.Random, right: int, likely: list[int]) -> list[int]:
    """Three other counts above one: what a likely mistake gives, and neighbours."""
    neighbours = rng.sample([right + shift for shift in NEIGHBOURS], len(NEIGHBOURS))
    candidates = dict.fromkeys(count for count in likely + neighbours if count > 1 and count != right)
    return list(candidates)[:3]


def _one_step(rng: random.Random, template: str, question: str, answer: str) -> Question:
    """Somebody gets or gives away some things; `answer` words a choice."""
    name, goods, gain = rng.choice(GIVEN_NAMES), rng.choice(GOODS), rng.random() < 0.5
    before, change = rng.randint(4, 20), rng.randint(1, 12)
    if not gain:
        change = min(change, before - 2)
    right, mistaken = (before + change, before - change) if gain else (before - change, before + change)
    text = template.format(name=name, before=before, goods=goods, does="gets" if gain else "loses", change=change)
    counts = [right, *_near_misses(rng, right, [mistaken, change])]
    choices = [answer.format(count=count, goods=goods, name=name) for count in counts]
    return f"{text}{question.format(goods=goods, name=name)}", choices[0], choices[1:]


def _two_steps(rng: random.Random) -> Question:
    """Somebody gets some things and then gives some away."""
    name, other = rng.sample(GIVEN_NAMES, 2)
    goods, before, gained, given = rng.choice(GOODS), rng.randint(2, 15), rng.randint(2, 10), rng.randint(1, 9)
    given = min(given, before + gained - 2)
    right = before + gained - given
    question = (
        f"{name} has {before} {goods}, finds {gained} more and gives {given} of them to {other}."
        f" How many {goods} does {name} have now?"
    )
    counts = [right, *_near_misses(rng, right, [before + gained, before + gained + given])]
    return question, str(counts[0]), [str(count) for count in counts[1:]]


def _transfer(rng: random.Random, steps: int) -> Question:
    """A thing that goes from hand to hand."""
    names, thing = rng.sample(GIVEN_NAMES, steps + 1), rng.choice(("ball", "book", "key", "letter", "lamp", "map"))
    handovers = [f"{giver} gives the {thing} to {taker}." for giver, taker in pairwise(names)]
    strangers = [name for name in GIVEN_NAMES if name not in names]
    wrong = [*names[:-1], "nobody", *rng.sample(strangers, 2)][:3]
    return f"{' '.join(handovers)} Who has the {thing} now?", names[-1], wrong


def _ranking(rng: random.Random) -> Question:
    """Two comparisons in either order, which rank three people."""
    first, second, third, stranger = rng.sample(GIVEN_NAMES, 4)
    more, most = rng.choice(COMPARISONS)
    facts = rng.sample((f"{first} is {more} than {second}.", f"{second} is {more} than {third}."), 2)
    return f"{' '.join(facts)} Who is {most}?", first, [second, third, rng.choice(("nobody", stranger))]


STORY = "{name} has {before} {goods} and {does} {change}"
ASKERS: dict[str, tuple[Asker, ...]] = {
    "ARC-Easy": (
        _which_kind,
        partial(_tool, template="What do you need if you want to {}?"),
        _purpose,
        partial(_opposite, template="What is the opposite of {}?"),
        partial(_weekday, template="Which day comes right after {}?", days=1),
        _extreme_number,
        partial(_one_step, template=STORY, question=". How many {goods} does {name} have now?", answer="{count}"),
        partial(_transfer, steps=1),
    ),
    "ARC-Challenge": (
        _odd_one_out,
        partial(_weekday, template="Today is {}. Which day is it the day after tomorrow?", days=2),
        _second_number,
        _two_steps,
        partial(_transfer, steps=2),
        _ranking,
    ),
    "main": (
        _complete_kind,
        partial(_tool, template="If you want to {}, you need"),
        partial(_opposite, template="The opposite of {} is"),
        partial(_weekday, template="The day after {} is", days=1),
        partial(_one_step, template=f"If {STORY},", question=" then {name} has", answer="{count} {goods}"),
    ),
}
REPOSITORIES = {  # repository -> name of the question's column, and configs
    "allenai/ai2_arc": ("question", ("ARC-Easy", "ARC-Challenge")),
    "allenai/openbookqa": ("question_stem", ("main",)),
}


def _positions(rng: random.Random, count: int) -> list[int]:
    """Where the right choice stands in each row: every place equally often."""
    positions = [row % len(LETTERS) for row in range(count)]
    rng.shuffle(positions)
    return positions


def make_split(column: str, config: str, split: str, seen: set[str]) -> Dataset:
    """Rows of one split, of which no question has the same choices as one among `seen`, to which they are added."""
    rng, rows = random.Random(f"{SEED} {config} {split}"), []
    for row, position in enumerate(_positions(rng, COUNTS[split])):
        ask = partial(rng.choice(ASKERS[config]), rng)
        question, right, wrong = draw_unseen(ask, lambda drawn: f"{drawn[0]} {sorted((drawn[1], *drawn[2]))}", seen)
        texts = rng.sample(wrong, 3)
        texts.insert(position, right)
        labels = DIGITS if column == "question" and row % DIGITS_EVERY == DIGITS_EVERY - 1 else LETTERS
        cells: dict[str, Any] = {"id": f"{config}-{split}-{row}", column: question}
        rows.append({**cells, "choices": {"text": texts, "label": list(labels)}, "answerKey": labels[position]})
    string = Value("string")
    choices = {"text": List(string), "label": List(string)}
    return Dataset.from_list(rows, Features({"id": string, column: string, "choices": choices, "answerKey": string}))


def write(folder: Path) -> None:
    """Write every split of every config below <folder>/allenai."""
    for repository, (column, configs) in REPOSITORIES.items():
        for config in configs:
            seen: set[str] = set()
            for split in COUNTS:
                write_split(make_split(column, config, split, seen), folder / repository, config, split)
