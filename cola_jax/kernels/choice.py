"""The choice between kernels and plain operations, by device."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.attention import Labels, Seen
from cola_jax.config import LayerConfig
from cola_jax.errors import InputError, first_line
from cola_jax.kernels.attention import LANES, PromptAttention, Rotated
from cola_jax.kernels.decode import DecodeAttention, Rows
from cola_jax.kernels.tpu_decode import TpuDecodeAttention, page_tokens
from cola_jax.kernels.tpu_experts import run_experts_on_tpu
from cola_jax.kernels.tpu_prompt import TpuPromptAttention
from cola_jax.moe import KERNEL_ROWS, MOST_ROWS, Blocks, run_experts
from cola_jax.params import Layer

Kernel = TypeVar("Kernel", bound=PromptAttention | DecodeAttention)
log = logging.getLogger(__name__)


@functools.cache
def choose_prompt_attention(
    device: Any, config: LayerConfig, dtype: jnp.dtype, split: int
) -> PromptAttention:
    """Choose the kernel of attention over prompts: cuDNN's on a GPU that has it, ours on a TPU.

    A kernel is tried on the device, one of `split` that run a layer together, before it is used;
    where that fails, a warning names the reason. `dtype` is that of the activations.
    """
    plain = PromptAttention(softcap=config.attention_softcap)
    facts = device, config, dtype, split
    if device.platform == "tpu" and dtype.name == "bfloat16":  # it multiplies float32 in bfloat16
        return verified_kernel(
            TpuPromptAttention(softcap=config.attention_softcap),
            plain,
            run_prompts,
            facts,
            "attention is not fused on %s (%s): the products with the weights of queries, keys "
            "and values take twice as long.",
        )
    if device.platform == "gpu" and dtype.name in ("bfloat16", "float16"):  # no float32
        return verified_kernel(
            PromptAttention("cudnn"),
            plain,
            run_prompts,
            facts,
            "attention is not fused on %s (%s): the scores of each head, 4 bytes for each pair of "
            "tokens of a prompt, are written to memory and read.",
        )
    return plain


@functools.cache
def choose_experts(
    device: Any, config: LayerConfig, width: int, dtype: jnp.dtype, split: int
) -> Callable[..., jax.Array] | None:
    """Choose the kernel of experts: ours on a TPU whose experts are whole, else None.

    It is tried on the device before it is used, as `choose_prompt_attention` says. `width` is that
    of the states.
    """
    if not config.experts or device.platform != "tpu" or dtype.name != "bfloat16" or split > 1:
        return None
    facts = device, config, width, dtype
    try:
        tried = run_expert(run_experts_on_tpu, *facts)
        if not np.allclose(tried, run_expert(run_experts, *facts), atol=0.05):
            raise InputError("its trial differs from plain products")
    except Exception as error:  # of JAX, XLA or Mosaic, each with types of its own
        message = "experts are not fused on %s (%s): weights are read once for %d rows."
        log.warning(message, device.device_kind, first_line(error), MOST_ROWS)
        return None
    return run_experts_on_tpu


@functools.cache
def choose_decode_attention(
    device: Any, config: LayerConfig, dtype: jnp.dtype, split: int
) -> DecodeAttention:
    """Choose how decode steps attend, as `choose_prompt_attention`: by our kernel on a TPU."""
    plain = DecodeAttention(config.attention_softcap)
    if device.platform != "tpu":
        return plain
    return verified_kernel(
        TpuDecodeAttention(),
        plain,
        run_decoding,
        (device, config, dtype, split),
        "decode steps gather keys and values on %s (%s): those that a row attends to are copied "
        "before they are read.",
    )


def verified_kernel(
    kernel: Kernel,
    plain: Kernel,
    run: Callable[..., np.ndarray],
    facts: tuple[Any, LayerConfig, jnp.dtype, int],
    warning: str,
) -> Kernel:
    """Return a kernel if it attends as plain operations do, else these, with a warning.

    `run` attends by a kernel, with the facts: the device, the config of the layers, the dtype of
    the activations, and the number of devices that split the heads.
    """
    device, config, _, split = facts
    try:
        bounded = config.attention_softcap is not None or config.sinks
        if bounded and not isinstance(kernel, TpuPromptAttention):
            raise InputError("it has no softcaps or sinks")
        if config.num_kv_heads % split:
            raise InputError(f"{split} devices do not divide {config.num_kv_heads} key/value heads")
        if device.platform == "tpu" and config.head_dim % LANES:
            raise InputError(f"heads of {config.head_dim} are not a multiple of {LANES} wide")
        if not np.allclose(run(kernel, *facts), run(plain, *facts), atol=0.05):  # of values near 1
            raise InputError("its trial differs from plain attention")
    except Exception as error:  # of JAX, XLA, cuDNN or Mosaic, each with types of its own
        log.warning(warning, device.device_kind, first_line(error))
        return plain
    return kernel


def random_arrays(device: Any, dtype: Any) -> Callable[..., jax.Array]:
    """Return a function that draws normal arrays of a shape on a device, one after the other."""
    keys = iter(jax.random.split(jax.random.key(0), 8))
    return lambda *shape: jax.device_put(jax.random.normal(next(keys), shape).astype(dtype), device)


def run_prompts(
    kernel: PromptAttention, device: Any, config: LayerConfig, dtype: Any, split: int
) -> np.ndarray:
    """Attend over a prompt of random tokens, with one device's part of the heads."""
    if config.rotary_dim is not None and isinstance(kernel, TpuPromptAttention):
        raise InputError("it rotates whole heads")
    tokens = 128
    width = config.head_dim
    normal = random_arrays(device, dtype)
    q, *kv = (
        normal(1, tokens, heads // split, width)
        for heads in (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    )
    angles = normal(1, tokens, config.rotary_width // 2).astype(jnp.float32)
    rotation = jnp.cos(angles), jnp.sin(angles)
    zeros = jax.device_put(np.zeros((1, tokens), np.int32), device)
    index = jax.device_put(np.arange(tokens, dtype=np.int32)[None], device)
    labels = Labels(zeros, index, zeros, index)
    seen = Seen(labels, labels)
    sinks = normal(q.shape[2]) if config.sinks else None
    run = jax.jit(lambda *args: kernel.over(*args, keep=False)[0].astype(jnp.float32))
    return jax.device_get(run(Rotated(q, kv[0], kv[1], rotation, rotation, sinks), seen))


def run_decoding(
    kernel: DecodeAttention, device: Any, config: LayerConfig, dtype: Any, split: int
) -> np.ndarray:
    """Attend with two rows to random tokens, with one device's part of the heads."""
    queries = config.num_heads // split
    groups = config.num_kv_heads // split
    tokens = page_tokens(groups * config.head_dim * dtype.itemsize)  # the most on the chip
    normal = random_arrays(device, dtype)
    pages, ends = (
        jax.device_put(np.array(x, np.int32), device) for x in ([[0, 2], [1, 1]], [tokens + 8, 9])
    )
    rows = Rows(pages, pages, ends, ends - 1, jnp.full(1, tokens, jnp.int32))
    q, k, v = (normal(2, 1, heads, config.head_dim) for heads in (queries, groups, groups))
    buffers = [normal(3, groups, tokens, config.head_dim) for _ in range(4)]
    pairs = (buffers[0], buffers[1]), (buffers[2], buffers[3])
    reach = 2 * tokens, 2 * tokens
    run = jax.jit(lambda token: kernel(rows, q, token, *pairs, reach)[0].astype(jnp.float32))
    return jax.device_get(run((k, v)))


def run_expert(
    run: Callable[..., jax.Array], device: Any, config: LayerConfig, width: int, dtype: Any
) -> np.ndarray:
    """Send random rows through one expert of random weights."""
    hidden = config.expert_width
    normal = random_arrays(device, dtype)
    weights: dict[str, Any] = {field.name: None for field in dataclasses.fields(Layer)}
    weights["expert_gate"] = normal(1, width, hidden) * width**-0.5
    weights["expert_up"] = normal(1, width, hidden) * width**-0.5
    weights["expert_down"] = normal(1, hidden, width) * hidden**-0.5
    weights["first_expert"] = jax.device_put(np.int32(0), device)
    make: Any = Layer
    layer = make(**weights | {"config": config})
    rows = KERNEL_ROWS
    source = jax.device_put(np.arange(rows, dtype=np.int32), device)
    zero = jax.device_put(np.zeros(1, np.int32), device)
    blocks = Blocks(source[None], source[:, None], zero, zero[0] + 1)
    return jax.device_get(jax.jit(run)(layer, normal(rows, width), blocks).astype(jnp.float32))
