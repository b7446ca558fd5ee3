"""Plans on the host: batches of prompts, and tiles of rows.

Rows that run a layer together form a tile, which names the slots and KV blocks that each reads and
writes. Prefill and decoding plan alike: rows that need the same layer next are packed into tiles.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from cola_jax.execute.inputs import token_counts
from cola_jax.execute.layout import Layout
from cola_jax.execute.memory import Limits, default_limits
from cola_jax.prompts import NO_READ, PROMPT, Prompts

NONE = -1  # the slot of a state that has none, and the parent of a root
LEAST_SHARED = 32  # a shorter prefix saves less than smaller batches cost
LEAST_GAIN = 1.15  # tokens of whole prompts over those that are run otherwise
# The states of a prefix that are run, over those of the questions' own tokens, where each question
# has paths of its own: 0.74 in searches of 8 questions (SmolLM2, ARC-Easy), 0.70 in `cola demo`.
FRESH = 0.75
LARGEST_BATCH = 4096  # questions
LEAST_BATCH = 8  # questions of long prompts, where there are as many
MOST_SHARE = 8  # times that the longest prompt of a batch may be longer than its shortest


class Workload(NamedTuple):
    """The paths of a batch, for sizing its buffers."""

    wave: int  # paths of a question at a time
    positions: int  # steps of the longest path
    same: bool = False  # whether all questions run the same paths
    prefix: int = 0  # tokens with which all prompts begin, and that are run once for all
    evaluations: int = 0  # of a question in all waves, where there are several


class Batches(NamedTuple):
    """The lengths of prompts, and the prefixes that they share, which decide their batches."""

    tokens: list[int]  # of each prompt, whole or after its prefix
    prefixes: list[int]  # tokens of each prompt that are run once for its batch
    limits: Limits  # of the devices

    @classmethod
    def of(
        cls, prompts: Prompts, fresh: float, before: int = 0, limits: Limits | None = None
    ) -> "Batches":
        """Find the common prefixes of prompts; see `shared_tokens` for `fresh`.

        The first `before` prompts only define prefixes and are not batched; where there are such,
        no others define any. `limits` are by default those of the devices that JAX uses.
        """
        counts = token_counts(prompts)
        limits = limits or default_limits()
        shared = shared_tokens(prompts, before or len(counts), fresh, limits.multiple)[before:]
        whole = counts[before:].tolist()
        return cls([n - size for n, size in zip(whole, shared, strict=True)], shared, limits)

    def by_prefix(self, left: Sequence[int]) -> list[np.ndarray]:
        """Group the prompts `left` by their prefixes."""
        sizes = sorted({self.prefixes[i] for i in left})
        return [np.array([i for i in left if self.prefixes[i] == size]) for size in sizes]

    def deal(self, left: Sequence[int], parts: int) -> list[np.ndarray]:
        """Deal the prompts `left` to so many batches of each prefix, whose lengths are alike."""
        batches = []
        for indices in self.by_prefix(left):
            longest_first = indices[np.argsort([-self.tokens[i] for i in indices], kind="stable")]
            batches += [longest_first[part::parts] for part in range(min(parts, len(indices)))]
        return batches

    def cut(self, left: Sequence[int], parts: int, largest: int) -> list[np.ndarray]:
        """Cut the prompts `left` into batches of one prefix each, as `cut_batches`."""
        batches = []
        for indices in self.by_prefix(left):
            tokens = [self.tokens[i] for i in indices]
            cut = cut_batches(tokens, parts, largest, self.limits.batch_tokens)
            batches += [indices[batch] for batch in cut]
        return batches


def common_with_first(prompts: Prompts) -> np.ndarray:
    """Count the tokens that each prompt has in common with the first.

    They end before either is read, or has an embedding of its own.
    """
    ids, positions, branch = map(np.asarray, (prompts.ids, prompts.positions, prompts.branch))
    tokens = ids.shape[1]
    same = (ids == ids[0]) & (positions == positions[0]) & (positions[0] == np.arange(tokens))
    same &= (branch == PROMPT) & (branch[0] == PROMPT)
    common = np.where(same.all(axis=1), tokens, np.argmin(same, axis=1))
    if prompts.read is None:
        read = token_counts(prompts) - 1
    else:
        read = np.where(np.asarray(prompts.read) == NO_READ, tokens, prompts.read).min(axis=1)
    if prompts.places is not None:
        places = np.where(np.asarray(prompts.places) == NO_READ, tokens, prompts.places)
        read = np.minimum(read, places.min(axis=1, initial=tokens))
    return np.minimum(common, np.minimum(read, read[0]))


def shared_tokens(prompts: Prompts, first: int, fresh: float, multiple: int) -> list[int]:
    """Return, for each prompt, the tokens of a common prefix to run once.

    The tokens common to the first two prompts are a prefix, and so are those common to the first
    and another of the `first` that begins with none of the earlier prefixes. So the tokens that a
    prompt shares depend on no later one. A prompt shares none where it begins otherwise, or where
    that would gain little: `fresh` is the share of the prefix's states run for each prompt. A
    prefix is cut to a multiple of `multiple` tokens, so that two questions that happen to begin
    with the same word have the same.
    """
    common = (common_with_first(prompts) // multiple * multiple).tolist()
    sizes = [0]
    for size in common[1:first]:
        if size >= LEAST_SHARED and not any(0 < other <= size for other in sizes):
            sizes.append(size)
    shared = []
    for most, tokens in zip(common, token_counts(prompts).tolist(), strict=True):
        size = max(size for size in sizes if size <= most)
        gain = tokens / (tokens - size + size * fresh)
        shared.append(size if gain > LEAST_GAIN else 0)
    return shared


def drop_prefix(prompts: Prompts, size: int) -> Prompts:
    """Return prompts without their first tokens; their positions stay as they are."""
    ids, positions, branch = (
        np.asarray(x)[:, size:] for x in (prompts.ids, prompts.positions, prompts.branch)
    )
    moved = {"ids": ids, "positions": positions, "branch": branch}
    for name in ("read", "places"):
        if (indices := getattr(prompts, name)) is not None:
            moved[name] = np.where(np.asarray(indices) == NO_READ, NO_READ, indices - size)
    return prompts.replace(**moved)


def cut_batches(
    tokens: Sequence[int], parts: int, largest: int, most_tokens: int
) -> list[np.ndarray]:
    """Cut indices of prompts, given their tokens, into batches, the longest first.

    There are at least `parts` batches where there are as many indices. None has more than
    `largest`, fewer of long prompts, which fill tiles alone, of `most_tokens` in all; and all but
    very long prompts may share one: slots are as long as its longest.
    """
    order = np.argsort(-np.asarray(tokens), kind="stable")
    even = min(-(-len(order) // parts) or 1, largest, LARGEST_BATCH)
    batches = []
    start = 0
    while start < len(order):
        longest = tokens[order[start]]
        end = start + sum(MOST_SHARE * tokens[i] >= longest for i in order[start:])
        group = order[start:end]
        by_tokens = -(-sum(tokens[i] for i in group) // most_tokens)
        cuts = max(-(-len(group) // even), min(by_tokens, -(-len(group) // LEAST_BATCH)))
        batches += np.array_split(group, cuts)
        start = end
    return batches


def take(prompts: Prompts, questions: np.ndarray) -> Prompts:
    """Take questions of a batch."""
    return jax.tree.map(lambda x: np.asarray(x)[questions], prompts)


class TileColumns(NamedTuple):
    """What the device needs to know about the rows of a tile: integers, or arrays [n] of them."""

    step: Any  # an id of `cola_jax.steps`, with runs
    source: Any  # slots read
    target: Any  # slots written; by padding rows the padding slot
    question: Any
    length: Any = 0  # tokens that rows take of the tile; none by padding rows
    reads: Any = 0  # positions that last layers compute
    block: Any = 0  # KV blocks written
    prompt_block: Any = 0  # KV blocks of the prefix that rows continue, or of their prompts


WIDTH = len(TileColumns._fields)


class StepRows(NamedTuple):
    """Rows that run the same step next, and the ends and shapes of their tiles."""

    columns: TileColumns
    ends: Sequence[int]
    shapes: Sequence[int]  # indices into the shapes of a layout


class Tiles(NamedTuple):
    """N tiles of up to R rows each, in the order in which they run."""

    table: Int[np.ndarray, "N F R"]  # the F `TileColumns` of each row
    shape: Int[np.ndarray, " N"]  # indices into the shapes of a layout

    @property
    def step(self) -> Int[np.ndarray, " N"]:
        """The step that each tile runs."""
        return self.table[:, 0, 0]

    def parts(self, size: int) -> Iterator["Tiles"]:
        """Cut into parts of at most `size` tiles."""
        for start in range(0, len(self.table), size):
            yield Tiles(*(column[start : start + size] for column in self))

    def runs(self, group: Int[np.ndarray, " N"]) -> Iterator[tuple[int, int, int]]:
        """Yield (shape, first tile, end) of neighbours of one shape, and group of tiles."""
        changes = np.diff(self.shape, append=NONE) != 0
        changes |= np.diff(group, append=NONE) != 0
        ends = (np.flatnonzero(changes) + 1).tolist()
        for start, end in zip([0, *ends], ends, strict=False):
            yield int(self.shape[start]), start, end


def pad_rows(values: np.ndarray, rows: int) -> np.ndarray:
    """Append zeros to [n, ...] up to `rows` rows."""
    out = np.zeros((rows, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out


def pack_tiles(steps: Sequence[StepRows], layout: Layout, padding: TileColumns) -> Tiles:
    """Pack the rows of steps into tiles, which are filled up with `padding` rows."""
    bounds = [[0, *step.ends] for step in steps]
    sizes = np.array([e - s for each in bounds for s, e in itertools.pairwise(each)], np.int64)
    shapes = [shape for step in steps for shape in step.shapes]
    table = np.empty((len(sizes), WIDTH, layout.rows), np.int32)
    table[:] = np.array(padding, np.int32)[:, None]
    if steps:
        rows = np.array([step.ends[-1] for step in steps])
        tile = np.repeat(np.arange(len(sizes)), sizes)
        place = np.arange(len(tile)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        columns = zip(*(step.columns for step in steps), strict=True)
        for i, values in enumerate(columns):
            if isinstance(values[0], np.ndarray):
                table[tile, i, place] = np.concatenate(values)
            else:
                table[tile, i, place] = np.repeat(values, rows)
        table[:, 0] = table[:, 0, :1]
    return Tiles(table, np.array(shapes, np.int32))


class Chunk(NamedTuple):
    """A pass over the device: embed prompts, run tiles, run the last layer of every path."""

    embedded: np.ndarray  # [n, 2] question and slot of the embeddings to write first
    tiles: Tiles
    last: Tiles  # which writes to rows of the output
    paths: np.ndarray  # [n] numbers of the paths in the wave, in the order of `last`
