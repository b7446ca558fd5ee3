"""Batches of prompts, cut by a common prefix and by length, and the layout of their tiles."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cola_jax.execute.inputs import bucket, token_counts
from cola_jax.execute.memory import Limits, default_limits, row_tokens, tile_rows
from cola_jax.execute.plan import Layout, TileShape
from cola_jax.prompts import NO_READ, PROMPT, Prompts

LEAST_SHARED = 32  # a shorter prefix saves less than smaller batches cost
LEAST_GAIN = 1.15  # tokens of whole prompts over those that are run otherwise
# The states of a prefix that are run, over those of the questions' own tokens, where each question
# has paths of its own: 0.74 in searches of 8 questions (SmolLM2, ARC-Easy), 0.70 in `cola demo`.
FRESH = 0.75
LARGEST_BATCH = 4096  # questions: a trie numbers them in 16 bits
LEAST_BATCH = 8  # questions of long prompts, where there are as many
MOST_SHARE = 8  # times that the longest prompt of a batch may be longer than its shortest


class Workload(NamedTuple):
    """The paths of a batch, for sizing its buffers."""

    wave: int  # paths of a question at a time
    positions: int  # layers of the longest path
    same: bool = False  # whether all questions run the same paths
    prefix: int = 0  # tokens with which all prompts begin, and that are run once for all


class Batches(NamedTuple):
    """The lengths of prompts, and the prefixes that they share, which decide their batches."""

    tokens: list[int]  # of each prompt, whole or after its prefix
    prefixes: list[int]  # tokens of each prompt that are run once for its batch

    @classmethod
    def of(cls, prompts: Prompts, fresh: float, before: int = 0) -> "Batches":
        """Find the common prefixes of prompts.

        Args:
          prompts: the first `before` of them only define prefixes and are not batched; where there
            are such, no others define any.
          fresh: the share of the states of a prefix that are run for each prompt.
        """
        counts = token_counts(prompts)
        shared = shared_tokens(prompts, before or len(counts), fresh)[before:]
        whole = counts[before:].tolist()
        return cls([n - size for n, size in zip(whole, shared, strict=True)], shared)

    def cut(self, left: Sequence[int], parts: int, largest: int) -> list[np.ndarray]:
        """Cut the prompts `left` into batches of one prefix each, as `cut_batches`."""
        batches = []
        for size in sorted({self.prefixes[i] for i in left}):
            indices = np.array([i for i in left if self.prefixes[i] == size])
            tokens = [self.tokens[i] for i in indices]
            batches += [indices[batch] for batch in cut_batches(tokens, parts, largest)]
        return batches


def common_with_first(prompts: Prompts) -> np.ndarray:
    """Count the tokens that each prompt has in common with the first, before either is read."""
    ids, positions, branch = map(np.asarray, (prompts.ids, prompts.positions, prompts.branch))
    tokens = ids.shape[1]
    same = (ids == ids[0]) & (positions == positions[0]) & (positions[0] == np.arange(tokens))
    same &= (branch == PROMPT) & (branch[0] == PROMPT)
    common = np.where(same.all(axis=1), tokens, np.argmin(same, axis=1))
    if prompts.read is None:
        read = token_counts(prompts) - 1
    else:
        read = np.where(np.asarray(prompts.read) == NO_READ, tokens, prompts.read).min(axis=1)
    return np.minimum(common, np.minimum(read, read[0]))


def shared_tokens(prompts: Prompts, first: int, fresh: float) -> list[int]:
    """Return, for each prompt, the tokens of a common prefix to run once.

    The tokens common to the first two prompts are a prefix, and so are those common to the first
    and another of the `first` that begins with none of the earlier prefixes. So the tokens that a
    prompt shares depend on no later one. A prompt shares none where it begins otherwise, or where
    that would gain little: `fresh` is the share of the prefix's states run for each prompt.
    """
    # two questions that happen to begin with the same word have the same multiple
    multiple = default_limits().multiple
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
    if prompts.read is None:
        return Prompts(ids=ids, positions=positions, branch=branch)
    read = np.asarray(prompts.read)
    read = np.where(read == NO_READ, NO_READ, read - size)
    return Prompts(ids, positions, branch, read, np.asarray(prompts.targets))


def cut_batches(tokens: Sequence[int], parts: int, largest: int) -> list[np.ndarray]:
    """Cut indices of prompts, given their tokens, into batches, the longest first.

    There are at least `parts` batches where there are as many indices. None has more than
    `largest`, fewer of long prompts, which fill tiles alone; and all but very long prompts may
    share one: slots are as long as its longest.
    """
    order = np.argsort(-np.asarray(tokens), kind="stable")
    even = min(-(-len(order) // parts) or 1, largest, LARGEST_BATCH)
    most = default_limits().batch_tokens
    batches, start = [], 0
    while start < len(order):
        longest = tokens[order[start]]
        end = start + sum(MOST_SHARE * tokens[i] >= longest for i in order[start:])
        group = order[start:end]
        by_tokens = -(-sum(tokens[i] for i in group) // most)
        cuts = max(-(-len(group) // even), min(by_tokens, -(-len(group) // LEAST_BATCH)))
        batches += np.array_split(group, cuts)
        start = end
    return batches


def take(prompts: Prompts, questions: np.ndarray) -> Prompts:
    """Take questions of a batch."""
    return jax.tree.map(lambda x: np.asarray(x)[questions], prompts)


def layout_of(prompts: Prompts, limits: Limits, reads: Sequence[int] | None = None) -> Layout:
    """Choose the shapes of tiles for prompts, given the number of positions read, 1 where None."""
    length = token_counts(prompts)
    tokens = np.array([row_tokens(limits, int(size)) for size in length])
    sizes, shape = np.unique(tokens, return_inverse=True)

    def most_reads(size: int) -> int:
        if reads is None:
            return 1
        return row_tokens(limits, int(np.max(np.array(reads)[tokens <= size], initial=1)))

    shapes = tuple(
        TileShape(tile_rows(limits, size), size, most_reads(size)) for size in sizes.tolist()
    )
    return Layout(shapes, shape.astype(np.int32), length)


def slot_sizes(layout: Layout) -> tuple[int, int]:
    """Return T and Q of slots and outputs, which are as long as the longest tile's, rounded up."""
    return bucket(layout.tokens), bucket(max(shape.reads for shape in layout.shapes))
