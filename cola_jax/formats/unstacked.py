"""Our stacked weights as the tensors of a checkpoint: the conversion table read backwards."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from einops import rearrange

from cola_jax.config import ModelConfig
from cola_jax.formats.table import Row, expected, places


def unstack(
    weights: Iterable[tuple[str, np.ndarray]],
    rows: tuple[Row, ...],
    config: ModelConfig,
    path: Sequence[int],
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the tensors of a checkpoint by their names there, one by one.

    `weights` are ours, by field name, stacked over the layers of the original; `rows` and `config`
    are those of the model to write, whose layer i is layer `path[i]` of the original. The inverse
    of `table.stack`, in the dtype of `weights`.
    """
    table = {row.ours: row for row in rows}
    for field, array in weights:
        row = table[field]
        theirs, ours = row.pattern.split(" -> ")
        of_layers = "{i}" in row.theirs
        for place, (name, _) in zip(places(row, config), expected(row, config), strict=True):
            values = array[(path[place[0]], *place[1:])] if of_layers else array
            values = rearrange(values, f"{ours} -> {theirs}")
            yield name, np.ascontiguousarray(values - row.offset if row.offset else values)
