"""The steps of a path: at each position one integer, the layer and how often the path runs it.

Below the number of layers L, a step is a layer. In a model whose layers scale by roots, a layer
that its path runs N times is `layer + (N - 1) * L`: of three layers, the path 0,1,1,2 has the steps
0,4,4,2. Executors share what equal steps computed, and take layer and scale from the step.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.path import STOP

MOST_STEPS = np.iinfo(np.uint16).max


def steps_of(config: ModelConfig, paths: Any) -> Any:
    """Return the steps of padded paths [..., P], in arrays of NumPy or JAX.

    InputError where NumPy paths run a layer too often.
    """
    if not config.rooted_scales:
        return paths
    runs = (paths[..., None] == paths[..., None, :]).sum(-1)
    steps = paths + (paths != STOP) * (runs - 1) * config.num_layers
    if isinstance(steps, np.ndarray) and steps.max(initial=0) >= MOST_STEPS:
        raise InputError(
            f"a path runs a layer {runs.max()} times, too often for roots of scales: shorten it."
        )
    return steps


def layer_of(config: ModelConfig, steps: Any) -> Any:
    """Return the layers of steps."""
    return steps % config.num_layers


def scale_of(config: ModelConfig, steps: Any, scale: Any) -> Any:
    """Return the scale [..., 1] of a layer's output at steps [...]: its N-th root, in float32."""
    runs = 1 + steps[..., None] // config.num_layers
    wide = jnp.asarray(scale, jnp.float32)
    return jnp.where(runs == 1, wide, wide ** (1 / runs))
