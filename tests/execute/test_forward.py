"""The device programs: tiles of any layers, shapes and slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.execute.forward import forward_tiles
from cola_jax.execute.kv_cache import NO_CACHE
from cola_jax.execute.layout import TileShape
from cola_jax.execute.plan import TileColumns
from cola_jax.execute.recurrence import choose_kind
from cola_jax.kernels.attention import PromptAttention
from cola_jax.model import block, take_positions, view
from cola_jax.params import layer_at
from cola_jax.steps import StepForm
from tests import oracle
from tests.execute import batches

LENGTHS, T, S = (12, 7, 9), 12, 5
TILES = [  # the last row of the last tile is padding
    [(1, 0, 4, 2), (1, 3, 1, 0), (1, 1, 2, 1)],
    [(4, 2, 3, 1), (4, 1, 0, 2), (4, 0, S, 0)],
]
ROWS = [row for tile in TILES for row in tile][:5]


def columns(row, page, read):
    """The columns of a row."""
    layer, source, target, question = row
    real = target != S
    length = -(-LENGTHS[question] // page) * page * real
    return TileColumns(layer, source, target, question, length, read * real)


@pytest.mark.parametrize(("tokens", "page"), [(32, 1), (36, 4)])
@pytest.mark.parametrize("read", [None, [[8, 3], [2, 6], [0, 8]]])
@pytest.mark.parametrize("variant", ["gemma3", "qwen3.5"])
def test_forward_tiles_match_block(pair, variant, read, tokens, page):
    """Each row runs its tile's layer on its slot, at the positions read of its question.

    Rows of several lengths lie end to end. What slots hold after the end of a prompt may be NaN,
    and so may all of a row, which makes nothing else NaN.
    """
    model, prompts = pair(variant).ours, batches.plain(*LENGTHS)
    config, read = model.config, None if read is None else jnp.array(read)
    kind = config.kind_of(1)
    width = T if read is None else 2
    generator = np.random.default_rng(0)
    before, target = (
        jnp.asarray(generator.normal(size=(S + 1, t, config.width)), jnp.float32)
        for t in (T, width)
    )
    left_over = before
    for _, source, _, question in ROWS:
        left_over = left_over.at[source, LENGTHS[question] :].set(jnp.nan)
    left_over = left_over.at[1].set(jnp.nan)  # the rows of slot 1
    tables = [[columns(row, page, width * (read is not None)) for row in tile] for tile in TILES]
    views = view(config, prompts)
    shape = (
        TileShape(tokens, 3, T, 7, 2, page)
        if read is not None
        else TileShape(tokens, 3, T, page=page)
    )
    mode = choose_kind(config.kinds[kind]).over_prompts(views, None, read, None, PromptAttention())
    after, _ = forward_tiles(
        config,
        kind,
        StepForm(),
        shape,
        model.layers[kind],
        jnp.asarray(np.swapaxes(tables, 1, 2).astype(np.int32)),
        jnp.int32(0),
        jnp.int32(len(TILES)),
        jnp.array(target),
        NO_CACHE,
        mode,
        left_over,
    )
    for layer, source, slot, question in ROWS:
        length = LENGTHS[question]
        if source == 1:
            assert not np.isfinite(after[slot][: length if read is None else 2]).any()
            continue
        alone = jax.tree.map(lambda x, q=question, n=length: jnp.asarray(x)[q, :n][None], prompts)
        positions = None if read is None else read[question][None]
        whole = block(
            config,
            layer_at(config, kind, model.layers[kind], layer),
            before[source][None, :length],
            view(config, alone),
        )
        expected = take_positions(whole, positions)[0]
        written = after[slot][: len(expected)]
        assert oracle.relative_error(written, expected) < oracle.TOLERANCE
        end = -(-length // page) * page if read is None else 2
        np.testing.assert_array_equal(after[slot][end:], target[slot][end:])
    for slot in set(range(S)) - {row[2] for row in ROWS}:
        np.testing.assert_array_equal(after[slot], target[slot])
