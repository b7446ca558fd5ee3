"""Features: the hidden states of a prompt, as the routers read them."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cola_jax.errors import InputError
from cola_jax.execute.inputs import as_prompts, bucket, padded_right
from cola_jax.execute.memory import ceil_power
from cola_jax.execute.reference import replicated
from cola_jax.model import View, block, embed, view
from cola_jax.params import Model, layer_at
from cola_jax.prompts import PADDING, PROMPT, Prompts, PromptsLike

WINDOWS = 8  # runs of a prompt's tokens whose states are averaged
EPSILON = 1e-6
BATCH = 8  # prompts of `prompt_states` at a time


def prompt_alone(prompts: PromptsLike, pad_token: int | None = None) -> Prompts:
    """Returns the prompts without what is packed after them, padded on the right, as numpy.

    Neither options nor a gold answer are left, so nothing that reads the result can see them.
    Raises ValueError for a row without a prompt.
    """
    whole = padded_right(as_prompts(prompts, pad_token))
    branch = np.asarray(whole.branch)
    lengths = (branch == PROMPT).sum(axis=1)
    if not lengths.all():
        raise InputError(f"prompt {int(np.argmin(lengths))} has no tokens to route it by.")
    keep = np.arange(int(lengths.max()))[None] < lengths[:, None]
    if not (branch[:, : keep.shape[1]] == PROMPT)[keep].all():
        raise InputError("a prompt has tokens after a continuation: prompts come first in a row.")

    def take(values, fill):
        return np.where(keep, np.asarray(values)[:, : keep.shape[1]], fill).astype(np.int32)

    return Prompts(take(whole.ids, 0), take(whole.positions, 0), take(whole.branch, PADDING))


def prompt_lengths(prompts: Prompts) -> np.ndarray:
    """Counts the tokens of prompts alone [B]."""
    return (np.asarray(prompts.branch) == PROMPT).sum(axis=1)


def length_buckets(prompts: Prompts) -> list[int]:
    """Returns the T, of few, that each prompt [B] is run with."""
    return [bucket(int(length), 32) for length in prompt_lengths(prompts)]


def on_devices(model: Model, prompts: Prompts, tokens: int) -> Prompts:
    """Puts prompts where the model is, with T = `tokens` columns."""

    def fit(values, fill):
        values = np.asarray(values)[:, :tokens]
        return np.pad(values, ((0, 0), (0, tokens - values.shape[1])), constant_values=fill)

    fitted = Prompts(fit(prompts.ids, 0), fit(prompts.positions, 0), fit(prompts.branch, PADDING))
    return jax.device_put(fitted, replicated(model))


def fill_up(rows: np.ndarray) -> np.ndarray:
    """Repeats the last of some rows up to one of few numbers, so that few shapes are compiled."""
    return rows[np.minimum(np.arange(ceil_power(len(rows))), len(rows) - 1)]


def normalised(h: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Divides each state by its root mean square, in float32.

    States grow with depth, and the first token's are a hundred times those of others in many
    models; one learning rate serves no network that reads them raw.
    """
    h = h.astype(jnp.float32)
    return h * jax.lax.rsqrt(jnp.mean(h * h, axis=-1, keepdims=True) + EPSILON)


def window_weights(is_prompt: Bool[Array, "B T"]) -> Float[Array, "B W T"]:
    """Returns the weights that average equal windows of each prompt; a short one's overlap."""
    t, w = jnp.arange(is_prompt.shape[1]), jnp.arange(WINDOWS)[:, None]
    length = is_prompt.sum(axis=1)[:, None, None]
    start = w * length // WINDOWS
    inside = (t >= start) & (t < jnp.maximum((w + 1) * length // WINDOWS, start + 1))
    return inside / inside.sum(axis=-1, keepdims=True)


def window_means(h: Float[Array, "B T D"], weights: Float[Array, "B W T"]) -> Float[Array, "B W D"]:
    """Averages normalised states over the windows."""
    # states of padding are finite only by luck, and 0 * NaN is NaN
    h = jnp.where(weights.any(axis=1)[:, :, None], normalised(h), 0.0)
    return jnp.einsum("bwt,btd->bwd", weights, h)


def run_layer(
    model: Model,
    i: Int[Array, ""],
    h: Float[Array, "B T D"],
    here: View,
    counts: Int[Array, " B"],
) -> Float[Array, "B T D"]:
    """Runs layer i on each row 0, 1 or 2 times; a pass that no row needs is not made."""
    layer = layer_at(model.config, model.layers, i)

    def once_more(h, wanted):
        after = block(model.config, layer, h, here)
        return jnp.where(wanted[:, None, None], after, h)

    for n in (1, 2):
        wanted = counts >= n
        h = jax.lax.cond(wanted.any(), once_more, lambda h, _: h, h, wanted)
    return h


@jax.jit
def windows_along(
    model: Model, prompts: Prompts, counts: Int[Array, "B L"]
) -> Float[Array, "B L W D"]:
    """Returns the windows of the states before each layer, run as often as `counts` says.

    Row b's states at layer l are those after the layers below l on its own path, as at inference.
    """
    here = view(model.config, prompts)
    weights = window_weights(here.branch == PROMPT)

    def step(h, at):
        i, count = at
        return run_layer(model, i, h, here, count), window_means(h, weights)

    layers = jnp.arange(model.config.num_layers)
    h = embed(model, jnp.asarray(prompts.ids))
    _, windows = jax.lax.scan(step, h, (layers, counts.T))
    return windows.swapaxes(0, 1)


@functools.partial(jax.jit, static_argnames="layers")
def states_after(model: Model, prompts: Prompts, layers: int) -> Float[Array, "B T D"]:
    """Returns the normalised states after the first `layers` layers, 0 at padding."""
    here = view(model.config, prompts)

    def step(h, i):
        return block(model.config, layer_at(model.config, model.layers, i), h, here), None

    h, _ = jax.lax.scan(step, embed(model, jnp.asarray(prompts.ids)), jnp.arange(layers))
    return jnp.where((here.branch == PROMPT)[:, :, None], normalised(h), 0.0)


def prompt_states(model: Model, prompts: Sequence[Prompts], layers: int) -> np.ndarray:
    """Returns the state [n, D] of the last token of each prompt, after the first `layers` layers.

    Each state is divided by its root mean square; float32. What is packed after a prompt, options
    or an answer, is not seen. Compiles once for each bucket of lengths.
    """
    whole = prompt_alone(Prompts.stack(prompts))
    lengths, sizes = prompt_lengths(whole), np.array(length_buckets(whole))
    out = np.zeros((len(prompts), model.config.width), np.float32)
    for size in np.unique(sizes):
        same = np.flatnonzero(sizes == size)
        for first in range(0, len(same), BATCH):
            rows = same[first : first + BATCH]
            padded = np.resize(rows, BATCH)  # so that the last batch compiles nothing
            batch = jax.tree.map(lambda x, padded=padded: np.asarray(x)[padded], whole)
            states = states_after(model, on_devices(model, batch, int(size)), layers)
            out[rows] = np.asarray(states)[np.arange(len(rows)), lengths[rows] - 1]
    return out
