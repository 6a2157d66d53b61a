"""Batches: every example once, the same for every method, padded only where needed."""

from __future__ import annotations

import numpy as np
import pytest

from bench.training.batching import epoch_order, evaluation_order, micro_batches, training_order
from bench.training.randomness import generator, stream_seed
from tasks.examples import TextExamples, Tokens

LENGTHS = np.random.default_rng(0).integers(3, 60, 5003)


def examples(lengths: list[int], segments: bool = False) -> TextExamples:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(1, offsets[-1] + 1, dtype=np.int32)
    types = np.ones(len(ids), np.int8) if segments else None
    return TextExamples(Tokens(ids, types, offsets, padding_id=99), np.arange(len(lengths)), np.arange(len(lengths)))


def test_an_epoch_holds_every_example_once() -> None:
    batches = epoch_order(LENGTHS, 32, generator(0, "order"))
    assert sorted(np.concatenate(batches)) == list(range(len(LENGTHS)))
    assert {len(batch) for batch in batches} <= {32, len(LENGTHS) % 32, len(LENGTHS) % 1600 % 32}


def test_grouping_by_length_leaves_a_fraction_of_the_padding() -> None:
    def padding(batches: list[np.ndarray]) -> int:
        return sum(int(LENGTHS[batch].max() * len(batch) - LENGTHS[batch].sum()) for batch in batches)

    random = np.random.default_rng(1).permutation(len(LENGTHS))
    unsorted = [random[i : i + 32] for i in range(0, len(random), 32)]
    assert padding(epoch_order(LENGTHS, 32, generator(0, "order"))) < 0.1 * padding(unsorted)


def test_batches_come_in_no_order_of_length() -> None:
    means = [LENGTHS[batch].mean() for batch in epoch_order(LENGTHS, 32, generator(0, "order"))]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.25


def test_the_order_follows_the_seed_alone() -> None:
    def order(seed: int) -> list[list[int]]:
        return [list(batch) for batch in training_order(LENGTHS, 32, 7, generator(seed, "order"))]

    assert order(0) == order(0)
    assert order(0) != order(1)


@pytest.mark.parametrize("steps", [1, 157, 400])
def test_training_takes_exactly_the_steps_it_is_given(steps: int) -> None:
    assert len(list(training_order(LENGTHS, 32, steps, generator(0, "order")))) == steps


def test_streams_of_one_seed_differ() -> None:
    assert len({stream_seed(seed, stream) for seed in (0, 1) for stream in ("head", "method", "order")}) == 6


def test_evaluation_covers_every_example_once_longest_first() -> None:
    batches = evaluation_order(LENGTHS, 128)
    assert sorted(np.concatenate(batches)) == list(range(len(LENGTHS)))
    assert LENGTHS[batches[0]].min() >= LENGTHS[batches[-1]].max()


def test_padding_is_masked_and_does_not_count_as_tokens() -> None:
    batch = examples([3, 1], segments=True).batch(np.array([1, 0]))
    assert batch.inputs["input_ids"].tolist() == [[4, 99, 99], [1, 2, 3]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch.inputs["token_type_ids"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch.inputs["labels"].tolist() == [1, 0]
    assert (batch.samples, batch.tokens) == (2, 4)


def test_a_batch_without_padding_has_no_mask() -> None:
    assert "attention_mask" not in examples([2, 2]).batch(np.array([0, 1])).inputs


def test_left_padding_moves_the_tokens_to_the_end() -> None:
    inputs = examples([3, 1]).tokens.padded(np.array([0, 1]), left=True)
    assert inputs["input_ids"].tolist() == [[1, 2, 3], [99, 99, 4]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]


def test_micro_batches_hold_the_batch_in_parts() -> None:
    parts = micro_batches(np.arange(10), 4)
    assert [len(part) for part in parts] == [4, 4, 2]
    assert list(np.concatenate(parts)) == list(range(10))
    assert len(micro_batches(np.arange(10), None)) == 1
