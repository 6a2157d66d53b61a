"""What led to an event and what came of it: COPA."""

import random

from scripts.samples.text import PEOPLE, Texts, as_sentence

CHAINS = (  # cause, event, effect
    ("the {who} tripped on the rug", "the {who} dropped the {thing}", "the {thing} broke on the floor"),
    ("the {who} forgot to set the alarm", "the {who} woke up very late", "the {who} missed the first bus"),
    ("the {who} left the window open", "rain came into the room of the {who}", "the {who} had to dry the carpet"),
    ("it had snowed all night", "the car of the {who} got stuck", "the {who} walked to town in boots"),
    ("the {who} ate too much cake", "the {who} felt sick", "the {who} drank some herbal tea in bed"),
    ("the {who} found a stray kitten", "the {who} bought cat food", "the {who} had little money left"),
    ("the {who} had not slept for two days", "the {who} dozed off at work", "the boss was angry with the {who}"),
    ("a storm cut the power lines", "the lights of the {who} went out", "the {who} looked for candles"),
    ("the {who} lost the key", "the {who} could not open the door", "the {who} climbed in through a window"),
    ("the {who} stepped on broken glass", "the foot of the {who} bled", "the {who} put on a bandage"),
    ("the {who} spilled ink on the {thing}", "the {thing} was stained", "the {who} had the {thing} cleaned"),
    ("the {who} ran for an hour", "the {who} was thirsty", "the {who} drank two glasses of water"),
    ("nobody had watered the garden", "the roses of the {who} died", "the {who} planted cactuses instead"),
    ("the {who} told a good joke", "the guests of the {who} laughed", "the {who} went on to tell another one"),
    ("the {who} practised every day", "the {who} won the piano contest", "the {who} was given a silver cup"),
    ("the {who} drove too fast", "the police stopped the {who}", "the {who} paid a fine"),
    ("the {who} ordered the wrong size", "the new coat of the {who} was too tight", "the {who} sent the coat back"),
    ("the oven was too hot", "the bread of the {who} burnt", "smoke filled the kitchen of the {who}"),
    ("the {who} saved money for years", "the {who} could buy the {thing}", "the {who} showed the {thing} to everyone"),
    ("bees had built a nest on the roof", "the {who} was stung", "the arm of the {who} swelled"),
)
THINGS = ("lamp", "vase", "mirror", "clock", "picture", "statue", "jug")
CAUSE, EFFECT = "cause", "effect"


def causes_and_effects(rng: random.Random, label: int) -> Texts:
    """Premise, two choices and the question; label 0: the first choice is the asked cause or effect.

    The wrong choice is the premise's own cause or effect, whichever is not asked for, or comes from another chain.
    """
    (cause, event, effect), other = rng.sample(CHAINS, 2)
    question = rng.choice((CAUSE, EFFECT))
    right, opposite = (cause, effect) if question == CAUSE else (effect, cause)
    wrong = rng.choice((opposite, other[0], other[2]))
    choices = (wrong, right) if label else (right, wrong)
    fillers = {"who": rng.choice(PEOPLE), "thing": rng.choice(THINGS)}
    premise, first, second = (as_sentence(text.format(**fillers)) for text in (event, *choices))
    return premise, first, second, question
