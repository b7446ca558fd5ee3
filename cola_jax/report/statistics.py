"""Statistics over the rows of a run: shares and differences with intervals, shapes of trees."""

import dataclasses
import functools
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest, norm

LEVEL = 0.95
RESAMPLES = 10_000  # of the questions, for a bootstrap interval
DRAWN = 1 << 20  # questions drawn at once for them, which bounds the memory
Z = float(norm.ppf((1 + LEVEL) / 2))


@dataclasses.dataclass(frozen=True)
class Share:
    """A proportion, `hits` of `n`; the value is NaN where n is 0."""

    hits: int
    n: int

    @classmethod
    def of(cls, mask: np.ndarray) -> "Share":
        """Counts a boolean array."""
        return cls(int(np.count_nonzero(mask)), int(mask.size))

    @property
    def value(self) -> float:
        """The share, 0 to 1."""
        return self.hits / self.n if self.n else math.nan

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """The Wilson 95 % interval, NaN where n is 0."""
        if not self.n:
            return math.nan, math.nan
        low, high = binomtest(self.hits, self.n).proportion_ci(LEVEL, method="wilson")
        return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Difference:
    """The share of `first` minus the share of `second`, paired over the same n questions.

    `first_only` and `second_only` count the discordant questions; those with both or neither do
    not contribute to the difference.
    """

    first_only: int
    second_only: int
    n: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> "Difference":
        """Counts two boolean arrays over the same questions."""
        return cls(int((first & ~second).sum()), int((second & ~first).sum()), int(first.size))

    @property
    def value(self) -> float:
        """The difference, -1 to 1."""
        return (self.first_only - self.second_only) / self.n if self.n else math.nan

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Bonett and Price (2012) for paired shares, NaN where n is 0."""
        if not self.n:
            return math.nan, math.nan
        first = (self.first_only + 1) / (self.n + 2)
        second = (self.second_only + 1) / (self.n + 2)
        middle = first - second
        reach = Z * math.sqrt((first + second - middle**2) / (self.n + 2))
        return max(-1.0, middle - reach), min(1.0, middle + reach)


@dataclasses.dataclass(frozen=True)
class Net:
    """What a search for gold reached beyond its control searches, a mean over n questions.

    Each question is compared with the mean over its own control searches.
    """

    value: float
    interval: tuple[float, float]  # 95 %, bootstrap over questions; NaN where n is 0
    n: int
    p: float = math.nan  # see `exchange_test`

    @classmethod
    def of(cls, gold: np.ndarray, controls: np.ndarray) -> "Net":
        """Compares values [n] for gold with the means [n] over a question's controls."""
        difference = np.asarray(gold, float) - controls
        if not difference.size:
            return cls(math.nan, (math.nan, math.nan), 0)
        means = np.concatenate(list(resampled_means(difference)))
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(difference.mean()), (float(low), float(high)), int(difference.size))

    @classmethod
    def of_hits(cls, gold: np.ndarray, hits: np.ndarray, targets: np.ndarray) -> "Net":
        """Compares whether gold was reached [n] with how many of a question's targets were [n]."""
        net = cls.of(gold, hits / targets)
        return dataclasses.replace(net, p=exchange_test(gold, hits, targets))


def resampled_means(values: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the means of values drawn with replacement, some of the resamples at a time."""
    random = np.random.default_rng(0)
    at_once = max(1, DRAWN // values.size)
    for first in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - first)
        # the same draws however many are made at once
        yield values[random.integers(0, values.size, (count, values.size))].mean(axis=1)


def exchange_test(gold: np.ndarray, hits: np.ndarray, targets: np.ndarray) -> float:
    """Returns the p-value of the hypothesis that gold is reached like any of its wrong targets.

    Then any of a question's targets, gold among them, could be the one called gold, so gold is
    reached with the share of all of them that were. The p-value is the exact chance that gold is
    reached on as many questions as it was, or more; NaN for no questions.

    Args:
      gold: [n], whether gold was reached.
      hits: [n], how many wrong targets were reached.
      targets: [n], how many wrong targets were searched for.
    """
    if not len(gold):
        return math.nan
    chance = np.ones(1)  # of each number of questions on which gold is reached
    # counted as numbers: of two booleans the sum would be one
    for share in (gold.astype(int) + hits.astype(int)) / (1 + targets):
        chance = np.convolve(chance, [1 - share, share])
    return float(chance[int(np.count_nonzero(gold)) :].sum().clip(0, 1))


@dataclasses.dataclass(frozen=True)
class TreeShape:
    """Branching and depth of the trees of a search; NaN where there is nothing to average."""

    root_children: float  # mean children of the identity path
    children: float  # mean children of the nodes that have any
    depth: float  # mean edits from the identity, over all nodes but the roots
    max_depth: int


def tree_shape(question: np.ndarray, node: np.ndarray, parent: np.ndarray) -> TreeShape:
    """Measures trees given by their edges, one entry per evaluation; a root's parent is -1."""
    up = parent_rows(question, node, parent)
    children = np.bincount(up[up >= 0], minlength=len(up))
    depth = np.zeros(len(up), np.int32)
    ancestor = up
    while (alive := ancestor >= 0).any():
        depth += alive
        ancestor = np.where(alive, up[ancestor], -1)
    return TreeShape(
        root_children=mean(children[up < 0]),
        children=mean(children[children > 0]),
        depth=mean(depth[up >= 0]),
        max_depth=int(depth.max(initial=0)),
    )


def parent_rows(question: np.ndarray, node: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Finds the row of every row's parent, -1 for none."""
    base = int(node.max(initial=0)) + 1
    keys = question.astype(np.int64) * base + node
    order = np.argsort(keys, kind="stable")
    wanted = question.astype(np.int64) * base + parent
    at = np.searchsorted(keys, wanted, sorter=order)
    # parents are evaluated before their children; an edge that says otherwise could form a cycle
    valid = (parent >= 0) & (parent < node)
    up = order[np.minimum(at, len(order) - 1)] if len(order) else at
    return np.where(valid & (keys[up] == wanted), up, -1)


def count_distinct(question: pa.ChunkedArray, path: pa.ChunkedArray) -> int:
    """Counts distinct pairs of question and path."""
    binary = [as_binary(chunk) for chunk in path.chunks]  # Arrow cannot group by lists
    table = pa.table({"question": question, "path": pa.chunked_array(binary, pa.binary())})
    return table.group_by(["question", "path"]).aggregate([]).num_rows


def as_binary(paths: pa.ListArray) -> pa.Array:
    """Converts each list of int16 to its bytes."""
    offsets = np.concatenate([[0], np.cumsum(paths.value_lengths().to_numpy())]) * 2
    values = np.ascontiguousarray(paths.flatten().to_numpy(), np.int16)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.binary(), len(paths), buffers)


def is_true(column: pa.ChunkedArray) -> np.ndarray:
    """Returns where a boolean column is true."""
    return column.fill_null(False).to_numpy()


def is_false(column: pa.ChunkedArray) -> np.ndarray:
    """Returns where a boolean column is false, which null is not."""
    return ~column.fill_null(True).to_numpy()


def is_null(column: pa.ChunkedArray) -> np.ndarray:
    """Returns where a column is null."""
    return column.is_null().to_numpy()


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Returns the length of every list, 0 for null."""
    chunks = [chunk.value_lengths().fill_null(0).to_numpy() for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int32)


def mean(values: np.ndarray) -> float:
    """Returns the mean, NaN for no values."""
    return float(np.mean(values)) if values.size else math.nan
