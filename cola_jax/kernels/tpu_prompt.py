"""Attention over the prompts of a tile as a TPU kernel, which also rotates queries and keys.

XLA's attention on a TPU wants queries and keys with tokens in the axis that varies fastest, and so
the products with the weights of q, k and v run at half of their rate. For the kernel these products
give rows [N H], as those of the MLP do, and it takes the heads out of a row.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from cola_jax.attention import MASKED, KeysValues, Seen
from cola_jax.kernels.attention import PromptAttention, Rotated, Rotation, followed_by
from cola_jax.params import Layer

SUBLANES = 16  # of a TPU's tiles: tokens are a multiple of it
BLOCK = 128  # tokens that attend at a time
MOST_SCORES = 2**20  # of the heads that share a key, for a block: all are on the chip
MOST_BYTES = 6 * 2**20  # of the blocks on the chip, which are there twice


@dataclasses.dataclass(frozen=True)
class TpuPromptAttention(PromptAttention):
    """The kernel, on the devices of a mesh, which split the heads.

    Narrower heads than whole lanes are half a tile, and gain nothing by it.
    """

    mesh: Mesh | None = None  # of several devices
    interpret: bool = False  # without the device, for tests

    def on(self, mesh: Mesh) -> "TpuPromptAttention":
        """Return the kernel for several devices, which split the heads."""
        return dataclasses.replace(self, mesh=mesh)

    def view_layers(self, layers: Layer) -> Layer:
        """View q, k, v and o of a stack as matrices [L, N H, D], as they are in a TPU's memory.

        Of a layer's slice it would not be a view but a copy.
        """

        def joined(x: Shaped[Array, "L N H D"]) -> Shaped[Array, "L NH D"]:
            return x.reshape(x.shape[0], -1, x.shape[-1])

        qkv = layers.q, layers.k, layers.v
        q, k, v = jax.tree.map(lambda x: joined(x.transpose(0, 2, 3, 1)), qkv)
        return layers.replace(q=q, k=k, v=v, o=jax.tree.map(joined, layers.o))

    def serves(self, tokens: Rotated, before: int = 0) -> bool:
        """Return whether prompts of these sizes fit a chip in whole blocks."""
        _, reads, heads, _ = tokens.q.shape
        _, size, groups, _ = tokens.k.shape
        size += before
        whole = reads % SUBLANES == 0 and size % SUBLANES == 0
        scores = heads // groups * query_block(reads) * size
        return self.interpret or (whole and scores <= MOST_SCORES)

    def over(
        self, tokens: Rotated, seen: Seen, keep: bool
    ) -> tuple[Float[Array, "R Q N H"], KeysValues]:
        """Attend to the tokens that are seen; keys that are kept have heads first."""
        if not self.serves(tokens):
            return super().over(tokens, seen, keep)
        return self.call(tokens, seen.mask(), keep)

    def after(
        self,
        before: tuple[Float[Array, "R K P H"], Float[Array, "R K P H"]],
        tokens: Rotated,
        seen: Seen,
        keep: bool,
    ) -> tuple[Float[Array, "R Q N H"], KeysValues]:
        """Attend to P earlier tokens, whose keys are rotated, as well; keep those of both."""
        if not self.serves(tokens, before[0].shape[2]):
            return super().after(before, tokens, seen, keep)
        k, v = followed_by(before, (tokens.k, tokens.v))
        of_keys = after_rotated(before[0].shape[2], tokens.of_keys)
        every = tokens._replace(k=k, v=v, of_keys=of_keys)
        return self.call(every, seen.after(before[0].shape[2]).mask(), keep)

    def call(
        self, tokens: Rotated, mask: Bool[Array, "R Q S"], keep: bool
    ) -> tuple[Float[Array, "R Q N H"], KeysValues]:
        """Call the kernel on every device."""
        q = tokens.q
        options = {"width": q.shape[-1], "keep": keep, "interpret": self.interpret}
        run: Any = functools.partial(call_kernel, **options)
        if self.mesh is not None:
            whole = PartitionSpec()
            rows = PartitionSpec(None, None, "tensor")
            results = (rows, *[PartitionSpec(None, "tensor")] * 2 * keep)
            in_specs = (rows, rows, rows, whole, whole)
            run = jax.shard_map(
                run, mesh=self.mesh, in_specs=in_specs, out_specs=results, check_vma=False
            )
        flat = (x.reshape(*x.shape[:2], -1) for x in (q, tokens.k, tokens.v))
        rotations = tokens.of_queries, tokens.of_keys
        mixed, *kept = run(*flat, mask.astype(jnp.int8), rotations)
        kept = [x.transpose(0, 2, 1, 3) for x in kept] if keep else [tokens.k, tokens.v]
        return mixed.reshape(q.shape), (kept[0], kept[1])


def after_rotated(size: int, rotation: Rotation) -> Rotation:
    """Put angles of 0 in front of others, for `size` keys that are rotated already."""
    cos, sin = rotation
    shape = cos.shape[0], size, cos.shape[2]
    none = jnp.ones(shape, cos.dtype), jnp.zeros(shape, sin.dtype)
    return jnp.concatenate([none[0], cos], axis=1), jnp.concatenate([none[1], sin], axis=1)


def query_block(reads: int) -> int:
    """Return the number of tokens that attend at a time."""
    return BLOCK if reads % BLOCK == 0 else reads


def call_kernel(
    q: Float[Array, "R Q NH"],
    k: Float[Array, "R S KH"],
    v: Float[Array, "R S KH"],
    mask: Int[Array, "R Q S"],
    rotations: tuple[Rotation, Rotation],
    *,
    width: int,
    keep: bool,
    interpret: bool,
) -> tuple[Array, ...]:
    """Call the kernel on one device for blocks of some tokens and some key/value heads."""
    rows, reads, _ = q.shape
    _, tokens, lanes = k.shape
    kv_heads = lanes // width
    group = q.shape[2] // lanes
    reading = query_block(reads)
    bytes_of_head = 4 * q.dtype.itemsize * width * (group * reading + (1 + keep) * tokens)
    parts = [n for n in range(1, kv_heads + 1) if kv_heads % n == 0]
    heads = max(n for n in parts if n == 1 or n * bytes_of_head <= MOST_BYTES)

    def of_reads(lanes: int, split: bool = False) -> pl.BlockSpec:
        return pl.BlockSpec((1, reading, lanes), lambda r, head, i: (r, i, head if split else 0))

    def of_tokens(lanes: int, split: bool = False) -> pl.BlockSpec:
        return pl.BlockSpec((1, tokens, lanes), lambda r, head, _: (r, 0, head if split else 0))

    mixed = of_reads(heads * group * width, split=True)
    seen = of_tokens(heads * width, split=True)
    angles = [*[of_reads(width // 2)] * 2, *[of_tokens(width // 2)] * 2]
    kept = pl.BlockSpec((1, heads, tokens, width), lambda r, head, _: (r, head, 0, 0))
    cache = jax.ShapeDtypeStruct((rows, kv_heads, tokens, width), k.dtype)
    run = pl.pallas_call(
        functools.partial(prompt_kernel, width=width, heads=heads),
        grid=(rows, kv_heads // heads, reads // reading),
        in_specs=[mixed, seen, seen, of_reads(tokens), *angles],
        out_specs=[mixed, *[kept] * 2 * keep],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), *[cache] * 2 * keep],
        # on chips of two cores, each takes some rows or heads
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary")
        ),
        interpret=interpret,
        name="prompt_attention",
    )
    return tuple(run(q, k, v, mask, *rotations[0], *rotations[1]))


def prompt_kernel(
    q: Any,
    k: Any,
    v: Any,
    mask: Any,
    q_cos: Any,
    q_sin: Any,
    k_cos: Any,
    k_sin: Any,
    out: Any,
    *kept: Any,
    width: int,
    heads: int,
) -> None:
    """Attend with a block of tokens and heads to all tokens that they may see."""
    reads = q.shape[1]
    group = q.shape[2] // k.shape[2]
    bias = jnp.where(mask[0].astype(jnp.int32) != 0, 0.0, MASKED)
    of_queries = both_halves(q_cos[0] * width**-0.5, q_sin[0] * width**-0.5)
    of_keys = both_halves(k_cos[0], k_sin[0])

    def lanes(n: int) -> slice:
        return slice(n * width, (n + 1) * width)

    for head in range(heads):
        own = range(head * group, (head + 1) * group)
        # the queries of all heads that share a key: taller products
        turned = jnp.concatenate([rotate_head(q[0, :, lanes(n)], of_queries) for n in own])
        keys = rotate_head(k[0, :, lanes(head)], of_keys)
        values = v[0, :, lanes(head)]
        scores = contract(turned, keys, 1)
        scores = (scores.reshape(group, *bias.shape) + bias).reshape(scores.shape)
        weights = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
        share = 1 / jnp.sum(weights, axis=1, keepdims=True)
        mixed = (contract(weights.astype(values.dtype), values, 0) * share).astype(out.dtype)
        for i, n in enumerate(own):
            out[0, :, lanes(n)] = mixed[i * reads : (i + 1) * reads]
        if kept:
            kept[0][0, head] = keys
            kept[1][0, head] = values


def both_halves(cos: Array, sin: Array) -> tuple[Array, Array]:
    """Return the factors of each element of a head, and of its partner in the other half."""
    return jnp.concatenate([cos, cos], axis=1), jnp.concatenate([-sin, sin], axis=1)


def rotate_head(x: Array, factors: tuple[Array, Array]) -> Array:
    """Rotate the halves of one head, as `model.rotate` does of all, in float32."""
    wide = x.astype(jnp.float32)
    partner = pltpu.roll(wide, x.shape[1] // 2, 1)
    return (wide * factors[0] + partner * factors[1]).astype(x.dtype)


def contract(x: Array, y: Array, axis: int) -> Array:
    """Multiply over the last axis of x and one of y, with sums in float32."""
    axes = ((1,), (axis,)), ((), ())
    return jax.lax.dot_general(x, y, axes, preferred_element_type=jnp.float32)
