"""Made-up business news: pairs of statements for MRPC, and passages with cloze queries for ReCoRD."""

import random
import re
from dataclasses import dataclass

from scripts.samples.text import (
    SOURCES,
    Texts,
    Values,
    Vocabulary,
    as_sentence,
    change_values,
    draw_values,
    read_vocabulary,
    realise,
    split_phrases,
)

NEWS_SLOTS = read_vocabulary("""
    firm: Norvane Systems/Norvane | Tarkel Foods/Tarkel | Bluepine Energy/Bluepine | Ostwick Motors/Ostwick
    rival: Dunmere Group/Dunmere | Calder Mills/Calder | Vexley Labs/Vexley | Arbour Freight/Arbour
    amount: $12 million/12 million dollars | $45 million/45 million dollars | $3 billion/3 billion dollars
    day: Monday | Tuesday | Wednesday | Thursday | Friday
    person: Lena Ortiz/Ms Ortiz | Paul Greer/Mr Greer | Amina Sow/Ms Sow | Viktor Hale/Mr Hale
    city: Lisbon | Oslo | Nairobi | Toronto | Osaka | Quito
    count: 40/forty | 75 | 120 | 300/three hundred | 900/nine hundred
    staff: workers/employees | managers/executives | engineers/technicians
    bought: bought/acquired/purchased
""")
NEWS_FRAMES = (  # the templates of one frame say the same
    ("{firm} {bought} {rival} for {amount} on {day}", "on {day} {rival} was {bought} by {firm} for {amount}"),
    ("{firm} will cut {count} {staff} in {city}", "{count} {staff} in {city} will lose their jobs at {firm}"),
    ("{person} was named head of {firm} on {day}", "on {day} {firm} put {person} in charge of the company"),
    ("{person} left {firm} after a dispute with {rival}", "a quarrel with {rival} led {person} to quit {firm}"),
    ("{firm} sued {rival} in {city} over {amount}", "{rival} was taken to court by {firm} in {city} over {amount}"),
    ("{firm} fell on {day} after {rival} warned of losses", "a warning by {rival} hurt shares of {firm} on {day}"),
    ("a fire at {firm} in {city} hurt {count} {staff}", "{count} {staff} were injured in {city} by a {firm} fire"),
    ("{firm} opened a factory worth {amount} in {city}", "a new {city} factory of {amount} was started up by {firm}"),
    ("{count} {staff} of {rival} went on strike on {day}", "on {day} {rival} saw {count} of its {staff} stop work"),
    ("{person} sold a stake in {rival} for {amount}", "a {rival} holding was sold by {person} for {amount}"),
)
CONFIRMATIONS = split_phrases("officials confirmed that | a spokeswoman said that | according to local media")
DENIALS = split_phrases("officials denied that | it is not true that | a spokeswoman rejected reports that")


def paraphrase(rng: random.Random, label: int, frames: tuple[Texts, ...], vocabulary: Vocabulary) -> Texts:
    """Two wordings of one statement; for label 0 the second changes a slot (mostly) or states something else."""
    values, frame = draw_values(rng, vocabulary), rng.choice(frames)
    first, second = rng.sample(frame, 2)
    if rng.random() < 0.3:
        second = first  # with both labels, so that equal word order gives none away
    changed = values
    if not label and rng.random() < 0.3:
        second = rng.choice(rng.choice([other for other in frames if other is not frame]))
    elif not label:
        slots = [slot for slot in re.findall(r"{(\w+)}", first) if len(vocabulary[slot]) > 1]
        changed = change_values(rng, vocabulary, values, [rng.choice(slots)])
    return realise(rng, first, values), realise(rng, second, changed)


def mrpc(rng: random.Random, label: int) -> Texts:
    """News sentences; some are confirmed, which changes nothing, and some denied, which does."""
    denied = not label and rng.random() < 0.25
    first, second = paraphrase(rng, 1 if denied else label, NEWS_FRAMES, NEWS_SLOTS)
    if denied:
        second = f"{rng.choice(DENIALS)} {second}"
    elif rng.random() < 0.35:
        second = f"{rng.choice(CONFIRMATIONS)} {second}"
    return as_sentence(first), as_sentence(second)


ENTITY_SLOTS = ("firm", "rival", "person", "city")
FEWEST_ENTITIES, MOST_ENTITIES = 3, 6


@dataclass(frozen=True)
class Mention:
    """An entity's surface form in a passage, from character `start` up to but not including `end`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class NewsItem:
    """A passage with its mentions in order, and cloze queries, each with the entities that answer it."""

    passage: str
    mentions: tuple[Mention, ...]
    queries: tuple[tuple[str, Texts], ...]

    @property
    def entities(self) -> list[str]:
        """Surface forms without repetition, in the order of their first mention."""
        return list(dict.fromkeys(mention.text for mention in self.mentions))


def _mentions(passage: str, scenes: list[Values]) -> tuple[Mention, ...]:
    """Every place where an entity of the scenes is named, by its longest surface form there."""
    surfaces = {surface for scene in scenes for slot in ENTITY_SLOTS for surface in scene[slot]}
    pattern = "|".join(re.escape(surface) for surface in sorted(surfaces, key=lambda text: (-len(text), text)))
    return tuple(Mention(found[0], found.start(), found.end()) for found in re.finditer(rf"\b(?:{pattern})\b", passage))


def _cloze(rng: random.Random, template: str, values: Values, named: set[str]) -> tuple[str, Texts]:
    """A statement with one entity masked, and the named surface forms of that entity."""
    masked = rng.choice([slot for slot in ENTITY_SLOTS if f"{{{slot}}}" in template])
    query = as_sentence(realise(rng, template, values | {masked: ("@placeholder",)}))
    return query, tuple(sorted(named.intersection(values[masked])))


def _passage(rng: random.Random, told: Texts, scenes: list[Values]) -> str:
    """An article on the events, and one or two highlights that repeat them, perhaps with other forms of a name."""
    first, second = (realise(rng, template, scene) for template, scene in zip(told, scenes, strict=True))
    if rng.random() < 0.5:
        first = f"{rng.choice(CONFIRMATIONS)} {first}"
    article = " ".join((as_sentence(first), as_sentence(second), rng.choice(SOURCES)))
    highlights = [as_sentence(realise(rng, template, scene)) for template, scene in zip(told, scenes, strict=True)]
    return "\n@highlight\n".join((article, *rng.sample(highlights, rng.randint(1, 2))))


def news_item(rng: random.Random) -> NewsItem:
    """Two events with nobody in common; a query puts one of them in other words than the passage does.

    In three items of ten both events are of one kind, so that only the details tell them apart.
    """
    first = draw_values(rng, NEWS_SLOTS)
    scenes = [first, change_values(rng, NEWS_SLOTS, first, [slot for slot in NEWS_SLOTS if len(NEWS_SLOTS[slot]) > 1])]
    frames = [rng.choice(NEWS_FRAMES)] * 2 if rng.random() < 0.3 else rng.sample(NEWS_FRAMES, 2)
    told, asked = zip(*(rng.sample(frame, 2) for frame in frames), strict=True)
    passage = _passage(rng, told, scenes)
    mentions = _mentions(passage, scenes)
    named = {mention.text for mention in mentions}
    if not FEWEST_ENTITIES <= len(named) <= MOST_ENTITIES:
        return news_item(rng)
    queries = [_cloze(rng, template, scene, named) for template, scene in zip(asked, scenes, strict=True)]
    return NewsItem(passage, mentions, tuple(rng.sample(queries, rng.randint(1, 2))))
