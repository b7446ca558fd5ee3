"""Packs log-likelihood requests that share a context into rows."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cola_jax.errors import InputError
from cola_jax.prompts import Prompts, Readings
from cola_jax.scoring.encode import pack

# A row holds at most as many tokens of continuations as of its context, or these: each layer
# compares all tokens of a row, though those of other continuations are masked.
FEW_TOKENS = 256
MOST_CONTINUATIONS = 64  # what is asked at one position is padded to a power of two


class PackedRow(NamedTuple):
    """A context with continuations packed after it, each of its own request."""

    context: Prompts  # fields [T]
    prompts: Prompts  # fields [T], [Q]
    requests: list[int]  # of each continuation
    owner: np.ndarray  # [Q], the continuation that each read belongs to

    def answers(self, readings: Readings) -> Iterator[tuple[int, float, bool]]:
        """Yields of each request its log-likelihood and whether it is decoded greedily.

        `readings` [Q'] have this row's reads first. A path that is not finite gives -inf.
        """
        count = len(self.owner)
        logprob = np.asarray(readings.logprob)[:count].astype(np.float64)
        greedy = np.asarray(readings.token)[:count] == np.asarray(self.prompts.targets)
        for j, request in enumerate(self.requests):
            own = self.owner == j
            if not readings.finite:
                yield request, float("-inf"), False
            else:
                yield request, float(logprob[own].sum()), bool(greedy[own].all())


def pack_requests(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int
) -> list[PackedRow]:
    """Packs pairs of context and continuation tokens; a context is cut from the left to fit.

    As lm-evaluation-harness does, up to `max_length` tokens go into the model, which the last of a
    continuation does not.

    Raises ValueError for an empty context, and for a continuation that is empty or too long.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for request, (context, continuation) in enumerate(pairs):
        check_pair(context, continuation, max_length)
        kept = context[-(max_length + 1 - len(continuation)) :]
        groups.setdefault(tuple(kept), []).append(request)
    return [
        packed_row(context, requests, [pairs[request][1] for request in requests])
        for context, members in groups.items()
        for requests in cut_group(context, members, pairs)
    ]


def check_pair(context: Sequence[int], continuation: Sequence[int], max_length: int) -> None:
    """Raises ValueError for a request that cannot be scored."""
    if not context:
        raise InputError("a request has no context token, after which its continuation is scored.")
    if not continuation:
        raise InputError(
            "a request's continuation adds no token to its context, so it cannot be scored: look "
            "for an empty answer in the task's rows."
        )
    if len(continuation) > max_length:
        raise InputError(
            f"a request's continuation has {len(continuation)} tokens, but at most {max_length} "
            "go into the model: raise max_length, or use a model with a longer context."
        )


def cut_group(
    context: Sequence[int],
    requests: Sequence[int],
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> Iterator[list[int]]:
    """Cuts requests of one context into those of a row."""
    room = max(len(context), FEW_TOKENS)
    row, tokens = [], 0
    for request in requests:
        more = len(pairs[request][1])
        if row and (tokens + more > room or len(row) == MOST_CONTINUATIONS):
            yield row
            row, tokens = [], 0
        row.append(request)
        tokens += more
    yield row


def packed_row(
    context: Sequence[int], requests: list[int], continuations: Sequence[Sequence[int]]
) -> PackedRow:
    """Makes a row."""
    prompts, owner = pack(context, [list(tokens) for tokens in continuations])
    return PackedRow(plain_row(context), prompts, requests, owner)


def plain_row(ids: Sequence[int]) -> Prompts:
    """Makes a row of a prompt alone."""
    row, _ = pack(ids, [])
    return row.replace(read=None, targets=None)
