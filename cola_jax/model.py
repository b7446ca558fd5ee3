"""The model as pure functions: `embed`, `block` and `unembed`, and the `View` that blocks share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from cola_jax.config import ModelConfig
from cola_jax.params import Layer, Model
from cola_jax.prompts import PROMPT, Prompts


Mix = Callable[[Array], Array]  # from queries [B, T, N, H] to what they see, mixed


class View(struct.PyTreeNode):
    """What every block needs to know about the tokens, computed once per forward pass."""

    positions: Int[Array, "*B T"]
    branch: Int[Array, "*B T"]
    cos: Float[Array, "G *B T h"]  # G rope tables, h = H / 2
    sin: Float[Array, "G *B T h"]


def view(config: ModelConfig, prompts: Prompts) -> View:
    """Computes the rope tables of all layers in float32 and keeps what the mask is made of."""
    positions = jnp.asarray(prompts.positions)
    frequencies = np.stack([rope.frequencies(config.head_dim) for rope in config.ropes])
    # a product of elements: as an einsum, matrix units would round positions to a few bits
    angles = positions.astype(jnp.float32)[:, :, None] * frequencies[:, None, None]
    return View(
        positions=positions,
        branch=jnp.asarray(prompts.branch),
        cos=jnp.cos(angles),
        sin=jnp.sin(angles),
    )


def embed(model: Model, ids: Int[Array, "B T"], dtype: DTypeLike | None = None):
    """Looks tokens up; `dtype` is that of all activations, the embedding's own when None."""
    return model.embedding[ids].astype(dtype or model.embedding.dtype)


def block(
    config: ModelConfig,
    layer: Layer,
    h: Float[Array, "B T D"],
    view: View,
    read: Int[Array, "B Q"] | None = None,
) -> Float[Array, "B _ D"]:
    """Applies one layer (a slice of the stack) to the state of each row.

    With `read`, only those positions of the result are computed, [B, Q, D]: the last layer of a
    path needs keys and values everywhere, but queries and the MLP only where the model is read.
    """
    k, v = keys_values(config, layer, h, view)
    mask = at(visible(config, view, layer.window), read)
    return attend(config, layer, at(h, read), at_view(view, read), mix_of(k, v, mask))


def keys_values(
    config: ModelConfig, layer: Layer, h: Float[Array, "B T D"], view: View
) -> tuple[Float[Array, "B T K H"], Float[Array, "B T K H"]]:
    """Returns what a layer lets later tokens see of the state of each row, keys rotated."""
    x = rms_norm(h, layer.attention_norm, config.norm_eps)
    k = project("btd,dkh->btkh", x, layer.k, layer.k_bias)
    v = project("btd,dkh->btkh", x, layer.v, layer.v_bias)
    if layer.k_norm is not None:
        k = rms_norm(k, layer.k_norm, config.norm_eps)
    return rotate(k, view.cos[layer.rope], view.sin[layer.rope]), v


def attend(
    config: ModelConfig,
    layer: Layer,
    h: Float[Array, "B T D"],
    view: View,
    mix: Mix,
) -> Float[Array, "B T D"]:
    """Applies one layer to states; `mix` is the attention over whatever tokens they may see."""
    x = rms_norm(h, layer.attention_norm, config.norm_eps)
    q = project("btd,dnh->btnh", x, layer.q, layer.q_bias)
    if layer.q_norm is not None:
        q = rms_norm(q, layer.q_norm, config.norm_eps)
    q = rotate(q, view.cos[layer.rope], view.sin[layer.rope])
    h = h + project("btnh,nhd->btd", mix(q), layer.o, layer.o_bias)
    return h + mlp(layer, rms_norm(h, layer.mlp_norm, config.norm_eps))


def mix_of(
    k: Float[Array, "B S K H"], v: Float[Array, "B S K H"], mask: Bool[Array, "B T S"]
) -> Mix:
    """Grouped-query attention over these keys and values; softmax in float32."""
    return lambda q: jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])


def at(x: Shaped[Array, "B T *X"], read: Int[Array, "B Q"] | None) -> Shaped[Array, "B _ *X"]:
    """Takes the positions read, all of them for None."""
    return x if read is None else jax.vmap(lambda row, i: row[i])(x, read)


def at_view(view: View, read: Int[Array, "B Q"] | None) -> View:
    """Takes the view of the positions read."""
    if read is None:
        return view
    of_tables = jax.vmap(at, (0, None))
    return View(
        positions=at(view.positions, read),
        branch=at(view.branch, read),
        cos=of_tables(view.cos, read),
        sin=of_tables(view.sin, read),
    )


def unembed(model: Model, h: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
    """Applies the final norm and the head; returns float32 logits."""
    h = rms_norm(h, model.norm, model.config.norm_eps)
    if model.head is None:
        return jnp.einsum("btd,vd->btv", h, model.embedding, preferred_element_type=jnp.float32)
    return jnp.einsum("btd,dv->btv", h, model.head, preferred_element_type=jnp.float32)


def rms_norm(
    x: Float[Array, "*B D"],
    weight: Float[Array, "D"],  # noqa: F821
    eps: float,
) -> Float[Array, "*B D"]:
    """Normalises in float32 and casts before the weight is applied, as `LlamaRMSNorm` does."""
    x32 = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype) * weight.astype(x.dtype)


def visible(config: ModelConfig, view: View, window: Int[Array, ""]) -> Bool[Array, "B T T"]:
    """Returns which token s (last axis) each token t sees in a layer with this window."""
    t, s = view.branch[:, :, None], view.branch[:, None, :]
    mask = jnp.tril((s == PROMPT) | (s == t))
    if any(width is not None for width in config.windows):
        mask &= view.positions[:, :, None] - view.positions[:, None, :] < window
    return mask


def rotate(
    x: Float[Array, "B T N H"], cos: Float[Array, "B T h"], sin: Float[Array, "B T h"]
) -> Float[Array, "B T N H"]:
    """Rotates each head's halves by their angles: the rotate-half layout of Hugging Face files."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, :, None].astype(x.dtype), sin[:, :, None].astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def mlp(layer: Layer, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The SiLU-gated MLP."""
    gate = project("btd,df->btf", x, layer.gate, layer.gate_bias)
    up = project("btd,df->btf", x, layer.up, layer.up_bias)
    return project("btf,fd->btd", jax.nn.silu(gate) * up, layer.down, layer.down_bias)


def project(axes: str, x: Array, weight: Array, bias: Array | None) -> Array:
    """Multiplies by a weight in the activations' dtype and adds the bias if there is one."""
    y = jnp.einsum(axes, x, weight.astype(x.dtype))
    return y if bias is None else y + bias.astype(x.dtype)
