"""Attention over the prompts of a tile as a TPU kernel, which also rotates queries and keys.

XLA's attention on a TPU wants queries and keys with tokens in the axis that varies fastest, and so
the products with the weights of q, k and v run at half of their rate. For the kernel these products
give rows [N H], as those of the MLP do, and it takes the heads out of a row.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Shaped

from cola_jax.attention import MASKED, KeysValues, Labels, Seen, bend, is_seen, pad_axis
from cola_jax.kernels.attention import PromptAttention, Rotated, Rotation, followed_by
from cola_jax.model import rotate
from cola_jax.params import Layer

SUBLANES = 16  # of a TPU's tiles: tokens are a multiple of it
QUERY_BLOCK = 128  # tokens that attend at a time
KEY_BLOCK = 128  # of more keys; blocks that no query sees are left out
LONG_KEY_BLOCK = 512  # of more keys than are on the chip at a time
MOST_KEYS = 512  # that are a single block
CHUNK = 2048  # keys that are on the chip at a time
MOST_BYTES = 6 * 2**20  # of the blocks on the chip, which are there twice
UNBOUNDED = jnp.iinfo(jnp.int32).max  # a window


@dataclasses.dataclass(frozen=True)
class TpuPromptAttention(PromptAttention):
    """The kernel, on the devices of a mesh, which split the heads.

    Narrower heads than whole lanes are half a tile, and gain nothing by it.
    """

    mesh: Mesh | None = None  # of several devices
    interpret: bool = False  # without the device, for tests

    def skips_rows(self, tokens: int, longest: int) -> bool:
        """Return whether it takes a tile as it is: blocks of other rows are left out."""
        return tokens % SUBLANES == 0 or self.interpret

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
        """Return whether prompts of these sizes are whole tiles."""
        size = tokens.k.shape[1] + before
        whole = tokens.q.shape[1] % SUBLANES == 0 and size % SUBLANES == 0
        return self.interpret or whole

    def over(
        self, tokens: Rotated, seen: Seen, keep: bool
    ) -> tuple[Float[Array, "R Q N H"], KeysValues]:
        """Attend to the tokens that are seen; keys that are kept have heads first."""
        if not self.serves(tokens):
            return super().over(tokens, seen, keep)
        return self.call(tokens, seen, keep)

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
        return self.call(every, seen.after(before[0].shape[2]), keep)

    def call(
        self, tokens: Rotated, seen: Seen, keep: bool
    ) -> tuple[Float[Array, "R Q N H"], KeysValues]:
        """Call the kernel on every device.

        Of prompts that are not on the chip at once, keys are rotated before.
        """
        reads = tokens.q.shape[1]
        size = tokens.k.shape[1]
        kept = tokens.k, tokens.v
        rotated = size > CHUNK
        if rotated:
            kept = rotate(tokens.k, *tokens.of_keys), tokens.v
        blocks = block_sizes(reads, size)
        q = pad_axis(tokens.q, 1, blocks.queries)
        k, v = (pad_axis(x, 1, blocks.chunk) for x in kept)
        seen = seen.padded(blocks.queries, blocks.chunk)
        of_queries = tuple(pad_axis(x, 1, blocks.queries) for x in tokens.of_queries)
        of_keys = () if rotated else tuple(pad_axis(x, 1, blocks.chunk) for x in tokens.of_keys)
        options = {
            "width": q.shape[-1],
            "keep": keep and not rotated,
            "softcap": self.softcap,
            "blocks": blocks,
            "interpret": self.interpret,
        }
        run: Any = functools.partial(call_kernel, **options)
        if self.mesh is not None:
            whole = PartitionSpec()
            rows = PartitionSpec(None, None, "tensor")
            results = (rows, *[PartitionSpec(None, "tensor")] * 2 * options["keep"])
            of_heads = PartitionSpec("tensor")
            in_specs = (rows, rows, rows, whole, whole, whole, of_heads)
            run = jax.shard_map(
                run, mesh=self.mesh, in_specs=in_specs, out_specs=results, check_vma=False
            )
        flat = (x.reshape(*x.shape[:2], -1) for x in (q, k, v))
        mixed, *written = run(*flat, seen, of_queries, of_keys, tokens.sinks)
        if options["keep"]:
            keys, values = (x[:, :, :size].transpose(0, 2, 1, 3) for x in written)
            kept = keys, values
        return mixed.reshape(q.shape)[:, :reads], kept


class Blocks(NamedTuple):
    """The tokens of the blocks that are on a chip."""

    queries: int  # that attend at a time
    keys: int  # that they attend to at a time
    chunk: int  # keys that are copied to the chip at a time


def block_sizes(reads: int, tokens: int) -> Blocks:
    """Choose the blocks for Q queries and T keys, which are padded to whole ones."""
    queries = min(QUERY_BLOCK, reads)
    if tokens <= MOST_KEYS:
        return Blocks(queries, tokens, tokens)
    if tokens > CHUNK:
        return Blocks(queries, LONG_KEY_BLOCK, CHUNK)
    return Blocks(queries, KEY_BLOCK, -(-tokens // KEY_BLOCK) * KEY_BLOCK)


def after_rotated(size: int, rotation: Rotation) -> Rotation:
    """Put angles of 0 in front of others, for `size` keys that are rotated already."""
    cos, sin = rotation
    shape = cos.shape[0], size, cos.shape[2]
    none = jnp.ones(shape, cos.dtype), jnp.zeros(shape, sin.dtype)
    return jnp.concatenate([none[0], cos], axis=1), jnp.concatenate([none[1], sin], axis=1)


def call_kernel(
    q: Float[Array, "R Q NH"],
    k: Float[Array, "R S KH"],
    v: Float[Array, "R S KH"],
    seen: Seen,
    of_queries: Rotation,
    of_keys: Rotation | tuple[()],
    sinks: Float[Array, " N"] | None,
    *,
    width: int,
    keep: bool,
    softcap: float | None,
    blocks: Blocks,
    interpret: bool,
) -> tuple[Array, ...]:
    """Call the kernel on one device for blocks of some tokens and some key/value heads.

    Keys without angles, `of_keys`, are rotated already.
    """
    rows, reads, lanes_of_queries = q.shape
    _, tokens, lanes_of_keys = k.shape
    kv_heads = lanes_of_keys // width
    group = lanes_of_queries // lanes_of_keys
    chunks = tokens // blocks.chunk
    bytes_of_head = 4 * q.dtype.itemsize * width
    bytes_of_head *= group * blocks.queries + (1 + keep) * blocks.chunk
    parts = [n for n in range(1, kv_heads + 1) if kv_heads % n == 0]
    if rows == 1:
        parts = parts[:-1]  # for chips of two cores
    heads = max([1, *(n for n in parts if n * bytes_of_head <= MOST_BYTES)])
    ends = ends_of(seen.blocks(blocks.queries, blocks.keys))
    window = UNBOUNDED if seen.window is None else seen.window
    scalars = ends, jnp.reshape(window, 1).astype(jnp.int32)

    def chunk_of(r: Any, i: Any, c: Any, ends: Any) -> Any:
        """Return the chunk of a step; those that no query sees are not copied to the chip."""
        if chunks == 1:
            return 0
        per_chunk = blocks.chunk // blocks.keys
        # not `//`, which asks what kind of TPU it is compiled for
        first = jax.lax.div(ends[r, i, 0], per_chunk)
        last = jax.lax.div(jnp.maximum(ends[r, i, 1] - 1, 0), per_chunk)
        return jnp.clip(c, first, last)

    def of_reads(lanes: int, split: bool = False) -> pl.BlockSpec:
        def at(r: Any, head: Any, i: Any, c: Any, *_: Any) -> Any:
            return r, i, head if split else 0

        return pl.BlockSpec((1, blocks.queries, lanes), at)

    def of_tokens(lanes: int, split: bool = False) -> pl.BlockSpec:
        def at(r: Any, head: Any, i: Any, c: Any, ends: Any, _: Any) -> Any:
            return r, chunk_of(r, i, c, ends), head if split else 0

        return pl.BlockSpec((1, blocks.chunk, lanes), at)

    def of_key_labels(r: Any, head: Any, i: Any, c: Any, ends: Any, _: Any) -> Any:
        return r, chunk_of(r, i, c, ends), 0, 0

    mixed = of_reads(heads * group * width, split=True)
    keys = of_tokens(heads * width, split=True)
    kept = pl.BlockSpec((1, heads, tokens, width), lambda r, head, *_: (r, head, 0, 0))
    cache = jax.ShapeDtypeStruct((rows, kv_heads, tokens, width), k.dtype)
    labels = len(seen.keys)
    by_block = [x.reshape(rows, -1, blocks.keys) for x in seen.keys]
    of_block = pl.BlockSpec((1, blocks.chunk // blocks.keys, labels, blocks.keys), of_key_labels)
    sizes = heads, group * blocks.queries
    inputs: dict[str, tuple[Array, pl.BlockSpec]] = {
        "q": (q, mixed),
        "k": (k, keys),
        "v": (v, keys),
        "query_labels": (jnp.stack(seen.queries, axis=2), of_reads(labels)),
        "key_labels": (jnp.stack(by_block, axis=2), of_block),
        "query_cos": (of_queries[0], of_reads(width // 2)),
        "query_sin": (of_queries[1], of_reads(width // 2)),
    }
    if of_keys:
        inputs["key_cos"] = of_keys[0], of_tokens(width // 2)
        inputs["key_sin"] = of_keys[1], of_tokens(width // 2)
    if sinks is not None:
        column = jnp.repeat(sinks.astype(jnp.float32), blocks.queries).reshape(kv_heads, -1, 1)
        spec = pl.BlockSpec((*sizes, 1), lambda r, head, *_: (head, 0, 0))
        inputs["sinks"] = column, spec
    scratch = {}
    if blocks.keys < tokens:
        scratch["turned"] = pltpu.VMEM((*sizes, width), q.dtype)
        if of_keys and not keep:
            scratch["keys"] = pltpu.VMEM((heads, tokens, width), k.dtype)
    if chunks > 1:
        scratch["top"] = pltpu.VMEM((*sizes, 1), jnp.float32)
        scratch["total"] = pltpu.VMEM((*sizes, 1), jnp.float32)
        scratch["mixed"] = pltpu.VMEM((*sizes, width), jnp.float32)
    names = (*inputs, "out", *("kept_keys", "kept_values")[: 2 * keep], *scratch)
    body = functools.partial(prompt_kernel, names, width=width, softcap=softcap)
    run = pl.pallas_call(
        body,
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=len(scalars),
            grid=(rows, kv_heads // heads, reads // blocks.queries, chunks),
            in_specs=[spec for _, spec in inputs.values()],
            out_specs=[mixed, *[kept] * 2 * keep],
            scratch_shapes=list(scratch.values()),
        ),
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), *[cache] * 2 * keep],
        # on chips of two cores, each takes some rows or heads
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")
        ),
        interpret=interpret,
        name="prompt_attention",
    )
    return tuple(run(*scalars, *(x for x, _ in inputs.values())))


def ends_of(pairs: Bool[Array, "R q k"]) -> Int[Array, "R q 2"]:
    """Return the first block of keys that each block of queries needs, and the end of the last."""
    blocks = pairs.shape[2]
    first = jnp.argmax(pairs, axis=2)
    end = jnp.where(pairs.any(axis=2), blocks - jnp.argmax(pairs[:, :, ::-1], axis=2), first)
    return jnp.stack([first, end], axis=2).astype(jnp.int32)


class Softmax(NamedTuple):
    """The softmax of the queries of the heads that share a key over some keys; in float32."""

    top: Any  # the highest score, a column
    total: Any  # of exp(score - top), a column
    mixed: Any  # the values, by exp(score - top)

    def shares(self) -> Any:
        """Return the mixed values, 0 where no key was added."""
        return self.mixed / jnp.where(self.total == 0, 1, self.total)


def add_keys(before: Softmax | None, scores: Array, values: Array) -> Softmax:
    """Add the scores of a block of keys, and their values, to a softmax."""
    top = jnp.max(scores, axis=1, keepdims=True)
    if before is not None:
        top = jnp.maximum(top, before.top)
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=1, keepdims=True)
    mixed = contract(weights.astype(values.dtype), values, 0)
    if before is not None:
        earlier = jnp.exp(before.top - top)
        total += earlier * before.total
        mixed += earlier * before.mixed
    return Softmax(top, total, mixed)


def prompt_kernel(
    names: Sequence[str],
    ends: Any,
    window: Any,
    *refs: Any,
    width: int,
    softcap: float | None,
) -> None:
    """Attend with a block of tokens and heads to the tokens of a chunk that they may see.

    The names are those of the references: inputs, outputs, and what stays on the chip.
    """
    at = dict(zip(names, refs, strict=True))
    q, k, v, out = (at[name] for name in ("q", "k", "v", "out"))
    reads = q.shape[1]
    heads = k.shape[2] // width
    group = q.shape[2] // k.shape[2]
    _, blocks, _, size = at["key_labels"].shape
    row, block, chunk = (pl.program_id(axis) for axis in (0, 2, 3))
    chunks = pl.num_programs(3)

    def lanes(n: int) -> slice:
        return slice(n * width, (n + 1) * width)

    def turned_queries() -> list[Array]:
        """Rotate the queries of all heads that share a key: taller products."""
        scale = width**-0.5
        factors = both_halves(at["query_cos"][0] * scale, at["query_sin"][0] * scale)
        own = [range(head * group, (head + 1) * group) for head in range(heads)]
        return [
            jnp.concatenate([rotate_head(q[0, :, lanes(n)], factors) for n in each]) for each in own
        ]

    def turned_keys() -> list[Array]:
        factors = both_halves(at["key_cos"][0], at["key_sin"][0])
        return [rotate_head(k[0, :, lanes(head)], factors) for head in range(heads)]

    def start(head: int) -> Softmax:
        rows = group * reads
        mixed = jnp.zeros((rows, width), jnp.float32)
        if "sinks" in at:
            return Softmax(at["sinks"][head], jnp.ones((rows, 1), jnp.float32), mixed)
        top = jnp.full((rows, 1), MASKED, jnp.float32)
        return Softmax(top, jnp.zeros((rows, 1), jnp.float32), mixed)

    def scores_of(turned: Array, keys: Array, bias: Array) -> Array:
        scores = bend(contract(turned, keys, 1), softcap)
        return (scores.reshape(group, *bias.shape) + bias).reshape(scores.shape)

    def write(softmaxes: Sequence[Softmax]) -> None:
        for head, softmax in enumerate(softmaxes):
            mixed = softmax.shares().astype(out.dtype)
            for i in range(group):
                part = mixed[i * reads : (i + 1) * reads]
                out[0, :, lanes(head * group + i)] = part

    def keep(turned: Sequence[Array]) -> None:
        for head, keys in enumerate(turned):
            at["kept_keys"][0, head] = keys
            at["kept_values"][0, head] = v[0, :, lanes(head)]

    if "turned" not in at:  # all keys are one block
        bias = bias_of(at["query_labels"][0], at["key_labels"][0, 0], window[0])
        keys = turned_keys()
        before = start if "sinks" in at else lambda head: None
        write(
            [
                add_keys(before(head), scores_of(turned, keys[head], bias), v[0, :, lanes(head)])
                for head, turned in enumerate(turned_queries())
            ]
        )
        if "kept_keys" in at:
            keep(keys)
        return

    @pl.when(chunk == 0)
    def _():
        for head, turned in enumerate(turned_queries()):
            at["turned"][head] = turned

    if "key_cos" in at:

        @pl.when(block == 0)
        def _():
            keys = turned_keys()
            if "kept_keys" in at:
                keep(keys)
                return
            for head, turned in enumerate(keys):
                at["keys"][head] = turned

    def keys_of(head: int, part: Any) -> Array:
        if "keys" in at:
            return at["keys"][head, part]
        if "kept_keys" in at:
            return at["kept_keys"][0, head, part]
        return k[0, part, lanes(head)]

    def add_block(j: Any, softmaxes: Sequence[Softmax]) -> list[Softmax]:
        part = pl.ds(pl.multiple_of(j * size, size), size)
        bias = bias_of(at["query_labels"][0], at["key_labels"][0, j], window[0])
        return [
            add_keys(
                before,
                scores_of(at["turned"][head], keys_of(head, part), bias),
                v[0, part, lanes(head)],
            )
            for head, before in enumerate(softmaxes)
        ]

    first, end = (jnp.clip(ends[row, block, i] - chunk * blocks, 0, blocks) for i in range(2))
    if "top" not in at:  # all keys are one chunk
        write(jax.lax.fori_loop(first, end, add_block, [start(head) for head in range(heads)]))
        return
    state = Softmax(at["top"], at["total"], at["mixed"])

    @pl.when(chunk == 0)
    def _():
        for head in range(heads):
            for ref, value in zip(state, start(head), strict=True):
                ref[head] = value

    @pl.when(first < end)
    def _():
        softmaxes = [Softmax(*(ref[head] for ref in state)) for head in range(heads)]
        for head, softmax in enumerate(jax.lax.fori_loop(first, end, add_block, softmaxes)):
            for ref, value in zip(state, softmax, strict=True):
                ref[head] = value

    @pl.when(chunk == chunks - 1)
    def _():
        write([Softmax(*(ref[head] for ref in state)) for head in range(heads)])


def bias_of(queries: Int[Array, "Q F"], keys: Int[Array, "F X"], window: Any) -> Array:
    """Return what is added to scores: 0 where a query sees a key, else a very negative number."""
    query = Labels(*(queries[:, i : i + 1] for i in range(queries.shape[1])))
    key = Labels(*(keys[i : i + 1] for i in range(keys.shape[0])))
    return jnp.where(is_seen(query, key, window), 0.0, MASKED)


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
