"""The KV cache: blocks on the device, and how they are written and attended to.

A row is one prompt on one path. Keys and values are kept for each *position* of its path, so a
layer that runs twice has two caches: those of the prompt in blocks that rows share, one for each
state of the trie, and those of the decoded tokens in blocks of the row's own.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float, Int, Shaped

from cola_jax.execute.decode_attention import DecodeKernel, Rows
from cola_jax.execute.device_kernel import MASKED
from cola_jax.execute.memory import as_stored, get, put
from cola_jax.execute.plan import Tiles
from cola_jax.model import Attention, Kernel, attention_over

IN_ORDER = Layout((0, 1, 2, 3))  # in memory as in the shape


class KVBlocks(NamedTuple):
    """Keys and values of X tokens in each of M blocks; the block after the last is for padding.

    Heads come first, so that the keys of a head are contiguous: a CPU attends twice as fast.
    """

    k: Shaped[Array, "M K X H"]
    v: Shaped[Array, "M K X H"]

    def write_prompts(
        self, k: Float[Array, "R T K H"], v: Float[Array, "R T K H"], tile: Tiles
    ) -> "KVBlocks":
        """Writes the keys and values of whole prompts, one block a row."""
        assert tile.block is not None
        # without the constraint, a TPU copies all blocks to the order in which keys are computed
        k, v = (with_layout_constraint(x.transpose(0, 2, 1, 3), IN_ORDER) for x in (k, v))
        return KVBlocks(k=put(self.k, k, tile.block), v=put(self.v, v, tile.block))

    def take(self, block: Int[Array, " R"], tokens: int) -> "KVBlocks":
        """Takes the first tokens of some blocks."""
        part = slice(None), slice(tokens)
        return KVBlocks(k=get(self.k, block, *part), v=get(self.v, block, *part))

    def of_tile(self, tile: Tiles) -> "KVBlocks":
        """Takes the blocks of what the prompts of a tile continue."""
        assert tile.prompt_block is not None
        return self.take(tile.prompt_block, self.k.shape[2])

    def seen_from(
        self, positions: Int[Array, "M T"], window: Int[Array, ""]
    ) -> Bool[Array, "M T X"]:
        """Says which of X tokens, the first of a prompt, those at later positions see."""
        return positions[:, :, None] - jnp.arange(self.k.shape[2]) < window

    def followed_by(
        self, k: Float[Array, "M T K H"], v: Float[Array, "M T K H"]
    ) -> tuple[Float[Array, "M _ K H"], Float[Array, "M _ K H"]]:
        """Puts keys and values in front of those of T more tokens, in the order of these."""
        before = [x.transpose(0, 2, 1, 3).astype(k.dtype) for x in self]
        return jnp.concatenate([before[0], k], axis=1), jnp.concatenate([before[1], v], axis=1)

    def without_stale(self, seen: Bool[Array, "M 1 X"]) -> "KVBlocks":
        """Replaces values that are not seen: left over from others, they may be NaN.

        Their share is zero, but 0 * NaN is NaN.
        """
        return KVBlocks(k=self.k, v=jnp.where(seen[:, :, :, None], self.v, 0))


class Past(NamedTuple):
    """What a decode step attends to, for W decode slots and one more for padding."""

    prompt: KVBlocks | None  # of the prompts; None where only positions are needed
    length: Int[Array | np.ndarray, " W"]  # tokens of its prompt
    decoded: Int[Array | np.ndarray, " W"]  # tokens decoded so far

    def write(
        self,
        cache: KVBlocks,
        k: Float[Array, "R 1 K H"],
        v: Float[Array, "R 1 K H"],
        tile: Tiles,
    ) -> KVBlocks:
        """Writes the keys and values of each row's last token, row by row."""
        block, nth = tile.block, self.decoded[tile.question] - 1
        assert block is not None

        def write(
            buffer: Shaped[Array, "M K X H"], values: Float[Array, "R 1 K H"]
        ) -> Shaped[Array, "M K X H"]:
            values = as_stored(buffer, values)[:, 0]
            return jax.lax.platform_dependent(
                buffer, values, block, nth, cuda=put_tokens_at_once, default=put_tokens_by_rows
            )

        return KVBlocks(k=write(cache.k, k), v=write(cache.v, v))

    def attention(
        self, cache: KVBlocks, tile: Tiles, window: Int[Array, ""], reach: int
    ) -> Attention:
        """Attends to the prompt and to the first `reach` decoded tokens of each row."""
        assert self.prompt is not None
        assert tile.block is not None
        assert tile.prompt_block is not None
        tokens = self.prompt.k.shape[2]
        parts = self.prompt.take(tile.prompt_block, tokens), cache.take(tile.block, reach)
        length, nth = self.length[tile.question], self.decoded[tile.question] - 1
        prompt, decoded = jnp.arange(tokens), jnp.arange(parts[1].k.shape[2])
        now = (length + nth)[:, None]
        in_prompt = (prompt < length[:, None]) & (now - prompt < window)
        in_decoded = (decoded <= nth[:, None]) & (nth[:, None] - decoded < window)
        masks = in_prompt[:, None], in_decoded[:, None]
        finite = [part.without_stale(mask) for part, mask in zip(parts, masks, strict=True)]
        return attention_over_parts(finite, masks)

    def attend(
        self,
        kernel: DecodeKernel,
        cache: KVBlocks,
        tile: Tiles,
        window: Int[Array, ""],
        reach: int,
        qkv: tuple[Float[Array, "R 1 N H"], Float[Array, "R 1 K H"], Float[Array, "R 1 K H"]],
    ) -> tuple[Float[Array, "R 1 N H"], KVBlocks]:
        """Writes each row's last token and attends to it and those before, by a kernel."""
        assert self.prompt is not None
        assert tile.block is not None
        assert tile.prompt_block is not None
        length, decoded = (jnp.asarray(x)[tile.question] for x in (self.length, self.decoded))
        rows = Rows(tile.prompt_block, tile.block, length, decoded - 1, window[None])
        q, *token = qkv
        mixed, k, v = kernel(rows, q, (token[0], token[1]), self.prompt, cache, reach)
        return mixed, KVBlocks(k=k, v=v)


def put_tokens_at_once(buffer: Array, values: Array, block: Array, nth: Array) -> Array:
    """Writes the token of each row [R, K, H] in one operation, as `memory.put_at_once`."""
    return buffer.at[block, :, nth].set(values, mode="promise_in_bounds")


def put_tokens_by_rows(buffer: Array, values: Array, block: Array, nth: Array) -> Array:
    """Writes them row by row, as `memory.put_by_rows`."""
    for row in range(len(values)):
        start = (block[row], 0, nth[row], 0)
        buffer = jax.lax.dynamic_update_slice(buffer, values[row][None, :, None], start)
    return buffer


def attention_after(
    before: KVBlocks,
    seen: Bool[Array, "R T P"],
    k: Float[Array, "R S K H"],
    v: Float[Array, "R S K H"],
    mask: Bool[Array, "R T S"],
    kernel: Kernel,
) -> Attention:
    """Attends to the P tokens of a prefix that are seen, and to S more."""
    if kernel is not None:
        masks = jnp.concatenate([seen, mask], axis=2)
        return attention_over(*before.followed_by(k, v), masks, kernel)
    own = KVBlocks(k=k.transpose(0, 2, 1, 3), v=v.transpose(0, 2, 1, 3))
    return attention_over_parts((before, own), (seen, mask))


def attention_over_parts(
    parts: Sequence[KVBlocks], masks: Sequence[Bool[Array, "R T _"]]
) -> Attention:
    """Attends to parts of what is seen, as `model.attention_over` to all of it.

    The parts stay where they are: joining them would copy all keys and values.
    """

    def attention(q: Float[Array, "R T N H"]) -> Float[Array, "R T N H"]:
        rows, tokens, heads, width = q.shape
        grouped = q.reshape(rows, tokens, parts[0].k.shape[1], -1, width)
        scores = [
            jnp.einsum("rtkgh,rkxh->rkgtx", grouped, part.k, preferred_element_type=jnp.float32)
            for part in parts
        ]
        masked = [
            jnp.where(mask[:, None, None], score * width**-0.5, MASKED)
            for score, mask in zip(scores, masks, strict=True)
        ]
        shares = jax.nn.softmax(jnp.concatenate(masked, axis=-1), axis=-1).astype(q.dtype)
        shares = jnp.split(shares, [parts[0].k.shape[2]], axis=-1)
        mixed = [
            jnp.einsum("rkgtx,rkxh->rtkgh", share, part.v)
            for share, part in zip(shares, parts, strict=True)
        ]
        return jnp.asarray(sum(mixed)).reshape(rows, tokens, heads, width)

    return attention
