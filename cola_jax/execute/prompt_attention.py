"""Attention over the prompts of a tile as one TPU kernel, which also rotates queries and keys.

What XLA makes of `model.attend` on a TPU keeps tokens in the axis that varies fastest, as its
products of queries and keys want them, and so slows the products with the weights of q, k and v to
half. Here these give rows of [N H], as the MLP's do, and the kernel takes heads out of a row.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from cola_jax.params import Layer

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
LANES, SUBLANES = 128, 16  # that a head, and the tokens of a block, are multiples of
BLOCK = 128  # tokens whose queries are attended at a time
MOST_TOKENS = 2048  # seen by a query: their scores are on the chip at the same time
MOST_BYTES = 6 * 2**20  # of blocks of q, k, v and results, twice each

Table = Float[Array, "R _ h"]  # cosines or sines
Rotation = tuple[Table, Table]


class PromptAttention(NamedTuple):
    """The kernel, on one device or with heads split over those of a mesh."""

    mesh: Mesh | None = None
    interpret: bool = False  # on a CPU, for tests

    def serves(self, queries: int, keys: int) -> bool:
        """Whether prompts of these tokens can be cut into blocks that fit a chip."""
        if self.interpret:
            return True
        whole = queries % SUBLANES == 0 and keys % SUBLANES == 0
        return whole and keys <= MOST_TOKENS and (queries % BLOCK == 0 or queries < 2 * BLOCK)

    def __call__(
        self,
        q: Float[Array, "R Q N H"],
        k: Float[Array, "R S K H"],
        v: Float[Array, "R S K H"],
        mask: Bool[Array, "R Q S"],
        rotations: tuple[Rotation, Rotation],
        keep: bool = False,
    ) -> tuple[Float[Array, "R Q N H"], tuple[Array, Array]]:
        """Rotates queries and keys and attends; softmax in float32.

        Returns what the queries attend to, mixed. With `keep` the keys, rotated, and the values
        come back in the order of a KV cache, [R, K, S, H].
        """
        rows, width = q.shape[0], q.shape[-1]
        flat = [x.reshape(*x.shape[:2], -1) for x in (q, k, v)]
        run = functools.partial(attend, width=width, keep=keep, interpret=self.interpret)
        if self.mesh is not None:
            heads, all_of = PartitionSpec(None, None, "tensor"), PartitionSpec()
            blocks = PartitionSpec(None, "tensor")
            run = jax.shard_map(
                run,
                mesh=self.mesh,
                in_specs=(heads, heads, heads, all_of, all_of),
                out_specs=(heads, blocks, blocks) if keep else (heads,),
                check_vma=False,
            )
        mixed, *kept = run(*flat, mask.astype(jnp.int8), rotations)
        return mixed.reshape(rows, *q.shape[1:]), kept


def flat(layers: Layer) -> Layer:
    """Views the matrices of q, k, v and o as [L, N H, D]; on a TPU they lie so in memory.

    A view of the stack: of a layer's slice it would be a copy.
    """

    def rows(x: Array) -> Array:
        return x.reshape(x.shape[0], -1, x.shape[-1])

    q, k, v = (rows(x.transpose(0, 2, 3, 1)) for x in (layers.q, layers.k, layers.v))
    return layers.replace(q=q, k=k, v=v, o=rows(layers.o))


def attend(
    q: Float[Array, "R Q NH"],
    k: Float[Array, "R S KH"],
    v: Float[Array, "R S KH"],
    mask: Array,
    rotations: tuple[Rotation, Rotation],
    *,
    width: int,
    keep: bool,
    interpret: bool,
) -> list[Array]:
    """Calls the kernel on one device, for blocks of some tokens and some key/value heads."""
    (rows, queries, _), keys, kv_heads = q.shape, k.shape[1], k.shape[2] // width
    group = q.shape[2] // k.shape[2]
    tokens = BLOCK if queries % BLOCK == 0 else queries
    bytes_of_head = 4 * width * q.dtype.itemsize * (group * tokens + (1 + keep) * keys)
    some = [n for n in range(1, kv_heads + 1) if kv_heads % n == 0]
    heads = max(n for n in some if n == 1 or n * bytes_of_head <= MOST_BYTES)

    def block(tokens: int, lanes: int, of_queries: bool, of_heads: bool) -> pl.BlockSpec:
        def index(row: Any, head: Any, place: Any) -> tuple[Any, ...]:
            return row, place if of_queries else 0, head if of_heads else 0

        return pl.BlockSpec((1, tokens, lanes), index)

    mixed = block(tokens, heads * group * width, True, True)
    whole = block(keys, heads * width, False, True)
    kept = pl.BlockSpec((1, heads, keys, width), lambda row, head, _: (row, head, 0, 0))
    cache = jax.ShapeDtypeStruct((rows, kv_heads, keys, width), k.dtype)
    tables = [block(tokens, width // 2, True, False)] * 2 + [block(keys, width // 2, False, False)] * 2
    return pl.pallas_call(
        functools.partial(attend_block, width=width, heads=heads),
        grid=(rows, kv_heads // heads, queries // tokens),
        in_specs=[mixed, whole, whole, block(tokens, keys, True, False), *tables],
        out_specs=[mixed, kept, kept] if keep else [mixed],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), *([cache] * 2 if keep else [])],
        interpret=interpret,
    )(q, k, v, mask, *rotations[0], *rotations[1])


def attend_block(q, k, v, mask, q_cos, q_sin, k_cos, k_sin, out, *kept, width: int, heads: int):
    """The kernel: a block of queries of some heads, and all the keys that these see."""
    tokens, group = q.shape[1], q.shape[2] // k.shape[2]
    bias = jnp.where(mask[0].astype(jnp.int32) != 0, 0.0, MASKED)
    bias = jnp.concatenate([bias] * group)
    of_queries = both_halves(q_cos[0] * width**-0.5, q_sin[0] * width**-0.5)
    of_keys = both_halves(k_cos[0], k_sin[0])

    def lanes(n: int) -> slice:
        return slice(n * width, (n + 1) * width)

    for head in range(heads):
        own = range(head * group, (head + 1) * group)
        queries = jnp.concatenate([rotate(q[0, :, lanes(n)], of_queries) for n in own])
        keys, values = rotate(k[0, :, lanes(head)], of_keys), v[0, :, lanes(head)]
        scores = product(queries, keys, 1) + bias
        weights = jnp.exp(scores - jnp.max(scores, axis=1, keepdims=True))
        total = jnp.sum(weights, axis=1, keepdims=True)
        mixed = (product(weights.astype(values.dtype), values, 0) / total).astype(out.dtype)
        for i, n in enumerate(own):
            out[0, :, lanes(n)] = mixed[i * tokens : (i + 1) * tokens]
        if kept:
            kept[0][0, head], kept[1][0, head] = keys, values


def both_halves(cos: Array, sin: Array) -> tuple[Array, Array]:
    """Returns the factors of a head's elements, and those of the other half's."""
    return jnp.concatenate([cos, cos], axis=1), jnp.concatenate([-sin, sin], axis=1)


def rotate(x: Array, factors: tuple[Array, Array]) -> Array:
    """Rotates a head's halves, as `model.rotate` does, in float32."""
    wide = x.astype(jnp.float32)
    other = pltpu.roll(wide, x.shape[1] // 2, 1)
    return (wide * factors[0] + other * factors[1]).astype(x.dtype)


def product(x: Array, y: Array, axis: int) -> Array:
    """Multiplies matrices over the last axis of x and one of y, with sums in float32."""
    return jax.lax.dot_general(
        x, y, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32
    )
