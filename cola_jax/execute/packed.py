"""The tokens of a tile on the device: rows of several lengths that lie end to end.

Products, norms and MLPs run on all tokens of a tile at once. Attention takes them in blocks of
queries, each with a window of the keys before it, or row by row.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from cola_jax.attention import Labels, Seen, weigh_values
from cola_jax.execute.layout import TileShape
from cola_jax.execute.plan import TileColumns
from cola_jax.kernels.attention import PromptAttention, Rotated, get, put
from cola_jax.model import View, rotate
from cola_jax.prompts import PADDING
from cola_jax.steps import layer_of

NO_ROW = -2  # of tokens that none sees
MOST_QUERIES = 128  # of a block on a CPU
LEAST_QUERIES = 16
SPANS = 4  # of blocks of long rows; all of a span see as many keys

Heads = Float[Array, "1 _ N H"]


class Reads(NamedTuple):
    """The M positions that a last layer computes, those of a row together."""

    token: Int[Array, " M"]  # its number in the tile
    row: Int[Array, " M"]  # R for none
    nth: Int[Array, " M"]  # of the positions of its row


class Tile(NamedTuple):
    """The N tokens of a tile."""

    columns: TileColumns  # arrays [R]
    shape: TileShape
    view: View  # [1, N], or [N, 1] where each is a row of its own
    row: Int[Array, " N"]  # R for none
    place: Int[Array, " N"]  # in its row
    reads: Reads | None = None  # the positions of the result; all when None

    @property
    def read(self) -> Int[Array, "1 M"] | None:
        """The tokens that are read, all of them for None."""
        return None if self.reads is None else self.reads.token[None]

    def take(self, states: Shaped[Array, "S T C"]) -> Float[Array, "_ _ C"]:
        """Take the states of the tokens from slots, page by page."""
        page = self.shape.page
        source = jnp.append(self.columns.source, 0)[self.row[::page]]
        pages = source * (states.shape[1] // page) + self.place[::page] // page
        taken = get(states.reshape(-1, page, states.shape[2]), pages)
        return taken.reshape(*self.view.branch.shape, states.shape[2])

    def put(
        self, states: Shaped[Array, "S T C"], values: Float[Array, "_ _ C"]
    ) -> Shaped[Array, "S T C"]:
        """Write the states of the tokens, or of the positions read, to slots.

        Those of no row go to the last slot.
        """
        row = self.row
        place = self.place
        page = self.shape.page
        if self.reads is not None:
            row = self.reads.row
            place = self.reads.nth
            page = 1
        target = jnp.append(self.columns.target, len(states) - 1)[row[::page]]
        pages = target * (states.shape[1] // page) + place[::page] // page
        flat = states.reshape(-1, page, states.shape[2])
        values = values.reshape(-1, page, states.shape[2])
        return put(flat, values, pages).reshape(states.shape)

    def rows(self) -> "Rectangle":
        """Arrange the tokens by row; those after the end of a prompt, in its page, are padding."""
        rows = Rectangle.of(self.columns.length, self.shape.longest)
        return rows._replace(inside=rows.inside & (rows.take(self.view.branch) != PADDING))


def end_to_end(sizes: Int[Array, " R"], count: int) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Return the rows of `count` things that lie end to end, and their places in the rows.

    Those after the last row have row R and place 0.
    """
    ends = jnp.cumsum(sizes)
    numbers = jnp.arange(count, dtype=sizes.dtype)
    row = jnp.sum(ends <= numbers[:, None], axis=1, dtype=sizes.dtype)
    begin = jnp.append(ends - sizes, 0)[row]
    return row, jnp.where(row < len(sizes), numbers - begin, 0)


def pack_rows(
    views: View, read: Int[Array, "B Q"] | None, columns: TileColumns, shape: TileShape
) -> Tile:
    """Lay rows end to end, given the views of the prompts [B, T] and where these are read."""
    row, place = end_to_end(columns.length, shape.tokens)
    question = jnp.append(columns.question, 0)
    page = shape.page
    first = question[row[::page]], place[::page]
    view = view_of_pages(views, columns, *first, page, (1, shape.tokens))
    view = view.replace(branch=jnp.where(row < shape.rows, view.branch, PADDING))
    reads = None
    if read is not None:
        of, nth = end_to_end(columns.reads, shape.reads)
        begin = jnp.append(jnp.cumsum(columns.length) - columns.length, 0)[of]
        token = begin + read[question[of], nth]
        reads = Reads(jnp.where(of < shape.rows, token, 0), of, nth)
    return Tile(columns, shape, view, row, place, reads)


def single_tokens(views: View, columns: TileColumns, shape: TileShape) -> Tile:
    """Take the tokens of rows of one token each, from views [B, 1]."""
    row = jnp.arange(shape.rows, dtype=jnp.int32)
    place = jnp.zeros_like(row)
    view = view_of_pages(views, columns, columns.question, place, 1, (shape.rows, 1))
    return Tile(columns, shape, view, row, place)


def view_of_pages(
    views: View,
    columns: TileColumns,
    question: Int[Array, " n"],
    place: Int[Array, " n"],
    page: int,
    shape: tuple[int, int],
) -> View:
    """Take the view of pages of tokens, and the inputs of the layer of the tile, in a shape.

    By pages, since a gather takes as long as it has indices.
    """
    tokens = views.branch.shape[1]
    pages = question * (tokens // page) + place // page

    def take(x: Shaped[Array, "B T *X"]) -> Shaped[Array, "_ _ *X"]:
        return x.reshape(-1, page, *x.shape[2:])[pages].reshape(*shape, *x.shape[2:])

    inputs = None
    if views.inputs is not None:
        inputs = take(views.inputs[layer_of(columns.step[0])])
    return View(
        positions=take(views.positions),
        branch=take(views.branch),
        cos=jax.vmap(take)(views.cos),
        sin=jax.vmap(take)(views.sin),
        inputs=inputs,
    )


class Rectangle(NamedTuple):
    """Things that lie end to end, by row, each row padded to the same number of them."""

    number: Int[Array, "R T"]
    inside: Bool[Array, "R T"]  # not padding

    @classmethod
    def of(cls, sizes: Int[Array, " R"], longest: int) -> "Rectangle":
        """Find those of rows of these sizes, none more than `longest`."""
        place = jnp.arange(longest, dtype=sizes.dtype)
        begin = jnp.cumsum(sizes) - sizes
        inside = place < sizes[:, None]
        return cls(jnp.where(inside, begin[:, None] + place, 0), inside)

    def take(self, x: Shaped[Array, "1 N *X"]) -> Shaped[Array, "R T *X"]:
        """Arrange what each has by row, with 0 in padding: 0 * NaN is NaN."""
        inside = self.inside.reshape(*self.inside.shape, *[1] * (x.ndim - 2))
        return jnp.where(inside, x[0][self.number], 0)

    def labels(self, labels: Labels) -> Labels:
        """Arrange labels by row; what is padding is seen by none."""
        taken = Labels(*map(self.take, labels))
        return taken._replace(
            row=jnp.where(self.inside, taken.row, NO_ROW),
            branch=jnp.where(self.inside, taken.branch, PADDING),
        )


class ByRow(NamedTuple):
    """The queries and the keys of a tile by row."""

    tokens: Rotated  # q [R, Q, N, H], k and v [R, T, K, H]
    seen: Seen

    @classmethod
    def of(cls, tile: Tile, tokens: Rotated, seen: Seen) -> "ByRow":
        """Arrange the tokens of a tile, of which those that are read are the queries."""
        keys = tile.rows()
        queries = keys
        if tile.reads is not None:
            queries = Rectangle.of(tile.columns.reads, tile.shape.most_reads)
        arranged = rearrange(tokens, queries.take, keys.take)
        labels = queries.labels(seen.queries), keys.labels(seen.keys)
        return cls(arranged, Seen(*labels, seen.window))


def rearrange(
    tokens: Rotated, queries: Callable[[Array], Array], keys: Callable[[Array], Array]
) -> Rotated:
    """Rearrange the tokens of a tile by functions of arrays [1, N, ...]."""
    return Rotated(
        q=queries(tokens.q),
        k=keys(tokens.k),
        v=keys(tokens.v),
        of_queries=(queries(tokens.of_queries[0]), queries(tokens.of_queries[1])),
        of_keys=(keys(tokens.of_keys[0]), keys(tokens.of_keys[1])),
        sinks=tokens.sinks,
    )


def from_rows(tile: Tile, x: Shaped[Array, "R Q *X"]) -> Shaped[Array, "1 _ *X"]:
    """Take what has been arranged by row for the tokens of a tile, or for those that are read."""
    row = tile.row
    place = tile.place
    if tile.reads is not None:
        row = tile.reads.row
        place = tile.reads.nth
    return x[jnp.minimum(row, len(x) - 1), place][None]


def attend_in_blocks(kernel: PromptAttention, tile: Tile, tokens: Rotated, seen: Seen) -> Heads:
    """Attend with blocks of queries to the tokens of the tile that rows of them may hold.

    A kernel that leaves out other rows by itself, or one for long rows, takes the tile as it is. A
    token whose keys or values are not finite is hidden from other rows, and what sees it is not
    finite either.
    """
    longest = tile.shape.longest
    broken = ~jnp.all(jnp.isfinite(tokens.k) & jnp.isfinite(tokens.v), axis=(2, 3))
    hidden = broken[:, :, None, None]
    tokens = tokens._replace(k=jnp.where(hidden, 0, tokens.k), v=jnp.where(hidden, 0, tokens.v))
    if kernel.skips_rows(len(tile.row), longest):
        mixed, _ = kernel.over(tokens, seen, keep=False)
        return jnp.where(seen.any_of(broken)[:, :, None, None], jnp.nan, mixed)
    at_once = functools.partial(attend_at_once, kernel, longest)
    in_turn = functools.partial(attend_in_turn, kernel, longest)
    return jax.lax.platform_dependent(tokens, seen, broken, cpu=in_turn, default=at_once)


def attend_at_once(
    kernel: PromptAttention, longest: int, tokens: Rotated, seen: Seen, broken: Bool[Array, "1 t"]
) -> Heads:
    """Attend with all blocks at once: each sees its own tokens, and as many before as rows hold.

    Keys are copied for each block that may see them.
    """
    count = broken.shape[1]
    size, before = blocks_of(count, longest, kernel.least_block)

    def queries(x: Shaped[Array, "1 N *X"]) -> Shaped[Array, "b q *X"]:
        return x.reshape(-1, size, *x.shape[2:])

    def keys(x: Shaped[Array, "1 N *X"], fill: int = 0) -> Shaped[Array, "b t *X"]:
        padding = ((before, 0), *[(0, 0)] * (x.ndim - 1))
        blocks = jnp.pad(queries(x), padding, constant_values=fill)
        every = [blocks[i : i + count // size] for i in range(before + 1)]
        return jnp.concatenate(every, axis=1)

    of_keys = Labels(keys(seen.keys.row, NO_ROW), *map(keys, seen.keys[1:]))
    blocks = Seen(Labels(*map(queries, seen.queries)), of_keys, seen.window)
    mixed, _ = kernel.over(rearrange(tokens, queries, keys), blocks, keep=False)
    sees_broken = blocks.any_of(keys(broken))
    mixed = jnp.where(sees_broken[:, :, None, None], jnp.nan, mixed)
    return mixed.reshape(1, count, *mixed.shape[2:])


def attend_in_turn(
    kernel: PromptAttention, longest: int, tokens: Rotated, seen: Seen, broken: Bool[Array, "1 t"]
) -> Heads:
    """Attend with one block after the other, whose scores a core's cache holds; in float32.

    Keys are rotated once, and not copied but for the block that reads them.
    """
    count = broken.shape[1]
    most = max(min(longest // 4, MOST_QUERIES), LEAST_QUERIES)
    size = max(size for size in range(1, most + 1) if count % size == 0)
    q = rotate(tokens.q, *tokens.of_queries).astype(jnp.float32)
    k = rotate(tokens.k, *tokens.of_keys).astype(jnp.float32).transpose(0, 2, 1, 3)
    v = tokens.v.astype(jnp.float32).transpose(0, 2, 1, 3)

    def attend(start: Int[Array, ""], window: int) -> Float[Array, "1 q N H"]:
        first = jnp.maximum(start + size - window, 0)
        mask = seen.part((start, size), (first, window)).mask()
        keys = jax.lax.dynamic_slice_in_dim(k, first, window, axis=2)
        values = jax.lax.dynamic_slice_in_dim(v, first, window, axis=2)
        block = jax.lax.dynamic_slice_in_dim(q, start, size, axis=1)
        mixed = weigh_values(block, [(keys, values)], mask, kernel.softcap, tokens.sinks)
        flags = jax.lax.dynamic_slice_in_dim(broken, first, window, axis=1)
        sees_broken = jnp.any(mask & flags[:, None], axis=2)
        return jnp.where(sees_broken[:, :, None, None], jnp.nan, mixed)

    mixed = []
    for starts in spans_of(count, longest, size):
        # up to the end of a block, from the first key that a row of its first query may have
        window = min(longest - 1 + size, starts[-1] + size)
        mixed.append(jax.lax.map(functools.partial(attend, window=window), jnp.asarray(starts)))
    blocks = jnp.concatenate(mixed)  # [b, 1, q, N, H]
    return blocks.reshape(1, count, *blocks.shape[3:]).astype(tokens.q.dtype)


def spans_of(count: int, longest: int, size: int) -> list[list[int]]:
    """Divide the first tokens of blocks among spans, whose blocks see as many keys as the last one.

    Each takes time to compile, which pays off where one long row fills the tile: half of its pairs
    are never seen.
    """
    starts = list(range(0, count, size))
    spans = min(SPANS, max(longest // MOST_QUERIES, 1)) if 2 * longest > count else 1
    return [part.tolist() for part in np.array_split(starts, spans)]


def blocks_of(count: int, longest: int, least: int) -> tuple[int, int]:
    """Return the queries of a block, and the number of blocks before it whose keys it may see.

    Blocks have at least so many queries where there are as many; of those, the ones that see the
    fewest keys.
    """
    choices = []
    for size in range(1, count + 1):
        if count % size == 0 and (size >= least or size == count):
            before = min(math.ceil((longest - 1) / size), count // size - 1)
            choices.append(((before + 1) * size, size, before))
    _, size, before = min(choices)
    return size, before
