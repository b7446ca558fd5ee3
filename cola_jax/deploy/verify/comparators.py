"""Comparators of a claim at its cost: random paths, ShortGPT's path, and self-consistency."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.deploy.rules import signals, vote
from cola_jax.path import REPEAT, SKIP, LayerPath, ascending_ranges, edited, identity, path_of_parts
from cola_jax.question import random_of
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.steps import (
    ATTENTION,
    MLP,
    is_whole,
    layer_of,
    modifier_of,
    part_of,
)

RANDOM = 39  # paths beside each claim, so that its place is one of 40
TEMPERATURE = 0.7  # of samples for self-consistency
ATTEMPTS = 200  # draws, which may give a known path, for each random path


class Jump(NamedTuple):
    """An edit without its place: a block of `size` layers skipped, or run once more."""

    kind: int  # SKIP or REPEAT
    size: int
    # the part or the share (`Step.modifier`) that the block keeps, or that the extra run has; 0 for
    # a block that is skipped, or an extra run of whole layers
    modifier: int = 0

    @property
    def key(self) -> str:
        """The text by which random paths are drawn."""
        return f"{self.kind} {self.size}" + (f" {self.modifier}" if self.modifier else "")


def jumps(path: LayerPath, num_layers: int) -> list[Jump]:
    """Return the edits that make a path of the identity path, sorted.

    Layers passed over are a skipped block, a step back is a block run again; so the number of steps
    is always that of the path. A moved block is both. Layers that run as parts or with a share are
    a block that keeps them, or an extra run that has them.
    """
    found: list[Jump] = []
    expected = 0
    for run in [*ascending_ranges(path), range(num_layers, num_layers)]:
        start, stop = layer_of(run.start), layer_of(run.start) + len(run)
        modifier = modifier_of(run.start)
        if start > expected:
            found.append(Jump(SKIP, start - expected))
        if start < expected:
            again = expected - start
            found.append(Jump(REPEAT, min(again, len(run)) if modifier else again, modifier))
        if modifier and stop > max(start, expected):
            found.append(Jump(SKIP, stop - max(start, expected), modifier))
        # a block that runs once more, with a modifier, leaves the path where it was
        expected = max(stop, expected) if modifier else stop
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

    They run as many steps of each part and share as the path. They are drawn by the edits and the
    seed alone, so claims with the same edits share them. None is the identity, one of `known`
    paths, or refused. Fewer than `count` are returned where no more exist.
    """
    edits = jumps(path, num_layers)
    generator = random_of(seed, "controls", *(edit.key for edit in edits))
    others = {path, identity(num_layers), *known}
    modifiers = sorted(map(modifier_of, path))
    drawn = dict[LayerPath, None]()
    for _ in range(ATTEMPTS * count):
        other = identity(num_layers)
        for i in generator.permutation(len(edits)):
            kind, size, modifier = edits[i]
            if size < len(other) or kind == REPEAT or modifier:
                start = int(generator.integers(len(other) - min(size, len(other)) + 1))
                other = edited(other, (kind, start, size, int(kind == REPEAT), modifier))
        # two edits of one step may leave fewer parts and shares than the path has
        is_like = len(other) == len(path) and sorted(map(modifier_of, other)) == modifiers
        if is_like and other not in others and not refused(other):
            drawn[other] = None
        if len(drawn) == count:
            break
    return list(drawn)


class PathSize(NamedTuple):
    """The length of a path of whole layers, or the attentions and MLPs that a path runs."""

    attentions: int
    mlps: int
    whole: bool  # whether all steps are whole layers

    @classmethod
    def of(cls, path: LayerPath) -> "PathSize":
        """Count what a path runs."""
        parts = [part_of(step) for step in path]
        whole = all(map(is_whole, path))
        return cls(len(path) - parts.count(MLP), len(path) - parts.count(ATTENTION), whole)

    def is_below(self, num_layers: int) -> bool:
        """Whether the model without some layers or parts is a path of this size."""
        largest = max(self.attentions, self.mlps)
        return largest <= num_layers and min(self.attentions, self.mlps) < num_layers

    @property
    def name(self) -> str:
        """The name of the size in a protocol: 28, or 24a 30m with parts or shares."""
        return str(self.mlps) if self.whole else f"{self.attentions}a {self.mlps}m"


def least_influence(influence: np.ndarray, length: int) -> LayerPath:
    """Return ShortGPT's path of `length` layers: those of the most influence [L], in order."""
    return tuple(most_influential(influence, length))


def least_influence_of_parts(influence: np.ndarray, size: PathSize) -> LayerPath:
    """Return ShortGPT's path in parts: the attentions and MLPs of the most influence [L, 2]."""
    attentions = set(most_influential(influence[:, 0], size.attentions))
    mlps = set(most_influential(influence[:, 1], size.mlps))
    return path_of_parts(attentions, mlps)


def most_influential(influence: np.ndarray, number: int) -> list[int]:
    """Return the indices of the largest values, in order."""
    return sorted(np.argsort(-influence, kind="stable")[:number].tolist())


def affordable_samples(layers: float, num_layers: int) -> int:
    """Return the answers that all L layers give for no more layers than a path runs, at least 1."""
    return max(1, int(layers // num_layers))


def majority_vote(samples: Sequence[Verdicts]) -> np.ndarray:
    """Return whether the answer given most often is right [n], of one path's samples [n, 1] each.

    Self-consistency (Wang et al., arXiv 2203.11171); of answers given equally often the earliest,
    with its verdict there. A truncated answer is none.
    """
    answers = np.concatenate([signals(each).answer for each in samples], axis=1)
    right = np.concatenate([each.verdict for each in samples], axis=1)
    return right[np.arange(len(right)), vote(answers)]
