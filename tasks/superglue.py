"""The eight SuperGLUE tasks and its two diagnostics: Wang et al. 2019, arXiv:1905.00537.

Inputs and heads are those of the official baselines for encoders (nyu-mll/jiant): pairs through the sequence
classifier, COPA as two scored sequences, WiC and WSC as two marked spans. Scored on the validation splits. MultiRC is
scored over questions and ReCoRD over queries, whose rows therefore stay together in every subset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.errors import DataError
from bench.requirements import require_known
from tasks.base import Examples, Scores
from tasks.examples import ChoiceExamples, SpanPairExamples, TextExamples, Tokens
from tasks.rows import SUBSET_SEED, Columns, require_columns
from tasks.text import TextTask, padding_id, tokenised

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from tasks.sources import Source

COPA_QUESTIONS = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
PLACEHOLDER = "@placeholder"
DIAGNOSTIC_COLUMNS = {"axb": ("sentence1", "sentence2"), "axg": ("premise", "hypothesis")}
DIAGNOSTIC_METRICS = {"axb": ("matthews_correlation", "accuracy"), "axg": ("accuracy", "gender_parity")}
DIAGNOSTIC_SPLIT = "test"
METRICS = {
    "cb": ("accuracy", "f1", "combined_score"),
    "multirc": ("exact_match", "f1_a", "combined_score"),
    "record": ("exact_match", "f1", "combined_score"),
    **DIAGNOSTIC_METRICS,
}
"""Where it is not accuracy alone."""

Spans = Sequence[tuple[int, int, int]]
"""Marked spans of one example: which of its texts, first character, character after the last."""


@dataclass(frozen=True, kw_only=True)
class SuperGlueTask(TextTask):
    """BoolQ, CB and RTE: a pair of texts and its class. With `diagnostics` the same model is scored on those too."""

    reports_several: ClassVar[bool] = False
    kinds: ClassVar[Sequence[str]] = ("classification", "choice", "span_pair")
    span_columns: ClassVar[Sequence[str]] = ()
    """Columns that say where the marked spans lie."""

    diagnostics: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.make_tuple("diagnostics")
        for config in self.diagnostics:
            require_known("task.diagnostics", config, DIAGNOSTIC_METRICS)

    @property
    def metric_names(self) -> Sequence[str]:
        """SuperGLUE's metrics of the reported split."""
        return METRICS.get(self.config, ("accuracy",))

    @property
    def configs(self) -> Sequence[str]:
        """Folders of the repository that the task reads."""
        return (self.config, *self.diagnostics)

    @property
    def context_column(self) -> str | None:
        """The first text, but BoolQ's second: its passages stand in several rows, each with a question of its own."""
        return "passage" if self.config == "boolq" else super().context_column

    def scored_splits(self, source: Source) -> Sequence[str]:
        """The reported splits, and the diagnostics that the source has."""
        present = [config for config in self.diagnostics if source.of(config).has(DIAGNOSTIC_SPLIT)]
        return (*self.reported_splits, *(f"{config}/{DIAGNOSTIC_SPLIT}" for config in present))

    def encode(
        self,
        source: Source,
        split: str,
        preprocessor: PreTrainedTokenizerBase,
        max_length: int | None,
        at_most: int | None,
    ) -> Examples:
        """Tokenise one split; a diagnostic, "axb/test", is always read as a whole."""
        config, _, plain = split.rpartition("/")
        if not config:
            return super().encode(source, split, preprocessor, max_length, at_most)
        diagnostic = SuperGlueTask(
            **{**vars(self), "config": config, "text_columns": DIAGNOSTIC_COLUMNS[config], "diagnostics": ()}
        )
        return diagnostic.encode(source.of(config), plain, preprocessor, max_length, None)

    def checked(self, table: pa.Table, where: str) -> pa.Table:
        """The table, if it has all columns and only known labels. Raises DataError."""
        require_columns(table, self.span_columns, where)
        return super().checked(table, where)

    def metrics(self, split: str, predictions: Columns, examples: Examples) -> dict[str, float | None]:
        """SuperGLUE's metrics of one split, those of a diagnostic under its name."""
        from tasks.metrics.superglue import SuperGlueMetric

        config, _, _ = split.rpartition("/")
        metric = SuperGlueMetric(config_name=config or self.config, keep_in_memory=True)
        found = metric.compute(predictions=predictions["prediction"], references=examples.labels)
        return {f"{config}_{name}": value for name, value in found.items()} if config else found

    def score(self, predictions: Mapping[str, Columns], examples: Mapping[str, Examples]) -> Scores:
        """The metrics of the reported split and of the diagnostics; a diagnostic that the data lacks is null."""
        metrics: dict[str, float | None] = {}
        for split, columns in predictions.items():
            metrics |= self.metrics(split, columns, examples[split])
        absent = [
            f"{config}_{name}"
            for config in self.diagnostics
            for name in DIAGNOSTIC_METRICS[config]
            if f"{config}_{name}" not in metrics
        ]
        metrics |= dict.fromkeys(absent)
        reasons = dict.fromkeys(absent, "the data source lacks this diagnostic set")
        return Scores(100 * (metrics[self.headline] or 0.0), metrics, reasons)


@dataclass(frozen=True, kw_only=True)
class CopaTask(SuperGlueTask):
    """COPA: which of two choices is the premise's cause or effect; each is scored as the premise's continuation."""

    @property
    def outputs(self) -> int:
        """One score per choice."""
        return 1

    def examples(self, table: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Examples:
        """Two rows per example: premise with its question, and one choice."""
        firsts, seconds = [], []
        for row in table.select(self.text_columns).to_pylist():
            firsts += 2 * [f"{row['premise']} {COPA_QUESTIONS[row['question']]}"]
            seconds += [row["choice1"], row["choice2"]]
        tokens = tokenised(tokenizer, [firsts, seconds], max_length)
        return ChoiceExamples(tokens, self.labels_of(table), self.ids_of(table), choices=2)

    def checked(self, table: pa.Table, where: str) -> pa.Table:
        """The table, if every question asks for a cause or an effect."""
        table = super().checked(table, where)
        unknown = set(table.column("question").to_pylist()) - set(COPA_QUESTIONS)
        if unknown:
            raise DataError(f"The {where} has the question '{min(unknown)}'; allowed are cause and effect.")
        return table


@dataclass(frozen=True, kw_only=True)
class MultircTask(SuperGlueTask):
    """MultiRC: one row per answer option of a question about a paragraph, true or false."""

    def examples(self, table: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Examples:
        """Paragraph and question, then the answer; where that is too long, the paragraph is cut."""
        paragraphs, questions, answers = (table.column(name).to_pylist() for name in self.text_columns)
        others = [(f" {question}", answer) for question, answer in zip(questions, answers, strict=True)]
        shortened = _cut(tokenizer, paragraphs, others, max_length)
        firsts = [f"{paragraph} {question}" for paragraph, question in zip(shortened, questions, strict=True)]
        columns = {"question": _field(table, "question")}
        return TextExamples(
            tokenised(tokenizer, [firsts, answers], max_length), self.labels_of(table), self.ids_of(table), columns
        )

    def checked(self, table: pa.Table, where: str) -> pa.Table:
        """The table, if it also says which question a row belongs to. Raises DataError."""
        require_columns(table, ("idx",), where)
        return super().checked(table, where)

    def ids_of(self, table: pa.Table) -> NDArray[np.int64]:
        """The answer options' own numbers."""
        return _field(table, "answer")

    def chosen(self, table: pa.Table, at_most: int | None) -> NDArray[np.int64] | None:
        """Whole questions with at most `at_most` options together."""
        _, groups, sizes = np.unique(_field(table, "question"), return_inverse=True, return_counts=True)
        kept = _drawn_groups(sizes, at_most)
        return None if kept is None else np.flatnonzero(np.isin(groups, kept))

    def metrics(self, split: str, predictions: Columns, examples: Examples) -> dict[str, float | None]:
        """F1 over all options and exact match over questions."""
        from tasks.metrics.superglue import multirc_metrics

        questions = np.asarray(examples.columns["question"])
        return {**multirc_metrics(np.asarray(predictions["prediction"]), examples.labels, questions)}


@dataclass(frozen=True, kw_only=True)
class RecordTask(SuperGlueTask):
    """ReCoRD: which of a passage's entities fills the gap in a query; one row per query and entity, true or false."""

    def examples(self, table: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Examples:
        """Passage, and the query with each of its unique entities in the gap, entities in sorted order."""
        rows = [
            (query, entity)
            for query in table.select([*self.text_columns, "entities", "answers", "idx"]).to_pylist()
            for entity in sorted(set(query["entities"]))
        ]
        filled = [query["query"].replace(PLACEHOLDER, entity) for query, entity in rows]
        passages = _cut(tokenizer, [query["passage"] for query, _ in rows], [(text,) for text in filled], max_length)
        columns = {
            "query": np.array([query["idx"]["query"] for query, _ in rows]),
            "entity": [entity for _, entity in rows],
            "answers": [query["answers"] for query, _ in rows],
        }
        labels = np.array([entity in query["answers"] for query, entity in rows], np.int64)
        return TextExamples(tokenised(tokenizer, [passages, filled], max_length), labels, np.arange(len(rows)), columns)

    def checked(self, table: pa.Table, where: str) -> pa.Table:
        """The table, if every query has entities, and answers to be scored against. Raises DataError."""
        require_columns(table, (*self.text_columns, "entities", "answers", "idx"), where)
        for column in ("entities", "answers"):
            if not all(table.column(column).to_pylist()):
                raise DataError(f"The {where} has queries without {column}.")
        return table

    def chosen(self, table: pa.Table, at_most: int | None) -> NDArray[np.int64] | None:
        """Queries with at most `at_most` entities together."""
        sizes = [len(set(entities)) for entities in table.column("entities").to_pylist()]
        return _drawn_groups(np.array(sizes), at_most)

    def predict(self, answers: NDArray[np.float32], examples: Examples) -> Columns:
        """The class of each row, and its `credit`: the query's score on the row of its best entity, 0 on the others."""
        from tasks.metrics.superglue import record_metrics

        best, golds = _best_entities(answers, examples), _answers_of_queries(examples)
        credit = {query: record_metrics({query: best[query]}, {query: golds[query]}) for query in golds}
        rows = zip(examples.columns["query"].tolist(), examples.columns["entity"], strict=True)
        of_rows = [credit[query]["combined_score"] if best[query] == entity else 0.0 for query, entity in rows]
        return {**super().predict(answers, examples), "credit": of_rows}

    def metrics(self, split: str, predictions: Columns, examples: Examples) -> dict[str, float | None]:
        """Exact match and F1 of each query's best entity."""
        from tasks.metrics.superglue import record_metrics

        best = _best_entities(np.stack(predictions["scores"]), examples)
        return {**record_metrics(best, _answers_of_queries(examples))}


def _best_entities(scores: NDArray[np.float32], examples: Examples) -> dict[int, str]:
    """The entity that each query of ReCoRD chooses, by the difference of the two logits, (rows, 2)."""
    from tasks.metrics.superglue import best_entities

    false, true = scores.T
    return best_entities(true - false, examples.columns["query"].tolist(), examples.columns["entity"])


def _answers_of_queries(examples: Examples) -> dict[int, Sequence[str]]:
    return dict(zip(examples.columns["query"].tolist(), examples.columns["answers"], strict=True))


@dataclass(frozen=True, kw_only=True)
class WicTask(SuperGlueTask):
    """WiC: whether a word has one meaning in two sentences; its two occurrences are the marked spans."""

    span_columns = ("start1", "end1", "start2", "end2")

    def examples(self, table: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Examples:
        """The word, the first sentence, and the second as the pair's other text."""
        separator = tokenizer.sep_token or "\n"
        rows = table.to_pylist()
        heads = [f"{row['word']} {separator} " for row in rows]
        texts = [
            [head + row["sentence1"] for head, row in zip(heads, rows, strict=True)],
            [row["sentence2"] for row in rows],
        ]
        spans = [
            [(0, len(head) + row["start1"], len(head) + row["end1"]), (1, row["start2"], row["end2"])]
            for head, row in zip(heads, rows, strict=True)
        ]
        return _with_spans(self, table, tokenizer, texts, spans, max_length)


@dataclass(frozen=True, kw_only=True)
class WscTask(SuperGlueTask):
    """WSC: whether a pronoun refers to a noun phrase; both are the marked spans, told by the number of their words."""

    span_columns = ("span1_index", "span2_index")

    def examples(self, table: pa.Table, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Examples:
        """The text alone."""
        rows = table.to_pylist()
        spans = [
            [
                (0, *word_span(row["text"], row["span1_index"], row["span1_text"])),
                (0, *word_span(row["text"], row["span2_index"], row["span2_text"])),
            ]
            for row in rows
        ]
        return _with_spans(self, table, tokenizer, [[row["text"] for row in rows]], spans, max_length)


def word_span(text: str, index: int, words: str) -> tuple[int, int]:
    """Characters of as many words of `text` as `words` has, from word `index` on; words lie between white space."""
    found = [match.span() for match in re.finditer(r"\S+", text)]
    last = min(index + max(len(words.split()), 1), len(found)) - 1
    return found[min(index, last)][0], found[last][1]


def token_span(encoded: BatchEncoding, row: int, text: int, start: int, end: int) -> tuple[int, int] | None:
    """The first and last token that share a character with [start, end) of one text; None where its end was cut off."""
    offsets = encoded["offset_mapping"][row]
    tokens = [token for token, belongs in enumerate(encoded.sequence_ids(row)) if belongs == text]
    touching = [
        token for token in tokens if offsets[token][0] < end and offsets[token][1] > max(start, offsets[token][0])
    ]
    if not touching or (touching[-1] == tokens[-1] and offsets[tokens[-1]][1] < end):
        return None
    return touching[0], touching[-1]


def _with_spans(
    task: TextTask,
    table: pa.Table,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[Sequence[str]],
    spans: Sequence[Spans],
    max_length: int | None,
) -> SpanPairExamples:
    """Tokenise, and find the marked spans among the tokens. Raises DataError for a span that was cut off."""
    encoded = tokenizer(
        *texts, truncation=True, max_length=max_length, return_attention_mask=False, return_offsets_mapping=True
    )
    found = np.empty((len(spans), 2, 2), np.int64)
    for row, marked in enumerate(spans):
        for which, span in enumerate(marked):
            touched = token_span(encoded, row, *span)
            if touched is None:
                raise DataError(
                    f"training.max_length={max_length} cuts off a marked word of the {task.config} example "
                    f"{task.ids_of(table)[row]}; it must be greater."
                )
            found[row, which] = touched
    segments = encoded.get("token_type_ids") if len(texts) == 2 else None
    tokens = Tokens.of(encoded["input_ids"], padding_id(tokenizer), segments)
    return SpanPairExamples(tokens, task.labels_of(table), task.ids_of(table), spans=found)


def _cut(
    tokenizer: PreTrainedTokenizerBase, longer: Sequence[str], others: Sequence[Sequence[str]], max_length: int | None
) -> list[str]:
    """The longer texts, cut at the end so that each fits beside its other texts and the model's special tokens."""
    if max_length is None:
        return list(longer)
    starts = {text: [start for start, _ in offsets] for text, offsets in _unique_offsets(tokenizer, set(longer))}
    sizes = {text: len(ids) for text, ids in _unique_ids(tokenizer, {text for texts in others for text in texts})}
    reserved = tokenizer.num_special_tokens_to_add(pair=True)

    def fitting(text: str, beside: Sequence[str]) -> str:
        room = max(max_length - reserved - sum(sizes[other] for other in beside), 0)
        if len(starts[text]) <= room:
            return text
        return text[: starts[text][room]].rstrip()  # several tokens may share one character

    return [fitting(text, beside) for text, beside in zip(longer, others, strict=True)]


def _unique_offsets(tokenizer: PreTrainedTokenizerBase, texts: set[str]) -> Iterable[tuple[str, Any]]:
    ordered = sorted(texts)
    encoded = tokenizer(ordered, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return zip(ordered, encoded["offset_mapping"], strict=True)


def _unique_ids(tokenizer: PreTrainedTokenizerBase, texts: set[str]) -> Iterable[tuple[str, Any]]:
    ordered = sorted(texts)
    return zip(ordered, tokenizer(ordered, add_special_tokens=False, verbose=False)["input_ids"], strict=True)


def _field(table: pa.Table, name: str) -> NDArray[np.int64]:
    """One number of the struct `idx` of every row."""
    return np.array([index[name] for index in table.column("idx").to_pylist()], np.int64)


def _drawn_groups(sizes: NDArray[np.int64], at_most: int | None) -> NDArray[np.int64] | None:
    """Groups drawn with a fixed seed, so many as have at most `at_most` rows together but one at least; None for all.

    `sizes`, shape (groups,), counts the rows of each.
    """
    if at_most is None or sizes.sum() <= at_most:
        return None
    order = np.random.default_rng(SUBSET_SEED).permutation(len(sizes))
    kept = max(int(np.searchsorted(np.cumsum(sizes[order]), at_most, side="right")), 1)
    return np.sort(order[:kept])
