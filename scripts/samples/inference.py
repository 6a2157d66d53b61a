"""Premise and hypothesis: MNLI and both RTE sets, CommitmentBank, and the broad diagnostic set."""

import random

from scripts.samples.text import (
    PEOPLE,
    SOURCES,
    Texts,
    Values,
    Vocabulary,
    as_sentence,
    change_values,
    draw_values,
    past_tense,
    read_vocabulary,
    split_phrases,
    split_wordings,
)

ENTAILMENT, NEUTRAL, CONTRADICTION = range(3)  # MNLI's order

# A person and a thing have a specific and a general wording.
TOWN = read_vocabulary("""
    person: violinist/musician | drummer/musician | surgeon/doctor | dentist/doctor | poet/writer | boxer/athlete \
        | novelist/writer | goalkeeper/athlete | toddler/child | schoolgirl/child | carpenter/craftsman
    thing: guitar/instrument | desk/furniture item | sedan/car | hammer/tool | drill/tool | rose/flower | spaniel/dog \
        | flute/instrument | armchair/furniture item | necklace/jewel | van/vehicle | tulip/flower | novel/book
    verb: repair | clean | borrow | paint | deliver | photograph | return | examine | move | mention
    place: at the market | in the park | at the station | outside the cinema | in the library | near the bakery
    detail: because a friend had asked | before the guests arrived | after a long argument | for a small fee
""")
NEWS = read_vocabulary("""
    person: senator/politician | mayor/politician | attorney/lawyer | solicitor/lawyer | bishop/cleric \
        | sergeant/soldier | colonel/soldier | broker/financier | reporter/journalist
    thing: tunnel/building project | treaty/agreement | contract/agreement | tax/measure | curfew/measure \
        | lawsuit/case | airport/building project | refinery/plant | sawmill/plant | appeal/case | merger/deal
    verb: approve | oppose | reject | finance | discuss | review | delay | condemn | endorse | criticise
    place: in the capital | at the summit | in the northern province | during the hearing | at a press conference
    detail: because costs had risen | after talks with the union | before the election | under pressure from voters
""")
STATES = split_wordings(  # opposites stand side by side
    "calm/relaxed | nervous/anxious | tired/weary | lively/energetic | rich/wealthy | poor/penniless | friendly/kind"
    " | hostile/unkind | healthy/well | ill/sick"
)
DONE = split_phrases("{past} | managed to {base} | was able to {base}")
NOT_DONE = split_phrases("did not {base} | failed to {base} | refused to {base}")


def _state_pair(rng: random.Random, label: int, genre: Vocabulary) -> Texts:
    """Premise and hypothesis on how somebody was: a synonym, an opposite, or another state altogether."""
    scene, index = draw_values(rng, genre), rng.randrange(len(STATES))
    premise = f"the {scene['person'][0]} was {rng.choice(STATES[index])} {scene['place'][0]}"
    if label == NEUTRAL:
        index = rng.choice([other for other in range(len(STATES)) if other // 2 != index // 2])
    negated = rng.random() < 0.4
    stated = index ^ 1 if negated != (label == CONTRADICTION) else index
    return premise, f"the {rng.choice(scene['person'])} was {'not ' * negated}{rng.choice(STATES[stated])}"


def _action_pair(rng: random.Random, label: int, genre: Vocabulary) -> Texts:
    """Premise and hypothesis on what somebody did: more general, of other polarity, or with something added."""
    scene = draw_values(rng, genre)
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
        hypothesis += change_values(rng, genre, scene, ["detail"])["detail"]
    elif detailed and rng.random() < 0.7:
        hypothesis.append(detail)
    return tuple(" ".join(words).format(base=verb, past=past_tense(verb)) for words in (premise, hypothesis))


def premise_and_hypothesis(rng: random.Random, label: int, genre: Vocabulary) -> Texts:
    """Premise and hypothesis in one genre."""
    pair = (_state_pair if rng.random() < 0.3 else _action_pair)(rng, label, genre)
    return tuple(as_sentence(text) for text in pair)


def rte(rng: random.Random, label: int) -> Texts:
    """As MNLI, with a longer text of which one sentence matters, and two labels."""
    premise, hypothesis = premise_and_hypothesis(
        rng, rng.choice((NEUTRAL, CONTRADICTION)) if label else ENTAILMENT, NEWS
    )
    distraction, _ = premise_and_hypothesis(rng, ENTAILMENT, NEWS)
    sentences = rng.sample((premise, distraction), 2)
    if rng.random() < 0.5:
        sentences.append(rng.choice(SOURCES))
    return " ".join(sentences), hypothesis


CLAIMS = read_vocabulary("""
    true: {} knew that | {} did not know that | {} was glad that | {} had forgotten that | it annoyed {} that \
        | it did not surprise {} that | {} was told the truth, namely that | {} could see that
    false: {} pretended that | {} was wrong to believe that | {} told the lie that | {} only dreamt that \
        | it was not true, as {} claimed, that | {} was fooled into thinking that
    open: {} hoped that | {} believed that | it was not clear to {} whether | {} wondered whether | {} was afraid that \
        | {} never said that | {} would be happy if
""")  # what a speaker thinks of the clause that follows
SPEAKERS = split_phrases(
    "my aunt | the landlord | our host | Mr Tell | the old waiter | her brother | the guide | Ms Lund"
)
REMARKS = split_phrases("It was getting late. | Nobody spoke for a while. | There was no hurry. | So the talk went on.")


def _clause(scene: Values, done: bool) -> str:
    """What somebody did, or that it was not done."""
    verb = scene["verb"][0]
    predicate = past_tense(verb) if done else f"did not {verb}"
    return f"the {scene['person'][0]} {predicate} the {scene['thing'][0]} {scene['place'][0]}"


def commitment(rng: random.Random, label: int) -> Texts:
    """A clause embedded in what a speaker takes for true, false or open, and the clause or its denial.

    Labels in CommitmentBank's order: entailment, contradiction, neutral.
    """
    scene, done, denied = draw_values(rng, TOWN), rng.random() < 0.7, rng.random() < 0.3
    taken_for = "open" if label == 2 else "true" if (label == 0) != denied else "false"
    claim = rng.choice(CLAIMS[taken_for])[0].format(rng.choice(SPEAKERS))
    premise = [*rng.sample(REMARKS, rng.randint(0, 2)), as_sentence(f"{claim} {_clause(scene, done)}")]
    return " ".join(premise), as_sentence(_clause(scene, done != denied))


LOGIC = (  # premise, what follows from it, what does not
    ("both {a} and {b} arrived {when}", "{b} arrived {when}", "{a} arrived without {b}"),
    ("either {a} or {b} arrived {when}, but not both", "if {a} arrived, {b} did not", "{b} arrived {when}"),
    ("it is not true that {a} never helped {b} {when}", "{a} helped {b}", "{a} did not help {b}"),
    ("everybody except {a} saw {b} {when}", "{a} did not see {b}", "{a} saw {b} {when}"),
    ("{a} paid {b} before leaving {when}", "{b} was paid by {a}", "{a} left before {b} was paid"),
    ("{a} is taller than {b}", "{b} is shorter than {a}", "{b} is taller than {a}"),
    ("only {a} spoke with {b} {when}", "nobody but {a} spoke with {b}", "only {b} spoke {when}"),
    ("{a} would have called {b} {when} with a phone at hand", "{a} did not call {b}", "{a} called {b} {when}"),
    ("{b} was followed {when} by {a}", "{a} followed {b}", "{b} followed {a} {when}"),
    ("if it rains, {a} and {b} stay at home {when}", "when it rains, {a} stays at home", "{a} stayed at home {when}"),
)
MOMENTS = split_phrases("on Monday | last night | after lunch | in the morning | at noon | before dinner")


def diagnostic(rng: random.Random, label: int) -> Texts:
    """A pair that needs logic or word order, or one of another genre than RTE's; label 0 is entailment."""
    if rng.random() < 0.4:
        return premise_and_hypothesis(rng, rng.choice((NEUTRAL, CONTRADICTION)) if label else ENTAILMENT, TOWN)
    premise, *hypotheses = rng.choice(LOGIC)
    first, second = rng.sample(PEOPLE, 2)
    fillers = {"a": f"the {first}", "b": f"the {second}", "when": rng.choice(MOMENTS)}
    return as_sentence(premise.format(**fillers)), as_sentence(hypotheses[label].format(**fillers))
