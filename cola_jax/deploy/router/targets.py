"""Targets: a path as what a router predicts, execution counts or segments of layers."""

import functools
from typing import NamedTuple

import numpy as np

from cola_jax.path import Ids

Path = tuple[int, ...]
SKIP, KEEP, REPEAT = range(3)  # how often a layer, or each layer of a segment, runs
CLASSES = ("skip", "execute", "repeat")
LONGEST_SEGMENT = 4  # layers
NO_OP = -1  # the operation where no segment starts


class Segment(NamedTuple):
    """Consecutive layers with one operation: they are skipped, or run once or twice as a block."""

    first: int
    size: int
    op: int

    @property
    def layers(self) -> Path:
        """What the segment adds to a path."""
        return tuple(range(self.first, self.first + self.size)) * self.op


Way = tuple[tuple[int, int, int, tuple[int, ...]], list[Segment]]  # what it costs, segments


def count_layers(path: Ids, num_layers: int) -> np.ndarray:
    """Returns how often each layer runs [L], in any order."""
    return np.bincount(np.asarray(path, np.int64), minlength=num_layers).astype(np.int8)


def path_of_counts(counts: np.ndarray) -> Path:
    """Returns the path that runs each layer as often as told [L], in the order of the layers."""
    return tuple(np.repeat(np.arange(len(counts)), counts).tolist())


def counts_of_path(path: Path, num_layers: int) -> np.ndarray | None:
    """Returns the counts [L], 0 to 2, of a path that repeats single layers in place.

    None for paths that counts do not say: layers moved, run three times, or repeated as a block.
    """
    counts = count_layers(path, num_layers)
    return counts if counts.max() <= REPEAT and path_of_counts(counts) == path else None


def segments_of_path(path: Path, num_layers: int) -> list[Segment] | None:
    """Splits a path into segments of at most four layers that cover 0..L-1; None if it cannot.

    Of several ways, takes the fewest segments, then the fewest that are skipped, the most that are
    repeated, and the larger ones first (PoLar, arXiv 2606.06574, appendix: its path parser).
    """

    @functools.cache
    def best(first: int, p: int) -> Way | None:
        """Returns the best way to end, given that layers before `first` gave the first p."""
        if first == num_layers:
            return ((0, 0, 0, ()), []) if p == len(path) else None
        ways = []
        for segment in segments_at(first, num_layers):
            end = p + len(segment.layers)
            fits = path[p:end] == segment.layers
            rest = best(first + segment.size, end) if fits else None
            if rest is not None:
                ways.append(extend(segment, rest))
        return min(ways, default=None)

    way = best(0, 0)
    return None if way is None else way[1]


def segments_at(first: int, num_layers: int) -> list[Segment]:
    """Lists the segments that may start at a layer."""
    sizes = range(1, min(LONGEST_SEGMENT, num_layers - first) + 1)
    return [Segment(first, size, op) for size in sizes for op in (SKIP, KEEP, REPEAT)]


def extend(segment: Segment, rest: Way) -> Way:
    """Puts a segment before what follows it."""
    (segments, skips, repeats, sizes), following = rest
    skips, repeats = skips + (segment.op == SKIP), repeats - (segment.op == REPEAT)
    return (segments + 1, skips, repeats, (-segment.size, *sizes)), [segment, *following]


def segment_target(path: Path, num_layers: int) -> np.ndarray | None:
    """Returns the operation at each layer where a segment starts [L], NO_OP elsewhere."""
    segments = segments_of_path(path, num_layers)
    if segments is None:
        return None
    target = np.full(num_layers, NO_OP, np.int8)
    for segment in segments:
        target[segment.first] = segment.op
    return target
