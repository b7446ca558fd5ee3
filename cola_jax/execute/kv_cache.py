"""The KV cache: keys and values on the device, in pages, and rows that are decoded with them.

A block has the keys and values at a position of a path, never those of a layer: a layer that runs
twice has two. It takes a page after the other as its tokens need them, so that a short text does
not take the memory of a long one:

    row  position  layer   block of its prompt, pages   block of its text, pages
     0      0        0               1     [3, 4]              1     [1, 7]
            1        1               2     [5, 6]              2     [2, 8]
     1      0        0               1     [3, 4]              5     [9]
            1        2               3     [7, 9]              6     [5]

Rows of a question whose paths begin alike share the prompt's blocks of that prefix. The allocator
assigns slots, blocks and pages to rows; `decode_tiles` orders a step of them.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout as ArrayLayout
from jax.experimental.layout import with_layout_constraint
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Shaped

from cola_jax.attention import KeysValues
from cola_jax.config import LayerConfig
from cola_jax.execute.layout import Layout
from cola_jax.execute.memory import DecodeSizes, PageSizes
from cola_jax.execute.plan import NONE, Chunk, StepRows, TileColumns, Tiles, pack_tiles
from cola_jax.execute.schedule import Nodes, PrefixBlocks, most_paths, plan_chunks
from cola_jax.kernels.attention import get, put
from cola_jax.metrics import Cost
from cola_jax.path import STOP
from cola_jax.steps import MLP, layer_of, part_of

IN_ORDER = ArrayLayout((0, 1, 2, 3))  # in memory as in the shape


@runtime_checkable
class Kept(Protocol):
    """What layers of a kind keep, in pages: a tuple of arrays [M, ...]."""

    def write(self, kept: Any, pages: Int[Array, "R n"]) -> "Kept":
        """Write the keys and values, or the state, of each row to its pages."""
        ...


class KVBlocks(NamedTuple):
    """Keys and values of X tokens in each of M pages, one of which is for padding.

    Heads come first, so that the keys of a head are contiguous: a CPU attends twice as fast.
    """

    k: Shaped[Array, "M K X H"]
    v: Shaped[Array, "M K X H"]

    def write(self, kept: KeysValues, pages: Int[Array, "R n"]) -> "KVBlocks":
        """Write keys and values [R, T, K, H] to the beginnings of the pages of rows."""
        size = self.k.shape[2]
        count = -(-kept[0].shape[1] // size)

        def paged(x: Array) -> Array:
            rows, tokens, heads, width = x.shape
            if count > 1:
                x = jnp.pad(x, ((0, 0), (0, count * size - tokens), (0, 0), (0, 0)))
                x = x.reshape(rows * count, size, heads, width)
            # without the constraint, a TPU copies all pages to the order in which keys are computed
            return with_layout_constraint(x.transpose(0, 2, 1, 3), IN_ORDER)

        k, v = map(paged, kept)
        page = pages[:, :count].reshape(-1)
        return KVBlocks(k=put(self.k, k, page), v=put(self.v, v, page))

    def take(
        self, page: Int[Array, " R"]
    ) -> tuple[Float[Array, "R K X H"], Float[Array, "R K X H"]]:
        """Take pages."""
        return get(self.k, page), get(self.v, page)


class NoCache(NamedTuple):
    """Stands for the cache where keys and values are not kept."""

    def write(self, kept: Any, pages: jax.Array) -> "NoCache":
        """Keep nothing."""
        return self


NO_CACHE = NoCache()


def kv_page(config: LayerConfig, tokens: int, dtype: DTypeLike) -> KVBlocks:
    """Return the shapes of the keys and values of `tokens` tokens."""
    shape: Any = jax.ShapeDtypeStruct((config.num_kv_heads, tokens, config.head_dim), dtype)
    return KVBlocks(shape, shape)


@dataclasses.dataclass
class DecodeRow:
    """A prompt on a path, and the tokens that it has decoded."""

    question: int
    path: np.ndarray
    candidate: int = 0  # the number of its path among those of the question
    slot: int = NONE  # its decode slot
    dispatched: int = 0  # tokens chosen by programs that were dispatched
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprob: list[float] = dataclasses.field(default_factory=list)
    rival: list[float] = dataclasses.field(default_factory=list)
    finish: str = ""

    def restart(self) -> None:
        """Forget what was decoded."""
        self.dispatched = 0
        self.tokens = []
        self.logprob = []
        self.rival = []


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


class PageTable:
    """The pages of blocks: each is of the cache of a layer, whose pages are numbered from 1 on.

    Page 0 of a cache, and block 0, are for padding. Blocks of a recurrence have a single page,
    which holds what is carried from token to token.
    """

    def __init__(self, sizes: PageSizes, blocks: int, grows: Sequence[bool]):
        """Take whether the blocks of each cache grow with the tokens."""
        self.pools = [Pool(size, 1) for size in sizes.pages]
        self.page = sizes.tokens
        self.grows = np.array(grows)
        self.table = np.zeros((blocks + 1, sizes.most), np.int32)
        self.count = np.zeros(blocks + 1, np.int32)  # pages of each block
        self.changed = True  # since it was last copied to the devices

    def needed(self, cache: Int[np.ndarray, " n"], tokens: Any) -> Int[np.ndarray, " n"]:
        """Count the pages of a block of each of these caches after so many tokens; 0 of NONE."""
        pages = np.where(self.grows[cache], -(-np.asarray(tokens) // self.page), 1)
        return np.where(cache == NONE, 0, pages)

    def count_by_cache(
        self, cache: Int[np.ndarray, " n"], pages: Int[np.ndarray, " n"]
    ) -> Int[np.ndarray, " c"]:
        """Add up pages by their caches."""
        own = cache != NONE
        return np.bincount(cache[own], weights=pages[own], minlength=len(self.pools)).astype(int)

    def count_free(self) -> Int[np.ndarray, " c"]:
        """Count the free pages of each cache."""
        return np.array([len(pool.free) for pool in self.pools])

    def extend(
        self,
        blocks: Int[np.ndarray, " n"],
        cache: Int[np.ndarray, " n"],
        pages: Int[np.ndarray, " n"],
    ) -> None:
        """Give blocks of these caches so many pages in all; they must be free."""
        block, place, of = self.places(blocks, cache, self.count[blocks], pages)
        for number, pool in enumerate(self.pools):
            here = of == number
            self.table[block[here], place[here]] = pool.take(int(here.sum()))
        self.count[blocks] = pages
        self.changed |= bool(len(block))

    def release(self, blocks: Int[np.ndarray, " n"], cache: Int[np.ndarray, " n"]) -> None:
        """Take the pages of blocks back."""
        block, place, of = self.places(blocks, cache, np.zeros_like(blocks), self.count[blocks])
        for number, pool in enumerate(self.pools):
            here = of == number
            pool.give_back(self.table[block[here], place[here]])
        self.table[blocks] = 0
        self.count[blocks] = 0
        self.changed = True

    def places(
        self, blocks: np.ndarray, cache: np.ndarray, first: np.ndarray, end: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """List the block, the place and the cache of pages `first` to `end` - 1 of blocks."""
        counts = end - first
        start = np.cumsum(counts) - counts
        place = np.arange(counts.sum()) - np.repeat(start - first, counts)
        return np.repeat(blocks, counts), place, np.repeat(cache, counts)


class Allocator:
    """Assigns decode slots, blocks and their pages to rows, at each position of their paths.

    Rows of one question whose paths begin alike share the prompt's blocks of that prefix if they
    were admitted together; a block is free again once no row reads it. The block of a row's text at
    a position is that of its slot, and takes a page after the other.
    """

    def __init__(self, sizes: DecodeSizes, cache: Sequence[int], grows: Sequence[bool]):
        """Take the cache of each layer, and whether its blocks grow with the tokens."""
        slots = sizes.decode_slots
        blocks = slots * sizes.positions
        self.slots = Pool(slots)
        self.prompt_blocks = Pool(blocks, 1)
        self.prompts = PageTable(sizes.prompts, blocks, grows)
        self.texts = PageTable(sizes.texts, blocks, grows)
        self.padding_slot = slots
        self.cache = np.array(cache)
        self.readers = np.zeros(blocks + 1, np.int32)
        # one more slot for padding
        self.row: list[DecodeRow | None] = [None] * (slots + 1)
        self.length = np.ones(slots + 1, np.int32)
        self.decoded = np.ones(slots + 1, np.int32)
        self.path = np.full((slots + 1, sizes.positions), STOP, np.int32)
        self.prompt_block = np.zeros((slots + 1, sizes.positions), np.int32)
        self.text_block = np.zeros((slots + 1, sizes.positions), np.int32)
        self.text_block[:slots] = 1 + np.arange(blocks).reshape(slots, -1)

    @property
    def live(self) -> list[DecodeRow]:
        """The rows that have a slot."""
        return [row for row in self.row if row is not None]

    def caches_of(self, steps: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Return the cache of each step; NONE of an MLP alone, which keeps no keys and values."""
        return np.where(part_of(steps) == MLP, NONE, self.cache[layer_of(steps)])

    def count_pages(self, path: np.ndarray, table: PageTable, tokens: int) -> np.ndarray:
        """Count the pages of each cache that a row on a path has after so many tokens."""
        cache = self.caches_of(path)
        return table.count_by_cache(cache, table.needed(cache, tokens))

    def count_fitting(self, waiting: Sequence[DecodeRow], lengths: Sequence[int]) -> int:
        """Count the rows, from the first on, that fit now even if none shared a block.

        `lengths` are the tokens of their prompts. Beside the first page of each text, the next is
        left free: a row that took the last page would soon be preempted.
        """
        first = 1
        second = min(1 + self.texts.page, self.texts.page * self.texts.table.shape[1])
        free = np.stack([self.prompts.count_free(), self.texts.count_free()])
        for row in self.live:
            free[1] -= self.count_pages(row.path, self.texts, second)
            free[1] += self.count_pages(row.path, self.texts, first)
        count = 0
        for row, length in zip(waiting[: len(self.slots.free)], lengths, strict=False):
            free[0] -= self.count_pages(row.path, self.prompts, length)
            free[1] -= self.count_pages(row.path, self.texts, second)
            if (free < 0).any():
                return count
            count += 1
        return count

    def admit(
        self,
        rows: Sequence[DecodeRow],
        questions: Int[np.ndarray, " n"],
        lengths: np.ndarray,
        states: int,
        layout: Layout,
        prefix: PrefixBlocks | None = None,
    ) -> tuple[list[Chunk], Cost]:
        """Assign slots, blocks and pages to rows, and plan their prefill.

        Args:
          questions: of the rows, among those of the layout.
          lengths: [B], tokens of their prompts.
          states: S.
          prefix: the blocks of the prefix that the prompts continue.
        """
        table = np.zeros((len(rows), 1 + max(len(row.path) for row in rows)), np.uint32)
        table[:, 0] = questions
        for i, row in enumerate(rows):
            table[i, 1 : 1 + len(row.path)] = row.path + 1
        nodes = Nodes(table)
        block = np.zeros(len(nodes.slot) + 1, np.int32)
        inner = np.flatnonzero(nodes.depth > 0)
        block[inner] = self.prompt_blocks.take(len(inner))
        cache = self.caches_of(nodes.step[inner])
        pages = self.prompts.needed(cache, lengths[nodes.question[inner]])
        self.prompts.extend(block[inner], cache, pages)
        for i, number in enumerate(nodes.order):
            row = rows[number]
            prompt_blocks = block[nodes.grid[i, 1 : 1 + len(row.path)]]
            self.assign(row, prompt_blocks, int(lengths[questions[number]]))
        nodes.blocks["block"] = block
        every = np.arange(len(rows))
        if prefix is not None:
            nodes.blocks["prompt_block"] = prefix.of_nodes(nodes, every)
        outputs = np.array([*(row.slot for row in rows), self.padding_slot], np.int32)
        chunk_size = most_paths(states, layout.rows)
        return plan_chunks(nodes, every, chunk_size, states, layout, outputs)

    def assign(self, row: DecodeRow, prompt_blocks: np.ndarray, length: int) -> None:
        """Give a row a decode slot, and the blocks of each position of its path."""
        size = len(row.path)
        row.slot = slot = int(self.slots.take(1)[0])
        self.readers[prompt_blocks] += 1
        self.row[slot] = row
        self.length[slot] = length
        self.decoded[slot] = 0
        self.path[slot, :size] = row.path
        self.prompt_block[slot, :size] = prompt_blocks
        cache = self.caches_of(row.path)
        self.texts.extend(self.text_block[slot, :size], cache, self.texts.needed(cache, 1))

    def grow(self, rows: Sequence[DecodeRow]) -> bool:
        """Give rows the pages of their next token; False, and none, where too few are free."""
        tokens = np.array([row.dispatched for row in rows])
        first = (tokens - 1) % self.texts.page == 0  # of a page: they have all earlier ones
        if not first.any():
            return True
        slots = np.array([row.slot for row in rows])[first]
        paths = self.path[slots]
        inside = paths != STOP
        blocks = self.text_block[slots][inside]
        cache = self.caches_of(paths[inside])
        tokens = np.repeat(tokens[first], inside.sum(axis=1))
        pages = np.maximum(self.texts.needed(cache, tokens), self.texts.count[blocks])
        new = self.texts.count_by_cache(cache, pages - self.texts.count[blocks])
        if (new > self.texts.count_free()).any():
            return False
        self.texts.extend(blocks, cache, pages)
        return True

    def release(self, row: DecodeRow) -> None:
        """Free the slot of a row, the pages of its text, and the blocks that no other row reads."""
        slot = row.slot
        size = len(row.path)
        cache = self.caches_of(row.path)
        blocks = self.prompt_block[slot, :size].copy()
        self.readers[blocks] -= 1
        unread = self.readers[blocks] == 0
        self.prompts.release(blocks[unread], cache[unread])
        self.prompt_blocks.give_back(blocks[unread])
        self.texts.release(self.text_block[slot, :size], cache)
        self.slots.give_back(np.array([slot], np.int32))
        self.row[slot] = None
        self.path[slot] = STOP
        self.prompt_block[slot] = 0
        row.slot = NONE


@functools.lru_cache(maxsize=4096)
def cover_rows(rows: int, heights: tuple[int, ...], fixed: int) -> tuple[int, ...]:
    """Choose the heights of tiles that hold so many rows and take the least time, tallest first.

    A tile takes as long as its rows and `fixed` more.
    """
    if rows <= 0:
        return ()
    covers = [(height, *cover_rows(rows - height, heights, fixed)) for height in heights]
    best = min(covers, key=lambda cover: sum(cover) + fixed * len(cover))
    return tuple(sorted(best, reverse=True))


def decode_tiles(
    paths: np.ndarray,
    slots: np.ndarray,
    blocks: np.ndarray,
    prompt_blocks: np.ndarray,
    layout: Layout,
    fixed: int,
) -> Tiles:
    """Order one decode step of rows on their own paths, in tiles that run the same step of a path.

    Args:
      paths: [W, P] of all decode slots, padded with STOP; the last slot is for padding.
      slots: the decode slots [n] of the rows that take the step.
      blocks, prompt_blocks: [W, P], the KV blocks of each path position.
      layout: tiles of several heights, of one token a row.
      fixed: see `cover_rows`.

    Reading a layer's weights is most of what a step costs, so layers should be visited as seldom
    as possible: a shortest common supersequence of the paths. The layer whose waiting rows have
    most layers still to run, all of them together, goes next (weighted majority merge), so that
    rows without a repeat wait for those with one. The layers left are squared, since that gave 5 %
    fewer tiles.
    """
    padded = np.concatenate([paths[slots], np.full((len(slots), 1), STOP)], axis=1)
    left = (padded != STOP).sum(axis=1)
    distinct, padded = np.unique(padded, return_inverse=True)  # numbers of few steps
    padded = padded.reshape(len(slots), -1)
    heights = tuple(shape.rows for shape in layout.shapes)
    position = np.zeros(len(slots), np.int32)  # that each row runs next
    steps = []
    while left.any():
        wanted = padded[np.arange(len(slots)), position]
        waiting = left > 0
        number = int(np.bincount(wanted[waiting], weights=left[waiting] ** 2).argmax())
        rows = np.flatnonzero(wanted == number)
        slot = slots[rows]
        place = position[rows]
        columns = TileColumns(
            int(distinct[number]),
            slot,
            slot,
            slot,
            length=1,
            block=blocks[slot, place],
            prompt_block=prompt_blocks[slot, place],
        )
        tiles = cover_rows(len(rows), heights, fixed)
        ends = np.minimum(np.cumsum(tiles), len(rows)).tolist()
        steps.append(StepRows(columns, ends, [heights.index(height) for height in tiles]))
        position[rows] += 1
        left[rows] -= 1
    slot = len(paths) - 1
    return pack_tiles(steps, layout, TileColumns(0, slot, slot, slot))
