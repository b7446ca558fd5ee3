"""The KV cache: blocks of keys and values on the device, and rows that are decoded with them.

Blocks belong to a position of a path, never to a layer: a layer that runs twice has two caches. The
allocator assigns blocks and slots to rows; `decode_tiles` orders a step of them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax.experimental.layout import Layout as ArrayLayout
from jax.experimental.layout import with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.attention import KeysValues
from cola_jax.config import LayerConfig
from cola_jax.execute.layout import Layout
from cola_jax.execute.plan import NONE, Chunk, Step, TileColumns, Tiles, pack_tiles
from cola_jax.execute.schedule import Nodes, PrefixBlocks, most_paths, plan_chunks
from cola_jax.kernels.attention import get, put
from cola_jax.metrics import Cost
from cola_jax.path import STOP

IN_ORDER = ArrayLayout((0, 1, 2, 3))  # in memory as in the shape


@runtime_checkable
class Kept(Protocol):
    """What layers of a kind keep, in blocks: a tuple of arrays [M, ...]."""

    def write(self, kept: Any, block: Int[Array, " R"]) -> "Kept":
        """Write the keys and values, or the state, of each row to blocks."""
        ...


class KVBlocks(NamedTuple):
    """Keys and values of X tokens in each of M blocks, and one for padding.

    Those of prompts are shared by rows, a block for each state of the trie; those of decoded tokens
    are a row's own. Heads come first, so that the keys of a head are contiguous: a CPU attends
    twice as fast.
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

    def write(self, kept: Any, block: jax.Array) -> "NoCache":
        """Keep nothing."""
        return self


NO_CACHE = NoCache()


def kv_block(config: LayerConfig, tokens: int, dtype: DTypeLike) -> KVBlocks:
    """Return the shapes of the keys and values of `tokens` tokens."""
    shape: Any = jax.ShapeDtypeStruct((config.num_kv_heads, tokens, config.head_dim), dtype)
    return KVBlocks(shape, shape)


@dataclasses.dataclass
class DecodeRow:
    """A prompt on a path, and the tokens that it has decoded."""

    question: int
    path: np.ndarray
    slot: int = NONE  # its decode slot
    dispatched: int = 0  # tokens chosen by programs that were dispatched
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprob: list[float] = dataclasses.field(default_factory=list)
    rival: list[float] = dataclasses.field(default_factory=list)
    finish: str = ""


class Pool:
    """Numbers from the first on that are taken and given back."""

    def __init__(self, size: int, first: int = 0):
        self.free = np.arange(first, first + size, dtype=np.int32)

    def take(self, count: int) -> np.ndarray:
        taken = self.free[:count]
        self.free = self.free[count:]
        assert len(taken) == count
        return taken

    def give_back(self, numbers: np.ndarray) -> None:
        self.free = np.concatenate([self.free, numbers])


class Pools:
    """The free blocks of each cache, from 1 on."""

    def __init__(self, sizes: Sequence[int]):
        self.pools = [Pool(size, 1) for size in sizes]

    def take(self, cache: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Take a block of each of these caches."""
        blocks = np.zeros(len(cache), np.int32)
        for number, pool in enumerate(self.pools):
            blocks[cache == number] = pool.take(int((cache == number).sum()))
        return blocks

    def give_back(self, blocks: Int[np.ndarray, " n"], cache: Int[np.ndarray, " n"]) -> None:
        """Give back blocks of these caches."""
        for number, pool in enumerate(self.pools):
            pool.give_back(blocks[cache == number])

    def count_free(self) -> np.ndarray:
        """Count the free blocks of each cache."""
        return np.array([len(pool.free) for pool in self.pools])


class Allocator:
    """Assigns decode slots and KV blocks to rows: for each position, in the cache of its layer.

    Rows of one question whose paths begin alike share the prompt's blocks of that prefix if they
    were admitted together; a block is free again once no row reads it.
    """

    def __init__(self, slots: int, blocks: Sequence[int], positions: int, cache: Sequence[int]):
        """Take the blocks of each cache, beside 0 for padding, and the cache of each layer."""
        self.slots = Pool(slots)
        self.prompt_pools = Pools(blocks)
        self.own_pools = Pools(blocks)
        self.padding_block = 0
        self.padding_slot = slots
        self.cache = np.array(cache)
        self.readers = np.zeros((len(blocks), max(blocks) + 1), np.int32)
        # one more slot for padding
        self.row: list[DecodeRow | None] = [None] * (slots + 1)
        self.length = np.ones(slots + 1, np.int32)
        self.decoded = np.ones(slots + 1, np.int32)
        self.path = np.full((slots + 1, positions), STOP, np.int32)
        self.prompt_block = np.zeros((slots + 1, positions), np.int32)
        self.own_block = np.zeros((slots + 1, positions), np.int32)

    def caches_of(self, layers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the cache of each layer, as `steps_of` numbers them."""
        return self.cache[layers % len(self.cache)]

    def count_fitting(self, waiting: Sequence[DecodeRow]) -> int:
        """Count the rows, from the first on, that fit now even if none shared a block."""
        free = np.minimum(self.prompt_pools.count_free(), self.own_pools.count_free())
        rows = [self.caches_of(row.path) for row in waiting[: len(self.slots.free)]]
        counts = np.array([np.bincount(row, minlength=len(free)) for row in rows], int)
        needed = counts.reshape(-1, len(free)).cumsum(axis=0)
        return int((needed <= free).all(axis=1).sum())

    def admit(
        self,
        rows: Sequence[DecodeRow],
        lengths: np.ndarray,
        states: int,
        layout: Layout,
        prefix: PrefixBlocks | None = None,
    ) -> tuple[list[Chunk], Cost]:
        """Assign slots and blocks to rows, and plan their prefill.

        Args:
          lengths: [B], tokens of the prompts.
          states: S.
          prefix: the blocks of the prefix that the prompts continue.
        """
        table = np.zeros((len(rows), 1 + max(len(row.path) for row in rows)), np.uint16)
        for i, row in enumerate(rows):
            table[i, 0] = row.question
            table[i, 1 : 1 + len(row.path)] = row.path + 1
        nodes = Nodes(table)
        block = np.full(len(nodes.slot) + 1, self.padding_block, np.int32)
        inner = np.flatnonzero(nodes.depth > 0)
        block[inner] = self.prompt_pools.take(self.caches_of(nodes.layer[inner]))
        for i, number in enumerate(nodes.order):
            row = rows[number]
            prompt_blocks = block[nodes.grid[i, 1 : 1 + len(row.path)]]
            self.assign(row, prompt_blocks, int(lengths[row.question]))
        nodes.blocks["block"] = block
        every = np.arange(len(rows))
        if prefix is not None:
            nodes.blocks["prompt_block"] = prefix.of_nodes(nodes, every)
        outputs = np.array([*(row.slot for row in rows), self.padding_slot], np.int32)
        chunk_size = most_paths(states, layout.rows)
        return plan_chunks(nodes, every, chunk_size, states, layout, outputs)

    def assign(self, row: DecodeRow, prompt_blocks: np.ndarray, length: int) -> None:
        """Give a row a decode slot, and blocks for each position of its path."""
        size = len(row.path)
        cache = self.caches_of(row.path)
        row.slot = slot = int(self.slots.take(1)[0])
        self.readers[cache, prompt_blocks] += 1
        self.row[slot] = row
        self.length[slot] = length
        self.decoded[slot] = 0
        self.path[slot] = STOP
        self.path[slot, :size] = row.path
        self.prompt_block[slot] = self.own_block[slot] = self.padding_block
        self.prompt_block[slot, :size] = prompt_blocks
        self.own_block[slot, :size] = self.own_pools.take(cache)

    def release(self, row: DecodeRow) -> None:
        """Free the slot of a row, its own blocks, and those of its prompt that no row reads."""
        slot = row.slot
        size = len(row.path)
        cache = self.caches_of(row.path)
        prompt_blocks = self.prompt_block[slot, :size]
        self.readers[cache, prompt_blocks] -= 1
        unread = self.readers[cache, prompt_blocks] == 0
        self.prompt_pools.give_back(prompt_blocks[unread], cache[unread])
        self.own_pools.give_back(self.own_block[slot, :size].copy(), cache)
        self.slots.give_back(np.array([slot], np.int32))
        self.row[slot] = None
        self.path[slot] = STOP


def decode_tiles(
    paths: np.ndarray,
    slots: np.ndarray,
    blocks: np.ndarray,
    prompt_blocks: np.ndarray,
    layout: Layout,
) -> Tiles:
    """Order one decode step of rows on their own paths, in tiles that run the same layer.

    Args:
      paths: [W, P] of all decode slots, padded with STOP; the last slot is for padding.
      slots: the decode slots [n] of the rows that take the step.
      blocks, prompt_blocks: [W, P], the KV blocks of each path position.
      layout: of one token a row.

    Reading a layer's weights is most of what a step costs, so layers should be visited as seldom
    as possible: a shortest common supersequence of the paths. The layer whose waiting rows have
    most layers still to run, all of them together, goes next (weighted majority merge), so that
    rows without a repeat wait for those with one. The layers left are squared, since that gave 5 %
    fewer tiles.
    """
    padded = np.concatenate([paths[slots], np.full((len(slots), 1), STOP)], axis=1)
    left = (padded != STOP).sum(axis=1)
    position = np.zeros(len(slots), np.int32)  # that each row runs next
    steps = []
    while left.any():
        wanted = padded[np.arange(len(slots)), position]
        waiting = left > 0
        layer = int(np.bincount(wanted[waiting], weights=left[waiting] ** 2).argmax())
        rows = np.flatnonzero(wanted == layer)
        slot = slots[rows]
        place = position[rows]
        columns = TileColumns(
            layer,
            slot,
            slot,
            slot,
            length=1,
            block=blocks[slot, place],
            prompt_block=prompt_blocks[slot, place],
        )
        ends = [*range(layout.rows, len(rows), layout.rows), len(rows)]
        steps.append(Step(columns, ends, [0] * len(ends)))
        position[rows] += 1
        left[rows] -= 1
    slot = len(paths) - 1
    block = int(blocks[-1, 0])
    padding = TileColumns(0, slot, slot, slot, block=block, prompt_block=block)
    return pack_tiles(steps, layout, padding)
