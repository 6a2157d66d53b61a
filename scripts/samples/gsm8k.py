"""A small built-in sample of arithmetic word problems in the layout of the hub repository openai/gsm8k, config main.

All text is made up here from templates and word lists; none of it is GSM8K text. Rows are drawn with fixed seeds, so
that a rerun writes the same bytes.
"""

import random
from pathlib import Path

from datasets import Dataset, Features, Value

from scripts.samples.files import write_split
from scripts.samples.word_problems import Template, problem

SEED = 17
ROWS = {"train": 1500, "test": 250}
FEATURES = Features({"question": Value("string"), "answer": Value("string")})

TEMPLATES = (
    Template(
        "{A} has {a} {things}. {B} brings {b} more, and later {A} gives {c} away. "
        "How many {things} does {A} still have?",
        ("With the new ones {A} has [d = a + b] {things}.", "{A} still has [e = d - c] {things}."),
        {"a": range(8, 41), "b": range(3, 21), "c": range(2, 16)},
    ),
    Template(
        "{A} buys {b} {things} at {a} dollars each and pays with {c} dollars. How many dollars does {A} get back?",
        ("The {things} cost [d = a * b] dollars.", "The change is [e = c - d] dollars."),
        {"a": range(2, 10), "b": range(2, 10), "c": (20, 50, 100)},
    ),
    Template(
        "{A} has {b} {boxes} with {a} {things} in each and {c} single {things}. "
        "How many {things} does {A} have in all?",
        ("In the {boxes} there are [d = a * b] {things}.", "In all there are [e = d + c] {things}."),
        {"a": range(2, 13), "b": range(2, 10), "c": range(2, 20)},
    ),
    Template(
        "{A} makes {a} {things} a day for {b} days, and {c} friends share all of them equally. "
        "How many {things} does each friend get?",
        ("{A} makes [d = a * b] {things}.", "Each friend gets [e = d / c] {things}."),
        {"a": range(2, 13), "b": range(2, 10), "c": range(2, 10)},
    ),
    Template(
        "{A} has {a} {things} and {B} has {b} times as many. How many {things} do they have together?",
        ("{B} has [d = a * b] {things}.", "Together they have [e = a + d] {things}."),
        {"a": range(3, 16), "b": range(2, 8)},
    ),
    Template(
        "{A} has {a} {things}. {B} has {b} fewer than {A}. How many {things} do {A} and {B} have together?",
        ("{B} has [d = a - b] {things}.", "Together they have [e = a + d] {things}."),
        {"a": range(12, 51), "b": range(2, 12)},
    ),
    Template(
        "A class of {a} children and {b} teachers rides in vans with {c} seats each. "
        "How many vans does the class need?",
        ("There are [d = a + b] people.", "They need [e = d / c] vans."),
        {"a": range(12, 61), "b": range(2, 9), "c": range(3, 11)},
    ),
    Template(
        "{A} gets {a} dollars an hour. {A} works {b} hours on Monday and {c} hours on Tuesday. "
        "How large is the pay for both days?",
        ("{A} works [d = b + c] hours.", "The pay is [e = d * a] dollars."),
        {"a": range(3, 13), "b": range(2, 8), "c": range(2, 8)},
    ),
    Template(
        "{A} has {a} dollars, and pays {b} for a book and {c} for a pen. How many dollars are left?",
        ("{A} pays [d = b + c] dollars.", "[e = a - d] dollars are left."),
        {"a": range(30, 91), "b": range(8, 21), "c": range(2, 10)},
    ),
    Template(
        "A bag holds {a} red {things} and {b} more blue {things} than red ones. How many {things} are in the bag?",
        ("There are [d = a + b] blue {things}.", "In all there are [e = a + d] {things}."),
        {"a": range(5, 41), "b": range(2, 16)},
    ),
    Template(
        "A book has {c} pages. {A} reads {a} pages a day. How many pages are left after {b} days?",
        ("{A} reads [d = a * b] pages.", "[e = c - d] pages are left."),
        {"a": range(4, 13), "b": range(2, 9), "c": range(60, 131, 5)},
    ),
    Template(
        "{A} is {a} years old. {B} is {b} years older than {A}, and {C} is {c} years younger than {B}. How old is {C}?",
        ("{B} is [d = a + b] years old.", "{C} is [e = d - c] years old."),
        {"a": range(8, 41), "b": range(2, 16), "c": range(2, 12)},
    ),
    Template(
        "A farm has {a} rows of {b} trees. A storm knocks down {c} trees and the farmer plants {d} new ones. "
        "How many trees stand on the farm now?",
        (
            "At first there were [e = a * b] trees.",
            "Then there were [f = e - c] trees.",
            "Now there are [g = f + d] trees.",
        ),
        {"a": range(3, 11), "b": range(3, 11), "c": range(2, 12), "d": range(2, 16)},
    ),
    Template(
        "{A} buys {a} packs of {b} {things} and {c} packs of {d} {things}. How many {things} does {A} buy in all?",
        ("The first packs hold [e = a * b].", "The others hold [f = c * d].", "In all that is [g = e + f] {things}."),
        {"a": range(2, 9), "b": range(2, 11), "c": range(2, 9), "d": range(2, 11)},
    ),
    Template(
        "{A} picks {a} {things} and {B} picks {b}. They put them into {c} equal piles. "
        "How many {things} are in a pile?",
        ("Together they have [d = a + b] {things}.", "A pile has [e = d / c] {things}."),
        {"a": range(5, 41), "b": range(5, 31), "c": range(2, 10)},
    ),
    Template(
        "{A} wants to give {b} cousins {a} {things} each but has only {c} {things}. How many {things} are missing?",
        ("The cousins should get [d = a * b] {things}.", "[e = d - c] {things} are missing."),
        {"a": range(3, 11), "b": range(3, 10), "c": range(4, 26)},
    ),
    Template(
        "{a} people are on a bus. At a stop {b} get off and {c} get on, and later {d} get off. "
        "How many people are on the bus now?",
        (
            "First there were [e = a - b] people.",
            "Then there were [f = e + c] people.",
            "Now there are [g = f - d] people.",
        ),
        {"a": range(20, 61), "b": range(2, 13), "c": range(2, 13), "d": range(2, 13)},
    ),
    Template(
        "{A} fills {b} {boxes} and {B} fills {c}, with {a} {things} in each of them. "
        "How many more {things} does {A} have than {B}?",
        ("{A} has [d = b - c] more {boxes}.", "{A} has [e = a * d] more {things}."),
        {"a": range(2, 13), "b": range(6, 16), "c": range(2, 9)},
    ),
    Template(
        "{A} runs {a} miles and {B} runs {b} miles every day. How many miles do the two run in {c} days?",
        ("In a day they run [d = a + b] miles.", "In {c} days they run [e = c * d] miles."),
        {"a": range(2, 9), "b": range(2, 9), "c": range(2, 10)},
    ),
    Template(
        "{A} puts {a} {things} evenly on {b} {boxes} and then adds {c} to every one. "
        "How many {things} does each of the {boxes} hold?",
        ("At first each holds [d = a / b] {things}.", "Then each holds [e = d + c] {things}."),
        {"a": range(12, 91), "b": range(2, 10), "c": range(2, 12)},
    ),
)


def rows(split: str) -> list[dict[str, str]]:
    """The rows of "train" or "test"; no question occurs twice or in both."""
    rng = random.Random(f"{SEED} gsm8k")
    drawn: dict[str, str] = {}
    while len(drawn) < sum(ROWS.values()):
        question, lines, result = problem(rng, TEMPLATES[len(drawn) % len(TEMPLATES)], annotated=True)
        drawn.setdefault(question, "\n".join([*lines, f"#### {result}"]))
    problems = [{"question": question, "answer": answer} for question, answer in drawn.items()]
    rng.shuffle(problems)
    return problems[: ROWS["train"]] if split == "train" else problems[ROWS["train"] :]


def write(folder: Path) -> None:
    """Write <folder>/main/train-00000-of-00001.parquet and the same for test."""
    for split in ROWS:
        write_split(Dataset.from_list(rows(split), features=FEATURES), folder, "main", split)
