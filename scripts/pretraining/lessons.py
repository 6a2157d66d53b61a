"""Word problems that the tiny decoder reads in pretraining: skills of the GSM8K-like sample in other words."""

from scripts.samples.word_problems import Template

LESSONS = (
    Template(
        "{A} (owns|counts|keeps) {a} {things}. {B} (hands|sends) {A} {b} (others|new ones), but (then|soon) {c} (break|"
        "are lost). How many (remain|are there in the end)?",
        ("(Now|First) {A} (owns|has) [d = a + b] {things}.", "(So|Then) {A} (keeps|has) [e = d - c] {things}."),
        {"a": range(5, 51), "b": range(2, 26), "c": range(2, 21)},
    ),
    Template(
        "{A} loses {b} of {a} {things}, and (afterwards|later) finds {c} (again|others). How many does {A} (own|have)?",
        ("First {A} has [d = a - b] {things}.", "Then {A} has [e = d + c] {things}."),
        {"a": range(10, 61), "b": range(2, 21), "c": range(2, 16)},
    ),
    Template(
        "{b} {things} at {a} dollars each go into the (cart|bag) of {A}, who hands over (a bill of {c}|{c}) dollars. "
        "What is the change?",
        ("The (price is|{things} cost) [d = a * b] dollars.", "The change is [e = c - d] dollars."),
        {"a": range(2, 12), "b": range(2, 12), "c": (20, 30, 40, 50, 60, 80, 100)},
    ),
    Template(
        "There are {b} {boxes} of {a} {things} (each|apiece), and {c} (loose|single) {things} (on the floor|beside). "
        "How many {things} are (there|here) in all?",
        ("In the {boxes} are [d = a * b] {things}.", "(In all|Together) there are [e = d + c] {things}."),
        {"a": range(2, 13), "b": range(2, 13), "c": range(2, 31)},
    ),
    Template(
        "(Every day|Each week) {A} makes {a} {things}. After {b} of them {c} (people|children) (split|divide) "
        "everything evenly. What does (one of them|each) get?",
        ("{A} makes [d = a * b] {things}.", "(One of them|Each) gets [e = d / c] {things}."),
        {"a": range(2, 13), "b": range(2, 13), "c": range(2, 13)},
    ),
    Template(
        "{B} (owns|counts) {b} times (the {things} of|as many {things} as) {A}, who (owns|counts) {a}. "
        "What is (the sum|their total)?",
        ("{B} (owns|has) [d = a * b] {things}.", "(The sum is|They have) [e = a + d] {things}."),
        {"a": range(2, 21), "b": range(2, 10)},
    ),
    Template(
        "{A} counts {a} {things}, {B} counts {b} (less|fewer). What is (the sum|the total|that together)?",
        ("{B} counts [d = a - b] {things}.", "(The sum is|That is|Together they have) [e = a + d] {things}."),
        {"a": range(8, 61), "b": range(2, 21)},
    ),
    Template(
        "{a} (girls|men) and {b} (boys|women) sit down at tables for {c}. How many tables do they (fill|take)?",
        ("(They are|There are) [d = a + b] people.", "They (fill|take|need) [e = d / c] tables."),
        {"a": range(5, 61), "b": range(2, 31), "c": range(2, 13)},
    ),
    Template(
        "A (job|shift) pays {a} dollars (per|for every) hour. {A} does {b} hours in the morning and {c} hours "
        "(at night|in the evening). How (large is the pay|many dollars is that)?",
        ("{A} (works|does) [d = b + c] hours.", "(The pay is|{A} gets) [e = d * a] dollars."),
        {"a": range(2, 15), "b": range(2, 10), "c": range(2, 10)},
    ),
    Template(
        "With {a} dollars {A} goes to a (shop|market), and pays {b} for (a hat|a lamp) and {c} for {things}. "
        "How many dollars (remain|does {A} bring home)?",
        ("{A} pays [d = b + c] dollars.", "[e = a - d] dollars (remain|are left)."),
        {"a": range(20, 101), "b": range(3, 26), "c": range(2, 21)},
    ),
    Template(
        "On a (shelf|table) are {a} green {things}, and {b} more white ones than that. How many {things} are there?",
        ("[d = a + b] {things} are white.", "(In all|Together) there are [e = a + d] {things}."),
        {"a": range(3, 61), "b": range(2, 26)},
    ),
    Template(
        "A (story|text) has {c} pages. (Every night|Each evening) {A} reads {a}, for {b} nights. "
        "How many (pages remain|remain)?",
        ("{A} reads [d = a * b] pages.", "[e = c - d] pages (remain|are left)."),
        {"a": range(2, 13), "b": range(2, 13), "c": range(30, 151)},
    ),
    Template(
        "{A} is {a}. {B} was born {b} years (before|earlier than) {A}, and {C} was born {c} years (after|later than) "
        "{B}. What is the age of {C}?",
        ("{B} is [d = a + b].", "{C} is [e = d - c] years old."),
        {"a": range(5, 51), "b": range(2, 26), "c": range(2, 21)},
    ),
    Template(
        "In a garden {b} (plants|bushes) grow in each of {a} lines. {c} of them die, and {d} (young|fresh) ones come "
        "instead. How many grow there (then|in the end)?",
        (
            "(First|At first) there were [e = a * b] plants.",
            "(Then|Soon) there were [f = e - c] plants.",
            "In the end there are [g = f + d] plants.",
        ),
        {"a": range(2, 13), "b": range(2, 13), "c": range(2, 16), "d": range(2, 21)},
    ),
    Template(
        "{a} {boxes} hold {b} {things} each, and {c} other {boxes} hold {d} each. How many {things} is that?",
        (
            "The first hold [e = a * b].",
            "The others hold [f = c * d].",
            "(Together|In all) it is [g = e + f] {things}.",
        ),
        {"a": range(2, 13), "b": range(2, 13), "c": range(2, 13), "d": range(2, 13)},
    ),
    Template(
        "{A} finds {a} {things}, {B} finds {b}, and they make {c} (heaps|groups) of the same size. "
        "How large is (a heap|each)?",
        ("Together they (find|have) [d = a + b] {things}.", "(One|Each) has [e = d / c] {things}."),
        {"a": range(3, 51), "b": range(3, 51), "c": range(2, 13)},
    ),
    Template(
        "{b} (guests|children) should get {a} {things} each. {A} has {c} {things}. "
        "How many (are missing|must {A} buy)?",
        ("The (guests|children) should get [d = a * b] {things}.", "[e = d - c] {things} are missing."),
        {"a": range(2, 13), "b": range(2, 13), "c": range(2, 41)},
    ),
    Template(
        "{a} (birds|children) sit in a (tree|room). {b} leave, {c} come, and {d} (leave again|leave). "
        "How many sit there (now|then)?",
        (
            "First there were [e = a - b].",
            "After {c} came there were [f = e + c].",
            "(Then|Now) there are [g = f - d].",
        ),
        {"a": range(12, 81), "b": range(2, 21), "c": range(2, 21), "d": range(2, 21)},
    ),
    Template(
        "{A} carries {b} {boxes} and {B} carries {c}. Every one holds {a} {things}. By how many {things} is {A} ahead?",
        ("{A} carries [d = b - c] more {boxes}.", "{A} (is ahead by|has) [e = a * d] (more {things}|{things})."),
        {"a": range(2, 13), "b": range(5, 21), "c": range(2, 16)},
    ),
    Template(
        "{A} swims {a} laps and {B} swims {b} laps a day. How many laps do they swim (within|in) {c} days?",
        ("(Every day|In a day) they swim [d = a + b] laps.", "(Within|In) {c} days they swim [e = c * d] laps."),
        {"a": range(2, 13), "b": range(2, 13), "c": range(2, 13)},
    ),
    Template(
        "{a} {things} go evenly into {b} {boxes}, and {c} more go into each. How many are in one of them?",
        ("(First|At first) each (has|holds) [d = a / b] {things}.", "Then each (has|holds) [e = d + c] {things}."),
        {"a": range(6, 121), "b": range(2, 13), "c": range(2, 21)},
    ),
)
