"""What prompts have in common at their beginning, and what is left of them without it."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cola_jax.execute.evaluator import cut_batches
from cola_jax.execute.inputs import bucket, buckets, cut
from cola_jax.prompts import NO_READ, PADDING, PROMPT, Prompts

# Tokens of a prefix: two questions that happen to begin with the same word have the same one.
MULTIPLE = 8
TILE = 16  # tokens of an accelerator's tiles, of which a prefix and what follows it are a multiple
LEAST_SHARED = 32  # a shorter prefix saves less than smaller batches cost
LEAST_TOKENS = 8  # of a bucket: what follows a prefix may be short
LEAST_GAIN = 1.15  # tokens of whole prompts over those that are run otherwise
# The states of a prefix that are run, over those of the questions' own tokens, where each question
# has paths of its own: 0.74 in searches of 8 questions (SmolLM2, ARC-Easy), 0.70 in `cola demo`.
FRESH = 0.75


class Batches(NamedTuple):
    """What decides how prompts are put into batches."""

    keys: list[tuple[int, ...]]  # of each prompt; a batch has one key
    prefixes: list[int]  # tokens of each prompt that are run once for its batch

    @classmethod
    def of(
        cls, prompts: Prompts, keys: Sequence[tuple[int, ...]], fresh: float, before: int = 0
    ) -> "Batches":
        """Finds what each prompt shares with others, and adds that to its key.

        Args:
          prompts: with `before`, so many precede those that are put into batches, and they alone
            decide what common prefixes there are.
          keys: T of each prompt that is put into batches, and what else one batch has in common.
          fresh: the share of the states of a prefix that are run for each prompt.
        """
        shared = shared_by_each(prompts, before or len(keys), fresh)[before:]
        # the whole prompt's tokens decide no shape where only those after a prefix are run
        return cls(
            [
                (size, after, *key[1:]) if size else (0, *key)
                for key, (size, after) in zip(keys, shared, strict=True)
            ],
            [size for size, _ in shared],
        )

    def cut(
        self, left: Sequence[int], parts: int = 1, largest: int | None = None
    ) -> list[np.ndarray]:
        """Cuts the prompts `left` into batches, as `cut_batches`."""
        if not left:
            return []
        index = np.array(left)
        keys = [self.keys[i] for i in left]
        return [index[some] for some in cut_batches(keys, parts, largest)]


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
        return int((np.asarray(prompts.branch) != PADDING).sum(axis=1).min()) - 1
    read = np.asarray(prompts.read)
    return int(np.where(read == NO_READ, prompts.ids.shape[1], read).min())


def pays(size: int, whole: int, after: int, fresh: float) -> bool:
    """Whether a prefix pays: each prompt runs `after` tokens, and a share of it, for `whole`."""
    return whole / (after + size * fresh) > LEAST_GAIN


def shared_by_each(prompts: Prompts, first: int, fresh: float) -> list[tuple[int, int]]:
    """Returns, for each prompt, the tokens of a common prefix to run once, and T after them.

    What the first two prompts have in common is a prefix, and so is what the first one and another
    of the `first` have in common that begins with none of those found so far. So what a prompt
    shares depends on no later one. A prompt shares none, (0, 0), where it begins otherwise, or
    where that would gain little: `fresh` is the share of the prefix's states run for each prompt.
    """

    def of(*rows: int) -> Prompts:
        return jax.tree.map(lambda x: np.asarray(x)[list(rows)], prompts)

    whole = [tokens for tokens, _ in buckets(prompts)]
    multiple = max(MULTIPLE, tile())
    common = [common_prefix(of(0, i)) // multiple * multiple for i in range(len(whole))]
    sizes = [0]
    for size in common[1:first]:
        if size >= LEAST_SHARED and not any(0 < other <= size for other in sizes):
            sizes.append(size)
    shared = [max(size for size in sizes if size <= most) for most in common]
    after = [tokens_after(of(i), size) for i, size in enumerate(shared)]
    return [
        (size, t) if size and pays(size, all_tokens, t, fresh) else (0, 0)
        for size, t, all_tokens in zip(shared, after, whole, strict=True)
    ]


def tokens_after(prompts: Prompts, size: int) -> int:
    """Returns T of the tokens that follow the first `size`."""
    longest = int((np.asarray(prompts.branch) != PADDING).sum(axis=1).max())
    return -(-bucket(longest - size, LEAST_TOKENS) // tile()) * tile()


def tile() -> int:
    """Returns the tokens of which T is a multiple."""
    return 1 if jax.default_backend() == "cpu" else TILE


def without(prompts: Prompts, size: int) -> Prompts:
    """Returns prompts without their first tokens; their positions stay as they are."""
    tokens = tokens_after(prompts, size)
    ids, positions, branch = (
        np.asarray(x)[:, size:] for x in (prompts.ids, prompts.positions, prompts.branch)
    )
    if prompts.read is None:
        return cut(Prompts(ids=ids, positions=positions, branch=branch), tokens, 0)
    read, targets = np.asarray(prompts.read), np.asarray(prompts.targets)
    read = np.where(read == NO_READ, NO_READ, read - size)
    return cut(Prompts(ids, positions, branch, read, targets), tokens, read.shape[1])
