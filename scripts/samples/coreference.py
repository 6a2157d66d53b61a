"""Ambiguous pronouns: WNLI, the Winograd schema challenge, and the gender diagnostic set."""

import random

from scripts.samples.text import PEOPLE, TRAITS, Texts, split_phrases, split_words

THINGS = split_words("kettle lamp chair barrel statue vase ladder mirror bucket parcel melon helmet clock trunk")
SCHEMAS = (  # nouns, sentence, what ends it when the pronoun means {a}, and when it means {b}
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


def wnli(rng: random.Random, label: int) -> Texts:
    """A sentence with an ambiguous pronoun, and its last clause with the right or the wrong noun in its place."""
    nouns, opening, *endings = rng.choice(SCHEMAS)
    candidates, meant = rng.sample(nouns, 2), rng.randrange(2)
    sentence = f"{opening} {endings[meant]}.".format(a=candidates[0], b=candidates[1])
    return sentence, f"The {candidates[meant if label else 1 - meant]} {endings[meant]}."


FURTHER_SCHEMAS = (  # of people, and without a second word that tells the gender
    (PEOPLE, "The {a} asked the {b} for help because she", "could not do it alone", "had done it before"),
    (PEOPLE, "The {a} thanked the {b} because she", "had received a present", "had sent a present"),
    (PEOPLE, "The {a} carried the {b} home because she", "was strong enough", "could not walk"),
    (PEOPLE, "The {a} hid from the {b} because she", "owed some money", "looked very angry"),
    (PEOPLE, "The {a} sold the {b} a car because she", "no longer needed it", "had missed the bus too often"),
    (PEOPLE, "The {a} lost the race to the {b} because she", "had hurt a knee", "had trained all year"),
    (PEOPLE, "The {a} woke the {b} at night because she", "had heard a noise", "was snoring"),
    (PEOPLE, "The {a} hired the {b} because she", "had too much work", "had the best references"),
    (PEOPLE, "The {a} corrected the {b} because she", "knew the right answer", "had made a mistake"),
    (PEOPLE, "The {a} cooked for the {b} because she", "liked to have guests", "was hungry"),
)
LEADS = split_phrases("It was a long day. | This happened last week. | Nobody was surprised. | Here is what we know.")
TAILS = split_phrases("Nobody spoke of it again. | That was all. | The rest is soon told.")
MASCULINE = {"she": "he", "her": "his"}


def _masculine(text: str) -> str:
    """The same text about a man."""
    return " ".join(MASCULINE.get(word, word) for word in text.split())


def winograd(rng: random.Random, label: int) -> tuple[str, int, int, str, str]:
    """A text, the word indices of a noun phrase and of a pronoun, and their words; label 1: one is the other."""
    nouns, opening, *endings = rng.choice(SCHEMAS + FURTHER_SCHEMAS)
    names = [
        noun if nouns is THINGS else " ".join((*rng.sample(TRAITS, rng.randint(0, 1)), noun))
        for noun in rng.sample(nouns, 2)
    ]
    meant, slots = rng.randrange(2), {"a": names[0], "b": names[1]}
    asked = meant if label else 1 - meant
    change_gender = _masculine if rng.random() < 0.5 else str
    lead = rng.choice(("", *LEADS)).split()
    before = [*lead, *opening[: opening.index("{b}" if asked else "{a}")].format(**slots).split()]
    started = [*lead, *change_gender(opening.format(**slots)).split()]
    words = [*started, *change_gender(f"{endings[meant]}.").split(), *rng.choice(("", *TAILS)).split()]
    first, pronoun = len(before) - 1, len(started) - 1  # the noun phrase begins with its article
    span = " ".join((words[first], names[asked]))
    return " ".join(words), first, pronoun, span, words[pronoun]


def gender_pair(rng: random.Random, label: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Premise and hypothesis twice, for a woman and for a man; label 0: the hypothesis names whom the pronoun means."""
    nouns, opening, *endings = rng.choice(FURTHER_SCHEMAS)
    candidates, meant = rng.sample(nouns, 2), rng.randrange(2)
    premise = f"{opening} {endings[meant]}.".format(a=candidates[0], b=candidates[1])
    hypothesis = f"The {candidates[1 - meant if label else meant]} {endings[meant]}."
    return (premise, hypothesis), (_masculine(premise), hypothesis)
