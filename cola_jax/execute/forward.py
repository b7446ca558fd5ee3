"""The device program that runs planned tiles: `forward`, with and without a KV cache.

It is one compiled loop whose number of steps is an argument, so that a new plan compiles nothing,
and it updates donated buffers in place.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.config import ModelConfig
from cola_jax.execute.decode_attention import DecodeKernel
from cola_jax.execute.kv_cache import KVBlocks, Past, attention_after
from cola_jax.execute.memory import get, put
from cola_jax.execute.plan import Tiles
from cola_jax.execute.prompt_attention import PromptKernel, block_by_rows, by_rows
from cola_jax.model import (
    Kernel,
    View,
    at,
    at_view,
    attend,
    attention_over,
    embed,
    keys_values,
    view,
    visible,
)
from cola_jax.params import Layer, Model, layer_at
from cola_jax.prompts import PROMPT, Prompts

Count = Int[Array, ""]
view_of = jax.jit(view, static_argnums=0)


class Launch(NamedTuple):
    """One call of `forward`: tiles first..end-1, and the weights that they run.

    `layers` is the whole stack, or a stack of the one layer that these tiles run.
    """

    layers: Layer
    tiles: Tiles
    first: Count
    end: Count


class Context(NamedTuple):
    """What tiles read besides weights and states.

    With `read`, only those positions of the result are computed: the last layer of a path needs
    keys and values everywhere, but queries and the MLP only where the model is read. With `past`,
    rows are single tokens that attend to a cache. With `prefix`, rows continue a prompt whose keys
    and values are in blocks of exactly its tokens.
    """

    views: View  # [B, T], or [W, 1] of decode slots
    source: Shaped[Array, "S T D"] | None = None  # states read; those written when None
    read: Int[Array, "B Q"] | None = None
    past: Past | None = None
    prefix: KVBlocks | None = None


@functools.partial(
    jax.jit,
    static_argnames=("config", "reach", "kernel", "decode_kernel"),
    donate_argnames=("states", "cache"),
    # joining q, k and v, or gate and up, into one product would copy their weights for every tile
    compiler_options={"xla_gpu_dot_merger_threshold_mb": 0},
)
def forward(
    config: ModelConfig,
    launch: Launch,
    states: Shaped[Array, "S *T D"],
    cache: KVBlocks | None,
    context: Context,
    *,
    reach: int = 0,
    kernel: Kernel | PromptKernel = None,
    decode_kernel: DecodeKernel | None = None,
) -> tuple[Shaped[Array, "S *T D"], KVBlocks | None]:
    """Runs tiles: each reads its slots, runs its layer, and writes its slots and KV blocks.

    A buffer of one token a slot has no token axis. `reach` bounds the decoded tokens that are
    attended to, so that a short text does not pay for a long one. `kernel` is that of attention
    over prompts, `decode_kernel` that of attention to the cache.
    """
    tiles, past = launch.tiles, context.past
    layers = launch.layers
    if isinstance(kernel, PromptKernel):
        kernel = kernel if for_prompts(config, kernel, context) else None
        layers = layers if kernel is None else by_rows(layers)

    def step(
        i: Count, carry: tuple[Shaped[Array, "S *T D"], KVBlocks | None]
    ) -> tuple[Shaped[Array, "S *T D"], KVBlocks | None]:
        states, cache = carry
        tile = Tiles(*(None if column is None else column[i] for column in tiles))
        if past is not None:  # slots are rows of the view too: reading one column is enough
            tile = tile._replace(target=tile.source, question=tile.source)
        here = of_questions(context.views, tile.question)
        layer = layer_at(config, layers, tile.layer)
        h = get(states if context.source is None else context.source, tile.source)
        h = h[:, None] if h.ndim == 2 else h
        read = None if context.read is None else context.read[tile.question]
        before = None if context.prefix is None else context.prefix.of_tile(tile)
        if isinstance(kernel, PromptKernel):
            keep = cache is not None
            h, kept = block_by_rows(config, layer, h, here, read, kernel, keep, before)
            if cache is not None and kept is not None:
                cache = cache.write_prompts(*kept, tile)
            return put(states, h[:, 0] if states.ndim == 2 else h, tile.target), cache
        k, v = keys_values(config, layer, h, here)
        if past is None:
            mask = at(visible(config, here, layer.window), read)
            if before is None:
                attention = attention_over(k, v, mask, kernel)
            else:
                seen = at(before.seen_from(here.positions, layer.window), read)
                attention = attention_after(before, seen, k, v, mask, kernel)
                if cache is not None:
                    k, v = before.followed_by(k, v)
            cache = None if cache is None else cache.write_prompts(k, v, tile)
        elif decode_kernel is None:
            assert cache is not None
            cache = past.write(cache, k, v, tile)
            attention = past.attention(cache, tile, layer.window, reach)
        else:
            assert cache is not None
            decode = functools.partial(past.attend, decode_kernel, cache, tile, layer.window, reach)

            def attention_in_place(q: Array) -> Array:
                nonlocal cache  # the kernel writes keys and values as well
                mixed, cache = decode((q, k, v))
                return mixed

            attention = attention_in_place
        h = attend(config, layer, at(h, read), at_view(here, read), attention)
        return put(states, h[:, 0] if states.ndim == 2 else h, tile.target), cache

    return jax.lax.fori_loop(launch.first, launch.end, step, (states, cache))


def for_prompts(config: ModelConfig, kernel: PromptKernel, context: Context) -> bool:
    """Whether the kernel serves what these tiles attend to, which is prompts."""
    tokens = context.views.positions.shape[1]
    reads = tokens if context.read is None else context.read.shape[1]
    tokens += 0 if context.prefix is None else context.prefix.k.shape[2]
    group = config.num_heads // config.num_kv_heads
    return context.past is None and kernel.serves(group, reads, tokens)


@functools.partial(jax.jit, static_argnames="dtype", donate_argnames="slots")
def embed_prompts(
    model: Model,
    slots: Shaped[Array, "S T D"],
    ids: Int[Array, "B T"],
    embedded: Int[Array, "n 2"],
    count: Count,
    *,
    dtype: DTypeLike | None = None,
) -> Shaped[Array, "S T D"]:
    """Writes the embedded prompts of the first `count` (question, slot) pairs to their slots."""

    def step(i: Count, slots: Shaped[Array, "S T D"]) -> Shaped[Array, "S T D"]:
        question, slot = embedded[i]
        return put(slots, embed(model, ids[question][None], dtype), slot[None])

    return jax.lax.fori_loop(0, count, step, slots)


@functools.partial(jax.jit, static_argnames="dtype", donate_argnames="states")
def embed_tokens(
    model: Model,
    states: Float[Array, "W D"],
    tokens: Int[Array, " W"],
    past: Past,
    *,
    dtype: DTypeLike | None = None,
) -> tuple[Float[Array, "W D"], View]:
    """Embeds the token that each row decoded last, the `decoded`-th after its prompt."""
    positions = (past.length + past.decoded - 1)[:, None]
    prompts = Prompts(tokens[:, None], positions, jnp.full_like(positions, PROMPT))
    h = embed(model, tokens[:, None], dtype)[:, 0]
    return h.astype(states.dtype), view(model.config, prompts)


def of_questions(views: View, question: Int[Array, " R"]) -> View:
    """Takes the view of the question of each row."""
    return View(
        positions=views.positions[question],
        branch=views.branch[question],
        cos=views.cos[:, question],
        sin=views.sin[:, question],
    )
