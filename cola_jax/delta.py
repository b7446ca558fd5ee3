"""The gated delta rule (arXiv 2412.06464) and Mamba-2: convolutions, and states chunk by chunk.

Each token decays the state of a head, and overwrites what it holds at the token's key, or in
Mamba-2 (arXiv 2405.21060) adds to it. Packed continuations fork from the state at the end of their
prompt: a token's state is made by the tokens that it sees, as in attention.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from cola_jax.prompts import PROMPT

CHUNK = 64  # tokens whose states are made at once, as in transformers
BLOCK = 8  # tokens whose system is inverted whole
EPSILON = 1e-6  # of the lengths of queries and keys
EXACT = jax.lax.Precision.HIGHEST


class Recurrent(NamedTuple):
    """What is carried from token to token: the last W - 1 inputs of convolutions, and the state."""

    q: Float[Array, "R K w H"]
    k: Float[Array, "R K w H"]
    v: Float[Array, "R N w U"]
    state: Float[Array, "R N H U"]


class Tokens(NamedTuple):
    """The tokens of rows: what they write to the state, and how they read it; in float32."""

    q: Float[Array, "R T K H"]
    k: Float[Array, "R T K H"]
    v: Float[Array, "R T N U"]
    decay: Float[Array, "R T N"]  # logarithms
    write: Float[Array, "R T N"] | None  # None: tokens only add


class Predecessors(NamedTuple):
    """Where each token's predecessors are, after the w inputs of earlier tokens."""

    last: Int[Array, "R T W"]  # the token and those before it on its branch, the oldest first
    end: Int[Array, "R w"]  # those at the end of the prompt

    @classmethod
    def of(cls, branch: Int[Array, "R T"], width: int) -> "Predecessors":
        """Find the predecessors for a convolution over `width` tokens."""
        before = width - 1
        end = before - 1 + jnp.sum(branch == PROMPT, axis=1)  # prompts come first
        forks = (branch > PROMPT) & (branch != jnp.pad(branch, ((0, 0), (1, 0)))[:, :-1])
        tokens = before + jnp.arange(branch.shape[1])
        parent = jnp.where(forks, end[:, None], tokens - 1)
        earlier = jnp.maximum(jnp.arange(before) - 1, 0)
        parent = jnp.concatenate([jnp.broadcast_to(earlier, (len(branch), before)), parent], axis=1)

        def ancestors(place: Array, count: int) -> Array:
            found = [place]
            for _ in range(count - 1):
                found.append(jnp.take_along_axis(parent, found[-1], axis=1))
            return jnp.stack(found[::-1], axis=-1)

        every = jnp.broadcast_to(tokens, branch.shape)
        return cls(ancestors(every, width), ancestors(end[:, None], before)[:, 0])


def convolve(
    x: Float[Array, "R T A H"],
    taps: Float[Array, "A H W"],
    bias: Float[Array, "A H"] | None,
    before: Float[Array, "R A w H"],
    predecessors: Predecessors,
) -> tuple[Float[Array, "R T A H"], Float[Array, "R A w H"]]:
    """Convolve each channel over a token and those before it, then SiLU.

    Returns the outputs in float32, and the inputs that the next token after the prompt reads.
    """
    inputs = jnp.concatenate([before.transpose(0, 2, 1, 3).astype(x.dtype), x], axis=1)
    wide = inputs.astype(jnp.float32)
    out = sum(
        take_tokens(wide, predecessors.last[..., i]) * taps[..., i].astype(jnp.float32)
        for i in range(taps.shape[-1])
    )
    out = out if bias is None else out + bias.astype(jnp.float32)
    return jax.nn.silu(jnp.asarray(out)), take_tokens(inputs, predecessors.end).transpose(
        0, 2, 1, 3
    )


def take_tokens(x: Float[Array, "R S *X"], indices: Int[Array, "R T"]) -> Float[Array, "R T *X"]:
    """Take places of each row."""
    return jax.vmap(lambda row, i: row[i])(x, indices)


def unit(x: Float[Array, "*X H"]) -> Float[Array, "*X H"]:
    """Divide by the length of the last axis."""
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + EPSILON)


def gated_delta_rule(
    tokens: Tokens, branch: Int[Array, "R T"], state: Float[Array, "R N H U"]
) -> tuple[Float[Array, "R T N U"], Float[Array, "R N H U"]]:
    """Run the rule from a state; return what each token reads, and the state after the prompt."""
    size = branch.shape[1]
    count = -(-size // CHUNK)
    end = jnp.sum(branch == PROMPT, axis=1) - 1
    if count == 1:
        read, _, ended = run_chunk(tokens, branch, end, state, None)
        return read, jnp.where(end[:, None, None, None] < 0, state, ended)

    def cut(x: Array, fill: int = 0) -> Array:
        padding = [(0, 0), (0, count * CHUNK - size), *[(0, 0)] * (x.ndim - 2)]
        chunks = jnp.pad(x, padding, constant_values=fill)
        return jnp.moveaxis(chunks.reshape(len(x), count, CHUNK, *x.shape[2:]), 1, 0)

    def step(carry: Any, chunk: Any) -> Any:
        now, ended = carry
        tokens, branch, start, begun = chunk
        fresh = (branch > PROMPT) & (branch != begun[:, None]) & (end < start)[:, None]
        read, now, after = run_chunk(tokens, branch, end - start, now, (fresh, ended))
        here = (start <= end) & (end < start + CHUNK)
        return (now, jnp.where(here[:, None, None, None], after, ended)), read

    branches = cut(branch, -1)
    begun = jnp.concatenate([jnp.full_like(branches[:1, :, 0], PROMPT), branches[:-1, :, -1]])
    chunks = jax.tree.map(cut, tokens), branches, CHUNK * jnp.arange(count), begun
    (_, ended), read = jax.lax.scan(step, (state, state), chunks)
    read = jnp.moveaxis(read, 0, 1).reshape(len(branch), count * CHUNK, *tokens.v.shape[2:])
    return read[:, :size], ended


def run_chunk(
    tokens: Tokens,
    branch: Int[Array, "R C"],
    end: Int[Array, " R"],
    state: Float[Array, "R N H U"],
    forked: tuple[Bool[Array, "R C"], Float[Array, "R N H U"]] | None,
) -> tuple[Float[Array, "R C N U"], Float[Array, "R N H U"], Float[Array, "R N H U"]]:
    """Run a chunk: what its tokens read, the state after its last token, and after its `end`.

    Tokens continue from `state`, and those that `forked` marks from the other state in it. What a
    token adds to the state depends on what earlier ones added at its key: a triangular system.
    """
    rows, size, groups, _ = tokens.k.shape

    def by_head(x: Array) -> Array:  # [R, C, N, ...] to [R, K, G, C, ...], G heads of a key
        return jnp.moveaxis(x.reshape(rows, size, groups, -1, *x.shape[3:]), 1, 3)

    q, k = (jnp.moveaxis(x, 1, 2) for x in (tokens.q, tokens.k))  # [R, K, C, H]
    added, decay = map(by_head, (tokens.v, tokens.decay))
    other = branch[:, None, :]
    sees = jnp.tril((other == PROMPT) | (other == branch[:, :, None]))  # [R, C, C]
    passed = einsum("rij,rkgj->rkgi", sees.astype(jnp.float32), decay)
    apart = passed[..., :, None] - passed[..., None, :]
    share = jnp.exp(jnp.where(sees[:, None, None], apart, -jnp.inf))  # left of j's writing at i

    def read(x: Array) -> Array:  # of the states that tokens continue from
        def of_state(state: Array) -> Array:
            by_key = state.reshape(rows, groups, -1, *state.shape[2:])
            return einsum("rkch,rkghu->rkgcu", x, by_key)

        values = of_state(state)
        if forked is not None:
            marks = forked[0][:, None, None, :, None]
            values = jnp.where(marks, of_state(forked[1]), values)
        return jnp.exp(passed)[..., None] * values

    if tokens.write is not None:
        write = by_head(tokens.write)[..., None]
        system = write * einsum("rkih,rkjh->rkij", k, k)[:, :, None] * share
        added = solve(system, write * (added - read(k)))
    near = einsum("rkih,rkjh->rkij", q, k)[:, :, None] * share
    mixed = read(q) + einsum("rkgij,rkgju->rkgiu", near, added)

    def after(place: Int[Array, " R"]) -> Array:
        place = jnp.clip(place, 0, size - 1)[:, None, None, None]
        kept = jnp.take_along_axis(share, place[..., None], axis=3)[..., 0, :]  # [R, K, G, C]
        old = jnp.exp(jnp.take_along_axis(passed, place, axis=3))
        start = state
        if forked is not None:
            mark = jnp.take_along_axis(forked[0], place[:, 0, 0], axis=1)
            start = jnp.where(mark[..., None, None], forked[1], state)
        new = einsum("rkgj,rkjh,rkgju->rkghu", kept, k, added)
        return old.reshape(rows, -1, 1, 1) * start + new.reshape(state.shape)

    mixed = jnp.moveaxis(mixed, 3, 1).reshape(tokens.v.shape)
    return mixed, after(jnp.full_like(end, size - 1)), after(end)


def solve(system: Float[Array, "*R C C"], wanted: Float[Array, "*R C U"]) -> Array:
    """Solve (I + A) X = B for A the part of a system below its diagonal, block by block.

    XLA's own solver takes twice as long on a quiet CPU (72 tokens, 18 heads), and 30 to 200 times
    as long where its threads wait for those of other programs.
    """
    size = system.shape[-1]
    if size == 1:
        return wanted
    whole = [(0, 0)] * (system.ndim - 2)
    padded = (0, -size % BLOCK)
    system = jnp.tril(jnp.pad(system, [*whole, padded, padded]), -1)
    wanted = jnp.pad(wanted, [*whole, padded, (0, 0)])
    ends = range(BLOCK, system.shape[-1] + 1, BLOCK)
    inverse = invert(jnp.stack([system[..., n - BLOCK : n, n - BLOCK : n] for n in ends], axis=-3))
    found = jnp.zeros_like(wanted[..., :0, :])
    for i, end in enumerate(ends):
        start = end - BLOCK
        earlier = matmul(system[..., start:end, :start], found)
        new = matmul(inverse[..., i, :, :], wanted[..., start:end, :] - earlier)
        found = jnp.concatenate([found, new], axis=-2)
    return found[..., :size, :]


def invert(blocks: Float[Array, "*R C C"]) -> Float[Array, "*R C C"]:
    """Invert I + A for blocks A below the diagonal: that of halves gives that of the whole.

    Four tokens are few enough for a series, whose terms would lose bits for more.
    """
    if blocks.shape[-1] == 4:
        square = matmul(blocks, blocks)
        return jnp.eye(4) - blocks + square - matmul(square, blocks)
    half = blocks.shape[-1] // 2
    first = invert(blocks[..., :half, :half])
    second = invert(blocks[..., half:, half:])
    corner = -matmul(second, matmul(blocks[..., half:, :half], first))
    upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=-1)
    return jnp.concatenate([upper, jnp.concatenate([corner, second], axis=-1)], axis=-2)


def matmul(x: Array, y: Array) -> Array:
    """Multiply matrices in float32."""
    return jnp.matmul(x, y, precision=EXACT)


def einsum(axes: str, *arrays: Array) -> Array:
    """Multiply in float32: what tokens add is a difference, in which lost bits show."""
    return jnp.einsum(axes, *arrays, precision=EXACT)


def zeros(rows: int, shapes: Recurrent) -> Recurrent:
    """Return the states before the first token, for the shapes of one row."""
    return Recurrent(*(jnp.zeros((rows, *shape), jnp.float32) for shape in shapes))
