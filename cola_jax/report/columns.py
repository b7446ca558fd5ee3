"""Columns of a run's tables as arrays, and the shapes of the trees that they hold."""

import dataclasses

import numpy as np
import pyarrow as pa

from cola_jax.scoring.statistics import mean


@dataclasses.dataclass(frozen=True)
class TreeShape:
    """Branching and depth of the trees of a search; NaN where there is nothing to average."""

    root_children: float  # mean children of the identity path
    children: float  # mean children of the nodes that have any
    depth: float  # mean edits from the identity, over all nodes but the roots
    max_depth: int


def tree_shape(question: np.ndarray, node: np.ndarray, parent: np.ndarray) -> TreeShape:
    """Measure trees given by their edges, one entry per evaluation; a root's parent is -1."""
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
    """Find the row of every row's parent, -1 for none."""
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
    """Count distinct pairs of question and path."""
    binary = [as_binary(chunk) for chunk in path.chunks]  # Arrow cannot group by lists
    table = pa.table({"question": question, "path": pa.chunked_array(binary, pa.binary())})
    return table.group_by(["question", "path"]).aggregate([]).num_rows


def as_binary(paths: pa.ListArray) -> pa.Array:
    """Convert each list of int16 to its bytes."""
    offsets = np.concatenate([[0], np.cumsum(paths.value_lengths().to_numpy())]) * 2
    values = np.ascontiguousarray(paths.flatten().to_numpy(), np.int16)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.binary(), len(paths), buffers)


def is_true(column: pa.ChunkedArray) -> np.ndarray:
    """Return where a boolean column is true."""
    return column.fill_null(False).to_numpy()


def is_false(column: pa.ChunkedArray) -> np.ndarray:
    """Return where a boolean column is false, which null is not."""
    return ~column.fill_null(True).to_numpy()


def is_null(column: pa.ChunkedArray) -> np.ndarray:
    """Return where a column is null."""
    return column.is_null().to_numpy()


def list_lengths(column: pa.ChunkedArray) -> np.ndarray:
    """Return the length of every list, 0 for null."""
    chunks = [chunk.value_lengths().fill_null(0).to_numpy() for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int32)
