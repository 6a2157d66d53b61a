"""GSM8K's extraction rules on strings worked out by hand, and on the gold answers themselves."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from tasks.metrics.gsm8k import (
    flexible,
    gold_number,
    gsm8k_metrics,
    is_match,
    numeric,
    official,
    official_match,
    peft_answer,
    peft_match,
    standard_error,
    strict,
    strip_annotations,
    until_stop,
)

# completion, gold number, text read by official, strict, flexible and PEFT's rule, whether those and numeric are right
READINGS: list[tuple[str, str, str, str, str, str | None, str]] = [
    ("3+4=<<3+4=7>>7\n#### 7", "7", "7", "7", "7", "7", "YYYYY"),
    ("#### 18.", "18", "18.", "18.", "18.", "18", "nYYYY"),
    ("#### 18.00", "18", "18.00", "18.00", "18.00", "18.00", "nnnYY"),
    ("#### $18", "18", "[invalid]", "[invalid]", "$18", "18", "nnYYY"),
    ("#### 1,234", "1234", "1234", "1,234", "1,234", "1,234", "YYYnY"),
    ("#### 1234", "1,234", "1234", "1234", "1234", "1234", "YYYnY"),
    ("#### -5", "-5", "-5", "-5", "-5", "-5", "YYYYY"),
    ("#### - 5", "-5", "[invalid]", "[invalid]", "5", "- 5", "nnnnn"),
    ("#### \N{MINUS SIGN}5", "-5", "[invalid]", "[invalid]", "5", "\N{MINUS SIGN}5", "nnnnY"),
    ("####18", "18", "[invalid]", "[invalid]", "18", None, "nnYnY"),
    ("####  18", "18", "[invalid]", "[invalid]", "18", "18", "nnYYY"),
    ("#### 50%", "50", "50", "50", "50", "50", "YYYYY"),
    ("#### 18 dollars", "18", "18", "18", "18", "18 dollars", "YYYnn"),
    ("#### 18 (9 x 2)", "18", "18", "18", "2", "18 (9 x 2)", "YYnnn"),
    ("#### 18\n#### 20", "18", "18", "18", "20", "20", "YYnnY"),
    ("#### 18\n\nQuestion: Tom has 3 pens.", "18", "18", "18", "3", "18", "YYnYY"),
    ("#### 18</s>", "18", "18", "18", "18", "18</s>", "YYYnn"),
    ("The answer is 18.", "18", "[invalid]", "[invalid]", "18.", "18", "nnYYY"),
    ("The answer is: 18.", "18", "[invalid]", "[invalid]", "18.", "18", "nnYYY"),
    ("The answer is: 18.\nHope it helps 2 of you", "18", "[invalid]", "[invalid]", "2", "18", "nnnYY"),
    ("so 18 eggs are left", "18", "[invalid]", "[invalid]", "18", None, "nnYnn"),
    ("She earns $1,080.", "1080", "[invalid]", "[invalid]", "$1,080.", None, "nnYnn"),
    ("Total: 18, ...", "18", "[invalid]", "[invalid]", "...", None, "nnnnn"),
    ("#### ,", "18", "", ",", "[invalid]", ",", "nnnnn"),
    ("#### 1/2", "0.5", "1", "1", "2", "1/2", "nnnYn"),
    ("The answer is: 35/2", "18", "[invalid]", "[invalid]", "2", "35/2", "nnnnn"),
    ("The answer is: 17.6", "18", "[invalid]", "[invalid]", "17.6", "17.6", "nnnnn"),
    ("The answer is: 1,450,000", "1450000", "[invalid]", "[invalid]", "1,450,000", "1,450,000", "nnYnY"),
    ("#### 7:30", "7", "7", "7", "30", "7:30", "YYnnn"),
    ("#### 1e3", "1000", "1", "1", "3", "1e3", "nnnYn"),
    (r"#### \boxed{18}", "18", "[invalid]", "[invalid]", "18", r"\boxed{18}", "nnYnY"),
    ("#### **18**", "18", "[invalid]", "[invalid]", "18", "**18**", "nnYnY"),
    ("from 10-15", "15", "[invalid]", "[invalid]", "-15", None, "nnnnn"),
    ("#### 018", "18", "018", "018", "018", "018", "nnnYY"),
    ("#### .5", "0.5", ".5", ".5", ".5", "5", "nnnnY"),
    ("#### eighteen", "18", "[invalid]", "[invalid]", "[invalid]", "eighteen", "nnnnn"),
    ("", "18", "[invalid]", "[invalid]", "[invalid]", None, "nnnnn"),
]
ANSWER = "16 - 3 - 4 = <<16-3-4=9>>9 eggs\n9 * 2 = $<<9*2=18>>18\n#### 18"


@pytest.mark.parametrize(
    ("completion", "gold", "by_official", "by_strict", "by_flexible", "by_peft", "right"), READINGS
)
def test_what_each_rule_reads_and_whether_it_counts(
    completion: str, gold: str, by_official: str, by_strict: str, by_flexible: str, by_peft: str | None, right: str
) -> None:
    answer = f"A worked solution with 3 steps.\n#### {gold}"
    read = (official(completion), strict(completion), flexible(completion), peft_answer(completion))
    assert read == (by_official, by_strict, by_flexible, by_peft)
    verdicts = (
        official_match(completion, answer),
        is_match(by_strict, answer),
        is_match(by_flexible, answer),
        peft_match(completion, answer),
        numeric(completion) == numeric(answer),
    )
    assert "".join("Y" if verdict else "n" for verdict in verdicts) == right


def test_the_table_is_whole() -> None:
    assert len(READINGS) == 37


@pytest.mark.parametrize(
    ("completion", "number"),
    [
        ("#### 18.00", "18"),
        ("The answer is: 7.\nThe answer is 8.", "8"),
        ("The answer is 8\n#### 9", "9"),
        ("The answer is:-3", "-3"),
        ("#### $1,450,000.", "1450000"),
    ],
)
def test_numeric_reads_a_number(completion: str, number: str) -> None:
    assert numeric(completion) == Decimal(number)


@pytest.mark.parametrize("completion", ["18", "#### 18 dollars", "#### 1/2", "#### ", "#### 1e3", "#### nan"])
def test_numeric_reads_nothing_else(completion: str) -> None:
    assert numeric(completion) is None


@pytest.mark.parametrize(("text", "right"), [("#### 1/0", False), ("#### nan", False), ("#### 0.5", True)])
def test_pefts_numbers_include_quotients(text: str, right: bool) -> None:
    assert peft_match(text, "#### 1/2") is right


def test_annotations_are_stripped_and_the_final_number_stays() -> None:
    assert strip_annotations(ANSWER) == "16 - 3 - 4 = 9 eggs\n9 * 2 = $18\n#### 18"
    assert gold_number(ANSWER) == "18"
    assert gold_number("#### 1,080") == "1,080"


def test_a_gold_answer_without_number_is_refused() -> None:
    with pytest.raises(ValueError, match="must end in '#### '"):
        gold_number("The answer is 18")
    with pytest.raises(ValueError, match="must end in"):
        gsm8k_metrics(["#### 18"], ["18"])


def test_metrics_are_shares_of_all_rows() -> None:
    completions = ["#### 18", "#### $18", "The answer is 17.", "", "#### 18.00"]
    assert gsm8k_metrics(completions, [ANSWER] * 5) == {
        "exact_match_strict": 1 / 5,
        "exact_match_flexible": 2 / 5,
        "exact_match_numeric": 3 / 5,
        "invalid_share": 3 / 5,
    }


def test_an_empty_set_and_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        gsm8k_metrics([], [])
    with pytest.raises(ValueError, match="1 completions for 2 answers"):
        gsm8k_metrics(["#### 18"], [ANSWER, ANSWER])


@pytest.mark.parametrize(
    ("right", "n", "error"), [(660, 1319, 0.01377), (396, 1319, 0.0126), (923, 1319, 0.0126), (0, 1319, 0.0)]
)
def test_standard_error(right: int, n: int, error: float) -> None:
    assert standard_error(right, n) == pytest.approx(error, abs=5e-5)


def test_one_row_has_no_standard_error() -> None:
    with pytest.raises(ValueError, match="no standard error"):
        standard_error(1, 1)


@pytest.mark.parametrize(
    ("text", "stops", "kept"),
    [
        ("#### 18\n\nQuestion: Tom", ["</s>", "Question:"], "#### 18\n\n"),
        ("1</s>2Question:3", ["Question:", "</s>"], "1"),
        ("abc", ["bc", "ab"], ""),
        ("#### 18", ["Question:", ""], "#### 18"),
        ("#### 18", [], "#### 18"),
    ],
)
def test_text_ends_before_the_first_stop_string(text: str, stops: list[str], kept: str) -> None:
    assert until_stop(text, stops) == kept


def test_generating_past_a_stop_string_changes_nothing() -> None:
    full = "3 + 4 = 7\n#### 7\n\nQuestion: How many?\nAnswer: 9</s>"
    stopped = [until_stop(full[:length], ["Question:", "</s>"]) for length in range(27, len(full) + 1)]
    assert set(stopped) == {"3 + 4 = 7\n#### 7\n\n"}


def gold_answers(root: Path, split: str) -> list[str]:
    import pyarrow.parquet as pq

    files = sorted((root / "openai/gsm8k/main").glob(f"{split}-*.parquet"))
    return [answer for file in files for answer in pq.read_table(file).column("answer").to_pylist()]


@pytest.mark.real_data
class TestGoldAnswers:
    @pytest.mark.parametrize("annotated", [True, False])
    def test_gold_answers_are_right_under_every_rule(self, real_data: Path, annotated: bool) -> None:
        golds = gold_answers(real_data, "test")
        texts = golds if annotated else [strip_annotations(answer) for answer in golds]
        assert len(golds) == 1319
        assert gsm8k_metrics(texts, golds) == {
            "exact_match_strict": 1.0,
            "exact_match_flexible": 1.0,
            "exact_match_numeric": 1.0,
            "invalid_share": 0.0,
        }
        assert sum(map(official_match, texts, golds)) == 1319
        assert sum(map(peft_match, texts, golds)) == 1319

    @pytest.mark.parametrize("annotated", [True, False])
    def test_without_the_answer_line_only_the_last_number_is_left(self, real_data: Path, annotated: bool) -> None:
        golds = gold_answers(real_data, "test")
        texts = [answer.rpartition("\n#### ")[0] for answer in golds]
        texts = texts if annotated else [strip_annotations(text) for text in texts]
        assert sum(is_match(strict(text), gold) for text, gold in zip(texts, golds, strict=True)) == 0
        assert sum(is_match(flexible(text), gold) for text, gold in zip(texts, golds, strict=True)) == 1248

    def test_stripping_keeps_every_final_number(self, real_data: Path) -> None:
        answers = gold_answers(real_data, "train") + gold_answers(real_data, "test")
        assert len(answers) == 8792
        for answer in answers:
            stripped = strip_annotations(answer)
            assert "<<" not in stripped
            assert ">>" not in stripped
            assert gold_number(stripped) == gold_number(answer)

    def test_the_most_frequent_answer_is_the_floor(self, real_data: Path) -> None:
        golds = gold_answers(real_data, "test")
        assert gsm8k_metrics(["#### 5"] * 1319, golds)["exact_match_strict"] == 40 / 1319
