"""`run_path`, the definition of running a path, and the executor that calls it path by path."""

import functools
from collections.abc import Callable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from cola_jax.execute.inputs import (
    Path,
    Paths,
    as_prompts,
    check_batch,
    check_prompts,
    no_readings,
    path_ids,
    question_of,
)
from cola_jax.model import block, embed, unembed, view
from cola_jax.params import Model, layer_at
from cola_jax.path import STOP, validate
from cola_jax.prompts import NO_READ, Prompts, Readings, readings


def run_path(
    model: Model, prompts: Prompts | ArrayLike, path: Path, *, dtype: DTypeLike | None = None
) -> Float[Array, "B Q V"]:
    """Runs every prompt along one path; this is what a path means.

    Args:
      model: the pretrained model.
      prompts: a batch of Prompts, or plain ids [B, T].
      path: layer ids in order; an array may be padded with STOP behind its end. Paths of the
        same padded length share one compilation.
      dtype: that of the activations; the weights' own when None.

    Returns:
      float32 logits [B, T, V], or [B, Q, V] at the positions read where `prompts.read` is given.

    Raises:
      ValueError: where the path or a token id is out of range, the prompts are longer than the
        model's context, or arrays have other ranks. Under a transformation of JAX there are no
        values to check, and ids out of range clamp.
    """
    prompts = as_prompts(prompts)
    if not isinstance(path, jax.core.Tracer):
        path = path_ids(path)
        validate(path.tolist(), model.config.num_layers)
    check_prompts(model, prompts)
    return logits(model, prompts, jnp.asarray(path, jnp.int32), dtype)


def run_one_by_one(
    model: Model,
    prompts: Prompts,
    paths: Paths,
    *,
    dtype: DTypeLike | None = None,
    on_progress: Callable[[int], None] = lambda evaluations: None,
) -> Readings:
    """Runs each path of each question by itself: what `run_paths` is compared with.

    Takes and returns what `run_paths` does. Each question is cut to its own token bucket; compiles
    once for each bucket of T, Q and P.
    """
    prompts, padded = check_batch(model, prompts, paths)
    out = no_readings(padded, np.asarray(prompts.read).shape[1])
    # one compilation for the weights' own dtype, however it was asked for
    dtype = None if dtype == model.embedding.dtype else dtype
    for b, candidates in enumerate(padded):
        row, mine = question_of(prompts, b)
        present = np.flatnonzero(candidates[:, 0] != STOP)
        # dispatch all before fetching any, so that the host never waits between paths
        pending = [path_readings(model, row, jnp.asarray(candidates[c]), dtype) for c in present]
        for c, result in zip(present, pending, strict=True):
            result = jax.device_get(result)
            for name in ("logprob", "token", "rival"):
                getattr(out, name)[b, c, mine] = getattr(result, name)[0, : mine.sum()]
            out.finite[b, c] = result.finite[0]
            on_progress(1)
    return out


@functools.partial(jax.jit, static_argnames="dtype")
def logits(
    model: Model, prompts: Prompts, path: Int[Array, " P"], dtype: DTypeLike | None = None
) -> Float[Array, "B Q V"]:
    """The compiled part of `run_path`: a scan over the path, one slice of the stack a step."""
    h = embed(model, jnp.asarray(prompts.ids), dtype)
    here = view(model.config, prompts)

    def step(h, i):
        def run(h):
            # indexed inside the body: gathering all layers first would copy the path's weights
            return block(
                model.config, layer_at(model.config, model.layers, jnp.maximum(i, 0)), h, here
            )

        # a branch skips the work of padding; under vmap it becomes a select
        return jax.lax.cond(i == STOP, lambda h: h, run, h), None

    h, _ = jax.lax.scan(step, h, path)
    if prompts.read is not None:
        # padding repeats the first read, so that it cannot be what is not finite
        read = jnp.where(prompts.read == NO_READ, prompts.read[:, :1], prompts.read)
        h = jnp.take_along_axis(h, jnp.maximum(read, 0)[:, :, None], axis=1)
    return unembed(model, h)


@functools.partial(jax.jit, static_argnames="dtype")
def path_readings(
    model: Model, prompts: Prompts, path: Int[Array, " P"], dtype: DTypeLike | None = None
) -> Readings:
    """The compiled part of `run_paths`: one path, from prompts to readings."""
    return readings(logits(model, prompts, path, dtype), jnp.asarray(prompts.targets))
