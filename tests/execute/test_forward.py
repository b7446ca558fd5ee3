"""The device programs: tiles of any layers and slots, and shapes that do not fit together."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from cola_jax.execute.forward import (
    Context,
    Launch,
    embed_prompts,
    embed_tokens,
    forward,
    view_of,
)
from cola_jax.execute.kv_cache import KVBlocks, Past
from cola_jax.execute.memory import get, put
from cola_jax.execute.plan import Tiles
from cola_jax.execute.readouts import greedy_sample, read_logits, unembed_queries
from cola_jax.model import block, embed, keys_values
from cola_jax.params import layer_at
from tests import oracle
from tests.execute import batches

B, T, S, R = 3, 12, 5, 2
TILES = {  # the last row of the last tile is padding
    "layer": [1, 4],
    "source": [[0, 3], [2, 0]],
    "target": [[4, 1], [3, S]],
    "question": [[2, 0], [1, 0]],
    "block": [[2, 0], [1, 6]],
}


@pytest.fixture(scope="module")
def model(pair):
    return pair("gemma3").ours


@pytest.fixture(scope="module")
def prompts():
    return batches.plain(12, 7, 9)


def states(model, *shape):
    values = np.random.default_rng(0).normal(size=(*shape, model.config.width))
    return jnp.asarray(values, jnp.float32)


def launch(model, layers=None, first=0, end=2):
    columns = {name: jnp.array(column) for name, column in TILES.items()}
    weights = model.layers if layers is None else layers
    return Launch(weights, Tiles(**columns), jnp.int32(first), jnp.int32(end))


def of_row(model, prompts, layer, h, question):
    """The layer, its state and the view of one row, for the functions of the model."""
    row = jax.tree.map(lambda x: jnp.asarray(x)[question][None], prompts)
    here = view_of(model.config, row)
    return model.config, layer_at(model.config, model.layers, layer), h[None], here


@pytest.mark.parametrize("read", [None, [[11, 3], [2, 6], [0, 8]]])
def test_forward_matches_block(model, prompts, read):
    """Each row runs its tile's layer on its slot, at the positions read of its question."""
    read = None if read is None else jnp.array(read)
    before = states(model, S + 1, T)
    target = states(model, S + 1, T if read is None else 2)
    context = Context(view_of(model.config, prompts), source=before, read=read)
    after, cache = forward(model.config, launch(model), jnp.array(target), None, context)
    assert cache is None
    written = set()
    for layer, *rows in zip(*(TILES[name] for name in list(TILES)[:4]), strict=True):
        for source, slot, question in zip(*rows, strict=True):
            at = None if read is None else read[question][None]
            expected = block(*of_row(model, prompts, layer, before[source], question), at)
            if slot != S:
                assert oracle.relative_error(after[slot], expected[0]) < oracle.TOLERANCE
            written.add(slot)
    for slot in set(range(S + 1)) - written:
        np.testing.assert_array_equal(after[slot], target[slot])


def test_forward_runs_tiles_from_first_to_end(model, prompts):
    """In place where no source is given; a stack of one layer is the layer of every tile."""
    before, views = states(model, S + 1, T), view_of(model.config, prompts)
    one = jax.tree.map(lambda x: x[4:5], model.layers)
    part = launch(model, one, first=1)
    after, _ = forward(model.config, part, jnp.array(before), None, Context(views))
    expected = block(*of_row(model, prompts, 4, before[2], 1))[0]
    assert oracle.relative_error(after[3], expected) < oracle.TOLERANCE
    for slot in (0, 1, 2, 4):
        np.testing.assert_array_equal(after[slot], before[slot])


def test_forward_writes_keys_and_values(model, prompts):
    before, config = states(model, S + 1, T), model.config
    shape = (7, config.num_kv_heads, T, config.head_dim)
    cache = KVBlocks(*(jnp.zeros(shape) for _ in range(2)))
    context = Context(view_of(config, prompts), source=before)
    _, cache = forward(config, launch(model), jnp.array(before), cache, context)
    for row, (layer, source, question, number) in enumerate(
        [(1, 0, 2, 2), (1, 3, 0, 0), (4, 2, 1, 1)]
    ):
        expected = keys_values(*of_row(model, prompts, layer, before[source], question))
        for ours, theirs in zip(cache, expected, strict=True):
            theirs = theirs[0].transpose(1, 0, 2)
            assert oracle.relative_error(ours[number], theirs) < oracle.TOLERANCE, row
    assert not cache.k[3:6].any()


def test_embed_prompts_writes_the_first_pairs(model, prompts):
    before = states(model, S + 1, T)
    pairs = jnp.array([[2, 1], [0, 4], [1, 0]])
    ids = jnp.asarray(prompts.ids)
    after = embed_prompts(model, jnp.array(before), ids, pairs, jnp.int32(2))
    np.testing.assert_array_equal(after[1], embed(model, ids[2:3])[0])
    np.testing.assert_array_equal(after[4], embed(model, ids[:1])[0])
    for slot in (0, 2, 3, 5):
        np.testing.assert_array_equal(after[slot], before[slot])


def test_embed_tokens_continues_positions(model):
    tokens = jnp.array([5, 7, 9])
    past = Past(None, length=jnp.array([4, 1, 6]), decoded=jnp.array([1, 3, 2]))
    h, views = embed_tokens(model, states(model, 3), tokens, past)
    np.testing.assert_array_equal(h, embed(model, tokens[None])[0])
    assert views.positions.tolist() == [[4], [3], [7]]


# Shapes are checked in tests: of each program a call whose arrays do not fit together


def blocks(model, tokens=T, rows=7):
    shape = (rows, model.config.num_kv_heads, tokens, model.config.head_dim)
    return KVBlocks(*(jnp.zeros(shape) for _ in range(2)))


def bad_calls(model, prompts):
    views, config = view_of(model.config, prompts), model.config
    scalar, pairs = jnp.int32(0), jnp.zeros((R, 2), int)
    fewer = Context(views, read=jnp.zeros((B, 2), int))
    tile = Tiles(*(None if x is None else x[0] for x in launch(model).tiles))
    keys = jnp.zeros((R, T, config.num_kv_heads, config.head_dim))
    yield lambda: forward(config, launch(model), states(model, S + 1), None, Context(views))
    yield lambda: forward(config, launch(model), states(model, S + 1, T), None, fewer)
    yield lambda: forward(
        config, launch(model), states(model, S + 1, T), blocks(model, T + 1), Context(views)
    )
    yield lambda: embed_prompts(
        model, states(model, S, T + 1), jnp.asarray(prompts.ids), pairs, scalar
    )
    yield lambda: embed_tokens(
        model, states(model, 4), jnp.zeros(3, int), Past(None, jnp.ones(3, int), jnp.ones(3, int))
    )
    yield lambda: unembed_queries(
        model, states(model, S, 2), pairs, jnp.zeros((3, 2, 4), int), scalar
    )
    yield lambda: greedy_sample(model, states(model, 4), jnp.zeros(3, int), pairs, scalar)
    yield lambda: read_logits(jnp.zeros((4, 9)), jnp.zeros((3, 2), int))
    yield lambda: put(jnp.zeros((S, 4)), jnp.zeros((2, 5)), jnp.zeros(2, int))
    yield lambda: put(jnp.zeros((S, 4)), jnp.zeros((2, 4)), jnp.zeros(3, int))
    yield lambda: get(jnp.zeros((S, 4), int), jnp.zeros(2, int))  # no floats
    yield lambda: blocks(model).write_prompts(keys, keys[:, 1:], tile)
    yield lambda: blocks(model).write_prompts(keys[:1], keys[:1], tile)
    yield lambda: blocks(model, T + 1).write_prompts(keys, keys, tile)


@pytest.mark.parametrize("number", range(14))
def test_programs_refuse_shapes_that_do_not_fit(model, prompts, number):
    call = list(bad_calls(model, prompts))[number]
    with pytest.raises(jaxtyping.TypeCheckError):
        call()
