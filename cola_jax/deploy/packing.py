"""Pack log-likelihood requests that share a context into rows."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cola_jax.errors import InputError
from cola_jax.prompts import Prompts, Readings
from cola_jax.scoring.encode import pack

# A row holds at most as many tokens of continuations as of its context, or these: each layer
# compares all tokens of a row, though those of other continuations are masked.
FEW_TOKENS = 256
MOST_CONTINUATIONS = 64  # the reads of one position are padded to a power of two
Pair = tuple[Sequence[int], Sequence[int]]  # tokens of a context and of its continuation


class PackedRow(NamedTuple):
    """A context with continuations packed after it, each of its own request."""

    context: Prompts  # fields [T]
    prompts: Prompts  # fields [T], [Q]
    requests: list[int]  # of each continuation
    owner: np.ndarray  # [Q], the continuation that each read belongs to

    def answers(self, readings: Readings) -> Iterator[tuple[int, float, bool]]:
        """Yield of each request its log-likelihood and whether it is decoded greedily.

        `readings` [Q'] have this row's reads first. A path that is not finite gives -inf.
        """
        count = len(self.owner)
        logprob = np.asarray(readings.logprob)[:count].astype(np.float64)
        greedy = np.asarray(readings.token)[:count] == np.asarray(self.prompts.targets)
        for j, request in enumerate(self.requests):
            own = self.owner == j
            if readings.finite:
                yield request, float(logprob[own].sum()), bool(greedy[own].all())
            else:
                yield request, float("-inf"), False


def pack_requests(pairs: Sequence[Pair], max_length: int) -> list[PackedRow]:
    """Pack pairs of context and continuation tokens; a context is cut from the left to fit.

    As lm-evaluation-harness does, up to `max_length` tokens go into the model, which the last of a
    continuation does not.

    Raises InputError for an empty context, and for a continuation that is empty or too long.
    """
    rows: dict[tuple[int, ...], list[list[int]]] = {}  # the requests of each row of a context
    for request, (context, continuation) in enumerate(pairs):
        size = len(continuation)
        if not context:
            raise InputError("a request has no context token before its continuation.")
        if not 0 < size <= max_length:
            raise InputError(
                f"a request's continuation adds {size} tokens, but must have 1 to {max_length}: "
                "look for an empty answer in the task's rows, or raise max_length."
            )
        kept = tuple(context[-(max_length + 1 - size) :])
        row = (parts := rows.setdefault(kept, [[]]))[-1]
        tokens = sum(len(pairs[other][1]) for other in row)
        full = tokens + size > max(len(kept), FEW_TOKENS) or len(row) == MOST_CONTINUATIONS
        if row and full:
            parts.append(row := [])
        row.append(request)
    return [
        packed_row(context, requests, [pairs[request][1] for request in requests])
        for context, parts in rows.items()
        for requests in parts
    ]


def packed_row(
    context: Sequence[int], requests: list[int], continuations: Sequence[Sequence[int]]
) -> PackedRow:
    """Make a row."""
    prompts, owner = pack(context, [list(tokens) for tokens in continuations])
    return PackedRow(plain_row(context), prompts, requests, owner)


def plain_row(ids: Sequence[int]) -> Prompts:
    """Make a row of a prompt alone."""
    return pack(ids, [])[0].replace(read=None, targets=None)
