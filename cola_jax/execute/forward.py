"""The device programs: tiles of a layer, and embeddings.

A program depends on shapes alone, never on a plan, and updates donated buffers in place.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.config import ModelConfig
from cola_jax.execute.attention import Mode
from cola_jax.execute.kv_cache import Kept
from cola_jax.execute.layout import TileShape
from cola_jax.execute.plan import TileColumns
from cola_jax.kernels.attention import put
from cola_jax.model import View, embed, finish_layer, take_positions, view_at_positions, view_of
from cola_jax.params import Layer, Model, layer_at
from cola_jax.prompts import PROMPT, Prompts
from cola_jax.steps import ATTENTION, MLP, StepForm

Index = Int[Array, ""]
States = Shaped[Array, "S T _"]
Sources = Shaped[Array, "_ _ _"]  # slots that are read in place of those written
view_prompts = jax.jit(view_of, static_argnames="dtype")
# joining q, k and v, or gate and up, into one product would copy their weights for every tile
OPTIONS = {"xla_gpu_dot_merger_threshold_mb": 0}


def run_tile(
    config: ModelConfig,
    kind: int,
    form: StepForm,
    shape: TileShape,
    layers: Layer,
    table: Int[Array, "N F R"],
    i: Index,
    states: States,
    cache: Kept,
    mode: Mode,
    source: Sources | None = None,
) -> tuple[States, Kept]:
    """Run tile i: read its slots, run its step, and write its slots and KV blocks.

    `layers` is the whole stack, or a stack of the layer of this tile. Of a part, the other part is
    not run: a tile of MLPs reads no keys and values, and writes none. States are read from
    `source`, or from the buffer that is written where it is None. Slots are as long as the longest
    prompt, and the last one is for padding. What is stale in them may be NaN: attention hides it.
    """
    columns = TileColumns(*(table[i, column, : shape.rows] for column in range(table.shape[1])))
    tile = mode.tile(columns, shape)
    layer = layer_at(config, kind, mode.view_layers(layers), table[i, 0, 0])
    layer = layer.replace(part=None, share=layer.share if form.damped else None)
    h = tile.take(states if source is None else source)
    attended = None
    if form.part != MLP:
        attended, cache = mode(config, layer, h, tile, cache)
    here = view_at_positions(tile.view, tile.read)
    h = take_positions(h, tile.read)
    h = finish_layer(config, layer, h, attended, here, with_mlp=form.part != ATTENTION)
    return tile.put(states, h), cache


jit_tiles = functools.partial(
    jax.jit,
    static_argnames=("config", "kind", "form", "shape"),
    donate_argnames=("states", "cache"),
)


@functools.partial(jit_tiles, compiler_options=OPTIONS)
def forward_few(
    config: ModelConfig,
    kind: int,
    form: StepForm,
    shape: TileShape,
    layers: tuple[Layer, ...],
    table: Int[Array, "N F R"],
    first: Index,
    states: States,
    cache: Kept,
    mode: Mode,
    source: Sources | None = None,
) -> tuple[States, Kept]:
    """Run as many tiles as layers, each with a stack of its own layer, from the first on.

    Calls queue, and their layers may be any: a GPU's host would wait for each step of a loop on the
    device, and for each choice of a branch.
    """
    for i, layer in enumerate(layers):
        states, cache = run_tile(
            config, kind, form, shape, layer, table, first + i, states, cache, mode, source
        )
    return states, cache


@jit_tiles
def forward_tiles(
    config: ModelConfig,
    kind: int,
    form: StepForm,
    shape: TileShape,
    layers: Layer,
    table: Int[Array, "N F R"],
    first: Index,
    end: Index,
    states: States,
    cache: Kept,
    mode: Mode,
    source: Sources | None = None,
) -> tuple[States, Kept]:
    """Run tiles first..end-1 in a loop on the device, which slices the stack of layers."""

    def step(i: Index, carry: tuple[States, Kept]) -> Any:
        return run_tile(config, kind, form, shape, layers, table, i, *carry, mode, source)

    return jax.lax.fori_loop(first, end, step, (states, cache))


@functools.partial(jax.jit, static_argnames="dtype", donate_argnames="slots")
def embed_prompts(
    model: Model,
    slots: States,
    prompts: Prompts,
    embedded: Int[Array, "n 2"],
    *,
    dtype: DTypeLike | None = None,
) -> States:
    """Write the embedded prompts of (question, slot) pairs to their slots."""
    rows = jax.tree.map(lambda x: x[embedded[:, 0]], prompts)
    return put(slots, embed(model, rows, dtype), embedded[:, 1])


@functools.partial(jax.jit, static_argnames="dtype", donate_argnames="states")
def embed_tokens(
    model: Model,
    states: Float[Array, "W 1 _"],
    tokens: Int[Array, " W"],
    length: Int[Array, " W"],
    decoded: Int[Array, " W"],
    *,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "W 1 _"], View]:
    """Embed the token that each row decoded last, the `decoded`-th after its prompt."""
    positions = (length + decoded - 1)[:, None]
    prompts = Prompts(tokens[:, None], positions, jnp.full_like(positions, PROMPT))
    h = embed(model, prompts, dtype)
    return h.astype(states.dtype), view_of(model, prompts, dtype)
