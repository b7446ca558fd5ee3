"""Comparators of a claim at its cost: random paths, ShortGPT's path, and self-consistency."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.deploy.rules import signals, vote
from cola_jax.path import REPEAT, SKIP, LayerPath, ascending_ranges, edited, identity
from cola_jax.question import random_of
from cola_jax.scoring.verdicts import Verdicts

RANDOM = 39  # paths beside each claim, so that its place is one of 40
TEMPERATURE = 0.7  # of samples for self-consistency
ATTEMPTS = 200  # draws, which may give a known path, for each random path


class Jump(NamedTuple):
    """An edit without its place: a block of `size` layers skipped, or run once more."""

    kind: int  # SKIP or REPEAT
    size: int


def jumps(path: LayerPath, num_layers: int) -> list[Jump]:
    """Return the edits that make a path of the identity path, sorted.

    Layers passed over are a skipped block, a step back is a block run again. A moved block is both,
    so that the number of layers run is always that of the path.
    """
    found, expected = [], 0
    for start, stop in [
        *((run.start, run.stop) for run in ascending_ranges(path)),
        (num_layers,) * 2,
    ]:
        if start != expected:
            kind = SKIP if start > expected else REPEAT
            found.append(Jump(kind, abs(start - expected)))
        expected = stop
    return sorted(found)


def random_controls(
    path: LayerPath,
    num_layers: int,
    seed: int,
    known: Collection[LayerPath] = (),
    count: int = RANDOM,
    refused: Callable[[LayerPath], Any] = lambda path: False,
) -> list[LayerPath]:
    """Draw distinct paths with the same edits as a path, at random places.

    They are drawn by the edits and the seed alone, so claims with the same edits share them. None
    is the identity, one of `known` paths, or refused. Fewer than `count` are returned where no more
    exist.
    """
    edits = jumps(path, num_layers)
    generator = random_of(seed, "controls", *(f"{kind} {size}" for kind, size in edits))
    others = {path, identity(num_layers), *known}
    drawn = dict[LayerPath, None]()
    for _ in range(ATTEMPTS * count):
        other = identity(num_layers)
        for i in generator.permutation(len(edits)):
            kind, size = edits[i]
            if size < len(other) or kind == REPEAT:
                start = int(generator.integers(len(other) - min(size, len(other)) + 1))
                other = edited(other, (kind, start, size, int(kind == REPEAT)))
        if other not in others and len(other) == len(path) and not refused(other):
            drawn[other] = None
        if len(drawn) == count:
            break
    return list(drawn)


def least_influence(influence: np.ndarray, length: int) -> LayerPath:
    """Return ShortGPT's path of `length` layers: those of the most influence [L], in order."""
    kept: Sequence[int] = np.argsort(-influence, kind="stable")[:length].tolist()
    return tuple(sorted(kept))


def affordable_samples(path: LayerPath, num_layers: int) -> int:
    """Return the answers that all L layers give for no more layers than a path runs, at least 1."""
    return max(1, len(path) // num_layers)


def majority_vote(samples: Sequence[Verdicts]) -> np.ndarray:
    """Return whether the answer given most often is right [n], of one path's samples [n, 1] each.

    Self-consistency (Wang et al., arXiv 2203.11171); of answers given equally often the earliest,
    with its verdict there. A truncated answer is none.
    """
    answers = np.concatenate([signals(each).answer for each in samples], axis=1)
    right = np.concatenate([each.verdict for each in samples], axis=1)
    return right[np.arange(len(right)), vote(answers)]
