"""`run_path`, the definition of running a path, and `run_reference`, which runs path by path."""

import contextlib
import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike
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
from cola_jax.prompts import NO_READ, PADDING, Prompts, PromptsLike, Readings, readings

AHEAD = 64  # paths dispatched before the host waits for the first


def run_path(
    model: Model, prompts: PromptsLike, path: Path, *, dtype: DTypeLike | None = None
) -> Float[Array, "B Q V"]:
    """Runs every prompt along one path; this is what a path means.

    Args:
      model: the pretrained model.
      prompts: a batch of Prompts, what a Hugging Face tokenizer returns for a list of texts, or
        ids [B, T] without padding. Rows may be padded on either side.
      path: layer ids in order; an array may be padded with STOP after its end. Paths of the same
        padded length share one compilation.
      dtype: of the activations; the weights' own when None.

    Returns:
      float32 logits [B, T, V] in the columns of the prompts, 0 at padding, or [B, Q, V] at the
      read positions where `prompts.read` is given.

    Raises:
      ValueError: where the path or a token id is out of range, the prompts are longer than the
        model's context, arrays have other ranks, or padding is not marked as such (see
        `Prompts.from_encoding`). Values traced by JAX cannot be checked; there, ids out of range
        clamp.
    """
    prompts = as_prompts(prompts, model.pad_token)
    if not isinstance(path, jax.core.Tracer):
        path = path_ids(path)
        validate(path.tolist(), model.config.num_layers)
    check_prompts(model, prompts, either_side=True)
    return logits(model, prompts, jnp.asarray(path, jnp.int32), dtype)


def run_reference(
    model: Model,
    prompts: Prompts,
    paths: Paths,
    *,
    dtype: DTypeLike | None = None,
    precision: str | None = None,
) -> Readings:
    """Runs each path of each question by itself; `run_paths` must agree with it.

    Takes and returns what `run_paths` does, on the devices of the model. `precision` is that of
    `jax.default_matmul_precision`, the current one when None. Compiles once for each bucket of a
    question's T and Q, and for each P.
    """
    prompts, padded = check_batch(model, prompts, paths)
    out = no_readings(padded, np.asarray(prompts.read).shape[1])
    # one compilation for the weights' own dtype, however it was asked for
    dtype = None if dtype == model.embedding.dtype else dtype
    sharding = replicated(model)
    if next(iter(sharding.device_set)).platform == "cpu":
        precision = None  # a CPU multiplies in full precision; a setting would compile it again
    todo = np.argwhere(padded[:, :, 0] != STOP).tolist()
    for start in range(0, len(todo), AHEAD):
        group = todo[start : start + AHEAD]
        questions = {b: question_of(prompts, b) for b, _ in group}
        with jax.default_matmul_precision(precision) if precision else contextlib.nullcontext():
            rows = {b: jax.device_put(row, sharding) for b, (row, _) in questions.items()}
            pending = [
                path_readings(model, rows[b], jax.device_put(padded[b, c], sharding), dtype)
                for b, c in group
            ]
        for (b, c), result in zip(group, jax.device_get(pending), strict=True):
            real = questions[b][1]
            for name in ("logprob", "token", "rival"):
                getattr(out, name)[b, c, real] = getattr(result, name)[0, : real.sum()]
            out.finite[b, c] = result.finite[0]
    return out


def replicated(model: Model) -> jax.sharding.Sharding:
    """Returns the sharding of arrays that every device of a model holds whole."""
    sharding: Any = model.embedding.sharding
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return sharding


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
    if prompts.read is None:
        token = (here.branch != PADDING)[:, :, None]
        return jnp.where(token, unembed(model, h), 0.0)
    # padding repeats the first read position, so that it cannot be what is not finite
    read = jnp.where(prompts.read == NO_READ, prompts.read[:, :1], prompts.read)
    return unembed(model, jnp.take_along_axis(h, jnp.maximum(read, 0)[:, :, None], axis=1))


@functools.partial(jax.jit, static_argnames="dtype")
def path_readings(
    model: Model, prompts: Prompts, path: Int[Array, " P"], dtype: DTypeLike | None = None
) -> Readings:
    """The compiled part of `run_reference`: one path, from prompts to readings."""
    return readings(logits(model, prompts, path, dtype), jnp.asarray(prompts.targets))
