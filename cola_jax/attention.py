"""Attention: which tokens a token sees, and the softmax over them, whole or by blocks of keys."""

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cola_jax.prompts import PADDING, PROMPT

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # finite: a row of nothing else gives no NaN
MOST_PAIRS = 2**20  # queries x keys of a row whose scores are held whole, for every head
QUERY_BLOCK = 256
KEY_BLOCK = 512
FUSED_QUERIES = 1024  # of a call of cuDNN, whose mask has 2 bytes for each pair

KeysValues = tuple[Array, Array]


class Labels(NamedTuple):
    """What decides whether a token sees another; tokens may be of several prompts."""

    row: Int[Array, "*R T"]  # the prompt of each token
    order: Int[Array, "*R T"]  # of the tokens of a tile: none sees a later one
    branch: Int[Array, "*R T"]
    position: Int[Array, "*R T"]

    def part(self, start: Int[Array, ""], size: int) -> "Labels":
        """Take `size` tokens from one on."""
        return Labels(*(jax.lax.dynamic_slice_in_dim(x, start, size, axis=1) for x in self))

    def padded(self, tokens: int) -> "Labels":
        """Append tokens that no token sees, which follow all others, up to so many."""
        after = ((0, 0), (0, tokens - self.order.shape[1]))
        last = jnp.iinfo(self.order.dtype).max
        values = {"row": PADDING, "order": last, "branch": PADDING, "position": 0}
        return Labels(
            **{
                name: jnp.pad(getattr(self, name), after, constant_values=value)
                for name, value in values.items()
            }
        )


class Seen(NamedTuple):
    """Which keys each query sees: those of its own prompt, up to itself, and of its branch.

    A query sees a key of the same row that is not after it in order, whose branch is the
    prompt's or its own, and whose position is less than a window away. A mask of all pairs is made
    of parts of them alone, where there are many:

        row        0 0 0 0 1 1 1        keys     0 0 0 0 1 1 1
        branch     0 0 1 2 0 0 1        queries  0 x
        order      0 1 2 3 4 5 6                 0 x x
                                                 0 x x x
                                                 0 x x . x
                                                 1         x
                                                 1         x x
                                                 1         x x x
    """

    queries: Labels  # [R, Q]
    keys: Labels  # [R, T]
    window: Int[Array, ""] | None = None  # of the layer; None where no layer has one

    @property
    def pairs(self) -> int:
        """The number of queries times that of keys."""
        return self.queries.order.shape[1] * self.keys.order.shape[1]

    def mask(self) -> Bool[Array, "R Q T"]:
        """Return whether each query sees each key."""
        query = Labels(*(x[:, :, None] for x in self.queries))
        key = Labels(*(x[:, None, :] for x in self.keys))
        return is_seen(query, key, self.window)

    def part(self, queries: tuple[Array, int], keys: tuple[Array, int] | None = None) -> "Seen":
        """Take a part, (start, size), of the queries, and of the keys."""
        every = self.keys if keys is None else self.keys.part(*keys)
        return Seen(self.queries.part(*queries), every, self.window)

    def padded(self, query_block: int, key_block: int) -> "Seen":
        """Append queries and keys that fill blocks of these sizes."""
        queries, keys = (
            labels.padded(-(-labels.order.shape[1] // size) * size)
            for labels, size in ((self.queries, query_block), (self.keys, key_block))
        )
        return Seen(queries, keys, self.window)

    def blocks(self, query_block: int, key_block: int) -> Bool[Array, "R q k"]:
        """Return False for pairs of blocks of which bounds show that no query sees any key."""

        def bounds(labels: Labels, size: int) -> tuple[Labels, Labels]:
            cut = [x.reshape(len(x), -1, size) for x in labels]
            return Labels(*(x.min(2) for x in cut)), Labels(*(x.max(2) for x in cut))

        lowest, highest = (
            Labels(*(x[:, :, None] for x in each)) for each in bounds(self.queries, query_block)
        )
        low, high = (
            Labels(*(x[:, None, :] for x in each)) for each in bounds(self.keys, key_block)
        )
        pairs = low.order <= highest.order
        pairs &= (low.row <= highest.row) & (high.row >= lowest.row)
        if self.window is not None:
            pairs &= lowest.position - high.position < self.window
        return pairs

    def any_of(self, flags: Bool[Array, "R T"]) -> Bool[Array, "R Q"]:
        """Return whether each query sees a key with a flag; there is seldom any."""
        size = self.queries.order.shape[1] if self.pairs <= MOST_PAIRS else QUERY_BLOCK
        seen = self.padded(size, 1)

        def of_block(i: Array) -> Array:
            return jnp.any(seen.part((i * size, size)).mask() & flags[:, None], axis=2)

        def compare() -> Array:
            steps = seen.queries.order.shape[1] // size
            blocks = jax.lax.map(of_block, jnp.arange(steps))
            reads = self.queries.order.shape[1]
            return jnp.moveaxis(blocks, 0, 1).reshape(len(flags), -1)[:, :reads]

        def compare_if_any() -> Array:
            nothing = jnp.zeros(self.queries.order.shape, bool)
            return jax.lax.cond(jnp.any(flags), compare, lambda: nothing)

        if self.pairs <= MOST_PAIRS:
            return of_block(jnp.int32(0))
        return jax.lax.platform_dependent(cuda=compare, default=compare_if_any)

    def after(self, prefix: int) -> "Seen":
        """Put the tokens of a prefix, which all tokens of a row continue, in front of the keys.

        Their positions are 0 to `prefix` - 1.
        """
        place = jnp.broadcast_to(jnp.arange(prefix), (len(self.keys.row), prefix))
        row = jnp.broadcast_to(self.keys.row[:, :1], place.shape)
        before = Labels(row, place - prefix, jnp.full_like(place, PROMPT), place)
        pairs = zip(before, self.keys, strict=True)
        keys = Labels(*(jnp.concatenate(pair, axis=1) for pair in pairs))
        return self._replace(keys=keys)


def is_seen(query: Labels, key: Labels, window: Array | None) -> Bool[Array, "*X"]:
    """Return whether a query sees a key, of labels of any shapes."""
    mask = (key.row == query.row) & (key.order <= query.order)
    mask &= (key.branch == PROMPT) | (key.branch == query.branch)
    if window is not None:
        mask &= query.position - key.position < window
    return mask


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    seen: Seen,
    kernel: Literal["cudnn"] | None = None,
    softcap: float | None = None,
    sinks: Float[Array, " N"] | None = None,
) -> Float[Array, "B T N H"]:
    """Attend in groups of queries that share a key: whole, or by blocks where prompts are long."""
    if kernel is not None:
        return attend_fused(q, k, v, seen, kernel)
    heads_first = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
    return attend_to_parts(q, [heads_first], seen, softcap, sinks)


def attend_fused(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B S K H"],
    v: Float[Array, "B S K H"],
    seen: Seen,
    kernel: Literal["cudnn"],
) -> Float[Array, "B T N H"]:
    """Attend by a kernel that takes a mask of all pairs; of long prompts, some queries a call."""
    reads = q.shape[1]
    size = reads if seen.pairs <= MOST_PAIRS else FUSED_QUERIES
    steps = -(-reads // size)
    seen = seen.padded(size, 1)
    q = pad_axis(q, 1, size)

    def run(i: Array) -> Array:
        part = jax.lax.dynamic_slice_in_dim(q, i * size, size, axis=1)
        mask = seen.part((i * size, size)).mask()
        return jax.nn.dot_product_attention(part, k, v, mask=mask[:, None], implementation=kernel)

    if steps == 1:
        return run(jnp.int32(0))
    mixed = jax.lax.map(jax.checkpoint(run), jnp.arange(steps))
    return jnp.moveaxis(mixed, 0, 1).reshape(q.shape)[:, :reads]


def attend_to_parts(
    q: Float[Array, "R T N H"],
    parts: Sequence[KeysValues],
    seen: Seen,
    softcap: float | None = None,
    sinks: Float[Array, " N"] | None = None,
) -> Float[Array, "R T N H"]:
    """Attend to parts [R, K, X, H] of the keys and values, as `attend` to all of them."""
    if seen.pairs <= MOST_PAIRS:
        return attend_whole(q, parts, seen.mask(), softcap, sinks)
    k, v = (jnp.concatenate(parts, axis=2) for parts in zip(*parts, strict=True))
    return attend_by_blocks(q, k, v, seen, softcap, sinks)


def attend_whole(
    q: Float[Array, "R T N H"],
    parts: Sequence[KeysValues],
    mask: Bool[Array, "R T S"],
    softcap: float | None = None,
    sinks: Float[Array, " N"] | None = None,
) -> Float[Array, "R T N H"]:
    """Attend with the scores of all pairs at once; softmax in float32.

    A softcap bends scores before the mask. Each head's sink is one more score, as if of a token
    with a value of zero. The parts stay where they are: joining them would copy all keys and
    values.
    """

    def attend(q: Array, parts: Sequence[KeysValues]) -> Array:
        return weigh_values(q, parts, mask, softcap, sinks)

    def in_float32(q: Array, parts: Sequence[KeysValues]) -> Array:
        # a CPU rounds each operation on bfloat16 by several of its own
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), (q, parts))
        return attend(*wide).astype(q.dtype)

    return jax.lax.platform_dependent(q, list(parts), cpu=in_float32, default=attend)


def weigh_values(
    q: Float[Array, "R T N H"],
    parts: Sequence[KeysValues],
    mask: Bool[Array, "R T S"],
    softcap: float | None,
    sinks: Float[Array, " N"] | None,
) -> Float[Array, "R T N H"]:
    """Attend as `attend_whole`: the heads that share a key are one product, shares come last."""
    rows, tokens, heads, width = q.shape
    groups = parts[0][0].shape[1]
    scaled = (q * width**-0.5).reshape(rows, tokens, groups, -1, width)
    scaled = scaled.transpose(0, 2, 3, 1, 4).reshape(rows, groups, -1, width)
    joined = jnp.concatenate(
        [
            jnp.einsum("rkth,rkxh->rktx", scaled, k, preferred_element_type=jnp.float32)
            for k, _ in parts
        ],
        axis=-1,
    )
    scores = bend(joined.reshape(rows, groups, -1, tokens, joined.shape[-1]), softcap)
    scores = jnp.where(mask[:, None, None], scores, MASKED)
    top = jnp.max(scores, axis=-1, keepdims=True)
    if sinks is None:
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
    else:
        column = sinks.astype(scores.dtype).reshape(groups, -1, 1, 1)
        top = jnp.maximum(top, column)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True) + jnp.exp(column - top)
    weights = weights.reshape(joined.shape).astype(q.dtype)
    ends = list(itertools.accumulate(k.shape[2] for k, _ in parts[:-1]))
    mixed = sum(
        jnp.einsum("rktx,rkxh->rkth", share, v, preferred_element_type=jnp.float32)
        for share, (_, v) in zip(jnp.split(weights, ends, axis=-1), parts, strict=True)
    )
    mixed = jnp.asarray(mixed).reshape(*scores.shape[:-1], -1) / total
    return mixed.transpose(0, 3, 1, 2, 4).reshape(rows, tokens, heads, -1).astype(q.dtype)


class Softmax(NamedTuple):
    """A softmax over the keys of some blocks, and the values that it mixes; in float32."""

    top: Float[Array, "R K G Q"]  # the highest score
    total: Float[Array, "R K G Q"]  # of exp(score - top)
    mixed: Float[Array, "R K G Q H"]  # the sum of exp(score - top) value

    def add(self, scores: Float[Array, "R K G Q X"], v: Float[Array, "R K X H"]) -> "Softmax":
        """Add a block of keys."""
        top = jnp.maximum(self.top, scores.max(-1))
        earlier = jnp.exp(self.top - top)
        weights = jnp.exp(scores - top[..., None])
        mixed = jnp.einsum(
            "rkgqx,rkxh->rkgqh", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        total = earlier * self.total + weights.sum(-1)
        return Softmax(top, total, earlier[..., None] * self.mixed + mixed)

    def result(self) -> Float[Array, "R K G Q H"]:
        """Return the mixed values, 0 where no key was added."""
        return self.mixed / jnp.where(self.total == 0, 1, self.total)[..., None]


def attend_by_blocks(
    q: Float[Array, "R Q N H"],
    k: Float[Array, "R K T H"],
    v: Float[Array, "R K T H"],
    seen: Seen,
    softcap: float | None = None,
    sinks: Float[Array, " N"] | None = None,
) -> Float[Array, "R Q N H"]:
    """Attend with blocks of queries, each to one block of keys after the other.

    Memory grows with the tokens, not with their square, in gradients as well: the backward pass
    computes the scores of a block of queries once more. Blocks without a pair that is seen are
    left out, but on a GPU, whose host would wait to learn which these are.
    """
    rows, reads, heads, width = q.shape
    groups, tokens = k.shape[1:3]
    query_size = min(QUERY_BLOCK, reads)
    key_size = min(KEY_BLOCK, tokens)
    seen = seen.padded(query_size, key_size)
    q = pad_axis(q, 1, query_size)
    k, v = (pad_axis(x, 2, key_size) for x in (k, v))
    q = q.reshape(rows, -1, query_size, groups, heads // groups, width)
    q = q.transpose(1, 0, 3, 4, 2, 5)  # [blocks, R, K, G, Q, H]
    pairs = jnp.any(seen.blocks(query_size, key_size), axis=0)
    shape = q.shape[1:-1]

    def start() -> Softmax:
        mixed = jnp.zeros((*shape, v.shape[-1]), jnp.float32)
        if sinks is None:
            return Softmax(jnp.full(shape, MASKED), jnp.zeros(shape), mixed)
        column = sinks.astype(jnp.float32).reshape(groups, -1, 1)
        return Softmax(jnp.broadcast_to(column, shape), jnp.ones(shape), mixed)

    @jax.checkpoint
    def attend_block(i: Array, queries: Array) -> Array:
        def step(softmax: Softmax, j: Array) -> tuple[Softmax, None]:
            part = seen.part((i * query_size, query_size), (j * key_size, key_size))

            def add(softmax: Softmax) -> Softmax:
                keys, values = (
                    jax.lax.dynamic_slice_in_dim(x, j * key_size, key_size, axis=2) for x in (k, v)
                )
                scores = jnp.einsum(
                    "rkgqh,rkxh->rkgqx", queries, keys, preferred_element_type=jnp.float32
                )
                scores = bend(scores * width**-0.5, softcap)
                return softmax.add(jnp.where(part.mask()[:, None, None], scores, MASKED), values)

            def add_if_seen(softmax: Softmax) -> Softmax:
                return jax.lax.cond(pairs[i, j], add, lambda softmax: softmax, softmax)

            return jax.lax.platform_dependent(softmax, cuda=add, default=add_if_seen), None

        softmax, _ = jax.lax.scan(step, start(), jnp.arange(pairs.shape[1]))
        return softmax.result().astype(queries.dtype)

    mixed = jax.lax.map(lambda block: attend_block(*block), (jnp.arange(len(q)), q))
    mixed = mixed.transpose(1, 0, 4, 2, 3, 5)  # [R, blocks, Q, K, G, H]
    return mixed.reshape(rows, -1, heads, v.shape[-1])[:, :reads]


def pad_axis(x: Float[Array, "*X"], axis: int, multiple: int) -> Float[Array, "*Y"]:
    """Append zeros to an axis up to a multiple."""
    sides = [(0, 0)] * x.ndim
    sides[axis] = (0, -x.shape[axis] % multiple)
    return jnp.pad(x, sides)


def bend(x: Float[Array, "*X"], softcap: float | None) -> Float[Array, "*X"]:
    """Bend values into -softcap..softcap where there is one, as Gemma 2 does."""
    return x if softcap is None else softcap * jnp.tanh(x / softcap)
