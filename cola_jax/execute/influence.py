"""Block influence: how much each layer changes the states that pass through it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cola_jax.execute.reference import replicated
from cola_jax.model import block, embed, view
from cola_jax.params import Model, layer_at
from cola_jax.prompts import PROMPT, Prompts


def block_influence(model: Model, prompts: Prompts) -> np.ndarray:
    """Returns 1 - cos(state before, state after) of every layer [L], mean over prompt tokens.

    As ShortGPT (arXiv 2403.03853, section 3.2) ranks layers for removal; float32.
    """
    sharding, total, count = replicated(model), np.zeros(model.config.num_layers), 0
    for b in range(len(np.asarray(prompts.ids))):
        row = jax.tree.map(
            lambda x, b=b: jax.device_put(np.asarray(x)[b : b + 1], sharding), prompts
        )
        influence, tokens = influence_of(model, row)
        total, count = total + np.asarray(influence), count + int(tokens)
    return total / count


@jax.jit
def influence_of(model: Model, prompts: Prompts) -> tuple[Float[Array, " L"], Array]:
    """Sums the influence of every layer over the tokens of prompts, and counts these."""
    h = embed(model, jnp.asarray(prompts.ids), None)
    here = view(model.config, prompts)
    of_prompt = here.branch == PROMPT

    def step(h, i):
        after = block(model.config, layer_at(model.config, model.layers, i), h, here)
        return after, jnp.sum(1 - cosine(h, after), where=of_prompt)

    _, influence = jax.lax.scan(step, h, jnp.arange(model.config.num_layers))
    return influence, of_prompt.sum()


def cosine(x: Float[Array, "*B D"], y: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """Returns the cosine of the angle between states."""
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return jnp.sum(x * y, -1) / (jnp.linalg.norm(x, axis=-1) * jnp.linalg.norm(y, axis=-1))
