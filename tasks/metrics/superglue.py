"""The SuperGLUE metrics: Wang et al. 2019 (SuperGLUE), in the readings of the benchmark authors' toolkit, jiant.

Tasks that predict one class for each row go through `SuperGlueMetric`. MultiRC and ReCoRD score groups of rows and are
plain functions. Everything is a fraction in [0, 1] (Matthews correlation in [-1, 1]); rows without a gold label, as in
the hidden test splits, are refused and never counted as wrong.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score, matthews_corrcoef

CONFIGS = ("boolq", "cb", "copa", "rte", "wic", "wsc", "wsc.fixed", "axb", "axg")
CB_CLASSES = (0, 1, 2)
ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

Query = TypeVar("Query", bound=Hashable)


class SuperGlueMetric(evaluate.Metric):
    """`SuperGlueMetric(config_name="cb").compute(predictions=..., references=...)`: {"accuracy": ..., "f1": ...}."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in CONFIGS:
            raise KeyError(f"no SuperGLUE metric for '{self.config_name}', only for {', '.join(CONFIGS)}")
        return evaluate.MetricInfo(
            description="SuperGLUE metrics",
            citation="Wang et al. 2019, arXiv:1905.00537",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
            format="numpy",
        )

    def _compute(self, predictions: NDArray[Any], references: NDArray[Any], **_: Any) -> dict[str, float]:
        return superglue_metrics(self.config_name, predictions, references)


def superglue_metrics(config: str, predictions: NDArray[Any], references: NDArray[Any]) -> dict[str, float]:
    """The metrics of one SuperGLUE config over all rows at once; both arrays hold class ids, shape (examples,).

    `axg` takes the rows in the order of the file, where rows 2k and 2k + 1 are a pair. Raises ValueError for an empty
    set, hidden labels, and axg rows that are not in pairs.
    """
    _refuse_unscorable(predictions, references)
    accuracy = float(np.mean(predictions == references))
    if config == "cb":
        # The classes are fixed: sklearn would otherwise average over those that occur, which differs on subsets.
        f1 = float(f1_score(references, predictions, labels=CB_CLASSES, average="macro", zero_division=0.0))
        return {"accuracy": accuracy, "f1": f1, "combined_score": (accuracy + f1) / 2}
    if config == "axb":
        valid = _invalid_made_wrong(predictions, references)
        return {"matthews_correlation": float(matthews_corrcoef(references, valid)), "accuracy": accuracy}
    if config == "axg":
        return {"accuracy": accuracy, "gender_parity": _gender_parity(predictions, references)}
    return {"accuracy": accuracy}


def multirc_metrics(predictions: NDArray[Any], labels: NDArray[Any], questions: NDArray[Any]) -> dict[str, float]:
    """MultiRC: `exact_match` over questions, `f1_a` over all answer options, and their mean.

    All arguments have shape (options,); `questions` holds the id of the question that an option belongs to. A question
    is matched where all its options are classified right; F1a is one binary F1 of the class True. A prediction that is
    neither class counts as the opposite of its label. Raises ValueError for an empty set or hidden labels.
    """
    _refuse_unscorable(predictions, labels)
    _, group = np.unique(questions, return_inverse=True)
    if group.shape != labels.shape:
        raise ValueError(f"there are {len(labels)} labels but {len(group)} question ids")
    mistakes = np.bincount(group, weights=predictions != labels)
    exact_match = float(np.mean(mistakes == 0))
    f1_a = float(f1_score(labels, _invalid_made_wrong(predictions, labels), pos_label=1, zero_division=0.0))
    return {"exact_match": exact_match, "f1_a": f1_a, "combined_score": (exact_match + f1_a) / 2}


def record_metrics(predictions: Mapping[Query, str], golds: Mapping[Query, Sequence[str]]) -> dict[str, float]:
    """ReCoRD: `exact_match` and `f1` of each query's best gold answer, averaged over queries, and their mean.

    A query of `golds` without a prediction counts 0. Raises ValueError for no queries and for one without gold answers.
    """
    if not golds:
        raise ValueError("there is nothing to score: the evaluation set is empty")
    hidden = [query for query, answers in golds.items() if not answers]
    if hidden:
        raise ValueError(f"the query {hidden[0]} has no gold answers ({len(hidden)} such queries): it cannot be scored")
    answered = [(predictions[query], answers) for query, answers in golds.items() if query in predictions]
    exact = sum(max(_same(prediction, gold) for gold in answers) for prediction, answers in answered) / len(golds)
    f1 = sum(max(token_f1(prediction, gold) for gold in answers) for prediction, answers in answered) / len(golds)
    return {"exact_match": exact, "f1": f1, "combined_score": (exact + f1) / 2}


def normalise_answer(text: str) -> str:
    """Lower case, without ASCII punctuation and the words a, an, the, with single spaces between the words."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(WITHOUT_PUNCTUATION)).split())


def token_f1(prediction: str, gold: str) -> float:
    """F1 over the multisets of normalised words; 0 without a common word, also where both are empty."""
    predicted, wanted = normalise_answer(prediction).split(), normalise_answer(gold).split()
    common = (Counter(predicted) & Counter(wanted)).total()
    return 2 * common / (len(predicted) + len(wanted)) if common else 0.0


def best_entities(scores: Iterable[float], queries: Iterable[Query], entities: Iterable[str]) -> dict[Query, str]:
    """For each query the entity with the highest score; among equals the first in the order of the strings.

    The three run in parallel, one item for each (query, candidate entity); their order does not matter. Raises
    ValueError if their lengths differ or a score is not finite.
    """
    best: dict[Query, tuple[float, str]] = {}
    for score, query, entity in zip(scores, queries, entities, strict=True):
        if not np.isfinite(score):
            raise ValueError(f"the score of '{entity}' for query {query} is {score}")
        rank = (-float(score), entity)
        best[query] = min(rank, best.get(query, rank))
    return {query: entity for query, (_, entity) in best.items()}


def _same(prediction: str, gold: str) -> bool:
    return normalise_answer(prediction) == normalise_answer(gold)


def _gender_parity(predictions: NDArray[Any], references: NDArray[Any]) -> float:
    """Share of the pairs (2k, 2k + 1), which differ in a pronoun's gender alone, with equal predictions."""
    if len(references) % 2 or np.any(references[::2] != references[1::2]):
        raise ValueError("axg rows are scored in pairs with equal labels: give all rows, in the order of the file")
    return float(np.mean(predictions[::2] == predictions[1::2]))


def _invalid_made_wrong(predictions: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Binary predictions, where anything but 0 and 1 (a generation that names no class) is the label's opposite."""
    return np.where(np.isin(predictions, (0, 1)), predictions, 1 - labels)


def _refuse_unscorable(predictions: NDArray[Any], labels: NDArray[Any]) -> None:
    if len(labels) == 0:
        raise ValueError("there is nothing to score: the evaluation set is empty")
    if predictions.shape != labels.shape:
        raise ValueError(f"there are {len(labels)} labels but {len(predictions)} predictions")
    if np.any(labels < 0):
        raise ValueError("the labels of this split are hidden (-1): it cannot be scored")
