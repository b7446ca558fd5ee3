"""The device programs: tiles of any layers, shapes and slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.execute.attention import KVBlocks, NoCache, OverPrompts
from cola_jax.execute.forward import (
    embed_prompts,
    embed_tokens,
    forward_tile,
    forward_tiles,
    view_of,
)
from cola_jax.execute.plan import Columns, TileShape
from cola_jax.model import block, embed, keys_values
from cola_jax.params import layer_at
from tests import oracle
from tests.execute import batches

B, T, S, R = 3, 12, 5, 2
PADDING = [0, 0, S, 0, 6, 0]
TILES = [  # the last row of the last tile is padding
    [Columns(1, 0, 4, 2, block=2), Columns(1, 3, 1, 0, block=0)],
    [Columns(4, 2, 3, 1, block=1), Columns(4, *PADDING[1:])],
]
TABLE = np.swapaxes(TILES, 1, 2).astype(np.int32)
ROWS = [row for tile in TILES for row in tile][:3]
SHAPE = TileShape(R, T, 2)


@pytest.fixture(scope="module")
def model(pair):
    return pair("gemma3").ours


@pytest.fixture(scope="module")
def prompts():
    return batches.plain(12, 7, 9)


@pytest.fixture(scope="module")
def views(model, prompts):
    return view_of(model.config, prompts)


def states(model, *shape):
    values = np.random.default_rng(0).normal(size=(*shape, model.config.width))
    return jnp.asarray(values, jnp.float32)


def run(model, mode, target, source=None, cache=NoCache(), shape=SHAPE, table=TABLE):  # noqa: B008
    """Runs both tiles in a loop on the device."""
    loop = jnp.int32(0), jnp.int32(len(table))
    arrays = model.layers, jnp.asarray(table), *loop, jnp.array(target), cache, mode, source
    return forward_tiles(model.config, shape, *arrays)


def of_row(model, prompts, layer, h, question, tokens=T):
    """The layer, its state and the view of one row, for the functions of the model."""
    row = jax.tree.map(lambda x: jnp.asarray(x)[question, :tokens][None], prompts)
    here = view_of(model.config, row)
    return model.config, layer_at(model.config, model.layers, layer), h[None, :tokens], here


@pytest.mark.parametrize("tokens", [T, 9])
@pytest.mark.parametrize("read", [None, [[8, 3], [2, 6], [0, 8]]])
def test_forward_tiles_match_block(model, prompts, views, read, tokens):
    """Each row runs its tile's layer on its slot, at the positions read of its question.

    A tile of fewer tokens takes the beginnings of slots, and leaves what is after them.
    """
    read = None if read is None else jnp.array(read)
    before = states(model, S + 1, T).at[:, tokens:].set(jnp.nan)
    target = states(model, S + 1, T if read is None else 2)
    shape = SHAPE._replace(tokens=tokens)
    after, cache = run(model, OverPrompts(views, read), target, before, shape=shape)
    assert isinstance(cache, NoCache)
    written = tokens if read is None else 2
    for row in ROWS:
        at = None if read is None else read[row.question][None]
        expected = block(
            *of_row(model, prompts, row.layer, before[row.source], row.question, tokens), at
        )
        real = slice(None) if read is not None else slice((12, 7, 9)[row.question])
        error = oracle.relative_error(after[row.target][:written][real], expected[0][real])
        assert error < oracle.TOLERANCE
        np.testing.assert_array_equal(after[row.target][written:], target[row.target][written:])
    for slot in set(range(S)) - {row.target for row in ROWS}:
        np.testing.assert_array_equal(after[slot], target[slot])


def test_forward_tile_runs_one_tile_in_place(model, prompts, views):
    """A stack of one layer is the layer of the tile."""
    before, layers = states(model, S + 1, T), jax.tree.map(lambda x: x[4:5], model.layers)
    table, mode = jnp.asarray(TABLE), OverPrompts(views)
    after, _ = forward_tile(
        *(model.config, SHAPE, layers, table, jnp.int32(1)), jnp.array(before), NoCache(), mode
    )
    expected = block(*of_row(model, prompts, 4, before[2], 1))[0]
    assert oracle.relative_error(after[3][:7], expected[:7]) < oracle.TOLERANCE
    for slot in (0, 1, 2, 4):
        np.testing.assert_array_equal(after[slot], before[slot])


def blocks(model, tokens=T, rows=7):
    shape = (rows, model.config.num_kv_heads, tokens, model.config.head_dim)
    return KVBlocks(*(jnp.zeros(shape) for _ in range(2)))


def test_forward_writes_keys_and_values(model, prompts, views):
    before = states(model, S + 1, T)
    _, cache = run(model, OverPrompts(views), before, before, blocks(model))
    for row in ROWS:
        given = of_row(model, prompts, row.layer, before[row.source], row.question)
        real = (12, 7, 9)[row.question]
        for ours, theirs in zip(cache, keys_values(*given), strict=True):
            theirs = theirs[0].transpose(1, 0, 2)[:, :real]
            assert oracle.relative_error(ours[row.block][:, :real], theirs) < oracle.TOLERANCE
    assert not cache.k[3:6].any()


def test_embed_prompts_writes_pairs(model, prompts):
    before = states(model, S + 1, T)
    ids = jnp.asarray(prompts.ids)
    after = embed_prompts(model, jnp.array(before), ids, jnp.array([[2, 1], [0, 4], [1, 0]]))
    for question, slot in ((2, 1), (0, 4), (1, 0)):
        np.testing.assert_array_equal(after[slot], embed(model, ids[question][None])[0])
    for slot in (2, 3, 5):
        np.testing.assert_array_equal(after[slot], before[slot])


def test_embed_tokens_continues_positions(model):
    tokens, lengths = jnp.array([5, 7, 9]), (jnp.array([4, 1, 6]), jnp.array([1, 3, 2]))
    h, views = embed_tokens(model, states(model, 3, 1), tokens, *lengths)
    np.testing.assert_array_equal(h, embed(model, tokens[:, None]))
    assert views.positions.tolist() == [[4], [3], [7]]
