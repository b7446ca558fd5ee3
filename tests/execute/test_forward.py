"""The device programs: tiles of any layers, shapes and slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.execute.attention import OverPrompts
from cola_jax.execute.forward import forward_tiles
from cola_jax.execute.kv_cache import NO_CACHE
from cola_jax.execute.plan import TileColumns, TileShape
from cola_jax.model import block, take_positions, view
from cola_jax.params import layer_at
from tests import oracle
from tests.execute import batches

LENGTHS, T, S = (12, 7, 9), 12, 5
TILES = [  # the last row of the last tile is padding
    [TileColumns(1, 0, 4, 2), TileColumns(1, 3, 1, 0)],
    [TileColumns(4, 2, 3, 1), TileColumns(4, 0, S, 0)],
]
ROWS = [row for tile in TILES for row in tile][:3]


@pytest.mark.parametrize("tokens", [T, 9])
@pytest.mark.parametrize("read", [None, [[8, 3], [2, 6], [0, 8]]])
def test_forward_tiles_match_block(pair, read, tokens):
    """Each row runs its tile's layer on its slot, at the positions read of its question.

    A tile of fewer tokens takes the beginnings of slots, and leaves the tokens after them. Those
    after the end of a prompt may be NaN.
    """
    model, prompts = pair("gemma3").ours, batches.plain(*LENGTHS)
    config, read = model.config, None if read is None else jnp.array(read)
    width = T if read is None else 2
    generator = np.random.default_rng(0)
    before, target = (
        jnp.asarray(generator.normal(size=(S + 1, t, config.width)), jnp.float32)
        for t in (T, width)
    )
    left_over = before.at[:, tokens:].set(jnp.nan)
    for row in ROWS:
        left_over = left_over.at[row.source, LENGTHS[row.question] :].set(jnp.nan)
    after, _ = forward_tiles(
        config,
        0,
        TileShape(2, tokens, 2),
        model.layers[0],
        jnp.asarray(np.swapaxes(TILES, 1, 2).astype(np.int32)),
        jnp.int32(0),
        jnp.int32(len(TILES)),
        jnp.array(target),
        NO_CACHE,
        OverPrompts(view(config, prompts), read),
        left_over,
    )
    written = tokens if read is None else 2
    for layer, source, slot, question, *_ in ROWS:
        alone = jax.tree.map(lambda x, q=question: jnp.asarray(x)[q, :tokens][None], prompts)
        positions = None if read is None else read[question][None]
        whole = block(
            config,
            layer_at(config, 0, model.layers[0], layer),
            before[source][None, :tokens],
            view(config, alone),
        )
        expected = take_positions(whole, positions)[0]
        real = slice(LENGTHS[question]) if read is None else slice(None)
        error = oracle.relative_error(after[slot][:written][real], expected[real])
        assert error < oracle.TOLERANCE
        np.testing.assert_array_equal(after[slot][written:], target[slot][written:])
    for slot in set(range(S)) - {row.target for row in ROWS}:
        np.testing.assert_array_equal(after[slot], target[slot])
