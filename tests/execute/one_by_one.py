"""`run_reference`: each path of each question by itself, by the definition of a path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from cola_jax.execute.inputs import Paths, bucket, check_batch, cut, no_readings
from cola_jax.execute.reference import logits, replicated
from cola_jax.params import Model
from cola_jax.path import STOP
from cola_jax.prompts import NO_READ, PADDING, Prompts, Readings, readings


def run_reference(
    model: Model, prompts: Prompts, paths: Paths, *, dtype: DTypeLike | None = None
) -> Readings:
    """Run each path of each question by itself; `run_paths` must agree with it.

    Compiles once for each bucket of a question's T and Q, and for each P.
    """
    prompts, padded = check_batch(model, prompts, paths)
    out = no_readings(padded, np.asarray(prompts.read).shape[1])
    # one compilation for the weights' own dtype, however it was asked for
    dtype = None if dtype == model.embedding.dtype else dtype
    sharding = replicated(model)
    for b in range(len(padded)):
        row, real = question_of(prompts, b)
        row = jax.device_put(row, sharding)
        for c in np.flatnonzero(padded[b, :, 0] != STOP).tolist():
            path = jax.device_put(padded[b, c], sharding)
            result = jax.device_get(path_readings(model, row, path, dtype))
            for name in ("logprob", "token", "rival"):
                getattr(out, name)[b, c, real] = getattr(result, name)[0, : real.sum()]
            out.finite[b, c] = result.finite[0]
    return out


def question_of(prompts: Prompts, b: int) -> tuple[Prompts, np.ndarray]:
    """Take a question in buckets of its own tokens and reads, and a mask [Q] of its real reads."""
    row = jax.tree.map(lambda x: np.asarray(x)[b : b + 1], prompts)
    real = row.read[0] != NO_READ
    row = row.replace(read=row.read[:, real], targets=row.targets[:, real])
    tokens = bucket(int((row.branch != PADDING).sum()), 32)
    return cut(row, tokens, bucket(int(real.sum()), 16)), real


@functools.partial(jax.jit, static_argnames="dtype")
def path_readings(
    model: Model, prompts: Prompts, path: Int[Array, " P"], dtype: DTypeLike | None = None
) -> Readings:
    """Compute the readings of prompts on one path."""
    return readings(logits(model, prompts, path, dtype), jnp.asarray(prompts.targets))
