"""`LayerRouter`: a skip, execute or repeat head for each layer (Dr.LLM, arXiv 2510.12773)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from cola_jax.deploy.router.features import run_layer, window_means, window_weights
from cola_jax.deploy.router.targets import CLASSES, SKIP
from cola_jax.model import embed, view
from cola_jax.params import Model
from cola_jax.prompts import PROMPT, Prompts

GAMMA = 2.0  # of the focal loss
BETA = 0.999  # of the effective numbers of a class


class Head(nn.Module):
    """Linear-GELU-Linear on each window; the windows' logits are averaged."""

    hidden: int = 128

    @nn.compact
    def __call__(self, windows: Float[Array, "B W D"]) -> Float[Array, "B O"]:
        x = nn.gelu(nn.Dense(self.hidden)(windows), approximate=True)
        return nn.Dense(len(CLASSES))(x).mean(axis=1)


class LayerRouter(nn.Module):
    """A head for each layer, of weights stacked on L; returns logits of the classes [B, L, 3]."""

    @nn.compact
    def __call__(self, windows: Float[Array, "B L W D"]) -> Float[Array, "B L O"]:
        heads = nn.vmap(
            Head, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=1, out_axes=1
        )
        return heads(name="heads")(windows)


def class_weights(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighs classes by the inverse of their effective numbers, mean 1 over those that occur.

    As Cui et al. (arXiv 1901.05555), over all layers of targets [N, L] of examples with `weights`
    [N]; a class that never occurs has weight 0.
    """
    occurs = [(weights[:, None] * (targets == c)).sum() for c in range(len(CLASSES))]
    inverse = np.array([(1 - BETA) / (1 - BETA**n) if n else 0.0 for n in occurs])
    return (inverse * np.count_nonzero(inverse) / inverse.sum()).astype(np.float32)


def focal_loss(
    logits: Float[Array, "B L O"], targets: Int[Array, "B L"], weights: Float[Array, " O"]
) -> Float[Array, " B"]:
    """Returns the focal loss of each example, weighed by class, a mean over layers."""
    entropy = optax.losses.softmax_cross_entropy_with_integer_labels(logits, targets)
    focus = (1 - jnp.exp(-entropy)) ** GAMMA
    return jnp.mean(weights[targets] * focus * entropy, axis=-1)


@functools.partial(jax.jit, static_argnames="beams")
def decide(
    params: Any, model: Model, prompts: Prompts, beams: int
) -> tuple[Int[Array, "B K L"], Float[Array, "B K"]]:
    """Decides layer by layer, each time on the states that the decisions so far lead to.

    Keeps the `beams` most likely rows of decisions for each prompt, with states of their own.
    Returns the counts of each layer, best first, and their log-probabilities, -inf for none.
    """
    rows, layers = len(prompts.ids), model.config.num_layers
    repeated = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x), beams, axis=0), prompts)
    here = view(model.config, repeated)
    weights = window_weights(here.branch == PROMPT)
    none = jnp.zeros((rows, beams, layers), jnp.int32)
    first = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)

    def step(carry, at):
        h, counts, score = carry
        i, head = at
        logits: Any = Head().apply({"params": head}, window_means(h, weights))
        logprob = jax.nn.log_softmax(logits).reshape(rows, beams, len(CLASSES))
        score, parent, op = best_decisions(score, logprob, counts, i == layers - 1)
        counts = jnp.take_along_axis(counts, parent[:, :, None], axis=1).at[:, :, i].set(op)
        h = h[(parent + beams * jnp.arange(rows)[:, None]).reshape(-1)]
        # a beam without a path follows another's states, and needs no run
        op = jnp.where(jnp.isfinite(score), op, SKIP)
        return (run_layer(model, i, h, here, op.reshape(-1)), counts, score), None

    carry = (embed(model, repeated.ids), none, jnp.tile(first, (rows, 1)))
    (_, counts, score), _ = jax.lax.scan(step, carry, (jnp.arange(layers), params["heads"]))
    return counts, score


def best_decisions(
    score: Float[Array, "B K"],
    logprob: Float[Array, "B K O"],
    counts: Int[Array, "B K L"],
    last: Bool[Array, ""],
) -> tuple[Float[Array, "B K"], Int[Array, "B K"], Int[Array, "B K"]]:
    """Extends each beam by each class and keeps the best; returns scores, parents and classes.

    The last layer may not be skipped where all others are: a path runs something.
    """
    empty = last & (counts.sum(axis=-1) == 0)
    logprob = logprob.at[:, :, SKIP].add(jnp.where(empty, -jnp.inf, 0.0))
    total = (score[:, :, None] + logprob).reshape(len(score), -1)
    score, index = jax.lax.top_k(total, score.shape[1])
    return score, index // len(CLASSES), index % len(CLASSES)
