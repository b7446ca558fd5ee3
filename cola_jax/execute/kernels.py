"""Which of a device's own kernels programs use, beside what XLA makes of plain operations."""

import logging
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.execute.placement import worker_mesh
from cola_jax.execute.prompt_attention import LANES, PromptAttention
from cola_jax.messages import first_line
from cola_jax.model import Kernel, attention_over

log = logging.getLogger(__name__)
Choice = Literal["cudnn", "pallas"] | None
# by platform: the kernel, and the types that it has
KERNELS: dict[str, tuple[Choice, tuple[str, ...]]] = {
    "gpu": ("cudnn", ("bfloat16", "float16")),
    "tpu": ("pallas", ("bfloat16",)),
}
COSTS = {
    "cudnn": "the scores of each head, 4 bytes for each pair of tokens of a prompt, are written to "
    "memory and read",
    "pallas": "the products with the weights of queries, keys and values take twice as long",
}


def choose_attention(device: Any, config: ModelConfig, dtype: Any, split: int) -> Choice:
    """Chooses the kernel of attention over prompts: cuDNN's on a GPU that has it, ours on a TPU.

    A kernel is tried before it is used. Where it cannot be, a line says so.

    Args:
      device: one of those that run a layer together, `split` in number.
      dtype: of the activations.
    """
    dtype = jnp.dtype(dtype)
    kernel, dtypes = KERNELS.get(device.platform, (None, ()))
    if kernel is None or dtype.name not in dtypes:
        return None
    try:
        if config.num_kv_heads % split:
            raise ValueError(f"{split} devices do not divide {config.num_kv_heads} key/value heads")
        if kernel == "pallas" and config.head_dim % LANES:
            raise ValueError(f"heads of {config.head_dim} are no multiple of {LANES}")
        run = run_attention if kernel == "cudnn" else run_prompt_attention
        jax.block_until_ready(run(config, dtype, device))
    except Exception as error:  # of JAX, XLA or cuDNN, each with types of its own
        log.warning(
            "attention is not fused on %s (%s): %s.",
            device.device_kind,
            first_line(error),
            COSTS[kernel],
        )
        return None
    return kernel


def kernel_of(choice: Choice, devices: np.ndarray) -> Kernel | PromptAttention:
    """Returns the kernel for programs of a worker, whose devices split the heads."""
    if choice != "pallas":
        return choice
    mesh = worker_mesh(devices) if devices.size > 1 else None
    return PromptAttention(mesh, interpret=devices.flat[0].platform == "cpu")


def zeros(
    config: ModelConfig, dtype: Any, device: Any, tokens: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Makes queries, keys or values, and a mask, of one prompt."""
    q, k = (
        jnp.zeros((1, tokens, heads, config.head_dim), dtype, device=device)
        for heads in (config.num_heads, config.num_kv_heads)
    )
    return q, k, jnp.ones((1, tokens, tokens), bool, device=device)


def run_attention(config: ModelConfig, dtype: Any, device: Any, tokens: int = 64) -> jax.Array:
    """Runs cuDNN's attention over one prompt of zeros."""
    q, k, mask = zeros(config, dtype, device, tokens)
    return jax.jit(lambda q, k, mask: attention_over(k, k, mask, "cudnn")(q))(q, k, mask)


def run_prompt_attention(
    config: ModelConfig, dtype: Any, device: Any, tokens: int = 128
) -> jax.Array:
    """Runs attention of `prompt_attention` over one prompt of zeros."""
    q, k, mask = zeros(config, dtype, device, tokens)
    angles = jnp.zeros((1, tokens, config.head_dim // 2), device=device)
    attention = PromptAttention(interpret=device.platform == "cpu")
    rotations = (angles, angles), (angles, angles)
    return jax.jit(lambda q, k, mask: attention(q, k, k, mask, rotations)[0])(q, k, mask)
