"""`run_path`, the definition of running a path, and the influence of layers."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from cola_jax.dtypes import FLOATS, dtype_name
from cola_jax.errors import InputError
from cola_jax.execute.inputs import (
    PathInput,
    check_prompts,
    path_ids,
    prompts_for,
)
from cola_jax.model import embed, residual, run_layer, unembed, view_of
from cola_jax.params import Model
from cola_jax.path import STOP, is_whole_path, unpad_path
from cola_jax.prompts import NO_READ, PADDING, PROMPT, Prompts, PromptsLike
from cola_jax.steps import ATTENTION, MLP, Step


def run_path(
    model: Model,
    prompts: PromptsLike,
    path: PathInput,
    *,
    dtype: DTypeLike | None = None,
    return_states: bool = False,
    shares: ArrayLike | Sequence[float] | None = None,
) -> Any:
    """Run every prompt along a path; this is the meaning of a path.

    A step computes h + share * (f(h) - h), where f is its layer with all norms and scales, or of a
    part, the layer with what the other part adds left out.

    Args:
      prompts: a batch of Prompts, a Hugging Face tokenizer's output for a list of texts, ids
        [B, T] without padding, or texts. Rows may be padded on either side.
      path: text such as 0-5,7,7*0.5,8a,9m, or ids of its steps in order, a layer's own for the
        whole layer; an array, but no list, may be padded with STOP (-1) after its end. Paths of the
        same padded length share one compilation.
      dtype: of the activations: float32, bfloat16 or float16; the weights' own when None.
      return_states: return the hidden states as well.
      shares: [P] of the updates of the steps, in place of the path's own; any numbers. The result
        is differentiable in them.

    Returns:
      float32 logits [B, T, V] in the columns of the prompts, 0 at padding, or [B, Q, V] at the
      read positions where `prompts.read` is not None. With `return_states` also the states
      [P + 1, B, T, D]: the embedding, and the state after each layer of the path, which
      `cola_jax.model.unembed(model, state)` reads.

    Raises:
      InputError: for ids out of range, arrays of other ranks, padding that is not marked as such
        (see `Prompts.from_encoding`), and prompts longer than the model's context. Values traced
        by JAX are not checked; there, ids out of range clamp.
    """
    dtype = dtype_name(dtype, FLOATS)
    prompts = prompts_for(model, prompts)
    if not isinstance(path, jax.core.Tracer):
        path = path_ids(path, model.config.num_layers)
        model.config.check_keys(unpad_path(path))
    check_prompts(model, prompts, either_side=True)
    ids = jnp.asarray(path, jnp.int32)
    if shares is not None:
        shares = jnp.asarray(shares, jnp.float32)
        if shares.shape != ids.shape:
            raise InputError(
                f"there are shares {list(shares.shape)} for a path {list(ids.shape)}: give one for "
                "each step, padding included."
            )
    is_traced = isinstance(path, jax.core.Tracer)
    whole = shares is None and not is_traced and is_whole_path(path)
    run = functools.partial(logits, model, prompts, ids, dtype, shares, whole=whole)
    if not return_states or is_traced:
        return run(return_states=return_states)
    out, states = run(return_states=True)
    return out, states[: 1 + int((np.asarray(path) != STOP).sum())]


def replicated(model: Model) -> jax.sharding.Sharding:
    """Return the sharding of arrays that every device of a model holds whole."""
    sharding: Any = model.embedding.sharding
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding


@functools.partial(jax.jit, static_argnames=("dtype", "return_states", "whole"))
def logits(
    model: Model,
    prompts: Prompts,
    path: Int[Array, " P"],
    dtype: DTypeLike | None = None,
    shares: Float[Array, " P"] | None = None,
    *,
    return_states: bool = False,
    whole: bool = False,
) -> Any:
    """The compiled part of `run_path`: a scan over a path, a slice of the stack a step.

    `whole` says that the path has whole layers alone.
    """
    embedded = embed(model, prompts, dtype)
    tokens = view_of(model, prompts, dtype)
    steps = model.config.with_runs(path)

    def step(h, position) -> Any:
        i, share = position

        def run(h):
            # indexed inside the body: gathering all layers first would copy the path's weights
            return run_layer(model, jnp.maximum(i, 0), h, tokens, share, whole=whole)

        # a branch skips the work of padding; under vmap it becomes a select
        h = jax.lax.cond(i == STOP, lambda h: h, run, h)
        return h, (h if return_states else None)

    h, states = jax.lax.scan(step, embedded, (steps, shares))
    out = read_out(model, prompts, h)
    if not return_states:
        return out
    return out, residual(model.config, jnp.concatenate([embedded[None], states]))


def read_out(model: Model, prompts: Prompts, h: Float[Array, "B T D"]) -> Float[Array, "B Q V"]:
    """Return the logits of every token, 0 at padding, or those at the read positions."""
    if prompts.read is None:
        token = (jnp.asarray(prompts.branch) != PADDING)[:, :, None]
        return jnp.where(token, unembed(model, h), 0.0)
    # padding repeats the first read position, which alone decides whether it is finite
    read = jnp.where(prompts.read == NO_READ, prompts.read[:, :1], prompts.read)
    return unembed(model, jnp.take_along_axis(h, jnp.maximum(read, 0)[:, :, None], axis=1))


def block_influence(model: Model, prompts: Prompts, parts: bool = False) -> np.ndarray:
    """Return 1 - cos(state before, state after) of every layer [L], mean over prompt tokens.

    As ShortGPT (arXiv 2403.03853, section 3.2) ranks layers for removal; float32. With `parts`,
    that of the attention and of the MLP of every layer [L, 2]: the MLP runs on the state that the
    attention leaves.
    """
    sharding = replicated(model)
    total = np.zeros((model.config.num_layers, 2) if parts else model.config.num_layers)
    count = 0
    for b in range(len(np.asarray(prompts.ids))):
        row = jax.tree.map(
            lambda x, b=b: jax.device_put(np.asarray(x)[b : b + 1], sharding), prompts
        )
        influence, tokens = sum_influence(model, row, parts=parts)
        total = total + np.asarray(influence)
        count = count + int(tokens)
    return total / count


@functools.partial(jax.jit, static_argnames="parts")
def sum_influence(
    model: Model, prompts: Prompts, *, parts: bool
) -> tuple[Float[Array, "*L"], Array]:
    """Sum the influence of every layer, or part, over the tokens of prompts, and count these."""
    h = embed(model, prompts)
    tokens = view_of(model, prompts)
    of_prompt = tokens.branch == PROMPT

    def influence(before, after):
        states = (residual(model.config, x) for x in (before, after))
        return jnp.sum(1 - cosine(*states), where=of_prompt)

    def step(h, i):
        after = run_layer(model, i, h, tokens, whole=True)
        if not parts:
            return after, influence(h, after)
        attended = run_layer(model, i + Step(0, ATTENTION).modifier, h, tokens)
        mixed = run_layer(model, i + Step(0, MLP).modifier, attended, tokens)
        return after, jnp.stack([influence(h, attended), influence(attended, mixed)])

    _, influences = jax.lax.scan(step, h, jnp.arange(model.config.num_layers))
    return influences, of_prompt.sum()


def cosine(x: Float[Array, "*B D"], y: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """Return the cosine of the angle between states."""
    x = x.astype(jnp.float32)
    y = y.astype(jnp.float32)
    return jnp.sum(x * y, -1) / (jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1))
