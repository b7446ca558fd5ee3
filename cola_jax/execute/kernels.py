"""Which of a device's own kernels programs use, beside what XLA makes of plain operations."""

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, first_line
from cola_jax.execute.decode_attention import DecodeKernel, span
from cola_jax.execute.decode_attention_gpu import GpuDecodeKernel
from cola_jax.execute.device_kernel import DeviceKernel
from cola_jax.execute.kv_cache import KVBlocks, Past
from cola_jax.execute.plan import Tiles
from cola_jax.execute.prompt_attention import PromptKernel
from cola_jax.model import Kernel, attention_over, rotate

Tried = TypeVar("Tried", bound=DeviceKernel)
log = logging.getLogger(__name__)
HALF = ("bfloat16", "float16")
DECODE_KERNELS = {"tpu": DecodeKernel(), "gpu": GpuDecodeKernel()}


def choose_attention(
    device: Any, config: ModelConfig, dtype: Any, split: int
) -> Kernel | PromptKernel:
    """Chooses the kernel of attention over prompts: cuDNN's on a GPU that has it, ours on a TPU.

    A kernel is tried before it is used. Where it cannot be, a line says so.

    Args:
      device: one of those that run a layer together, `split` in number.
      dtype: of the activations.
    """
    dtype = jnp.dtype(dtype)
    if device.platform == "tpu":
        return choose_prompt_kernel(device, config, dtype, split)
    if device.platform != "gpu" or dtype.name not in HALF:  # cuDNN fuses no float32
        return None
    try:
        check_heads(config, split)
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


@functools.cache
def choose_prompt_kernel(
    device: Any, config: ModelConfig, dtype: jnp.dtype, split: int
) -> PromptKernel | None:
    """Chooses our own kernel on a TPU that runs it; it multiplies float32 in bfloat16."""
    if dtype.name != "bfloat16":
        return None
    return tried(
        PromptKernel(),
        run_prompt_kernel,
        (device, config, dtype, split),
        "attention is not fused on %s (%s): the products with the weights of queries, keys and "
        "values take twice as long.",
    )


def run_prompt_kernel(
    kernel: PromptKernel, config: ModelConfig, dtype: Any, device: Any, split: int
) -> tuple[np.ndarray, np.ndarray]:
    """Attends over a prompt of random tokens, with one device's part of the heads.

    Returns:
      What its tokens attend to by the kernel, and by plain operations.
    """
    tokens, keys = 128, iter(jax.random.split(jax.random.key(0), 4))

    def normal(*shape: int) -> jax.Array:
        return jax.device_put(jax.random.normal(next(keys), (1, tokens, *shape)), device)

    heads, groups = config.num_heads // split, config.num_kv_heads // split
    q, k, v = (normal(n, config.head_dim).astype(dtype) for n in (heads, groups, groups))
    angles = normal(config.head_dim // 2)
    mask = jax.device_put(np.tril(np.ones((1, tokens, tokens), bool)), device)

    @jax.jit
    def both_ways(q, k, v, mask, angles):
        rotation = jnp.cos(angles), jnp.sin(angles)
        mixed, _ = kernel(q, k, v, mask, (rotation, rotation))
        plain = attention_over(rotate(k, *rotation), v, mask)(rotate(q, *rotation))
        return mixed.astype(jnp.float32), plain.astype(jnp.float32)

    return jax.device_get(both_ways(q, k, v, mask, angles))


@functools.cache
def choose_decode_kernel(
    device: Any, config: ModelConfig, dtype: Any, split: int
) -> DecodeKernel | None:
    """Chooses how decode steps attend: by a kernel of our own on a TPU or GPU that runs it.

    It is tried as the other, once; the arguments are the same.
    """
    if device.platform not in DECODE_KERNELS:
        return None
    return tried(
        DECODE_KERNELS[device.platform],
        run_decode_kernel,
        (device, config, jnp.dtype(dtype), split),
        "decode steps gather keys and values on %s (%s): those that a row attends to are "
        "copied before they are read.",
    )


def tried(
    kernel: Tried,
    run: Callable[..., tuple[np.ndarray, np.ndarray]],
    on: tuple[Any, ModelConfig, jnp.dtype, int],
    warning: str,
) -> Tried | None:
    """Returns a kernel of our own if it attends as plain operations do; else a line says so.

    Args:
      run: attends by the kernel and by plain operations, on a device.
      on: the device, the model, the dtype of the activations, and how many devices split the heads.
      warning: names the device and the reason.
    """
    device, config, dtype, split = on
    try:
        check_heads(config, split)
        kernel.check_width(config.head_dim)
        mixed, plain = run(kernel, config, dtype, device, split)
        if not np.allclose(mixed, plain, atol=0.05):  # of values around 1, in 8 bits
            raise InputError("its trial differs from plain attention")
    except Exception as error:  # of JAX, XLA or Mosaic
        log.warning(warning, device.device_kind, first_line(error))
        return None
    return kernel


def check_heads(config: ModelConfig, split: int) -> None:
    """Raises ValueError where devices cannot share the heads of a kernel."""
    if config.num_kv_heads % split:
        raise InputError(f"{split} devices do not divide {config.num_kv_heads} key/value heads")


def run_decode_kernel(
    kernel: DecodeKernel, config: ModelConfig, dtype: Any, device: Any, split: int
) -> tuple[np.ndarray, np.ndarray]:
    """Attends with two rows to random tokens, with one device's part of the heads.

    Returns:
      What the rows attend to by the kernel, and by plain operations.
    """
    queries, groups = config.num_heads // split, config.num_kv_heads // split
    tokens = span(groups * config.head_dim * dtype.itemsize)  # the most that are on the chip
    keys = iter(jax.random.split(jax.random.key(0), 7))

    def normal(*shape: int) -> jax.Array:
        values = jax.random.normal(next(keys), (*shape, config.head_dim))
        return jax.device_put(values.astype(dtype), device)

    row, ends = (jax.device_put(np.array(x, np.int32), device) for x in ([0, 1], [tokens, 9]))
    tile = Tiles(jnp.int32(0), row, row, row, block=row, prompt_block=row)
    prompt, own = (
        KVBlocks(k=normal(3, groups, 2 * tokens), v=normal(3, groups, 2 * tokens)) for _ in range(2)
    )
    past, window = Past(prompt, ends, ends), jnp.int32(tokens)
    q, k, v = (normal(2, 1, heads) for heads in (queries, groups, groups))

    run = jax.jit(attend_both_ways, static_argnums=0)
    return jax.device_get(run(kernel, past, own, tile, window, (q, k, v)))


def attend_both_ways(
    kernel: DecodeKernel,
    past: Past,
    own: KVBlocks,
    tile: Tiles,
    window: jax.Array,
    qkv: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Returns what rows attend to by the kernel, and by plain operations."""
    (q, k, v), reach = qkv, own.k.shape[2]
    plain = past.attention(past.write(own, k, v, tile), tile, window, reach)
    mixed, _ = past.attend(kernel, own, tile, window, reach, qkv)
    return mixed.astype(jnp.float32), plain(q).astype(jnp.float32)
