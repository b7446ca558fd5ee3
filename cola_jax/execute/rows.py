"""The device programs of decoding: `prefill`, `settle`, `begin`, `go_on` and `choose`.

A row is one prompt on one path. It has a seat: a place in the arrays below. Keys and values are
kept for each *position* of its path, so a layer that runs twice has two caches: those of the prompt
in cells that rows share, one for each state of the trie, and those of what the row has decoded in
cells of its own. As in `tiles`, each program is one compiled loop whose number of steps is an
argument, and updates donated buffers in place.
"""

import functools
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from cola_jax.config import ModelConfig
from cola_jax.execute.plan import Tiles
from cola_jax.execute.tiles import Top, best_two, of_questions, pick, put
from cola_jax.model import View, at, at_view, attend, embed, keys_values, unembed, view, visible
from cola_jax.params import Layer, Model
from cola_jax.prompts import PROMPT, Prompts

Count = Int[Array, ""]


class Cells(struct.PyTreeNode):
    """Keys and values, of X tokens in each of M cells; the cell behind the last is for padding."""

    k: Float[Array, "M X K H"]
    v: Float[Array, "M X K H"]


class Seats(NamedTuple):
    """What the host says of the rows in W seats, and of one more for padding, before a step."""

    length: Int[Array, " W"]  # tokens of its prompt
    count: Int[Array, " W"]  # tokens decoded so far
    shared: Int[Array, "W P"]  # the prompt's cell of each position of its path
    own: Int[Array, "W P"]  # the row's own cell of each position of its path


class Turns(NamedTuple):
    """N tiles of R rows that run a layer for the token each has decoded last."""

    layer: Int[Array, " N"]
    seat: Int[Array, "N R"]
    position: Int[Array, "N R"]  # of the layer in the row's path


@functools.partial(jax.jit, static_argnames="config", donate_argnames=("slots", "cells"))
@no_type_check
def prefill(
    config: ModelConfig,
    layers: Layer,
    slots: Float[Array, "S T D"],
    cells: Cells,
    views: View,
    tiles: Tiles,
    cell: Int[Array, "N R"],
    first: Count,
    last: Count,
) -> tuple[Float[Array, "S T D"], Cells]:
    """Runs tiles first..last-1 as `tiles.advance` does, and keeps their keys and values."""

    def step(i, carry):
        slots, cells = carry
        here, layer = of_questions(views, tiles.question[i]), pick(layers, tiles.layer[i])
        h = slots[tiles.source[i]]
        k, v = keys_values(config, layer, h, here)
        h = attend(config, layer, h, here, k, v, visible(config, here, layer.window))
        return put(slots, h, tiles.target[i]), keep(cells, k, v, cell[i])

    return jax.lax.fori_loop(first, last, step, (slots, cells))


@functools.partial(jax.jit, static_argnames="config", donate_argnames=("cells", "states"))
@no_type_check
def settle(
    config: ModelConfig,
    layers: Layer,
    slots: Float[Array, "S T D"],
    cells: Cells,
    states: Float[Array, "W D"],
    views: View,
    ends: Int[Array, " B"],
    tiles: Tiles,
    cell: Int[Array, "N R"],
    first: Count,
    last: Count,
) -> tuple[Cells, Float[Array, "W D"]]:
    """Runs the last layer of paths at the end of each prompt; targets are seats."""

    def step(i, carry):
        cells, states = carry
        here, layer = of_questions(views, tiles.question[i]), pick(layers, tiles.layer[i])
        h, end = slots[tiles.source[i]], ends[tiles.question[i]][:, None]
        k, v = keys_values(config, layer, h, here)
        mask = at(visible(config, here, layer.window), end)
        h = attend(config, layer, at(h, end), at_view(here, end), k, v, mask)
        return keep(cells, k, v, cell[i]), put(states, h[:, 0], tiles.target[i])

    return jax.lax.fori_loop(first, last, step, (cells, states))


@functools.partial(jax.jit, static_argnames="dtype", donate_argnames="states")
def begin(
    model: Model,
    states: Float[Array, "W D"],
    tokens: Int[Array, " W"],
    seats: Seats,
    *,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "W D"], View]:
    """Embeds the token that each row has decoded last, the `count`-th behind its prompt."""
    positions = (seats.length + seats.count - 1)[:, None]
    prompts = Prompts(tokens[:, None], positions, jnp.full_like(positions, PROMPT))
    h = embed(model, tokens[:, None], dtype)[:, 0]
    return h.astype(states.dtype), view(model.config, prompts)


@functools.partial(
    jax.jit, static_argnames=("config", "reach"), donate_argnames=("states", "decoded")
)
@no_type_check
def go_on(
    config: ModelConfig,
    layers: Layer,
    states: Float[Array, "W D"],
    decoded: Cells,
    prompt: Cells,
    views: View,
    seats: Seats,
    turns: Turns,
    first: Count,
    last: Count,
    *,
    reach: int,
) -> tuple[Float[Array, "W D"], Cells]:
    """Runs tiles first..last-1: one layer for one token of each of their rows.

    `reach` bounds the tokens decoded so far, so that a short text does not pay for a long one.
    """

    def step(i, carry):
        states, decoded = carry
        seat, layer = turns.seat[i], pick(layers, turns.layer[i])
        here = of_questions(views, seat)
        shared = seats.shared[seat, turns.position[i]]
        own = seats.own[seat, turns.position[i]]
        h, nth = states[seat][:, None], seats.count[seat] - 1
        decoded = extend(decoded, *keys_values(config, layer, h, here), own, nth)
        k = jnp.concatenate([prompt.k[shared], decoded.k[own, :reach]], axis=1)
        # behind what is decoded stands what others left, and nothing times NaN is not nothing
        written = (jnp.arange(reach) <= nth[:, None])[..., None, None]
        values = jnp.where(written, decoded.v[own, :reach], 0)
        v = jnp.concatenate([prompt.v[shared], values], axis=1)
        mask = remembered(seats.length[seat], nth, prompt.k.shape[1], reach, layer.window)
        h = attend(config, layer, h, here, k, v, mask[:, None])
        return put(states, h[:, 0], seat), decoded

    return jax.lax.fori_loop(first, last, step, (states, decoded))


@functools.partial(jax.jit, donate_argnames="tokens")
@no_type_check
def choose(
    model: Model,
    states: Float[Array, "W D"],
    tokens: Int[Array, " W"],
    seats: Int[Array, "N U"],
    count: Count,
) -> tuple[Int[Array, " W"], Top]:
    """Unembeds the first `count` pieces of U seats; each takes its likeliest token."""

    def step(i, carry):
        tokens, out = carry
        top = best_two(unembed(model, states[seats[i]][:, None])[:, 0])
        out = jax.tree.map(lambda whole, piece: whole.at[i].set(piece), out, top)
        return tokens.at[seats[i]].set(top.token), out

    start = Top(
        token=jnp.zeros(seats.shape, jnp.int32),
        first=jnp.zeros(seats.shape, jnp.float32),
        second=jnp.zeros(seats.shape, jnp.float32),
        finite=jnp.zeros(seats.shape, jnp.bool_),
    )
    return jax.lax.fori_loop(0, count, step, (tokens, start))


@no_type_check
def remembered(
    length: Int[Array, " R"], nth: Int[Array, " R"], tokens: int, reach: int, window: Count
) -> Bool[Array, "R S"]:
    """Says what the nth decoded token sees: T places of the prompt, then those decoded."""
    prompt, decoded = jnp.arange(tokens), jnp.arange(reach)
    now = (length + nth)[:, None]
    in_prompt = (prompt < length[:, None]) & (now - prompt < window)
    so_far = (decoded <= nth[:, None]) & (nth[:, None] - decoded < window)
    return jnp.concatenate([in_prompt, so_far], axis=1)


@no_type_check
def keep(cells: Cells, k: Array, v: Array, where: Int[Array, " R"]) -> Cells:
    """Writes the keys and values of prompts, row by row."""
    return Cells(k=put(cells.k, k, where), v=put(cells.v, v, where))


@no_type_check
def extend(cells: Cells, k: Array, v: Array, where: Int[Array, " R"], nth: Array) -> Cells:
    """Writes the keys and values [R, 1, K, H] of one token, row by row."""

    def write(buffer, values):
        for row in range(len(values)):
            start = (where[row], nth[row], 0, 0)
            buffer = jax.lax.dynamic_update_slice(buffer, values[row][None], start)
        return buffer

    return Cells(k=write(cells.k, k), v=write(cells.v, v))
