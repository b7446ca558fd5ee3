"""Packing log-likelihood requests into rows."""

import numpy as np
import pytest

from cola_jax.deploy.packing import FEW_TOKENS, MOST_CONTINUATIONS, pack_requests
from cola_jax.prompts import Readings


def test_pack_requests_joins_those_of_one_context():
    pairs = [([1, 2], [3, 4]), ([1, 5], [3]), ([1, 2], [6])]
    first, second = pack_requests(pairs, 10)
    assert (first.requests, second.requests) == ([0, 2], [1])
    assert np.asarray(first.context.ids).tolist() == [1, 2]
    assert np.asarray(first.prompts.ids).tolist() == [1, 2, 3]
    assert np.asarray(first.prompts.read).tolist() == [1, 2, 1]
    assert np.asarray(first.prompts.targets).tolist() == [3, 4, 6]
    assert first.context.read is None


def test_pack_requests_cuts_contexts_from_the_left():
    """`max_length` tokens go in, of which the last token of a continuation is none."""
    pairs = [([1, 2, 3, 4], [5, 6]), ([9, 2, 3, 4], [5, 6]), ([7], [1, 2, 3, 4])]
    first, second = pack_requests(pairs, 4)
    assert np.asarray(first.context.ids).tolist() == [2, 3, 4]
    assert first.requests == [0, 1]
    assert len(second.prompts.ids) == 4


@pytest.mark.parametrize(
    ("context", "length", "count", "rows"),
    [
        (2, 1, MOST_CONTINUATIONS + 1, [MOST_CONTINUATIONS, 1]),
        (2, FEW_TOKENS // 2, 3, [2, 1]),
        (2 * FEW_TOKENS, FEW_TOKENS // 2, 3, [3]),
        (2, FEW_TOKENS + 9, 2, [1, 1]),
    ],
)
def test_pack_requests_bounds_rows(context, length, count, rows):
    pairs = [([1] * context, [i] * length) for i in range(count)]
    packed = pack_requests(pairs, 4096)
    assert [len(row.requests) for row in packed] == rows
    assert [i for row in packed for i in row.requests] == list(range(count))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([], [1]), "no context token"),
        (([1], []), "adds 0 tokens"),
        (([1], [2] * 5), "adds 5 tokens, but must have 1 to 4"),
    ],
)
def test_pack_requests_refuses(pair, message):
    with pytest.raises(ValueError, match=message):
        pack_requests([pair], 4)


def test_answers_sum_each_continuation():
    (row,) = pack_requests([([1, 2], [3, 4]), ([1, 2], [6])], 10)
    logprob, token = np.float32([-1, -2, -4, -9]), np.int32([3, 4, 5, 0])
    readings = Readings(logprob=logprob, token=token, rival=logprob, finite=np.array(True))
    assert list(row.answers(readings)) == [(0, -3.0, True), (1, -4.0, False)]
    wrong = readings.replace(finite=np.array(False), logprob=logprob * np.nan)
    assert list(row.answers(wrong)) == [(0, -np.inf, False), (1, -np.inf, False)]
