"""`Shape` of a search and `LayerUse` of its paths, counted over all rows at once."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

ROWS = 1 << 16  # looked at together, so that millions of paths need no matrix of millions of rows


@dataclasses.dataclass(frozen=True)
class Shape:
    """How the trees of a search grew; NaN where there is nothing to average."""

    root_children: float  # mean children of the identity path
    children: float  # mean children of the paths that have any
    depth: float  # mean edits from the identity, of all other paths
    max_depth: int


@dataclasses.dataclass(frozen=True, eq=False)
class LayerUse:
    """How `paths` paths use each layer, [L]; zeros without a path."""

    paths: int
    skipped: np.ndarray  # share of the paths that never run the layer
    repeats: np.ndarray  # runs beyond the first, mean over all of the paths


def tree_shape(question: np.ndarray, node: np.ndarray, parent: np.ndarray) -> Shape:
    """Measures trees given by their edges, one entry per evaluation; a root's parent is -1."""
    up = parent_rows(question, node, parent)
    children = np.bincount(up[up >= 0], minlength=len(up))
    depth = np.zeros(len(up), np.int32)
    ancestor = up
    while (alive := ancestor >= 0).any():
        depth += alive
        ancestor = np.where(alive, up[ancestor], -1)
    grown = depth[up >= 0]
    return Shape(
        root_children=float(children[up < 0].mean()) if (up < 0).any() else math.nan,
        children=float(children[children > 0].mean()) if children.any() else math.nan,
        depth=float(grown.mean()) if grown.size else math.nan,
        max_depth=int(depth.max(initial=0)),
    )


def parent_rows(question: np.ndarray, node: np.ndarray, parent: np.ndarray) -> np.ndarray:
    """Finds the row of every row's parent, -1 for none."""
    base = int(node.max(initial=0)) + 1
    keys = question.astype(np.int64) * base + node
    order = np.argsort(keys, kind="stable")
    wanted = question.astype(np.int64) * base + parent
    at = np.searchsorted(keys, wanted, sorter=order)
    # a parent is evaluated before its children: an edge that says otherwise could make a circle
    valid = (parent >= 0) & (parent < node)
    up = order[np.minimum(at, len(order) - 1)] if len(order) else at
    return np.where(valid & (keys[up] == wanted), up, -1)


def layer_use(paths: pa.ChunkedArray, num_layers: int) -> LayerUse:
    """Counts how often each layer is skipped and repeated; `paths` is a column of lists."""
    runs = np.zeros(num_layers, np.int64)
    present = np.zeros(num_layers, np.int64)
    for chunk in pieces(paths):
        layers = chunk.flatten().to_numpy()
        row = np.repeat(np.arange(len(chunk)), chunk.value_lengths().to_numpy())
        runs += np.bincount(layers, minlength=num_layers)
        seen = np.zeros((len(chunk), num_layers), bool)
        seen[row, layers] = True
        present += seen.sum(axis=0)
    count = len(paths)
    if not count:
        return LayerUse(0, np.zeros(num_layers), np.zeros(num_layers))
    return LayerUse(count, 1 - present / count, (runs - present) / count)


def count_distinct(question: pa.ChunkedArray, path: pa.ChunkedArray) -> int:
    """Counts distinct pairs of question and path."""
    binary = [as_binary(chunk) for chunk in path.chunks]  # Arrow does not group by lists
    table = pa.table({"question": question, "path": pa.chunked_array(binary, pa.binary())})
    return table.group_by(["question", "path"]).aggregate([]).num_rows


def as_binary(paths: pa.ListArray) -> pa.Array:
    """Views each list of int16 as its bytes."""
    lengths = paths.value_lengths().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]) * 2
    values = np.ascontiguousarray(paths.flatten().to_numpy(), np.int16)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.binary(), len(paths), buffers)


def pieces(column: pa.ChunkedArray) -> Iterator[pa.ListArray]:
    """Cuts a column into arrays of at most ROWS."""
    for chunk in column.chunks:
        for start in range(0, len(chunk), ROWS):
            yield chunk.slice(start, ROWS)
