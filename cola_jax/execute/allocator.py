"""The rows that are decoded, and the allocator that assigns decode slots and KV blocks to them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cola_jax.execute.plan import NONE, Chunk, Cost, Layout, Nodes, Tiles, lexicographic
from cola_jax.execute.schedule import Schedule, decode_tiles, paths_at_once
from cola_jax.execute.trie import PrefixBlocks
from cola_jax.path import STOP


@dataclasses.dataclass
class DecodeRow:
    """A prompt on a path, and what it has decoded."""

    question: int
    path: np.ndarray
    slot: int = NONE  # its decode slot
    asked: int = 0  # tokens chosen by programs that were dispatched
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprob: list[float] = dataclasses.field(default_factory=list)
    rival: list[float] = dataclasses.field(default_factory=list)
    entropy: list[float] = dataclasses.field(default_factory=list)
    certainty: list[float] = dataclasses.field(default_factory=list)
    finish: str = ""


class Pool:
    """Numbers 0..size-1 that are taken and given back."""

    def __init__(self, size: int):
        self.free = np.arange(size, dtype=np.int32)

    def take(self, count: int) -> np.ndarray:
        taken, self.free = self.free[:count], self.free[count:]
        assert len(taken) == count
        return taken

    def give_back(self, some: np.ndarray) -> None:
        self.free = np.concatenate([self.free, some])


class Allocator:
    """Assigns decode slots and KV blocks to rows.

    Rows of one question whose paths begin alike share the prompt's blocks of that prefix if they
    were admitted together; a block is free again once no row reads it.
    """

    def __init__(self, slots: int, blocks: int, positions: int):
        self.slots, self.prompt_pool, self.own_pool = Pool(slots), Pool(blocks), Pool(blocks)
        self.padding_block, self.padding_slot = blocks, slots
        self.readers = np.zeros(blocks + 1, np.int32)
        # one more slot for padding
        self.row: list[DecodeRow | None] = [None] * (slots + 1)
        self.length = np.ones(slots + 1, np.int32)
        self.decoded = np.ones(slots + 1, np.int32)
        self.path = np.full((slots + 1, positions), STOP, np.int32)
        self.prompt_block = np.full((slots + 1, positions), blocks, np.int32)
        self.own_block = np.full((slots + 1, positions), blocks, np.int32)

    def room(self, waiting: Sequence[DecodeRow]) -> int:
        """Counts the rows, from the first on, that fit now even if none shared a block."""
        free = min(len(self.prompt_pool.free), len(self.own_pool.free))
        some = waiting[: len(self.slots.free)]
        needed = np.cumsum([len(row.path) for row in some])
        return int((needed <= free).sum())

    def admit(self, rows: Sequence[DecodeRow], lengths: np.ndarray) -> "Admission":
        """Assigns slots and blocks to rows; `lengths` [B] are the tokens of the prompts."""
        width = max(len(row.path) for row in rows)
        table = np.zeros((len(rows), 1 + width), np.uint16)
        for i, row in enumerate(rows):
            table[i, 0] = row.question
            table[i, 1 : 1 + len(row.path)] = row.path + 1
        order = lexicographic(table)
        nodes = Nodes(table[order])
        block = np.full(len(nodes.slot) + 1, self.padding_block, np.int32)  # the last is padding's
        inner = np.flatnonzero(nodes.depth > 0)
        block[inner] = self.prompt_pool.take(len(inner))
        for i, place in enumerate(order):
            row = rows[place]
            row.slot = int(self.slots.take(1)[0])
            shared = block[nodes.grid[i, 1 : 1 + len(row.path)]]
            self.readers[shared] += 1
            self.fill(row, shared, int(lengths[row.question]))
        slot_of = np.array([rows[place].slot for place in order], np.int32)
        return Admission(nodes, block, slot_of, self.padding_slot)

    def fill(self, row: DecodeRow, shared: np.ndarray, length: int) -> None:
        """Writes what the device must know of a decode slot."""
        slot, size = row.slot, len(row.path)
        self.row[slot] = row
        self.length[slot], self.decoded[slot] = length, 0
        self.path[slot], self.path[slot, :size] = STOP, row.path
        self.prompt_block[slot], self.prompt_block[slot, :size] = self.padding_block, shared
        self.own_block[slot] = self.padding_block
        self.own_block[slot, :size] = self.own_pool.take(size)

    def release(self, row: DecodeRow) -> None:
        """Frees the slot of a row, its own blocks, and those of its prompt that no row reads."""
        slot, size = row.slot, len(row.path)
        shared = self.prompt_block[slot, :size]
        self.readers[shared] -= 1
        self.prompt_pool.give_back(shared[self.readers[shared] == 0])
        self.own_pool.give_back(self.own_block[slot, :size].copy())
        self.slots.give_back(np.array([slot], np.int32))
        self.row[slot], self.path[slot] = None, STOP

    def step_tiles(self, slots: np.ndarray, tile: Layout) -> Tiles:
        """Orders one decode step of these slots."""
        return decode_tiles(self.path, slots, self.own_block, self.prompt_block, tile)


@dataclasses.dataclass
class Admission:
    """Rows that were just assigned slots: the nodes of their paths, and the block of each node."""

    nodes: Nodes
    block: np.ndarray  # of each node, and of padding
    slot_of: np.ndarray  # of each row of the nodes
    padding_slot: int

    def chunks(
        self, slots: int, layout: Layout, prefix: PrefixBlocks | None = None
    ) -> list[tuple[Chunk, Cost]]:
        """Plan the prefill with S slots and tiles of these shapes; `last` writes to decode slots.

        With `prefix`, the blocks of what the prompts continue, tiles name these as well.
        """
        out, every = [], np.arange(len(self.slot_of))
        blocks = {"block": self.block}
        if prefix is not None:
            blocks["prompt_block"] = prefix.of(self.nodes, every)
        most = paths_at_once(slots, layout.rows)
        for start in range(0, len(self.slot_of), most):
            some = every[start : start + most]
            chunk, cost = Schedule(self.nodes, some, slots, layout).chunk()
            tiles, last = (
                each.with_columns(**{name: block[each.state] for name, block in blocks.items()})
                for each in chunk[1:3]
            )
            targets = np.append(self.slot_of[some[chunk.paths]], self.padding_slot)
            last = last.with_columns(target=targets[last.target])
            chunk = chunk._replace(tiles=tiles, last=last, paths=some[chunk.paths])
            out.append((chunk, cost))
        return out
