"""Questions on a text: QNLI, BoolQ and MultiRC."""

import random

from scripts.samples.text import GIVEN_NAMES, Texts, as_sentence, read_vocabulary, split_phrases, split_words

BUILDINGS = split_words("museum theatre library bridge stadium observatory hospital archive tower academy windmill")
NAMES = split_words("Halden Morwick Tessaly Brannock Ilvermere Quarrin Fenwood Larkspur Dorrance Kestrel Amberley")
FACTS = read_vocabulary("""
    start: when did {} open/in which year was {} opened | opened in {}/got its first guests in {} | 1874/1902/1958/2004
    maker: who designed {}/who drew plans for {} | was designed by {}/follows plans by {} | Ruth Palm/Otto Vance/Hugh Lo
    place: where is {} located/in which town is {} | stands in {}/is found in the town of {} | Wexcombe/Greyfield/Ansel
    price: how much did {} cost/what was paid for {} | was built for {}/took {} to build | 80,000 crowns/six million
    stuff: what is {} made of/what material does {} have | is made of {}/has walls of {} | red brick/pale limestone/oak
    owner: who owns {}/to whom does {} belong | belongs to {}/is the property of {} | the city/two brewers/a charity
    fame: what is {} known for/what made {} famous | is known for {}/owes its fame to {} | a ghost/a wedding/its clock
""")  # questions | statements | values of each property of a building


def qnli(rng: random.Random, label: int) -> Texts:
    """A question on a building, and two facts; for label 1 the one asked for is absent or on another building."""
    building, other = (f"the {name} {rng.choice(BUILDINGS)}" for name in rng.sample(NAMES, 2))
    asked, *unasked = rng.sample(list(FACTS.values()), 3)
    strange = label == 1 and rng.random() < 0.3
    facts = unasked if label == 1 and not strange else [asked, unasked[0]]
    first, second = (rng.choice(said).format(rng.choice(values)) for _, said, values in rng.sample(facts, 2))
    question = rng.choice(asked[0]).format(building)
    return as_sentence(question, "?"), as_sentence(f"{other if strange else building} {first} and {second}")


RULES = read_vocabulary("""
    hours: is {} open on sundays/can you visit {} on a sunday \
        | {} welcomes guests every day of the week/{} never closes its doors | {} is shut at weekends/ \
            {} is for weekdays only
    fee: is there an entrance fee for {}/do you have to pay to enter {} \
        | guests buy a ticket at the door of {}/{} charges a small sum | entry to {} is free/{} costs its guests nothing
    dogs: are dogs allowed in {}/can you take a dog into {} \
        | {} admits animals on a lead/pets may be brought into {} | {} admits no animals/pets must stay outside {}
    use: is {} still in use/does {} still serve its purpose \
        | {} works to this day/the work of {} goes on as ever | {} has stood empty for decades/{} was abandoned long ago
    stone: is {} built of stone/does {} have stone walls \
        | granite was used for {}/{} has walls of pale limestone | {} is a timber building/{} was put up in red brick
    owner: does {} belong to the city/is {} owned by the public \
        | the town council holds {}/{} is municipal property | a family of brewers owns {}/{} is in private hands
    fire: was {} damaged by fire/has there been a fire in {} \
        | flames destroyed the roof of {}/{} lost a wing in a blaze | no flame ever touched {}/{} has never burnt
    lift: is there a lift in {}/can you get to the top of {} without stairs \
        | a cabin takes guests of {} to every floor/{} has had a lift since 1998 \
        | the top of {} is reached by stairs alone/{} lacks a lift
""")  # questions | statements if the answer is yes | statements if it is no


def _rule_passage(rng: random.Random, label: int, building: str, other: str) -> tuple[str, list[str]]:
    """A question on a rule of one building, which often is the opposite of the other's, and the statements."""
    asked, *unasked = rng.sample(list(RULES.values()), 3)
    questions, *answers = asked
    statements = [rng.choice(answers[1 - label]).format(building)]
    if rng.random() < 0.6:
        statements.append(rng.choice(answers[label]).format(other))
    statements += [rng.choice(rng.choice(said)).format(building) for _, *said in unasked]
    return rng.choice(questions).format(building), statements


def _age_passage(rng: random.Random, label: int, building: str, other: str) -> tuple[str, list[str]]:
    """A question on which of two buildings is older, and the statements with their years."""
    earlier, later = sorted(rng.sample(range(1700, 1990), 2))
    years = (earlier, later) if label else (later, earlier)
    statements = [f"{name} was opened in {year}" for name, year in zip((building, other), years, strict=True)]
    _, *said = rng.choice(list(RULES.values()))
    statements.append(rng.choice(rng.choice(said)).format(building))
    question = rng.choice(("is {} older than {}", "was {} opened before {}", "did {} open earlier than {}"))
    return question.format(building, other), statements


def boolq(rng: random.Random, label: int) -> Texts:
    """A yes-no question on a building, and a passage on this building and another one."""
    title, other = (f"{name} {rng.choice(BUILDINGS)}" for name in rng.sample(NAMES, 2))
    about = _age_passage if rng.random() < 0.2 else _rule_passage
    question, statements = about(rng, label, f"the {title}", f"the {other}")
    sentences = map(as_sentence, rng.sample(statements, len(statements)))
    return question.lower(), f"{title} -- {' '.join(sentences)}"


ERRANDS = read_vocabulary("""
    bought: what did {} buy/which things did {} pay for | {} bought {}/{} came home with {} \
        | a loaf of bread/some cheese/six eggs/a bag of apples/two lemons/a jar of honey/a cake/some tea/a melon
    visited: which places did {} visit/where did {} go | {} visited {}/{} went to {} \
        | the bank/the library/the harbour/the museum/the old bridge/the post office/the zoo/the town hall/the park
    met: whom did {} meet/who talked to {} | {} ran into {}/{} had a talk with {} \
        | a teacher/two cousins/the baker/an old friend/the doctor/a neighbour/three sailors/the mayor/a poet
    wore: what did {} wear/which clothes did {} have on | {} wore {}/{} had put on {} \
        | a red hat/a long coat/white gloves/a blue scarf/a grey jacket/brown boots/a green shirt/a straw hat
    left: what did {} forget in town/what did {} leave behind | {} left behind {}/{} came back without {} \
        | an umbrella/a set of keys/a phone/a notebook/a pair of glasses/a pencil case/a water bottle/a purse
""")  # questions | statements | what may be listed
OUTINGS = split_phrases(
    "On {} {} and {} went to town. | {} was fine, so {} and {} took a trip. | {} was busy for {} and {}."
)
DAYS = split_words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
FEWEST_OPTIONS, MOST_OPTIONS = 3, 6

Question = tuple[str, list[tuple[str, bool]]]  # the question, and its options with whether they are right


def _listing(items: list[str]) -> str:
    """Join as "one, two and three"."""
    return " and ".join((", ".join(items[:-1]), items[-1])) if len(items) > 1 else items[0]


def _options(rng: random.Random, true: list[str], false: list[str]) -> list[tuple[str, bool]]:
    """Some true and some false options; the false ones come in order of preference."""
    count = rng.randint(max(FEWEST_OPTIONS, len(true) + 1), MOST_OPTIONS)
    options = [(option, True) for option in true] + [(option, False) for option in false[: count - len(true)]]
    return rng.sample(options, len(options))


def story_with_questions(rng: random.Random) -> tuple[str, list[Question]]:
    """A paragraph on what two people did, and questions; what the other one did serves as wrong options."""
    names, statements, questions = rng.sample(GIVEN_NAMES, 2), [], []
    for asked, said, (*listed,) in rng.sample(list(ERRANDS.values()), 3):
        items = rng.sample(listed, len(listed))
        true = {names[0]: items[: rng.randint(1, 3)], names[1]: items[3 : 3 + rng.randint(1, 3)]}
        for name, other in (names, names[::-1]):
            statements.append(rng.choice(said).format(name, _listing(true[name])))
            question = as_sentence(rng.choice(asked).format(name), "?")
            questions.append((question, _options(rng, true[name], true[other] + items[6:])))
    opening = rng.choice(OUTINGS).format(rng.choice(DAYS), *names)
    paragraph = " ".join((opening, *map(as_sentence, rng.sample(statements, len(statements)))))
    return paragraph, rng.sample(questions, rng.randint(2, 4))
