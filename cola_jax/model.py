"""The model as pure functions: `embed`, `block` and `unembed`, and the `View` that blocks share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.attention import KeysValues, Labels, Seen, attend, bend
from cola_jax.config import LayerConfig, ModelConfig
from cola_jax.delta import (
    Predecessors,
    Recurrent,
    Tokens,
    convolve,
    gated_delta_rule,
    take_tokens,
    unit,
    zeros,
)
from cola_jax.moe import activate, gated, mixture, project
from cola_jax.params import Int8, Layer, Model, layer_at
from cola_jax.prompts import NO_READ, Prompts
from cola_jax.steps import ATTENTION, MLP, layer_of


class View(struct.PyTreeNode):
    """The facts about the tokens that every block needs, computed once per forward pass."""

    positions: Int[Array, "*B T"]
    branch: Int[Array, "*B T"]
    cos: Float[Array, "G *B T h"]  # G rope tables, h = H / 2 or less
    sin: Float[Array, "G *B T h"]
    inputs: Float[Array, "*L B T P"] | None = None  # what each layer has of its own for the tokens


def view_of(model: Model, prompts: Prompts, dtype: DTypeLike | None = None) -> View:
    """Compute the view of prompts; `dtype` is that of activations, as in `embed`."""
    inputs = layer_inputs(model, prompts, dtype) if model.config.layer_input else None
    return view(model.config, prompts).replace(inputs=inputs)


def view(config: ModelConfig, prompts: Prompts) -> View:
    """Compute the rope tables of all layers in float32, and keep the inputs of the mask.

    Where a layer has no rope, the last table has angles of 0. Those of narrow heads are padded.
    """
    positions = jnp.asarray(prompts.positions)
    pairs = zip(config.ropes, config.rope_widths, strict=True)
    frequencies = [rope.frequencies(width) for rope, width in pairs]
    widest = max(map(len, frequencies))
    frequencies = [np.pad(x, (0, widest - len(x))) for x in frequencies]
    scales = [rope.scale for rope in config.ropes]
    if None in config.layer_ropes:
        frequencies.append(np.zeros_like(frequencies[0]))
        scales.append(1.0)
    # a product of elements: as an einsum, matrix units would round positions to a few bits
    angles = positions.astype(jnp.float32)[:, :, None] * np.stack(frequencies)[:, None, None]
    scale = jnp.array(scales, jnp.float32)[:, None, None, None]
    return View(
        positions=positions,
        branch=jnp.asarray(prompts.branch),
        cos=scale * jnp.cos(angles),
        sin=scale * jnp.sin(angles),
    )


def layer_inputs(
    model: Model, prompts: Prompts, dtype: DTypeLike | None
) -> Float[Array, "L B T P"]:
    """Compute what each layer of Gemma 4 E2B and E4B has of its own for tokens, whatever the path.

    The layer's embedding of the token, and a projection of the model's.
    """
    config = model.config
    h = embed(model, prompts, dtype)[..., : config.width]
    assert model.layer_embedding is not None
    assert model.layer_norm is not None
    own = model.layer_embedding[jnp.asarray(prompts.ids)].astype(h.dtype)
    # rounded as the weights are, as in `embed`
    own *= jnp.asarray(config.layer_input**0.5, model.layer_embedding.dtype).astype(h.dtype)
    mixed = config.width**-0.5 * project("btd,dlp->btlp", h, model.layer_projection, None)
    mixed = rms_norm(mixed, model.layer_norm, config.norm_eps, config.norm_offset)
    return jnp.moveaxis(2**-0.5 * (mixed + own), 2, 0)


def embed(model: Model, prompts: Prompts, dtype: DTypeLike | None = None) -> Float[Array, "B T S"]:
    """Look tokens up, but for those whose embeddings prompts carry.

    `dtype` is that of all activations, the embedding's own when None. S is the `state_width`: keys
    and values that layers share are NaN until a path has run the layer that makes them.
    """
    h = model.embedding[jnp.asarray(prompts.ids)].astype(dtype or model.embedding.dtype)
    # rounded as the weights are: Gemma was trained with sqrt(width) in bfloat16
    h *= jnp.asarray(model.config.embedding_scale, model.embedding.dtype).astype(h.dtype)
    if prompts.embeddings is not None and prompts.places is not None:
        rows, end = jnp.arange(h.shape[0])[:, None], h.shape[1]
        places = jnp.where(prompts.places == NO_READ, end, prompts.places)  # the end is dropped
        h = h.at[rows, places].set(jnp.asarray(prompts.embeddings, h.dtype), mode="drop")
    shared = model.config.state_width - model.config.width
    return jnp.pad(h, ((0, 0), (0, 0), (0, shared)), constant_values=jnp.nan) if shared else h


def run_layer(
    model: Model,
    step: Int[Array, ""],
    h: Float[Array, "B T S"],
    view: View,
    share: Float[Array, ""] | None = None,
    *,
    whole: bool = False,
) -> Float[Array, "B T S"]:
    """Apply a step, of a layer of whatever kind, inside a compiled loop.

    `share` takes the place of the step's. A program of `whole` layers alone looks at neither parts
    nor shares: its rounding is that of the layers.
    """
    config = model.config
    place = layer_of(step)
    if view.inputs is not None:
        view = view.replace(inputs=view.inputs[place])

    def of_kind(kind: int) -> Any:
        def run(h: Float[Array, "B T S"]) -> Float[Array, "B T S"]:
            layer = layer_at(config, kind, model.layers[kind], step)
            if whole:
                layer = layer.replace(part=None, share=None)
            elif share is not None:
                layer = layer.replace(share=share)
            return block(config, layer, h, view)

        return run

    kinds = [config.kind_of(layer) for layer in range(config.num_layers)]
    used = sorted({*kinds})  # the stack of another kind is empty
    run = [of_kind(kind) for kind in used]
    if len(run) == 1:
        return run[0](h)
    return jax.lax.switch(jnp.asarray([used.index(kind) for kind in kinds])[place], run, h)


def block(
    config: ModelConfig, layer: Layer, h: Float[Array, "B T S"], view: View
) -> Float[Array, "B T S"]:
    """Apply one layer, as `layer_at` takes it, to the state of each row.

    `view.inputs` are those of the layer.
    """
    if layer.config.convolution:
        mixed, _ = recur(config, layer, h, view.branch)
        return finish_layer(config, layer, h, mixed, view)
    k, v = keys_values(config, layer, h, view)
    seen = seen_in(config, view, layer.window)
    q = queries(config, layer, h, view)
    attended = attend(q, k, v, seen, softcap=layer.config.attention_softcap, sinks=layer.sinks)
    return finish_layer(config, layer, h, attended, view)


def keys_values(
    config: ModelConfig, layer: Layer, h: Float[Array, "B T S"], view: View, rotated: bool = True
) -> tuple[Float[Array, "B T K H"], Float[Array, "B T K H"]]:
    """Return the keys and values of the state of each row, keys rotated."""
    if layer.config.own_keys:
        k, v = own_keys_values(config, layer, h)
    else:
        k, v = shared_keys_values(layer, h)
    return rotate(k, *rotation(layer, view)) if rotated else k, v


def own_keys_values(config: ModelConfig, layer: Layer, h: Float[Array, "B T S"]) -> KeysValues:
    """Compute the keys, not rotated, and the values of a layer."""
    x = norm(config, residual(config, h), layer.attention_norm, layer.attention_norm_bias)
    heads = project_heads(layer, x, layer.k, layer.k_bias)
    k = clip(layer, norm(config, heads, layer.k_norm))
    if not layer.config.keys_as_values:
        heads = project_heads(layer, x, layer.v, layer.v_bias)
    if layer.config.value_norms:
        heads = rms_norm(heads, jnp.ones(layer.config.head_dim), config.norm_eps, 0.0)
    return k, clip(layer, heads)


def shared_keys_values(layer: Layer, h: Float[Array, "B T S"]) -> KeysValues:
    """Take the keys, not rotated, and the values that an earlier layer left in the state."""
    kind = layer.config
    assert kind.shared_at is not None
    size = kind.num_kv_heads * kind.head_dim
    both = h[..., kind.shared_at : kind.shared_at + 2 * size]
    k, v = jnp.moveaxis(both.reshape(*h.shape[:2], 2, kind.num_kv_heads, -1), 2, 0)
    return k, v


def residual(config: ModelConfig, h: Float[Array, "*B S"]) -> Float[Array, "*B D"]:
    """Take the state without the keys and values that layers share."""
    return h[..., : config.width]


def queries(
    config: ModelConfig, layer: Layer, h: Float[Array, "B T S"], view: View, rotated: bool = True
) -> Float[Array, "B T N H"]:
    """Return the queries of the state of each row, rotated and scaled."""
    x = norm(config, residual(config, h), layer.attention_norm, layer.attention_norm_bias)
    heads = project_heads(layer, x, layer.q, layer.q_bias)
    q = clip(layer, norm(config, heads, layer.q_norm))
    q = rotate(q, *rotation(layer, view)) if rotated else q
    if layer.config.query_growth is not None:
        beta, context = layer.config.query_growth
        growth = 1 + beta * jnp.log1p((view.positions // context).astype(jnp.float32))
        q = q * growth[:, :, None, None].astype(q.dtype)
    return layer.config.query_scale * q


def rotation(layer: Layer, view: View) -> tuple[Array, Array]:
    """Return the cosines and sines [B, T, h] of a layer's rope."""
    half = layer.config.rotary_width // 2
    return view.cos[layer.rope][..., :half], view.sin[layer.rope][..., :half]


def recurrent_shapes(config: LayerConfig) -> Recurrent:
    """Return the shapes of what a recurrent layer carries for a row."""
    inputs = config.convolution - 1
    keys = config.num_kv_heads, inputs, config.head_dim
    values = config.num_heads, inputs, config.value_dim
    shapes: Any = keys, keys, values, (config.num_heads, config.head_dim, config.value_dim)
    return Recurrent(*shapes)


def recur(
    config: ModelConfig,
    layer: Layer,
    h: Float[Array, "B n D"],
    branch: Int[Array, "R T"],
    before: Recurrent | None = None,
    by_row: Callable[[Array], Array] = lambda x: x,
) -> tuple[Float[Array, "R T N U"], Recurrent]:
    """Mix the tokens of rows by a Gated DeltaNet or a Mamba-2, from the states before them.

    `by_row` arranges what tokens have by row, as `branch` is. Returns what each token reads of its
    state, and what is carried at the ends of prompts.
    """
    x = norm(config, h, layer.attention_norm, layer.attention_norm_bias)
    before = zeros(len(branch), recurrent_shapes(layer.config)) if before is None else before
    predecessors = Predecessors.of(branch, layer.config.convolution)
    mixed: list[Array] = []
    carried: list[Array] = []
    for name in ("q", "k", "v"):
        heads = by_row(project_heads(layer, x, getattr(layer, name), None))
        taps, bias = getattr(layer, f"{name}_taps"), getattr(layer, f"{name}_taps_bias")
        out, window = convolve(heads, taps, bias, getattr(before, name), predecessors)
        mixed.append(out.astype(h.dtype).astype(jnp.float32))
        carried.append(window)
    assert layer.forget_bias is not None
    assert layer.forget_rate is not None
    forget = by_row(project("btd,dn->btn", x, layer.forget, None)).astype(jnp.float32)
    step = jax.nn.softplus(forget + layer.forget_bias.astype(jnp.float32))
    decay = -jnp.exp(layer.forget_rate.astype(jnp.float32)) * step
    q, k, v = mixed
    if layer.skip is not None:
        tokens = Tokens(q, k, step[..., None] * v, decay, None)
        own = layer.skip.astype(jnp.float32)[:, None] * v
    else:
        write = by_row(project("btd,dn->btn", x, layer.write, None)).astype(jnp.float32)
        write = jax.nn.sigmoid(write)
        q = layer.config.head_dim**-0.5 * unit(q)
        tokens, own = Tokens(q, unit(k), v, decay, layer.config.write_scale * write), 0.0
    read, state = gated_delta_rule(tokens, branch, before.state)
    return (read + own).astype(h.dtype), Recurrent(*carried, state=state)


def project_heads(
    layer: Layer, x: Float[Array, "B T D"], weight: Array | Int8 | None, bias: Array | None
) -> Float[Array, "B T _ H"]:
    """Project to heads by a weight [D, N, H], or [N H, D] as a TPU's kernel views it."""
    assert weight is not None
    if weight.ndim == 3:
        return project("btd,dnh->btnh", x, weight, bias)
    y = project("btd,fd->btf", x, weight, None if bias is None else bias.reshape(-1))
    return y.reshape(*x.shape[:2], -1, layer.config.head_dim)


def finish_layer(
    config: ModelConfig,
    layer: Layer,
    states: Float[Array, "B T S"],
    attended: Float[Array, "B T N H"] | None,
    view: View,
    *,
    with_mlp: bool = True,
) -> Float[Array, "B T S"]:
    """Add the attended values to states, then the MLP, and leave keys and values that are shared.

    A program of one part has no attended values, or goes without the MLP. `view` is that of the
    tokens of the states, whose inputs are the layer's.
    """
    before = residual(config, states)
    h = add_attended(config, layer, before, attended, view.inputs, with_mlp)
    h = add_share(layer, before, h)
    if states.shape[-1] == config.width:
        return h
    shared = states[..., config.width :]
    lends = attended is not None and layer.config.own_keys
    if lends and layer.config.shared_at is not None:
        k, v = own_keys_values(config, layer, states)  # computed for attention as well, and once
        both = jnp.stack([k, v], axis=2).reshape(*h.shape[:2], -1)
        first = layer.config.shared_at - config.width
        lent = shared.at[..., first : first + both.shape[-1]].set(both.astype(shared.dtype))
        shared = unless_alone(layer, MLP, jnp.where(layer.lends, lent, shared), shared)
    return jnp.concatenate([h, shared], axis=-1)


def add_share(
    layer: Layer, before: Float[Array, "B T D"], after: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
    """Add the share of the layer's update to the states before it.

    Written from the state after the layer, so that a share of 1 leaves this as it is, to the bit.
    """
    if layer.share is None:
        return after
    update = after.astype(jnp.float32) - before.astype(jnp.float32)
    return (after.astype(jnp.float32) + (layer.share - 1) * update).astype(after.dtype)


def unless_alone(layer: Layer, part: int, x: Array, otherwise: ArrayLike = 0) -> Array:
    """Return `x`, or `otherwise` where the step runs this part of the layer alone."""
    return x if layer.part is None else jnp.where(layer.part == part, otherwise, x)


def add_attended(
    config: ModelConfig,
    layer: Layer,
    h: Float[Array, "B T D"],
    attended: Float[Array, "B T N H"] | None,
    inputs: Float[Array, "B T P"] | None,
    with_mlp: bool = True,
) -> Float[Array, "B T D"]:
    """Add the attended values to states, then the MLP, then what the layer has for the tokens.

    The output of a part that the step lacks is not added; a program without `attended`, or without
    the MLP, does not compute that part.

    Inputs and outputs of attention and MLP are normalised where the family has the norm. An output
    scale s, as in Gemma 4, applies each time that the layer runs: the state of a layer that runs N
    times is scaled by s^N, or by s where scales are roots (`cola_jax.params.scale_of`).
    """
    if attended is not None:
        mixed = norm(config, mix_attended(config, layer, h, attended), layer.attention_post_norm)
        h = h + layer.config.residual_scale * unless_alone(layer, MLP, mixed)
    if with_mlp:
        x = norm(config, h, layer.mlp_norm, layer.mlp_norm_bias)
        if layer.config.parallel_experts:
            mixed = mlp_and_experts(config, layer, x, h)
        else:
            mixed = feed_forward(layer, x)
        mixed = norm(config, mixed, layer.mlp_post_norm)
        h = h + layer.config.residual_scale * unless_alone(layer, ATTENTION, mixed)
    if inputs is not None:
        gate = project("btd,dp->btp", h, layer.input_gate, None)
        mixed = project("btp,pd->btd", gated(layer.config, gate, inputs), layer.input_up, None)
        h = h + norm(config, mixed, layer.input_norm)
    return h if layer.output_scale is None else h * layer.output_scale.astype(h.dtype)


def mix_attended(
    config: ModelConfig, layer: Layer, h: Float[Array, "B T D"], attended: Float[Array, "B T N H"]
) -> Float[Array, "B T D"]:
    """Gate attended values where the family does, and project them to the width of the state."""
    attended = gate_attended(config, layer, h, attended)
    # as matrices: of heads, a CPU would copy the weight to another order
    weight = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), layer.o)
    rows = attended.reshape(*h.shape[:2], -1)
    return project("btf,fd->btd", rows, weight, layer.o_bias)


def gate_attended(
    config: ModelConfig, layer: Layer, h: Float[Array, "B T D"], attended: Float[Array, "B T N H"]
) -> Float[Array, "B T N H"]:
    """Gate attended values where the family does; those of recurrent layers are normalised too."""
    if layer.output_gate is None:
        return attended
    x = norm(config, h, layer.attention_norm, layer.attention_norm_bias)
    gate = project_heads(layer, x, layer.output_gate, None)
    if not layer.config.convolution:
        return attended * jax.nn.sigmoid(gate)
    assert layer.value_norm is not None
    gate = jax.nn.silu(gate.astype(jnp.float32))
    if layer.config.mamba:  # the heads of a key together, after the gate
        groups = (attended * gate).reshape(*h.shape[:2], layer.config.num_kv_heads, -1)
        values = rms_norm(groups, jnp.ones(groups.shape[-1]), config.norm_eps)
        weight = layer.value_norm.astype(attended.dtype)
        return values.reshape(attended.shape).astype(attended.dtype) * weight
    values = rms_norm(attended, layer.value_norm, layer.config.value_norm_eps or config.norm_eps)
    return (values * gate).astype(attended.dtype)


def take_positions(
    x: Shaped[Array, "B T *X"], read: Int[Array, "B Q"] | None
) -> Shaped[Array, "B _ *X"]:
    """Take the positions read, all of them for None."""
    return x if read is None else take_tokens(x, read)


def view_at_positions(view: View, read: Int[Array, "B Q"] | None) -> View:
    """Take the view of the positions read."""
    if read is None:
        return view
    of_tables = jax.vmap(take_positions, (0, None))
    return View(
        positions=take_positions(view.positions, read),
        branch=take_positions(view.branch, read),
        cos=of_tables(view.cos, read),
        sin=of_tables(view.sin, read),
        inputs=None if view.inputs is None else take_positions(view.inputs, read),
    )


def unembed(model: Model, h: Float[Array, "B T S"]) -> Float[Array, "B T V"]:
    """Apply the final norm and the head; return float32 logits."""
    h = norm(model.config, residual(model.config, h), model.norm, model.norm_bias)
    weight, axes = (model.embedding, "vd") if model.head is None else (model.head, "dv")
    logits = jnp.einsum(f"btd,{axes}->btv", h, weight, preferred_element_type=jnp.float32)
    return bend(model.config.logit_scale * logits, model.config.logit_softcap)


def norm(
    config: ModelConfig,
    x: Float[Array, "*X"],
    weight: Float[Array, "*W"] | None,
    bias: Float[Array, "*W"] | None = None,
) -> Float[Array, "*X"]:
    """Normalise as the family does; without a weight, return the values as they are.

    With a bias, this is LayerNorm in float32.
    """
    if weight is None:
        return x
    if bias is None:
        return rms_norm(x, weight, config.norm_eps, config.norm_offset)
    x32 = x.astype(jnp.float32)
    x32 = rms_norm(x32 - x32.mean(-1, keepdims=True), weight, config.norm_eps, 0.0)
    return (x32 + bias.astype(jnp.float32)).astype(x.dtype)


def rms_norm(
    x: Float[Array, "*B D"],
    weight: Float[Array, "*W D"],
    eps: float,
    offset: float | None = None,
) -> Float[Array, "*B D"]:
    """Normalise in float32, over as many axes as the weight has.

    Casts before the weight is applied, as `LlamaRMSNorm` does; with an offset, which is added to
    the weight, casts afterwards: 0 is `Olmo2RMSNorm`, 1 is `Gemma3RMSNorm`.
    """
    axes = tuple(range(-weight.ndim, 0))
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=axes, keepdims=True) + eps)
    if offset is None:
        return x32.astype(x.dtype) * weight.astype(x.dtype)
    return (x32 * (offset + weight.astype(jnp.float32))).astype(x.dtype)


def clip(layer: Layer, x: Float[Array, "*X"]) -> Float[Array, "*X"]:
    """Bound queries, keys and values where the family does, as OLMoE may."""
    bound = layer.config.clip_qkv
    return x if bound is None else jnp.clip(x, -bound, bound)


def seen_in(
    config: ModelConfig,
    view: View,
    window: Int[Array, ""],
    read: Int[Array, "B Q"] | None = None,
    row: Int[Array, "B T"] | int = 0,
) -> Seen:
    """Return which tokens of its row each token that is read sees, in a layer with this window.

    `row` tells tokens apart that are of several prompts.
    """
    index = jnp.broadcast_to(jnp.arange(view.branch.shape[1]), view.branch.shape)
    row = jnp.broadcast_to(jnp.asarray(row, index.dtype), index.shape)
    keys = Labels(row, index, view.branch, view.positions)
    queries = Labels(*(take_positions(x, read) for x in keys))
    return Seen(queries, keys, window if any(x is not None for x in config.windows) else None)


def rotate(
    x: Float[Array, "B T N H"], cos: Float[Array, "B T h"], sin: Float[Array, "B T h"]
) -> Float[Array, "B T N H"]:
    """Rotate each head's halves by their angles: the rotate-half layout of Hugging Face files.

    With fewer angles, the halves of its first channels; the others stay as they are.
    """
    half = cos.shape[-1]
    # in float32: a CPU rounds each operation on bfloat16 by several of its own
    first, second, rest = jnp.split(x.astype(jnp.float32), (half, 2 * half), axis=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    parts = first * cos - second * sin, second * cos + first * sin, rest
    return jnp.concatenate(parts, axis=-1).astype(x.dtype)


def feed_forward(layer: Layer, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Apply the MLP, the experts, or both: a shared expert is an MLP, which a gate may weigh."""
    if layer.router is None:
        return mlp(layer, x)
    mixed = mixture(layer, x)
    if layer.up is None:
        return mixed
    if layer.shared_gate is None:
        return mixed + mlp(layer, x)
    weight = jax.nn.sigmoid(project("btd,d->bt", x, layer.shared_gate, None))
    return mixed + weight[..., None] * mlp(layer, x)


def mlp_and_experts(
    config: ModelConfig, layer: Layer, x: Float[Array, "B T D"], h: Float[Array, "B T D"]
) -> Float[Array, "B T D"]:
    """Apply the MLP to x, and experts, with norms of their own, to the state, as Gemma 4 does."""
    assert layer.router_norm is not None
    router_input = config.width**-0.5 * rms_norm(h, layer.router_norm, config.norm_eps)
    mixed = mixture(layer, norm(config, h, layer.experts_norm), router_input)
    dense = norm(config, mlp(layer, x), layer.dense_post_norm)
    return dense + norm(config, mixed, layer.experts_post_norm)


def mlp(layer: Layer, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Apply the MLP, whose activation may be gated by another projection."""
    up = project("btd,df->btf", x, layer.up, layer.up_bias)
    if layer.config.gated_mlp:
        hidden = gated(layer.config, project("btd,df->btf", x, layer.gate, layer.gate_bias), up)
    else:
        hidden = activate(layer.config, up)
    return project("btf,fd->btd", hidden, layer.down, layer.down_bias)
