"""The batches of a run: questions of the same shapes, whose rows depend on no other question.

What is computed for a question has the same last bit whichever questions share its batch: they
agree in all that decides a shape, and shapes are those of a full batch. So a run can be continued
with more questions, in other batches, and has the rows of one that began with all of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cola_jax.execute.evaluator import Workload, cut_batches
from cola_jax.execute.shared_prefix import shared_by_each
from cola_jax.prompts import Prompts
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.evaluator import default_batch_size
from cola_jax.scoring.scorer import prompt_buckets
from cola_jax.tasks.variants import Variant


class Batches(NamedTuple):
    """What decides how the questions of a session are put into batches."""

    keys: list[tuple[int, ...]]  # of each question; a batch has one key
    prefixes: list[int]  # tokens of each question that are run once for its batch

    @classmethod
    def of(
        cls,
        scorer: Scorer,
        encoded: Sequence[Encoded],
        variants: Sequence[Variant],
        workload: Workload,
        first: Sequence[Encoded],
    ) -> "Batches":
        """Finds the keys of `encoded`; `first` are the first questions of all shards."""
        asked = (encoded, *(variant.encoded for variant in variants))
        flat = [sum(each, ()) for each in zip(*map(prompt_buckets, asked), strict=True)]
        if not workload.same or scorer.decodes or len(first) < 2:
            return cls(flat, [0] * len(flat))
        both = Prompts.stack([one.prompts for one in (*first[:2], *encoded)])
        shared = shared_by_each(both, default_batch_size())[len(first[:2]) :]
        # the whole prompt's tokens decide no shape where only those after a prefix are run
        keys = [
            (size, after, *key[1:]) if size else (0, *key)
            for key, (size, after) in zip(flat, shared, strict=True)
        ]
        return cls(keys, [size for size, _ in shared])

    def cut(self, left: Sequence[int], size: int) -> list[np.ndarray]:
        """Cuts the questions `left` into batches of at most `size`."""
        if not left:
            return []
        index = np.array(left)
        return [index[some] for some in cut_batches([self.keys[i] for i in left], 1, size)]
