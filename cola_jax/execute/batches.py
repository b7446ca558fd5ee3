"""How prompts are put into batches: by a common beginning, and by length."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cola_jax.execute.inputs import token_counts
from cola_jax.execute.memory import default_limits
from cola_jax.prompts import NO_READ, PROMPT, Prompts

LEAST_SHARED = 32  # a shorter prefix saves less than smaller batches cost
LEAST_GAIN = 1.15  # tokens of whole prompts over those that are run otherwise
# The states of a prefix that are run, over those of the questions' own tokens, where each question
# has paths of its own: 0.74 in searches of 8 questions (SmolLM2, ARC-Easy), 0.70 in `cola demo`.
FRESH = 0.75
LARGEST_BATCH = 4096  # questions: a trie numbers them in 16 bits
LEAST_BATCH = 8  # questions of long prompts, where there are as many
MOST_SHARE = 8  # how many times longer than its shortest prompt the longest of a batch may be


class Batches(NamedTuple):
    """What decides how prompts are put into batches."""

    tokens: list[int]  # of each prompt, whole or after its prefix
    prefixes: list[int]  # tokens of each prompt that are run once for its batch

    @classmethod
    def of(cls, prompts: Prompts, fresh: float, before: int = 0) -> "Batches":
        """Find what each prompt shares with others.

        Args:
          prompts: with `before`, so many precede those that are put into batches, and they alone
            decide what common prefixes there are.
          fresh: the share of the states of a prefix that are run for each prompt.
        """
        counts = token_counts(prompts)
        shared = shared_by_each(prompts, before or len(counts), fresh)[before:]
        whole = counts[before:].tolist()
        return cls([n - size for n, size in zip(whole, shared, strict=True)], shared)

    def cut(self, left: Sequence[int], parts: int, largest: int) -> list[np.ndarray]:
        """Cut the prompts `left` into batches of one prefix each, as `cut_batches`."""
        batches = []
        for size in sorted({self.prefixes[i] for i in left}):
            index = np.array([i for i in left if self.prefixes[i] == size])
            tokens = [self.tokens[i] for i in index]
            batches += [index[some] for some in cut_batches(tokens, parts, largest)]
        return batches


def common_prefix(prompts: Prompts) -> int:
    """Counts the tokens with which all prompts begin, before the first that is read."""
    columns = np.asarray(prompts.branch) == PROMPT
    same = columns.all(axis=0)
    for name in ("ids", "positions"):
        values = np.asarray(getattr(prompts, name))
        same &= (values == values[:1]).all(axis=0)
    same &= np.asarray(prompts.positions)[0] == np.arange(len(same))
    return min(first_read(prompts), int(np.argmin(np.append(same, False))))


def first_read(prompts: Prompts) -> int:
    """Returns the first token that is read: where nothing is, the last of the shortest prompt."""
    if prompts.read is None:
        return int(token_counts(prompts).min()) - 1
    read = np.asarray(prompts.read)
    return int(np.where(read == NO_READ, prompts.ids.shape[1], read).min())


def pays(size: int, whole: int, fresh: float) -> bool:
    """Whether a prefix pays for a prompt that runs the rest, and a share `fresh` of it."""
    return whole / (whole - size + size * fresh) > LEAST_GAIN


def shared_by_each(prompts: Prompts, first: int, fresh: float) -> list[int]:
    """Return, for each prompt, the tokens of a common prefix to run once.

    What the first two prompts have in common is a prefix, and so is what the first one and another
    of the `first` have in common that begins with none of those found so far. So what a prompt
    shares depends on no later one. A prompt shares none where it begins otherwise, or where that
    would gain little: `fresh` is the share of the prefix's states run for each prompt.
    """
    whole = token_counts(prompts).tolist()
    # two questions that happen to begin with the same word have the same one
    multiple = default_limits().multiple
    common = [
        common_prefix(jax.tree.map(lambda x, i=i: np.asarray(x)[[0, i]], prompts))
        // multiple
        * multiple
        for i in range(len(whole))
    ]
    sizes = [0]
    for size in common[1:first]:
        if size >= LEAST_SHARED and not any(0 < other <= size for other in sizes):
            sizes.append(size)
    shared = [max(size for size in sizes if size <= most) for most in common]
    return [
        size if size and pays(size, tokens, fresh) else 0
        for size, tokens in zip(shared, whole, strict=True)
    ]


def without(prompts: Prompts, size: int) -> Prompts:
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
    """Cut indices of prompts of so many tokens into batches, the longest first.

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
        some = order[start:end]
        by_tokens = -(-sum(tokens[i] for i in some) // most)
        cuts = max(-(-len(some) // even), min(by_tokens, -(-len(some) // LEAST_BATCH)))
        batches += np.array_split(some, cuts)
        start = end
    return batches


def take(prompts: Prompts, some: np.ndarray) -> Prompts:
    """Takes some questions of a batch."""
    return jax.tree.map(lambda x: np.asarray(x)[some], prompts)
