"""Which of a device's own kernels programs use, beside what XLA makes of plain operations."""

import logging
from typing import Any

import jax
import jax.numpy as jnp

from cola_jax.config import ModelConfig
from cola_jax.messages import first_line
from cola_jax.model import Kernel, attention_over

log = logging.getLogger(__name__)
HALF = ("bfloat16", "float16")


def choose_attention(device: Any, config: ModelConfig, dtype: Any, split: int) -> Kernel:
    """Chooses the kernel of attention over prompts: cuDNN's on a GPU that has it.

    A kernel is tried before it is used. Where it cannot be, a line says so.

    Args:
      device: one of those that run a layer together, `split` in number.
      dtype: of the activations.
    """
    dtype = jnp.dtype(dtype)
    if device.platform != "gpu" or dtype.name not in HALF:  # cuDNN fuses no float32
        return None
    try:
        if config.num_kv_heads % split:
            raise ValueError(f"{split} devices do not divide {config.num_kv_heads} key/value heads")
        jax.block_until_ready(run_attention(config, dtype, device))
    except Exception as error:  # of JAX, XLA or cuDNN, each with types of its own
        log.warning(
            "attention is not fused on %s (%s): the scores of each head, 4 bytes for each pair of "
            "tokens of a prompt, are written to memory and read.",
            device.device_kind,
            first_line(error),
        )
        return None
    return "cudnn"


def run_attention(config: ModelConfig, dtype: Any, device: Any, tokens: int = 64) -> jax.Array:
    """Runs fused attention over one prompt of zeros."""
    q, k = (
        jnp.zeros((1, tokens, heads, config.head_dim), dtype, device=device)
        for heads in (config.num_heads, config.num_kv_heads)
    )
    mask = jnp.ones((1, tokens, tokens), bool, device=device)
    return jax.jit(lambda q, k, mask: attention_over(k, k, mask, "cudnn")(q))(q, k, mask)
