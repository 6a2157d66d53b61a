"""Samples of the nine GLUE tasks, in the layout of the hub repository nyu-mll/glue.

A generator makes the text of one row for a label id; it is where to look for what makes a task hard.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

from scripts.samples.coreference import wnli
from scripts.samples.drawing import labels_in_shares
from scripts.samples.files import write_split
from scripts.samples.inference import NEWS, TOWN, premise_and_hypothesis, rte
from scripts.samples.news import mrpc, paraphrase
from scripts.samples.reading import qnli
from scripts.samples.text import (
    PEOPLE,
    TRAITS,
    Texts,
    as_sentence,
    change_values,
    draw_values,
    past_tense,
    read_vocabulary,
    realise,
    split_phrases,
    split_wordings,
    split_words,
)

REPOSITORY = "nyu-mll/glue"
SEED = 17
TRAIN_ROWS, VALIDATION_ROWS = 600, 200

Generator = Callable[[random.Random, int], Texts]

ASPECTS = split_words(
    "plot dialogue score direction script film sequel romance humour editing villain mystery cast ending animation"
    " premise chase comedy soundtrack thriller hero remake pacing narrator camerawork documentary finale musical"
)
ADJECTIVES = split_wordings(  # negative/positive
    "dull/witty | tedious/moving | clumsy/graceful | lifeless/vibrant | shallow/thoughtful | grating/charming"
    " | bland/dazzling | stale/fresh | pointless/gripping | sloppy/elegant | crude/tender | awkward/assured"
    " | forgettable/memorable | pretentious/sincere | lazy/inventive | messy/polished | dreary/delightful | weak/superb"
    " | wooden/lively | muddled/lucid | predictable/surprising | tiresome/hilarious | cynical/warm | hollow/heartfelt"
)
VERDICTS = split_wordings(  # negative/positive
    "wore me out/won me over | put me to sleep/kept me smiling | falls flat/pays off | feels hollow/rings true"
    " | drags from start to finish/sparkles from start to finish | left the theatre yawning/left the theatre cheering"
    " | feels like homework/feels like a holiday | insults its audience/respects its audience"
    " | wastes a good idea/rewards patient viewers | is a chore to sit through/is a joy to watch"
)
DEGREES = split_words("utterly quite often curiously consistently remarkably mostly truly really always")
NEGATORS = split_phrases("not at all | never | anything but | far from | hardly | by no means | not")
CONTRASTS = split_phrases("{} , but {} | although {} , {} | {} , yet in the end {} | while {} , {} | {} ; still , {}")
TAILS = split_phrases(
    "for a debut | by any standard | in the second half | on a small budget | from its very first scene"
)


def _opinion(rng: random.Random, polarity: int) -> str:
    """A clause that judges one aspect of a film; one in ten negates an adjective of the opposite polarity."""
    aspect, kind = f"the {rng.choice(ASPECTS)}", rng.random()
    if kind < 0.45:
        return f"{aspect} {rng.choice(VERDICTS)[polarity]}"
    if kind < 0.55:
        return f"{aspect} is {rng.choice(NEGATORS)} {rng.choice(ADJECTIVES)[1 - polarity]}"
    return f"{aspect} is {rng.choice(DEGREES)} {rng.choice(ADJECTIVES)[polarity]}"


def _sst2(rng: random.Random, label: int) -> Texts:
    """A judgement, or a contrast of two in which the last clause decides."""
    text = _opinion(rng, label)
    if rng.random() < 0.15:
        text = rng.choice(CONTRASTS).format(_opinion(rng, 1 - label), text)
    if rng.random() < 0.4:
        text += f" {rng.choice(TAILS)}"
    return (f"{text} .",)


SIGHTS = split_words("letter song photograph bridge castle map poem statue garden village tower museum harbour island")
DETERMINERS = split_wordings(
    "the/the | this/these | every/several | each/some | one/two | that/many"
)  # singular/plural
TRANSITIVES = split_words(
    "admire paint visit ignore remember describe avoid praise mention trust notice protect support"
)
INTRANSITIVES = split_words("sleep laugh wait sing arrive travel smile stumble complain wander appear shout")
COPULAS = split_phrases("proud of | afraid of | tired of | fond of | happy with")
MODIFIERS = split_phrases(
    "near the river | behind the churches | with the umbrellas | from the city | beside the doors"
)
ENDINGS = split_phrases(
    "every morning | after lunch | without a word | in the evening | at weekends | during the storm"
)
OPENINGS = split_phrases(
    "we know that | it seems that | nobody believes that | perhaps | they claim that | in my opinion"
)
COLA_ERRORS = split_phrases("agreement | missing determiner | word order")


def _noun_phrase(rng: random.Random, nouns: Texts, error: str | None) -> tuple[list[str], bool]:
    """Determiner, perhaps an adjective, and a noun, in which `error` may go wrong; and whether it is plural."""
    plural = error != "missing determiner" and rng.random() < 0.5
    noun = [*rng.sample(TRAITS, rng.randint(0, 1)), rng.choice(nouns) + "s" * plural]
    if error == "missing determiner":
        return noun, plural
    determiner = rng.choice(DETERMINERS)[plural]
    return ([noun[0], determiner, *noun[1:]] if error == "word order" else [determiner, *noun]), plural


def _predicate(rng: random.Random, plural: bool, error: str | None) -> list[str]:
    """Verb for a subject of the given number, with an object in which `error` may go wrong."""
    kind = rng.choice(("present", "perfect", "copula", "intransitive"))
    if kind == "intransitive" and error is None:
        return [rng.choice(INTRANSITIVES) + "s" * (not plural), rng.choice(ENDINGS)]
    goal, _ = _noun_phrase(rng, PEOPLE + SIGHTS, error)
    if kind == "perfect":
        return ["have" if plural else "has", past_tense(rng.choice(TRANSITIVES)), *goal]
    if kind == "copula":
        return ["are" if plural else "is", rng.choice(COPULAS), *goal]
    return [rng.choice(TRANSITIVES) + "s" * (not plural), *goal]


def _cola(rng: random.Random, label: int) -> Texts:
    """A sentence of a small grammar; an unacceptable one has one error of agreement, determiner or order."""
    error = None if label else rng.choice(COLA_ERRORS)
    phrase_errors = rng.sample((None, error if error != "agreement" else None), 2)  # subject, object
    words, plural = _noun_phrase(rng, PEOPLE, phrase_errors[0])
    if rng.random() < 0.4:
        words.append(rng.choice(MODIFIERS))
    words += _predicate(rng, plural != (error == "agreement"), phrase_errors[1])
    if rng.random() < 0.4:
        words.insert(0, rng.choice(OPENINGS))
    return (as_sentence(" ".join(words)),)


QQP_SLOTS = read_vocabulary("""
    skill: Spanish | chess/the game of chess | the violin/violin | Python | drawing/sketching | the piano/piano
    time: a week/seven days | a month/four weeks | a year/twelve months | one summer | two years
    city: Vienna | Mumbai | Chicago | Seoul | Cairo | Lima | Dublin | Hanoi
    person: my boss/my manager | my sister | my landlord | a teacher | my roommate/my flatmate | an old friend
    thing: a used car/a second-hand car | a laptop/a notebook computer | a bicycle/a bike | a sofa/a couch | a guitar
    good: good/great/decent
""")
QQP_FRAMES = (
    ("how can I learn {skill} in {time}", "what is a {good} way to pick up {skill} within {time}"),
    ("why do people give up {skill} after {time}", "what makes learners quit {skill} after {time}"),
    ("does {skill} get easier after {time}", "will I find {skill} less hard after {time}"),
    ("where can I buy {thing} in {city}", "which shops in {city} sell {thing}"),
    ("how do I sell {thing} in {city}", "what is a {good} place in {city} to sell {thing}"),
    ("how much does {thing} cost in {city}", "what is the price of {thing} in {city}"),
    ("is it cheap to live in {city} for {time}", "can I afford to stay in {city} for {time}"),
    ("what is there to see in {city} in {time}", "which sights of {city} are worth a visit during {time}"),
    ("how do I ask {person} to lend me {thing}", "how can I borrow {thing} from {person}"),
    ("should I give {thing} to {person}", "is {thing} a {good} present for {person}"),
    ("can {person} teach me {skill}", "could I get {skill} lessons from {person}"),
    ("how do I tell {person} that I am leaving for {time}", "how do I let {person} know I will be away for {time}"),
)


def _qqp(rng: random.Random, label: int) -> Texts:
    """Everyday questions."""
    first, second = paraphrase(rng, label, QQP_FRAMES, QQP_SLOTS)
    return as_sentence(first, "?"), as_sentence(second, "?")


STSB_SLOTS = read_vocabulary("""
    who: a man/a guy | a woman/a lady | a child/a kid | a dog/a puppy | a tourist | a cop/an officer \
        | a burglar/a thief | a chef/a cook | an actor | a farmer | a soldier | a nurse | a doctor/a physician
    act: carrying/hauling | watching/looking at | pulling/dragging | hiding | lifting/picking up | washing/cleaning
    what: a bag/a sack | a stone/a rock | a boat | a rope/a cord | a box/a crate | a rug/a carpet | a bicycle/a bike \
        | a lamp | a hat/a cap | a ladder | a mirror | a statue/a sculpture | a barrel/a cask
    where: in the woods/in the forest | on the beach/on the shore | in a shop/in a store | on a farm | near a lake \
        | in the kitchen | beside a church/beside a chapel | under a bridge | at the airport
    when: at night/after dark | at noon/at midday | at dawn/at sunrise | in the rain | in autumn/in the fall
""")
STSB_TEMPLATES = (
    "{who} is {act} {what} {where} {when}",
    "{when} {who} is {act} {what} {where}",
    "{where} {who} is {act} {what} {when}",
)


def _stsb(rng: random.Random, label: int) -> Texts:
    """Two scenes that share `label` of five slots, in other wordings and order."""
    values = draw_values(rng, STSB_SLOTS)
    changed = change_values(rng, STSB_SLOTS, values, rng.sample(list(values), 5 - label))
    return tuple(as_sentence(realise(rng, rng.choice(STSB_TEMPLATES), scene)) for scene in (values, changed))


@dataclass(frozen=True)
class GlueConfig:
    """One hub config: text columns, label names in hub order (none: a score), and a generator for each split.

    `shares` are the parts of the labels among the rows; one row in `flip_every` of a class gets the other label.
    """

    columns: Texts
    label_names: Texts
    generators: Mapping[str, Generator]
    shares: tuple[float, ...]
    flip_every: int | None = None

    def features(self) -> Features:
        """Columns and dtypes as on the hub."""
        label = ClassLabel(names=list(self.label_names)) if self.label_names else Value("float32")
        return Features({column: Value("string") for column in self.columns} | {"label": label, "idx": Value("int32")})


def _both(generator: Generator) -> dict[str, Generator]:
    """The same generator for the two usual splits."""
    return {"train": generator, "validation": generator}


PAIR, EVEN, RTE_LABELS = ("sentence1", "sentence2"), (0.5, 0.5), ("entailment", "not_entailment")
MNLI_COLUMNS, MNLI_LABELS = ("premise", "hypothesis"), ("entailment", "neutral", "contradiction")
IN_TOWN, IN_NEWS = partial(premise_and_hypothesis, genre=TOWN), partial(premise_and_hypothesis, genre=NEWS)
MNLI_GENERATORS = {"train": IN_TOWN, "validation_matched": IN_TOWN, "validation_mismatched": IN_NEWS}
CONFIGS = {
    "cola": GlueConfig(("sentence",), ("unacceptable", "acceptable"), _both(_cola), EVEN),
    "sst2": GlueConfig(("sentence",), ("negative", "positive"), _both(_sst2), EVEN, flip_every=12),
    "mrpc": GlueConfig(PAIR, ("not_equivalent", "equivalent"), _both(mrpc), (0.325, 0.675)),
    "qqp": GlueConfig(("question1", "question2"), ("not_duplicate", "duplicate"), _both(_qqp), (0.63, 0.37)),
    "stsb": GlueConfig(PAIR, (), _both(_stsb), (1 / 6,) * 6),
    "mnli": GlueConfig(MNLI_COLUMNS, MNLI_LABELS, MNLI_GENERATORS, (1 / 3,) * 3),
    "qnli": GlueConfig(("question", "sentence"), RTE_LABELS, _both(qnli), EVEN),
    "rte": GlueConfig(PAIR, RTE_LABELS, _both(rte), EVEN),
    "wnli": GlueConfig(PAIR, ("not_entailment", "entailment"), _both(wnli), EVEN),
}


def _unseen_texts(rng: random.Random, generator: Generator, label: int, seen: set[str]) -> Texts:
    """Draw until the first text is new and the two texts of a pair differ."""
    while True:
        texts = generator(rng, label)
        if texts[0] not in seen and len(set(texts)) == len(texts):
            seen.add(texts[0])
            return texts


def _observed_label(rng: random.Random, config: GlueConfig, label: int, row: int) -> float:
    """The label as annotated: a score with one decimal that spreads around `label`, or a class that may be flipped."""
    if not config.label_names:
        return round(min(max(label + rng.uniform(-0.4, 0.4), 0.0), 5.0), 1)
    return 1 - label if config.flip_every and row % config.flip_every == 0 else label


def make_split(name: str, split: str, seen: set[str]) -> Dataset:
    """Rows of one split, whose first texts are not among `seen`, to which they are added."""
    config, rng = CONFIGS[name], random.Random(f"{SEED} {name} {split}")
    count = TRAIN_ROWS if split == "train" else VALIDATION_ROWS
    labels = labels_in_shares(config.shares, count)
    annotated = [(label, _observed_label(rng, config, label, row)) for row, label in enumerate(labels)]
    rng.shuffle(annotated)
    texts = [_unseen_texts(rng, config.generators[split], label, seen) for label, _ in annotated]
    rows = {column: list(values) for column, values in zip(config.columns, zip(*texts, strict=True), strict=True)}
    observed = {"label": [label for _, label in annotated], "idx": list(range(count))}
    return Dataset.from_dict({**rows, **observed}, features=config.features())


def write(folder: Path) -> None:
    """Write every split of every config below <folder>/nyu-mll/glue."""
    for name, config in CONFIGS.items():
        seen: set[str] = set()
        for split in config.generators:
            write_split(make_split(name, split, seen), folder / REPOSITORY, name, split)
