"""The device programs of decoding: `prefill`, `settle`, `begin`, `go_on` and `choose`.

A row is one prompt on one path. It has a seat: a place in the arrays below. Keys and values are
kept for each *position* of its path, so a layer that runs twice has two caches: those of the prompt
in cells that rows share, one for each state of the trie, and those of what the row has decoded in
cells of its own. As in `tiles`, each program is one compiled loop whose number of steps is an
argument, and updates donated buffers in place.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from cola_jax.config import ModelConfig
from cola_jax.execute.forward import Top, best_two, of_questions
from cola_jax.execute.plan import Tiles
from cola_jax.execute.store import as_kept, get, put
from cola_jax.model import (
    Mix,
    View,
    at,
    at_view,
    attend,
    embed,
    keys_values,
    mix_of,
    unembed,
    view,
    visible,
)
from cola_jax.params import Layer, Model, layer_at
from cola_jax.prompts import PROMPT, Prompts

Count = Int[Array, ""]
UNSEEN = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: a row of nothing but it is no NaN


class Cells(struct.PyTreeNode):
    """Keys and values, of X tokens in each of M cells; the cell behind the last is for padding.

    Heads come first, so that a head's keys lie together: a CPU attends twice as fast to them.
    """

    k: Shaped[Array, "M K X H"]
    v: Shaped[Array, "M K X H"]


class Seats(NamedTuple):
    """What the host says of the rows in W seats, and of one more for padding, before a step."""

    length: np.ndarray  # [W] tokens of its prompt
    decoded: np.ndarray  # [W] tokens so far
    shared: np.ndarray  # [W, P] the prompt's cell of each position of its path
    own: np.ndarray  # [W, P] the row's own cell of each position of its path


class Turns(NamedTuple):
    """N tiles of R rows that run a layer for the token each has decoded last."""

    layer: np.ndarray  # [N]
    seat: np.ndarray  # [N, R]
    position: np.ndarray  # [N, R] of the layer in the row's path


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
        here, layer = (
            of_questions(views, tiles.question[i]),
            layer_at(config, layers, tiles.layer[i]),
        )
        h = get(slots, tiles.source[i])
        k, v = keys_values(config, layer, h, here)
        mask = visible(config, here, layer.window)
        h = attend(config, layer, h, here, mix_of(k, v, mask))
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
        here, layer = (
            of_questions(views, tiles.question[i]),
            layer_at(config, layers, tiles.layer[i]),
        )
        h, end = get(slots, tiles.source[i]), ends[tiles.question[i]][:, None]
        k, v = keys_values(config, layer, h, here)
        mask = at(visible(config, here, layer.window), end)
        h = attend(config, layer, at(h, end), at_view(here, end), mix_of(k, v, mask))
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
    """Embeds the token that each row has decoded last, the `decoded`-th behind its prompt."""
    positions = (seats.length + seats.decoded - 1)[:, None]
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
        seat, layer = turns.seat[i], layer_at(config, layers, turns.layer[i])
        here = of_questions(views, seat)
        shared = seats.shared[seat, turns.position[i]]
        own = seats.own[seat, turns.position[i]]
        h, nth = states[seat][:, None], seats.decoded[seat] - 1
        decoded = extend(decoded, *keys_values(config, layer, h, here), own, nth)
        parts = take(prompt, shared, prompt.k.shape[2]), take(decoded, own, reach)
        sees = remembered(seats.length[seat], nth, [p.k.shape[2] for p in parts], layer.window)
        h = attend(config, layer, h, here, mix_of_parts(parts, sees))
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
def take(cells: Cells, where: Int[Array, " R"], reach: int) -> Cells:
    """Takes the first tokens of some cells."""
    some = (where, slice(None), slice(reach))
    return Cells(k=get(cells.k, some), v=get(cells.v, some))


@no_type_check
def remembered(
    length: Int[Array, " R"], nth: Int[Array, " R"], sizes: Sequence[int], window: Count
) -> tuple[Bool[Array, "R T"], Bool[Array, "R X"]]:
    """Says what the nth decoded token sees of the prompt's places, and of those decoded."""
    prompt, decoded = (jnp.arange(size) for size in sizes)
    now = (length + nth)[:, None]
    in_prompt = (prompt < length[:, None]) & (now - prompt < window)
    return in_prompt, (decoded <= nth[:, None]) & (nth[:, None] - decoded < window)


def mix_of_parts(parts: Sequence[Cells], sees: Sequence[Array]) -> Mix:
    """Attention of one token a row over parts of its past, as `model.mix_of` over all of it.

    `sees` [R, X] are of each part. The parts stay where they are: to join them would copy all
    keys and values.
    """

    @no_type_check
    def mix(q: Float[Array, "R one N H"]) -> Float[Array, "R one N H"]:
        rows, _, heads, width = q.shape
        grouped = q.reshape(rows, parts[0].k.shape[1], -1, width)
        scores = [
            jnp.einsum("rkgh,rkxh->rkgx", grouped, part.k, preferred_element_type=jnp.float32)
            for part in parts
        ]
        masked = [
            jnp.where(seen[:, None, None], score * width**-0.5, UNSEEN)
            for score, seen in zip(scores, sees, strict=True)
        ]
        shares = jax.nn.softmax(jnp.concatenate(masked, axis=-1), axis=-1).astype(q.dtype)
        shares = jnp.split(shares, [parts[0].k.shape[2]], axis=-1)
        # where nothing is seen may stand what others left, and nothing times NaN is not nothing
        values = [
            jnp.where(seen[:, None, :, None], part.v, 0)
            for part, seen in zip(parts, sees, strict=True)
        ]
        mixed = sum(
            jnp.einsum("rkgx,rkxh->rkgh", share, value)
            for share, value in zip(shares, values, strict=True)
        )
        return mixed.reshape(rows, 1, heads, width)

    return mix


@no_type_check
def keep(cells: Cells, k: Array, v: Array, where: Int[Array, " R"]) -> Cells:
    """Writes the keys and values [R, T, K, H] of prompts, row by row."""
    k, v = (x.transpose(0, 2, 1, 3) for x in (k, v))
    return Cells(k=put(cells.k, k, where), v=put(cells.v, v, where))


@no_type_check
def extend(cells: Cells, k: Array, v: Array, where: Int[Array, " R"], nth: Array) -> Cells:
    """Writes the keys and values [R, 1, K, H] of one token, row by row."""

    def write(buffer, values):
        values = as_kept(buffer, values)
        for row in range(len(values)):
            token = values[row].transpose(1, 0, 2)[None]  # [1, K, 1, H]
            start = (where[row], 0, nth[row], 0)
            buffer = jax.lax.dynamic_update_slice(buffer, token, start)
        return buffer

    return Cells(k=write(cells.k, k), v=write(cells.v, v))
