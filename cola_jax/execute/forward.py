"""The device programs of a plan: `plant`, `advance`, `finish` and `read`.

Each is one compiled loop whose number of steps is an argument, so that a new plan compiles
nothing; the first three update a donated buffer in place.
"""

import functools
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from cola_jax.config import ModelConfig
from cola_jax.execute.plan import Tiles
from cola_jax.execute.store import get, put
from cola_jax.model import View, block, embed, unembed
from cola_jax.params import Layer, Model, layer_at

Count = Int[Array, ""]


@functools.partial(jax.jit, static_argnames="dtype", donate_argnames="slots")
def plant(
    model: Model,
    slots: Shaped[Array, "S T D"],
    ids: Int[Array, "B T"],
    planted: Int[Array, "n two"],
    count: Count,
    *,
    dtype: DTypeLike | None = None,
) -> Shaped[Array, "S T D"]:
    """Writes the embedded prompts of the first `count` (question, slot) pairs into their slots."""

    def step(i, slots):
        question, slot = planted[i]
        return put(slots, embed(model, ids[question][None], dtype), slot[None])

    return jax.lax.fori_loop(0, count, step, slots)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="slots")
@no_type_check  # the tiles are traced here
def advance(
    config: ModelConfig,
    layers: Layer,
    slots: Float[Array, "S T D"],
    views: View,
    tiles: Tiles,
    first: Count,
    last: Count,
) -> Float[Array, "S T D"]:
    """Runs tiles first..last-1: each reads its slots, runs its layer, and writes its slots.

    `layers` is the whole stack, or a stack of the one layer that these tiles run.
    """

    def step(i, slots):
        here, layer = (
            of_questions(views, tiles.question[i]),
            layer_at(config, layers, tiles.layer[i]),
        )
        return put(slots, block(config, layer, get(slots, tiles.source[i]), here), tiles.target[i])

    return jax.lax.fori_loop(first, last, step, slots)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="outputs")
@no_type_check
def finish(
    config: ModelConfig,
    layers: Layer,
    slots: Float[Array, "S T D"],
    views: View,
    reads: Int[Array, "B Q"],
    outputs: Float[Array, "O Q D"],
    tiles: Tiles,
    first: Count,
    last: Count,
) -> Float[Array, "O Q D"]:
    """Runs the last layer of paths at the positions read, as `advance` runs the others."""

    def step(i, outputs):
        question = tiles.question[i]
        here, layer = of_questions(views, question), layer_at(config, layers, tiles.layer[i])
        h = block(config, layer, get(slots, tiles.source[i]), here, reads[question])
        return put(outputs, h, tiles.target[i])

    return jax.lax.fori_loop(first, last, step, outputs)


class Places(NamedTuple):
    """Readings of N U places, each asked about M targets."""

    logprob: Float[Array, "N U M"]
    rival: Float[Array, "N U M"]
    token: Int[Array, "N U"]
    finite: Bool[Array, "N U"]


@jax.jit
@no_type_check
def read(
    model: Model,
    outputs: Float[Array, "O Q D"],
    places: Int[Array, "N U"],
    targets: Int[Array, "N U M"],
    count: Count,
) -> Places:
    """Unembeds the first `count` pieces of U places (rows of O Q) and reads their logits.

    So there are never more than [U, V] logits, and a place that is read for several targets, as
    the end of a prompt is for every option, is unembedded once.
    """
    flat = outputs.reshape(-1, outputs.shape[-1])

    def step(i, out):
        logits = unembed(model, get(flat, places[i])[:, None])[:, 0]
        return jax.tree.map(
            lambda whole, piece: whole.at[i].set(piece), out, asked(logits, targets[i])
        )

    start = Places(
        logprob=jnp.zeros(targets.shape, jnp.float32),
        rival=jnp.zeros(targets.shape, jnp.float32),
        token=jnp.zeros(places.shape, jnp.int32),
        finite=jnp.zeros(places.shape, jnp.bool_),
    )
    return jax.lax.fori_loop(0, count, step, start)


@no_type_check
def asked(logits: Float[Array, "U V"], targets: Int[Array, "U M"]) -> Places:
    """Reads logits as `prompts.readings` does, for several targets at a place."""
    top = best_two(logits)
    rival = jnp.where(targets == top.token[:, None], top.second[:, None], top.first[:, None])
    shift = jnp.max(logits, axis=-1, keepdims=True) - top.first[:, None]
    return Places(
        logprob=jnp.take_along_axis(logits, targets, axis=-1) - shift,
        rival=rival,
        token=top.token,
        finite=top.finite,
    )


class Top(NamedTuple):
    """The likeliest token, its log-probability, and that of the next best."""

    token: Int[Array, " U"]
    first: Float[Array, " U"]
    second: Float[Array, " U"]
    finite: Bool[Array, " U"]  # whether all logits are


@no_type_check
def best_two(logits: Float[Array, "U V"]) -> Top:
    """Finds the two best of logits; of equals the first."""
    ids, last = jnp.arange(logits.shape[-1]), logits.shape[-1] - 1
    best = jnp.max(logits, axis=-1, keepdims=True)
    # the first of the best: an argmax takes ten times as long on a CPU
    token = jnp.min(jnp.where(logits == best, ids, last), axis=-1).astype(jnp.int32)
    others = jnp.where(ids == token[:, None], -jnp.inf, logits)
    second = jnp.max(others, axis=-1, keepdims=True)
    log_sum = jnp.log(jnp.sum(jnp.exp(logits - best), axis=-1, keepdims=True))
    return Top(
        token=token,
        first=-log_sum[:, 0],
        second=(second - best - log_sum)[:, 0],
        finite=jnp.all(jnp.isfinite(logits), axis=-1),
    )


def of_questions(views: View, question: Int[Array, " R"]) -> View:
    """Takes the view of the question of each row."""
    return View(
        positions=views.positions[question],
        branch=views.branch[question],
        cos=views.cos[:, question],
        sin=views.sin[:, question],
    )
