"""Statistics over the rows of a run: shares and differences with intervals, shapes of trees."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest, norm, t

LEVEL = 0.95
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

    @property
    def p(self) -> float:
        """The two-sided p-value of McNemar's exact test, NaN where n is 0."""
        if not self.n:
            return math.nan
        discordant = self.first_only + self.second_only
        return float(binomtest(self.first_only, discordant).pvalue) if discordant else 1.0


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a way of using a model changes: accuracy before and after on the same questions."""

    before: Share
    after: Share
    difference: Difference

    @classmethod
    def of(cls, after: np.ndarray, before: np.ndarray) -> "Effect":
        """Compares right answers [n] with those of the pretrained model [n]."""
        return cls(Share.of(before), Share.of(after), Difference.of(after, before))

    def to_json(self) -> dict[str, Any]:
        """Returns shares and their difference as numbers from 0 to 1."""
        low, high = self.difference.interval
        return {
            "before": self.before.value,
            "after": self.after.value,
            "difference": self.difference.value,
            "interval": [low, high],
            "p": self.difference.p,
            "n": self.before.n,
        }


class Mean(NamedTuple):
    """A mean over questions with its 95 % interval."""

    value: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """Takes a mean and Student's interval, which is NaN for fewer than two values."""
        if len(values) < 2:
            return cls(mean(values), (math.nan, math.nan))
        reach = t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
        middle = float(values.mean())
        return cls(middle, (middle - float(reach), middle + float(reach)))


def holm(values: Sequence[float]) -> list[float]:
    """Corrects the p-values of one table for their number; NaN stays and does not count."""
    known = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    corrected, largest = list(values), 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


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


def number_or_none(value: Any) -> Any:
    """Replaces NaN in a tree of values by None, as JSON has none."""
    if isinstance(value, dict):
        return {name: number_or_none(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return list(map(number_or_none, value))
    return None if isinstance(value, float) and not math.isfinite(value) else value
