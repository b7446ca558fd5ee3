"""Hidden states of prompts after the first layers, which selectors and routers read."""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cola_jax.errors import InputError
from cola_jax.execute.inputs import as_prompts, bucket, check_prompts, cut, padded_right
from cola_jax.execute.memory import ceil_power
from cola_jax.execute.plan import take
from cola_jax.execute.reference import replicated
from cola_jax.model import embed, residual, run_layer, view_of
from cola_jax.params import Model
from cola_jax.prompts import PADDING, PROMPT, Prompts, PromptsLike

EPSILON = 1e-6
BATCH = 8  # prompts whose states are read together


def prompt_states(model: Model, prompts: Sequence[Prompts], layers: int) -> np.ndarray:
    """Return the float32 state [n, D] of the last token of n prompts as `states_after` does.

    The prompts have fields [T].
    """
    out = np.zeros((len(prompts), model.config.width), np.float32)
    for rows, states, lengths in state_batches(model, Prompts.stack(prompts), layers):
        out[rows] = np.asarray(states)[np.arange(len(rows)), lengths[: len(rows)] - 1]
    return out


def state_batches(
    model: Model, prompts: PromptsLike, layers: int
) -> Iterator[tuple[np.ndarray, Array, np.ndarray]]:
    """Yield the states of prompts [B, T] after the first layers, in batches of similar lengths.

    Options or an answer packed after a prompt are not read. Compiles once for each bucket of
    lengths and of rows. Raises InputError for prompts that the model cannot read, and for more
    layers than it has, of which the last would run again.

    Yields:
      The indices [r] of the prompts of a batch, their states [R, T, D] and lengths [R]; R is at
      least r, and rows after the first r are padding.
    """
    if not 0 <= layers <= model.config.num_layers:
        raise InputError(
            f"states after {layers} layers cannot be read: the model has {model.config.num_layers}."
        )
    whole = padded_right(as_prompts(prompts, model.pad_token))
    keep = np.asarray(whole.branch) == PROMPT
    ids, positions = (np.where(keep, x, 0) for x in (whole.ids, whole.positions))
    branch = np.where(keep, PROMPT, PADDING)
    alone = whole.replace(ids=ids, positions=positions, branch=branch, read=None, targets=None)
    check_prompts(model, alone)
    lengths = keep.sum(axis=1)
    if not lengths.all():
        raise InputError(f"prompt {int(np.argmin(lengths))} has no tokens.")
    sizes = np.array([bucket(length, 32) for length in lengths.tolist()])
    for size in np.unique(sizes).tolist():
        same = np.flatnonzero(sizes == size)
        for first in range(0, len(same), BATCH):
            rows = same[first : first + BATCH]
            padded = np.resize(rows, ceil_power(len(rows)))
            batch = jax.device_put(cut(take(alone, padded), size, 0), replicated(model))
            yield rows, states_after(model, batch, layers), lengths[padded]


@functools.partial(jax.jit, static_argnames="layers")
def states_after(model: Model, prompts: Prompts, layers: int) -> Float[Array, "B T D"]:
    """Return the states after the first `layers` layers in float32, 0 at padding.

    Each is divided by its root mean square: states grow with depth, the first token's are a
    hundred times those of others in many models, and one learning rate serves no network that
    reads them raw.
    """
    mask_view = view_of(model, prompts)

    def step(h, i):
        return run_layer(model, i, h, mask_view, whole=True), None

    h, _ = jax.lax.scan(step, embed(model, prompts), jnp.arange(layers))
    h = residual(model.config, h).astype(jnp.float32)
    h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + EPSILON)
    return jnp.where((mask_view.branch == PROMPT)[:, :, None], h, 0.0)
