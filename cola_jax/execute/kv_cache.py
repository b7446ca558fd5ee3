"""The KV cache: blocks on the device, one for each state of a trie or position of a path.

A row is one prompt on one path. Keys and values are kept for each *position* of its path, so a
layer that runs twice has two caches: those of the prompt in blocks that rows share, one for each
state of the trie, and those of the decoded tokens in blocks of the row's own.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.kernels.attention import KeysValues
from cola_jax.kernels.buffers import get, put

IN_ORDER = Layout((0, 1, 2, 3))  # in memory as in the shape


class KVBlocks(NamedTuple):
    """Keys and values of X tokens in each of M blocks; the block after the last is for padding.

    Heads come first, so that the keys of a head are contiguous: a CPU attends twice as fast.
    """

    k: Shaped[Array, "M K X H"]
    v: Shaped[Array, "M K X H"]

    def write(self, kept: KeysValues, block: Int[Array, " R"]) -> "KVBlocks":
        """Write keys and values [R, T, K, H] to the beginnings of blocks."""
        # without the constraint, a TPU copies all blocks to the order in which keys are computed
        k, v = (with_layout_constraint(x.transpose(0, 2, 1, 3), IN_ORDER) for x in kept)
        return KVBlocks(k=put(self.k, k, block), v=put(self.v, v, block))

    def take(
        self, block: Int[Array, " R"]
    ) -> tuple[Float[Array, "R K X H"], Float[Array, "R K X H"]]:
        """Take blocks."""
        return get(self.k, block), get(self.v, block)


class NoCache(NamedTuple):
    """Stands for the cache where keys and values are not kept."""

    def write(self, kept: KeysValues, block: jax.Array) -> "NoCache":
        """Keep nothing."""
        return self


@runtime_checkable
class Cache(Protocol):
    """What layers of a kind keep, in blocks: a tuple of arrays [M, ...]."""

    def write(self, kept: Any, block: Int[Array, " R"]) -> "Cache":
        """Write what a layer keeps of each row to blocks."""
        ...
