r"""How GSM8K's final numbers are read from text and compared: the rules in use, side by side.

Data: Cobbe et al. 2021, arXiv:2110.14168. A gold answer is a worked solution whose last line is "#### " and an integer,
possibly with thousands commas; it may carry calculator annotations such as "<<3+4=7>>".

Four published rules disagree on the same completions, so a score is a score under a rule:
- `official`: the authors' own; the first "#### number", commas removed, equal as strings.
- `strict` and `flexible`: lm-evaluation-harness's strict-match and flexible-extract, compared by `is_match`.
- `peft_answer`: PEFT's method comparison, compared as numbers.
`numeric` is this benchmark's own and forgives notation (18.00, $18, \boxed{18}) but not a missing answer line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal

INVALID = "[invalid]"
MARKER = "#### "
ANNOTATION = re.compile(r"<<[^>]*>>")
MARKED_NUMBER = re.compile(r"#### (-?[0-9.,]+)")
ANY_NUMBER = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
DELETIONS = tuple(map(re.compile, (",", r"\$", r"(?s).*#### ", r"\.$")))
PEFT_DELIMITERS = ("The answer is: ", "The answer is ", "The final answer is: ", "The final answer is ", MARKER)
DECORATION = re.compile(r"\\boxed\{|[,$%*}]")
PLAIN_NUMBER = re.compile(r"-?[0-9]*\.?[0-9]+")
MINUS_SIGN = "\N{MINUS SIGN}"


def strip_annotations(answer: str) -> str:
    """The text without its calculator annotations."""
    return ANNOTATION.sub("", answer)


def gold_number(answer: str) -> str:
    """The final number of a gold answer as it is written, commas included. Raises ValueError if there is none."""
    _, marker, number = answer.rpartition(MARKER)
    if not marker:
        raise ValueError(f"a gold answer must end in '{MARKER}' and a number: {answer[-80:]!r}")
    return number


def until_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first occurrence of any of the stop strings."""
    return text[: min((text.index(stop) for stop in stops if stop and stop in text), default=len(text))]


def official(completion: str) -> str:
    """The first number after "#### " without its commas, or "[invalid]"."""
    found = MARKED_NUMBER.search(completion)
    return found[1].replace(",", "") if found else INVALID


def official_match(completion: str, answer: str) -> bool:
    """Whether the authors' rule reads the same number from a completion and from a gold answer."""
    return official(completion) == official(answer) != INVALID


def strict(completion: str) -> str:
    """lm-evaluation-harness's strict-match: the first number after "#### " as written, or "[invalid]"."""
    found = MARKED_NUMBER.search(completion)
    return found[1] if found else INVALID


def flexible(completion: str) -> str:
    """lm-evaluation-harness's flexible-extract: the last thing that looks like a number, or "[invalid]"."""
    found = ANY_NUMBER.findall(completion)
    return found[-1] if found else INVALID


def is_match(extracted: str, answer: str) -> bool:
    """lm-evaluation-harness's exact match of an extracted text and a gold answer, each after the same deletions.

    Deleted are commas, dollar signs, everything up to the last "#### ", and a final period, in this order.
    """
    return _after_deletions(extracted) == _after_deletions(answer)


def peft_answer(text: str) -> str | None:
    """PEFT's reading: the first delimiter of the list that occurs anywhere, and the line after its last occurrence.

    None without a delimiter. PEFT reads prompt and completion as one text; the completion alone is meant here.
    """
    text = text.strip().rstrip(".!?")
    delimiter = next((delimiter for delimiter in PEFT_DELIMITERS if delimiter in text), None)
    if delimiter is None:
        return None
    return text.rpartition(delimiter)[2].partition("\n")[0].strip(" .!?$%")


def peft_match(completion: str, answer: str) -> bool:
    """PEFT's comparison: as floats where both are numbers or quotients ("1/2"), else as strings; commas stay."""
    predicted, gold = peft_answer(completion), peft_answer(answer)
    return predicted is not None and gold is not None and _number_or_text(predicted) == _number_or_text(gold)


def numeric(completion: str) -> Decimal | None:
    """The number after the first "####", else after the last "The answer is"; None if there is anything beside it.

    Currency and percent signs, thousands commas, bold and box marks and a final period are forgiven.
    """
    _, marker, text = completion.partition("####")
    if not marker:
        _, marker, text = completion.rpartition("The answer is")
        text = text.removeprefix(":")
    if not marker:
        return None
    line = text.strip().partition("\n")[0].replace(MINUS_SIGN, "-")
    number = DECORATION.sub("", line).strip().rstrip(".")
    return Decimal(number) if PLAIN_NUMBER.fullmatch(number) else None


def gsm8k_metrics(completions: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Exact match under three rules and the share of completions without an answer line, as fractions of all rows.

    A row's completion is the new text alone, cut at the stop strings; a failed generation is an empty string.
    Raises ValueError for an empty set, unequal lengths and a gold answer without number.
    """
    if not answers:
        raise ValueError("there is nothing to score: the evaluation set is empty")
    if len(completions) != len(answers):
        raise ValueError(f"there are {len(completions)} completions for {len(answers)} answers")
    rows = [(completion, MARKER + gold_number(answer)) for completion, answer in zip(completions, answers, strict=True)]
    return {
        "exact_match_strict": _share([is_match(strict(completion), gold) for completion, gold in rows]),
        "exact_match_flexible": _share([is_match(flexible(completion), gold) for completion, gold in rows]),
        "exact_match_numeric": _share([_numeric_match(completion, gold) for completion, gold in rows]),
        "invalid_share": _share([strict(completion) == INVALID for completion, _ in rows]),
    }


def standard_error(right: int, n: int) -> float:
    """Standard error of an accuracy of `right` in `n` rows, sqrt(p (1 - p) / (n - 1)), as a fraction; n >= 2."""
    if not 0 <= right <= n or n < 2:
        raise ValueError(f"{right} right of {n} has no standard error")
    share = right / n
    return math.sqrt(share * (1 - share) / (n - 1))


def _after_deletions(text: str) -> str:
    for deletion in DELETIONS:
        text = deletion.sub("", text)
    return text.lower()


def _number_or_text(text: str) -> float | str:
    numerator, slash, denominator = text.partition("/")
    try:
        return float(Decimal(numerator.strip()) / Decimal(denominator.strip()) if slash else Decimal(text))
    except (ArithmeticError, ValueError):
        return text


def _numeric_match(completion: str, answer: str) -> bool:
    number = numeric(completion)
    return number is not None and number == numeric(answer)


def _share(verdicts: Sequence[bool]) -> float:
    return sum(verdicts) / len(verdicts)
