"""The layout of a batch: the shapes of its tiles, and how rows of several lengths fill them.

A tile has a fixed number of tokens. Rows lie in it end to end, so that the programs depend on few
shapes, whatever the lengths of the prompts, and little of a tile is padding.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from cola_jax.execute.inputs import bucket, token_counts
from cola_jax.execute.memory import MOST_ROWS, Limits, ceil_power, round_up, row_tokens
from cola_jax.prompts import Prompts

STRETCH = range(-2, 7)  # units by which the largest tiles may differ, so that whole rows fill them
GAIN = 0.03  # of the tokens of tiles that another size has to save
SAMPLE = 64  # rows that are packed to find it
MOST_TRIED = 64  # rows that are tried to fill a tile
FULL = 0.96  # of a tile that is not kept open for better rows
WIDTHS = (1, 2, 4)  # times the tokens of others that last tiles may have, to read more positions
SPARE = 1.1  # of the positions read for a token on average: tiles of other rows read more
LEAST_READS = 8
# Tokens of the rows of last tiles, some of which may be shorter than most
COMMON_TOKENS = 48.0
MOST_SHORT = 1.5  # times
LEAST_TOKENS = 8  # of the rows that fill a tile
FEWEST_TOKENS = 8
FEW_TOKENS = 256


class TileShape(NamedTuple):
    """The shape of a tile: up to R rows of N tokens in all, each of at most T.

    A tile of last layers computes M positions in all, and at most Q of each row.
    """

    tokens: int  # N
    rows: int  # R
    longest: int  # T
    reads: int = 0  # M; 0 for other layers
    most_reads: int = 0  # Q
    page: int = 1  # tokens that are read and written together


class Layout(NamedTuple):
    """The shapes of tiles, and what each question takes of them."""

    shapes: Sequence[TileShape]  # by descending tokens, those of last layers after the others
    inner: int  # the number of shapes of other layers than last ones
    length: Int[np.ndarray, " B"]  # tokens
    reads: Int[np.ndarray, " B"]  # positions read by last layers

    @classmethod
    def of_rows(cls, tokens: int, rows: int, questions: int = 1, page: int = 1) -> "Layout":
        """Return the layout of questions that all have so many tokens, of which one is read."""
        inner = TileShape(rows * round_up(tokens, page), rows, round_up(tokens, page), page=page)
        last = inner._replace(reads=rows, most_reads=1)
        every = np.ones(questions, np.int32)
        return cls((inner, last), 1, tokens * every, every)

    @classmethod
    def of_single_tokens(cls, heights: Sequence[int]) -> "Layout":
        """Return the layout of rows of one token each, in tiles of these numbers of rows."""
        shapes = tuple(TileShape(height, height, 1) for height in heights)
        return cls(shapes, len(shapes), np.ones(1, np.int32), np.ones(1, np.int32))

    @property
    def taken(self) -> Int[np.ndarray, " B"]:
        """The tokens that each question takes of a tile, in whole pages."""
        page = self.shapes[0].page
        return -(-self.length // page) * page

    @property
    def rows(self) -> int:
        """The largest number of rows of a tile."""
        return max(shape.rows for shape in self.shapes)

    @property
    def tokens(self) -> int:
        """T of the largest rows, and of the slots of their states."""
        return self.shapes[0].longest

    @property
    def most_reads(self) -> int:
        """The largest number of positions of a row that is read."""
        return self.shapes[-1].most_reads

    def fill(self, lengths: Sequence[int]) -> list[list[int]]:
        """Divide rows of these lengths among the largest tiles; return their numbers."""
        return fullest_tiles(lengths, self.shapes[0].tokens, self.shapes[0].rows)

    def smallest(self, tokens: int, rows: int, reads: int = 0) -> int:
        """Return the smallest shape that holds these rows and tokens, and reads of last layers."""
        numbers = range(self.inner, len(self.shapes)) if reads else range(self.inner)
        for number in reversed(numbers):
            shape = self.shapes[number]
            if shape.tokens >= tokens and shape.rows >= rows and shape.reads >= reads:
                return number
        raise AssertionError("rows were divided among tiles that hold them")

    def fill_last(self, lengths: Sequence[int], reads: Sequence[int]) -> list[list[int]]:
        """Divide rows among the largest tiles of last layers; return their numbers.

        Each takes the rows with the most positions read that still fit.
        """
        largest = self.shapes[self.inner]
        left = sorted(range(len(lengths)), key=reads.__getitem__, reverse=True)
        tiles = []
        while left:
            tile: list[int] = []
            tokens = positions = 0
            for number in left:
                if (
                    len(tile) < largest.rows
                    and tokens + lengths[number] <= largest.tokens
                    and positions + reads[number] <= largest.reads
                ):
                    tile.append(number)
                    tokens += lengths[number]
                    positions += reads[number]
            tiles.append(tile)
            left = [number for number in left if number not in tile]
        return tiles


def fullest_tiles(lengths: Sequence[int], tokens: int, rows: int) -> list[list[int]]:
    """Divide rows among tiles of so many tokens, each as full as the longest rows left make it.

    Returns the numbers of the rows of each tile; none is longer than a tile.
    """
    left = sorted(range(len(lengths)), key=lengths.__getitem__)
    sizes = [lengths[i] for i in left]
    tiles = []
    while left:
        first = max(len(left) - MOST_TRIED, 0)
        tile = []
        for place in fullest(sizes[first:], tokens, rows):
            del sizes[first + place]
            tile.append(left.pop(first + place))
        tiles.append(tile)
    return tiles


def fullest(lengths: Sequence[int], tokens: int, rows: int) -> list[int]:
    """Return the places of rows that fill a tile best, among them the last and longest.

    Lengths ascend, and places descend. A bit of a sum of rows says that so many tokens can be
    filled exactly.
    """
    if len(lengths) <= rows and sum(lengths) <= tokens:
        return list(range(len(lengths)))[::-1]
    last = len(lengths) - 1
    bits = 1 << lengths[last]
    within = (2 << tokens) - 1
    sums = [bits]
    for length in reversed(lengths[:last]):
        bits |= bits << length & within
        sums.append(bits)
        if bits >> tokens:
            break
    filled = bits.bit_length() - 1
    chosen = [last]
    for number in range(len(sums) - 1, 0, -1):
        if not sums[number - 1] >> filled & 1:
            place = last - number
            chosen.append(place)
            filled -= lengths[place]
    return sorted(chosen, reverse=True)[:rows]


def layout_of(
    prompts: Prompts, limits: Limits, reads: Sequence[int] | None = None, by_row: bool = False
) -> Layout:
    """Choose the shapes of tiles for prompts, given the number of positions read, 1 where None.

    Where layers take the tokens of a tile `by_row`, rows are no more than common prompts need:
    each is padded to the longest.
    """
    page = limits.page
    length = token_counts(prompts).astype(np.int32)
    read = np.ones_like(length) if reads is None else np.array(reads, np.int32)
    taken = -(-length // page) * page
    longest = round_up(longest_of(int(taken.max(initial=1))), page)
    most_reads = ceil_power(max(int(read.max(initial=1)), LEAST_READS))
    mean = max(float(taken.mean()), 1.0)
    share = float(read.sum()) / max(int(taken.sum()), 1)  # positions read for a token
    full = choose_tokens(taken, limits)

    def rows_of(tokens: int, each: float) -> int:
        return min(ceil_power(math.ceil(tokens / each)), MOST_ROWS)

    def inner(tokens: int) -> TileShape:
        rows = rows_of(tokens, mean) if by_row else min(max(tokens // LEAST_TOKENS, 1), MOST_ROWS)
        return TileShape(tokens, rows, longest, page=page)

    def last(tokens: int) -> TileShape:
        positions = max(tokens // 2, most_reads)
        wide = (part * tokens for part in WIDTHS if part * tokens * share * SPARE >= positions)
        size = round_up(max(next(wide, WIDTHS[-1] * tokens), longest), limits.unit)
        few = ceil_power(math.ceil(size * share * SPARE))
        positions = max(min(positions, few), most_reads)
        # short prompts of several mean lengths share a program
        rows = rows_of(size, max(mean / MOST_SHORT, COMMON_TOKENS))
        return TileShape(size, rows, longest, positions, most_reads, page)

    heights = [round_up(int(part * limits.tile_tokens), limits.unit) for part in limits.heights]
    shapes = [inner(n) for n in sorted({full, *heights}, reverse=True) if n <= full]
    lasts = {last(n): None for n in (full, max(full // 4, limits.unit))}
    return Layout((*shapes, *lasts), len(shapes), length, read)


def longest_of(tokens: int) -> int:
    """Round the tokens of the longest prompt up to one of few, for the sake of programs."""
    return ceil_power(max(tokens, FEWEST_TOKENS)) if tokens <= FEW_TOKENS else bucket(tokens)


def choose_tokens(lengths: Int[np.ndarray, " B"], limits: Limits) -> int:
    """Choose N of the largest tiles: about that of the limits, such that whole rows fill them."""
    longest = int(lengths.max(initial=1))
    rows = np.resize(lengths, SAMPLE).tolist() if len(lengths) else [1]

    def padded(tokens: int) -> float:
        *full, _ = [[], *fullest_tiles(rows, tokens, MOST_ROWS)]
        filled = sum(rows[i] for tile in full for i in tile)
        return (len(full) - 1) * tokens / filled if filled else 1.0

    # few sizes of tiles that a single row fills
    least = longest if longest <= limits.tile_tokens else row_tokens(limits, longest)
    usual = round_up(max(limits.tile_tokens, least), limits.unit)
    sizes = [usual + n * limits.unit for n in STRETCH]
    best = min((size for size in sizes if size >= least), key=padded)
    return best if padded(best) < padded(usual) - GAIN else usual
