"""Generate small built-in samples of the nine GLUE tasks, so that the harness runs without network or data folder.

Usage: python scripts/make_samples.py [output_directory]

All text is made up here from templates and word lists; none of it is GLUE text. Files have the layout, columns and
label order of the hub repository nyu-mll/glue. Rows are drawn with fixed seeds, so that a rerun writes the same bytes.
A generator makes the text of one row for a label id; it is where to look for what makes a task hard.
"""

import argparse
import random
import re
from bisect import bisect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

SAMPLES_DIRECTORY = Path(__file__).resolve().parents[1] / "tasks" / "samples" / "nyu-mll" / "glue"
SEED = 17
TRAIN_ROWS, VALIDATION_ROWS = 600, 200
ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)

Texts = tuple[str, ...]
Generator = Callable[[random.Random, int], Texts]
Values = dict[str, Texts]  # slot -> interchangeable wordings of its value
Vocabulary = dict[str, tuple[Texts, ...]]  # slot -> values to choose from


def _words(text: str) -> Texts:
    """Split at spaces."""
    return tuple(text.split())


def _phrases(text: str) -> Texts:
    """Split "one phrase | another"."""
    return tuple(phrase.strip() for phrase in text.split("|"))


def _wordings(text: str) -> tuple[Texts, ...]:
    """Split "value/same value | other value" into the wordings of each value."""
    return tuple(tuple(value.split("/")) for value in _phrases(text))


def _vocabulary(text: str) -> Vocabulary:
    """Read lines of "slot: value/same value | other value"."""
    return {slot.strip(): _wordings(values) for slot, values in (line.split(":") for line in text.strip().splitlines())}


def _draw(rng: random.Random, vocabulary: Vocabulary) -> Values:
    """Choose a value for every slot."""
    return {slot: rng.choice(values) for slot, values in vocabulary.items()}


def _change(rng: random.Random, vocabulary: Vocabulary, values: Values, slots: list[str]) -> Values:
    """Replace the values of the given slots by other ones."""
    return values | {slot: rng.choice([value for value in vocabulary[slot] if value != values[slot]]) for slot in slots}


def _realise(rng: random.Random, template: str, values: Values) -> str:
    """Fill a template with one wording of each value."""
    return template.format(**{slot: rng.choice(wordings) for slot, wordings in values.items()})


def _sentence(text: str, end: str = ".") -> str:
    """Capitalise the first letter and add the final mark."""
    return text[0].upper() + text[1:] + end


def _past(verb: str) -> str:
    """Past tense of a regular verb."""
    return verb + ("d" if verb.endswith("e") else "ed")


ASPECTS = _words(
    "plot dialogue score direction script film sequel romance humour editing villain mystery cast ending animation"
    " premise chase comedy soundtrack thriller hero remake pacing narrator camerawork documentary finale musical"
)
ADJECTIVES = _wordings(  # negative/positive
    "dull/witty | tedious/moving | clumsy/graceful | lifeless/vibrant | shallow/thoughtful | grating/charming"
    " | bland/dazzling | stale/fresh | pointless/gripping | sloppy/elegant | crude/tender | awkward/assured"
    " | forgettable/memorable | pretentious/sincere | lazy/inventive | messy/polished | dreary/delightful | weak/superb"
    " | wooden/lively | muddled/lucid | predictable/surprising | tiresome/hilarious | cynical/warm | hollow/heartfelt"
)
VERDICTS = _wordings(  # negative/positive
    "wore me out/won me over | put me to sleep/kept me smiling | falls flat/pays off | feels hollow/rings true"
    " | drags from start to finish/sparkles from start to finish | left the theatre yawning/left the theatre cheering"
    " | feels like homework/feels like a holiday | insults its audience/respects its audience"
    " | wastes a good idea/rewards patient viewers | is a chore to sit through/is a joy to watch"
)
DEGREES = _words("utterly quite often curiously consistently remarkably mostly truly really always")
NEGATORS = _phrases("not at all | never | anything but | far from | hardly | by no means | not")
CONTRASTS = _phrases("{} , but {} | although {} , {} | {} , yet in the end {} | while {} , {} | {} ; still , {}")
TAILS = _phrases("for a debut | by any standard | in the second half | on a small budget | from its very first scene")


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


PEOPLE = _words(
    "pilot teacher singer farmer doctor painter student lawyer baker neighbour driver writer gardener tailor waiter"
    " actor judge soldier sailor nurse clerk guard poet cousin plumber butcher chemist drummer"
)
SIGHTS = _words("letter song photograph bridge castle map poem statue garden village tower museum harbour island")
TRAITS = _words("old tall quiet clever tired young famous gentle proud busy honest curious polite stubborn rich")
DETERMINERS = _wordings("the/the | this/these | every/several | each/some | one/two | that/many")  # singular/plural
TRANSITIVES = _words("admire paint visit ignore remember describe avoid praise mention trust notice protect support")
INTRANSITIVES = _words("sleep laugh wait sing arrive travel smile stumble complain wander appear shout")
COPULAS = _phrases("proud of | afraid of | tired of | fond of | happy with")
MODIFIERS = _phrases("near the river | behind the churches | with the umbrellas | from the city | beside the doors")
ENDINGS = _phrases("every morning | after lunch | without a word | in the evening | at weekends | during the storm")
OPENINGS = _phrases("we know that | it seems that | nobody believes that | perhaps | they claim that | in my opinion")
COLA_ERRORS = _phrases("agreement | missing determiner | word order")


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
        return ["have" if plural else "has", _past(rng.choice(TRANSITIVES)), *goal]
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
    return (_sentence(" ".join(words)),)


MRPC_SLOTS = _vocabulary("""
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
MRPC_FRAMES = (  # the templates of one frame say the same
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
CONFIRMATIONS = _phrases("officials confirmed that | a spokeswoman said that | according to local media")
DENIALS = _phrases("officials denied that | it is not true that | a spokeswoman rejected reports that")
QQP_SLOTS = _vocabulary("""
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


def _paraphrase(rng: random.Random, label: int, frames: tuple[Texts, ...], vocabulary: Vocabulary) -> Texts:
    """Two wordings of one statement; for label 0 the second changes a slot (mostly) or states something else."""
    values, frame = _draw(rng, vocabulary), rng.choice(frames)
    first, second = rng.sample(frame, 2)
    if rng.random() < 0.3:
        second = first  # with both labels, so that equal word order gives none away
    changed = values
    if not label and rng.random() < 0.3:
        second = rng.choice(rng.choice([other for other in frames if other is not frame]))
    elif not label:
        slots = [slot for slot in re.findall(r"{(\w+)}", first) if len(vocabulary[slot]) > 1]
        changed = _change(rng, vocabulary, values, [rng.choice(slots)])
    return _realise(rng, first, values), _realise(rng, second, changed)


def _mrpc(rng: random.Random, label: int) -> Texts:
    """News sentences; some are confirmed, which changes nothing, and some denied, which does."""
    denied = not label and rng.random() < 0.25
    first, second = _paraphrase(rng, 1 if denied else label, MRPC_FRAMES, MRPC_SLOTS)
    if denied:
        second = f"{rng.choice(DENIALS)} {second}"
    elif rng.random() < 0.35:
        second = f"{rng.choice(CONFIRMATIONS)} {second}"
    return _sentence(first), _sentence(second)


def _qqp(rng: random.Random, label: int) -> Texts:
    """Everyday questions."""
    first, second = _paraphrase(rng, label, QQP_FRAMES, QQP_SLOTS)
    return _sentence(first, "?"), _sentence(second, "?")


STSB_SLOTS = _vocabulary("""
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
    values = _draw(rng, STSB_SLOTS)
    changed = _change(rng, STSB_SLOTS, values, rng.sample(list(values), 5 - label))
    return tuple(_sentence(_realise(rng, rng.choice(STSB_TEMPLATES), scene)) for scene in (values, changed))


# Vocabularies of the inference tasks; a person and a thing have a specific and a general wording.
TOWN = _vocabulary("""
    person: violinist/musician | drummer/musician | surgeon/doctor | dentist/doctor | poet/writer | boxer/athlete \
        | novelist/writer | goalkeeper/athlete | toddler/child | schoolgirl/child | carpenter/craftsman
    thing: guitar/instrument | desk/furniture item | sedan/car | hammer/tool | drill/tool | rose/flower | spaniel/dog \
        | flute/instrument | armchair/furniture item | necklace/jewel | van/vehicle | tulip/flower | novel/book
    verb: repair | clean | borrow | paint | deliver | photograph | return | examine | move | mention
    place: at the market | in the park | at the station | outside the cinema | in the library | near the bakery
    detail: because a friend had asked | before the guests arrived | after a long argument | for a small fee
""")
NEWS = _vocabulary("""
    person: senator/politician | mayor/politician | attorney/lawyer | solicitor/lawyer | bishop/cleric \
        | sergeant/soldier | colonel/soldier | broker/financier | reporter/journalist
    thing: tunnel/building project | treaty/agreement | contract/agreement | tax/measure | curfew/measure \
        | lawsuit/case | airport/building project | refinery/plant | sawmill/plant | appeal/case | merger/deal
    verb: approve | oppose | reject | finance | discuss | review | delay | condemn | endorse | criticise
    place: in the capital | at the summit | in the northern province | during the hearing | at a press conference
    detail: because costs had risen | after talks with the union | before the election | under pressure from voters
""")
STATES = _wordings(  # opposites stand side by side
    "calm/relaxed | nervous/anxious | tired/weary | lively/energetic | rich/wealthy | poor/penniless | friendly/kind"
    " | hostile/unkind | healthy/well | ill/sick"
)
DONE = _phrases("{past} | managed to {base} | was able to {base}")
NOT_DONE = _phrases("did not {base} | failed to {base} | refused to {base}")
SOURCES = _phrases("The agency wrote this on Sunday. | The report will appear in full. | No other source was named.")


def _state_pair(rng: random.Random, label: int, genre: Vocabulary) -> Texts:
    """Premise and hypothesis on how somebody was: a synonym, an opposite, or another state altogether."""
    scene, index = _draw(rng, genre), rng.randrange(len(STATES))
    premise = f"the {scene['person'][0]} was {rng.choice(STATES[index])} {scene['place'][0]}"
    if label == NEUTRAL:
        index = rng.choice([other for other in range(len(STATES)) if other // 2 != index // 2])
    negated = rng.random() < 0.4
    stated = index ^ 1 if negated != (label == CONTRADICTION) else index
    return premise, f"the {rng.choice(scene['person'])} was {'not ' * negated}{rng.choice(STATES[stated])}"


def _action_pair(rng: random.Random, label: int, genre: Vocabulary) -> Texts:
    """Premise and hypothesis on what somebody did: more general, of other polarity, or with something added."""
    scene = _draw(rng, genre)
    person, thing, (verb,), (place,), (detail,) = scene.values()
    narrowed = label == NEUTRAL and rng.random() < 0.5  # the hypothesis names a more specific person
    general, detailed, done = narrowed or rng.random() < 0.3, rng.random() < 0.5, rng.random() < 0.5
    premise = ["the", person[general], rng.choice(DONE if done else NOT_DONE), "the", thing[0], place]
    if detailed:
        premise.append(detail)
    hypothesis_person = person[0] if narrowed else person[1] if general else rng.choice(person)
    hypothesis_verb = (DONE if done != (label == CONTRADICTION) else NOT_DONE)[0]
    hypothesis = ["the", hypothesis_person, hypothesis_verb, "the", rng.choice(thing)]
    if not done or rng.random() < 0.5:
        hypothesis.append(place)
    if label == NEUTRAL and not narrowed:
        hypothesis += _change(rng, genre, scene, ["detail"])["detail"]
    elif detailed and rng.random() < 0.7:
        hypothesis.append(detail)
    return tuple(" ".join(words).format(base=verb, past=_past(verb)) for words in (premise, hypothesis))


def _mnli(rng: random.Random, label: int, genre: Vocabulary) -> Texts:
    """Premise and hypothesis in one genre."""
    pair = (_state_pair if rng.random() < 0.3 else _action_pair)(rng, label, genre)
    return tuple(_sentence(text) for text in pair)


def _rte(rng: random.Random, label: int) -> Texts:
    """As MNLI, with a longer text of which one sentence matters, and two labels."""
    premise, hypothesis = _mnli(rng, rng.choice((NEUTRAL, CONTRADICTION)) if label else ENTAILMENT, NEWS)
    distraction, _ = _mnli(rng, ENTAILMENT, NEWS)
    sentences = rng.sample((premise, distraction), 2)
    if rng.random() < 0.5:
        sentences.append(rng.choice(SOURCES))
    return " ".join(sentences), hypothesis


BUILDINGS = _words("museum theatre library bridge stadium observatory hospital archive tower academy windmill")
NAMES = _words("Halden Morwick Tessaly Brannock Ilvermere Quarrin Fenwood Larkspur Dorrance Kestrel Amberley")
FACTS = _vocabulary("""
    start: when did {} open/in which year was {} opened | opened in {}/got its first guests in {} | 1874/1902/1958/2004
    maker: who designed {}/who drew plans for {} | was designed by {}/follows plans by {} | Ruth Palm/Otto Vance/Hugh Lo
    place: where is {} located/in which town is {} | stands in {}/is found in the town of {} | Wexcombe/Greyfield/Ansel
    price: how much did {} cost/what was paid for {} | was built for {}/took {} to build | 80,000 crowns/six million
    stuff: what is {} made of/what material does {} have | is made of {}/has walls of {} | red brick/pale limestone/oak
    owner: who owns {}/to whom does {} belong | belongs to {}/is the property of {} | the city/two brewers/a charity
    fame: what is {} known for/what made {} famous | is known for {}/owes its fame to {} | a ghost/a wedding/its clock
""")  # questions | statements | values of each property of a building


def _qnli(rng: random.Random, label: int) -> Texts:
    """A question on a building, and two facts; for label 1 the one asked for is absent or on another building."""
    building, other = (f"the {name} {rng.choice(BUILDINGS)}" for name in rng.sample(NAMES, 2))
    asked, *unasked = rng.sample(list(FACTS.values()), 3)
    strange = label == 1 and rng.random() < 0.3
    facts = unasked if label == 1 and not strange else [asked, unasked[0]]
    first, second = (rng.choice(said).format(rng.choice(values)) for _, said, values in rng.sample(facts, 2))
    question = rng.choice(asked[0]).format(building)
    return _sentence(question, "?"), _sentence(f"{other if strange else building} {first} and {second}")


THINGS = _words("kettle lamp chair barrel statue vase ladder mirror bucket parcel melon helmet clock trunk")
WNLI_SCHEMAS = (  # nouns, sentence, what ends it when the pronoun means {a}, and when it means {b}
    (PEOPLE, "The {a} followed the {b} because she", "had forgotten the way", "had been there before"),
    (PEOPLE, "The {a} paid the {b} on Friday because she", "wanted to clear the debt", "had done all the work"),
    (PEOPLE, "The {a} waited an hour for the {b} because she", "was far too early", "was stuck in traffic"),
    (PEOPLE, "The {a} forgave the {b} as soon as she", "had calmed down", "had apologised"),
    (PEOPLE, "The {a} gave the {b} swimming lessons because she", "was an expert", "was a beginner"),
    (PEOPLE, "The {a} lent the {b} an umbrella because she", "owned a spare one", "was getting wet"),
    (PEOPLE, "The {a} copied the answers of the {b} since she", "had not prepared", "was always right"),
    (PEOPLE, "The {a} shouted at the {b} when she", "lost her temper", "broke the window"),
    (THINGS, "The {a} rolled off the {b} because it", "was perfectly round", "was badly tilted"),
    (THINGS, "The {a} left a scratch on the {b} because it", "had a sharp edge", "had a soft surface"),
    (THINGS, "The {a} was packed inside the {b} because it", "was fragile", "was padded"),
    (THINGS, "The {a} was swapped for the {b} because it", "had stopped being useful", "was in better shape"),
)


def _wnli(rng: random.Random, label: int) -> Texts:
    """A sentence with an ambiguous pronoun, and its last clause with the right or the wrong noun in its place."""
    nouns, opening, *endings = rng.choice(WNLI_SCHEMAS)
    candidates, meant = rng.sample(nouns, 2), rng.randrange(2)
    sentence = f"{opening} {endings[meant]}.".format(a=candidates[0], b=candidates[1])
    return sentence, f"The {candidates[meant if label else 1 - meant]} {endings[meant]}."


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
IN_TOWN, IN_NEWS = partial(_mnli, genre=TOWN), partial(_mnli, genre=NEWS)
MNLI_GENERATORS = {"train": IN_TOWN, "validation_matched": IN_TOWN, "validation_mismatched": IN_NEWS}
CONFIGS = {
    "cola": GlueConfig(("sentence",), ("unacceptable", "acceptable"), _both(_cola), EVEN),
    "sst2": GlueConfig(("sentence",), ("negative", "positive"), _both(_sst2), EVEN, flip_every=12),
    "mrpc": GlueConfig(PAIR, ("not_equivalent", "equivalent"), _both(_mrpc), (0.325, 0.675)),
    "qqp": GlueConfig(("question1", "question2"), ("not_duplicate", "duplicate"), _both(_qqp), (0.63, 0.37)),
    "stsb": GlueConfig(PAIR, (), _both(_stsb), (1 / 6,) * 6),
    "mnli": GlueConfig(MNLI_COLUMNS, MNLI_LABELS, MNLI_GENERATORS, (1 / 3,) * 3),
    "qnli": GlueConfig(("question", "sentence"), RTE_LABELS, _both(_qnli), EVEN),
    "rte": GlueConfig(PAIR, RTE_LABELS, _both(_rte), EVEN),
    "wnli": GlueConfig(PAIR, ("not_entailment", "entailment"), _both(_wnli), EVEN),
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
    limits = list(accumulate(config.shares))[:-1]
    labels = [bisect(limits, (row + 0.5) / count) for row in range(count)]
    annotated = [(label, _observed_label(rng, config, label, row)) for row, label in enumerate(labels)]
    rng.shuffle(annotated)
    texts = [_unseen_texts(rng, config.generators[split], label, seen) for label, _ in annotated]
    rows = {column: list(values) for column, values in zip(config.columns, zip(*texts, strict=True), strict=True)}
    observed = {"label": [label for _, label in annotated], "idx": list(range(count))}
    return Dataset.from_dict({**rows, **observed}, features=config.features())


def write_samples(directory: Path) -> None:
    """Write every split of every config as <directory>/<config>/<split>-00000-of-00001.parquet."""
    for name, config in CONFIGS.items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        seen: set[str] = set()
        for split in config.generators:
            make_split(name, split, seen).to_parquet(directory / name / f"{split}-00000-of-00001.parquet")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Generate the built-in GLUE samples.")
    parser.add_argument("output_directory", type=Path, nargs="?", default=SAMPLES_DIRECTORY)
    write_samples(parser.parse_args().output_directory)
