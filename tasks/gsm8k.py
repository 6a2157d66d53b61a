"""GSM8K: grade school mathematics in words, Cobbe et al. 2021, arXiv:2110.14168.

Trained on question -> worked answer with the loss on the answer alone; scored by greedy completions of the whole test
split without examples in the prompt. Two rules read the number from a completion, both in every row: the headline
`exact_match_strict` takes what follows "####", `exact_match_flexible` the last number (EleutherAI's
lm-evaluation-harness, task gsm8k). `exact_match_numeric` is the harness's own, more forgiving reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from bench.errors import DataError, SettingsError
from bench.requirements import require_known, require_whole
from tasks.base import Examples, Scores
from tasks.examples import PromptedExamples, Tokens
from tasks.metrics import gsm8k
from tasks.prompted import PromptedTask, filled, rows
from tasks.rows import Columns
from tasks.sources import TRAIN_SPLIT, Source
from tasks.text import padding_id

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bench.generation import Completion

ANNOTATIONS = ("strip", "keep")
COLUMNS = ("question", "answer")


@dataclass(frozen=True, kw_only=True)
class Gsm8kTask(PromptedTask):
    """Described by `conf/task/gsm8k.yaml`.

    `annotations` says whether the calculator's "<<16-3=13>>" stay in the training targets.
    """

    kind: ClassVar[str] = "generation"
    headline: ClassVar[str] = "exact_match_strict"

    annotations: str
    stops: Sequence[str]
    max_new_tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.make_tuple("stops")
        require_known("task.annotations", self.annotations, ANNOTATIONS)
        if "" in self.stops:
            raise SettingsError("task.stops has an empty string, which every text begins with.")
        require_whole("task.max_new_tokens", self.max_new_tokens)

    def encode(
        self,
        source: Source,
        split: str,
        preprocessor: PreTrainedTokenizerBase,
        max_length: int | None,
        at_most: int | None,
    ) -> PromptedExamples:
        """Questions with their worked answers to train on, or the questions alone."""
        where = f"split '{split}' in {source.folder}"
        questions, ids = self.drawn_rows(source, split, preprocessor, COLUMNS, at_most)
        answers = [question["answer"] for question in questions]
        unmarked = [answer for answer in answers if gsm8k.MARKER not in answer]
        if unmarked:
            raise DataError(f"The {where} has an answer without '{gsm8k.MARKER}': {unmarked[0][:80]!r}.")
        training = split == TRAIN_SPLIT
        prompts = [filled(self.template, question) for question in questions]
        targets = [f" {self._target(answer)}" if training else "" for answer in answers]
        encoded = rows(preprocessor, prompts, targets, closed=training)
        kept = [
            i for i, row in enumerate(encoded) if not training or max_length is None or len(row.tokens) <= max_length
        ]
        if not kept:
            raise DataError(f"Every example of the {where} is longer than training.max_length={max_length}.")
        return PromptedExamples(
            Tokens.of([encoded[i].tokens for i in kept], padding_id(preprocessor)),
            np.array([gsm8k.gold_number(answers[i]) for i in kept], object),
            ids[kept],
            {"answer": [answers[i] for i in kept]},
            len(encoded) - len(kept),
            np.array([encoded[i].prompt_length for i in kept]),
        )

    def predict(self, answers: Sequence[Completion], examples: Examples) -> Columns:
        """The number that each rule reads from a completion, whether it is right, and the completion itself."""
        texts = [completion.text for completion in answers]
        strict, flexible = [gsm8k.strict(text) for text in texts], [gsm8k.flexible(text) for text in texts]
        golds = examples.columns["answer"]
        return {
            "prediction": strict,
            "flexible": flexible,
            "correct_strict": [gsm8k.is_match(found, gold) for found, gold in zip(strict, golds, strict=True)],
            "correct_flexible": [gsm8k.is_match(found, gold) for found, gold in zip(flexible, golds, strict=True)],
            "generated": texts,
            "new_tokens": [completion.new_tokens for completion in answers],
            "truncated": [completion.truncated for completion in answers],
        }

    def score(self, predictions: Mapping[str, Columns], examples: Mapping[str, Examples]) -> Scores:
        """The exact matches under three rules, and the share of completions without a strict answer."""
        (split,) = predictions
        metrics = gsm8k.gsm8k_metrics(predictions[split]["generated"], examples[split].columns["answer"])
        return Scores(100 * metrics[self.headline], dict(metrics))

    def _target(self, answer: str) -> str:
        return gsm8k.strip_annotations(answer) if self.annotations == "strip" else answer
