"""The batches of an evaluation: questions of the same shapes, whose rows depend on no other one.

What is computed for a question has the same last bit whichever questions share its batch: they
agree in all that decides a shape, and shapes are those of a full batch. So a run can be continued
with more questions, in other batches, and has the rows of one that began with all of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from cola_jax.execute.evaluator import Workload, cut_batches
from cola_jax.execute.shared_prefix import FRESH, shared_by_each
from cola_jax.prompts import Prompts
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.scorer import prompt_buckets

FIRST = 32  # questions that decide what common prefixes there are


class Batches(NamedTuple):
    """What decides how questions are put into batches."""

    keys: list[tuple[int, ...]]  # of each question; a batch has one key
    prefixes: list[int]  # tokens of each question that are run once for its batch

    @classmethod
    def of(
        cls, asked: Sequence[Sequence[Encoded]], workload: Workload, first: Sequence[Encoded]
    ) -> "Batches":
        """Finds the keys of questions.

        Args:
          asked: the questions, and the same ones in every other way in which they are asked.
          first: the first questions of all, which decide what common prefixes there are.
        """
        flat = [sum(each, ()) for each in zip(*map(prompt_buckets, asked), strict=True)]
        both = Prompts.stack([one.prompts for one in (*first[:FIRST], *asked[0])])
        count, fresh = len(first[:FIRST]), 1 / default_batch_size() if workload.same else FRESH
        shared = shared_by_each(both, count, fresh)[count:]
        # the whole prompt's tokens decide no shape where only those after a prefix are run
        keys = [
            (size, after, *key[1:]) if size else (0, *key)
            for key, (size, after) in zip(flat, shared, strict=True)
        ]
        return cls(keys, [size for size, _ in shared])

    def cut(self, left: Sequence[int], size: int, parts: int = 1) -> list[np.ndarray]:
        """Cuts the questions `left` into batches of at most `size`, and at least `parts`."""
        if not left:
            return []
        index = np.array(left)
        return [index[some] for some in cut_batches([self.keys[i] for i in left], parts, size)]


def default_batch_size() -> int:
    """Returns the most questions of a batch: few on a CPU, where large batches save nothing."""
    return 8 if jax.default_backend() == "cpu" else 64
