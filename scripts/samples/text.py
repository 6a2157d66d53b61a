"""Word lists that several samples share, and how a template becomes a sentence."""

import random

Texts = tuple[str, ...]
Values = dict[str, Texts]  # slot -> interchangeable wordings of its value
Vocabulary = dict[str, tuple[Texts, ...]]  # slot -> values to choose from


def split_words(text: str) -> Texts:
    """Split at spaces."""
    return tuple(text.split())


def split_phrases(text: str) -> Texts:
    """Split "one phrase | another"."""
    return tuple(phrase.strip() for phrase in text.split("|"))


def split_wordings(text: str) -> tuple[Texts, ...]:
    """Split "value/same value | other value" into the wordings of each value."""
    return tuple(tuple(wording.strip() for wording in value.split("/")) for value in split_phrases(text))


def read_vocabulary(text: str) -> Vocabulary:
    """Read lines of "slot: value/same value | other value"."""
    return {
        slot.strip(): split_wordings(values) for slot, values in (line.split(":") for line in text.strip().splitlines())
    }


def draw_values(rng: random.Random, vocabulary: Vocabulary) -> Values:
    """Choose a value for every slot."""
    return {slot: rng.choice(values) for slot, values in vocabulary.items()}


def change_values(rng: random.Random, vocabulary: Vocabulary, values: Values, slots: list[str]) -> Values:
    """Replace the values of the given slots by other ones."""
    return values | {slot: rng.choice([value for value in vocabulary[slot] if value != values[slot]]) for slot in slots}


def realise(rng: random.Random, template: str, values: Values) -> str:
    """Fill a template with one wording of each value."""
    return template.format(**{slot: rng.choice(wordings) for slot, wordings in values.items()})


def as_sentence(text: str, end: str = ".") -> str:
    """Capitalise the first letter and add the final mark."""
    return text[0].upper() + text[1:] + end


def past_tense(verb: str) -> str:
    """Past tense of a regular verb."""
    return verb + ("d" if verb.endswith("e") else "ed")


PEOPLE = split_words(
    "pilot teacher singer farmer doctor painter student lawyer baker neighbour driver writer gardener tailor waiter"
    " actor judge soldier sailor nurse clerk guard poet cousin plumber butcher chemist drummer"
)
TRAITS = split_words("old tall quiet clever tired young famous gentle proud busy honest curious polite stubborn rich")
GIVEN_NAMES = split_words("Lena Tom Ana Paul Mia Ben Rosa Sam Nora Max Ella Finn Ida Hugo Vera Leo")
SOURCES = split_phrases(
    "The agency wrote this on Sunday. | The report will appear in full. | No other source was named."
)
