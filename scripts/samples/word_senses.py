"""One word in two sentences, in the same sense or not: WiC."""

import random
import re

from scripts.samples.text import PEOPLE, as_sentence, read_vocabulary, split_phrases

SENSES = read_vocabulary("""
    bank: the {who} sat on the grassy [bank] of the river/after the rain the stream broke its [banks]/ \
            willows grow on this [bank] \
        | the [bank] refused to lend the {who} money/two [banks] in this street were robbed/ \
            the {who} pays a cheque in at the [bank]
    bat: a [bat] flew out of the cave at dusk/the {who} is afraid of [bats]/the [bat] hung from the beam and slept \
        | the {who} hit the ball with a [bat]/both teams brought their own [bats]/a cracked [bat] is no use to the {who}
    match: the {who} struck a [match] and lit the lamp/damp [matches] do not burn/ \
            keep every [match] away from children \
        | the {who} scored twice in the [match]/our team lost all its [matches]/rain ended the [match] early
    spring: the tulips open in [spring]/it was the driest of all [springs]/the {who} plants beans every [spring] \
        | a [spring] in the mattress is broken/the {who} oiled the steel [springs]/the clock needs a new [spring]
    ring: the {who} wears a golden [ring]/the jeweller polished four [rings]/she lost a [ring] with a small diamond \
        | the {who} waited for the phone to [ring]/the doorbell [rings] at noon/someone should [ring] the church bells
    letter: the {who} posted a [letter] to a friend/a bundle of old [letters] lay in the drawer/ \
            the [letter] was signed by the {who} \
        | the word begins with the [letter] T/the {who} painted large [letters] over the door/ \
            this alphabet lacks a [letter]
    bark: the [bark] of the oak is rough/beetles live under the [bark]/the {who} peeled the [bark] off a branch \
        | the dog began to [bark] at the {who}/every night a hound [barks] next door/puppies [bark] when they are hungry
    seal: a [seal] dived for fish/the {who} fed the [seals] in the zoo/the [seal] rested on the ice \
        | the {who} broke the [seal] of the envelope/two wax [seals] were pressed on the deed/ \
            the king kept his [seal] in a box
    crane: a [crane] waded through the marsh/the {who} watched [cranes] fly south/the [crane] built a nest of reeds \
        | a [crane] lifted the steel beams/the {who} drives one of the [cranes] in the harbour/ \
            the [crane] lowered the crate
    pitcher: the [pitcher] threw a fast ball/both [pitchers] hurt a shoulder/ \
            the {who} was the best [pitcher] of the team \
        | the {who} filled the [pitcher] with water/two [pitchers] of lemonade stood on the table/ \
            the clay [pitcher] broke
    nail: the {who} hammered a [nail] into the wall/rusty [nails] stick out of the plank/ \
            the picture hangs on one [nail] \
        | the {who} broke a [nail] while washing/she painted her [nails] red/bite no [nail] in company
    palm: a tall [palm] gave some shade/coconut [palms] line the beach/the {who} climbed the [palm] \
        | the {who} held the coin in one [palm]/rub your [palms] together/a splinter stuck in the [palm] of the {who}
    trunk: the {who} carved a name into the [trunk] of the beech/moss covers the [trunks] of these trees/ \
            a hollow [trunk] lay in the wood \
        | the elephant raised its [trunk]/the animals drink with their [trunks]/the {who} was splashed by a grey [trunk]
    wave: a high [wave] hit the boat/the {who} swam through the [waves]/the [wave] washed the sand castle away \
        | the {who} gave us a friendly [wave]/the queen answered with two [waves] of her hand/ \
            a [wave] from the {who} ended the talk
    fire: the owner wants to [fire] the {who}/the manager [fired] half of the staff/they [fire] anyone who is late \
        | the hunter did not [fire] the gun/the {who} [fired] one shot into the air/they [fire] a cannon at noon
    charge: the {who} does not [charge] for the advice/the hotel [charged] us twice/ \
            they [charge] ten crowns for a ticket \
        | the {who} forgot to [charge] the phone/we [charged] the battery in the car/plug it in to [charge] it
    draw: the {who} likes to [draw] horses/a child was [drawing] a house/[draw] a map for the {who} \
        | please [draw] the curtains/the {who} was [drawing] the blinds/it is dark enough to [draw] the shutters
    run: the {who} tries to [run] a mile every day/a hare was [running] over the field/ \
            children [run] faster than their dog \
        | the {who} wants to [run] a small hotel/she is [running] the firm alone/two brothers [run] this mill
    train: the {who} caught the early [train]/the [trains] were full of students/this [train] stops at every station \
        | the {who} must [train] for the race/the coach [trained] the team twice a day/they [train] hard on Sundays
    press: the {who} should [press] the red button/she [pressed] the key twice/[press] the lid until it clicks \
        | the [press] wrote about the {who}/nobody in the [press] believed it/a free [press] asks hard questions
    plant: the {who} watered the [plant]/rare [plants] grow behind the glass/this [plant] needs little light \
        | the [plant] makes tyres and belts/two car [plants] were closed/the {who} works nights at the chemical [plant]
    light: the suitcase of the {who} was [light]/this bag is [lighter] than that one/a feather is [light] \
        | the room was [light] and airy/mornings get [lighter] in March/the {who} prefers a [light] kitchen
    mouse: a [mouse] ate the cheese/the {who} set a trap for the [mouse]/the cat chased a [mouse] \
        | the {who} clicked twice with the [mouse]/the cable of the [mouse] is too short/ \
            a wireless [mouse] needs a battery
    row: the {who} sat in the first [row]/all [rows] of the hall were taken/plant the beans in a straight [row] \
        | the {who} will [row] across the lake/she [rowed] the boat to the island/we [row] against the current
""")  # contexts of one sense | contexts of the other, with the word in brackets
OPENINGS = split_phrases(
    "we know that | in this story | perhaps | it is true that | they say that | as you can see | of course"
)

Occurrence = tuple[str, int, int]


def _occurrence(rng: random.Random, context: str) -> Occurrence:
    """A sentence with the marked word of a context, and the word's first character and the one after its last."""
    clause = context.format(who=rng.choice(PEOPLE))
    if rng.random() < 0.7:
        clause = f"{rng.choice(OPENINGS)} {clause}"
    marked = as_sentence(clause) if clause[0] != "[" else clause[0] + as_sentence(clause[1:])
    start, end = marked.index("["), marked.index("]") - 1
    return re.sub(r"[\[\]]", "", marked), start, end


def word_in_context(rng: random.Random, label: int) -> tuple[str, str, str, int, int, int, int]:
    """Word, two sentences, start of the word in both and its end in both; label 1: the same sense in both."""
    word = rng.choice(list(SENSES))
    sense, other = rng.sample(SENSES[word], 2)
    contexts = rng.sample(sense, 2) if label else [rng.choice(sense), rng.choice(other)]
    (sentence1, start1, end1), (sentence2, start2, end2) = (_occurrence(rng, context) for context in contexts)
    return word, sentence1, sentence2, start1, start2, end1, end2
