"""The batches of questions: of the same shapes, so that rows depend on no other question.

What is computed for a question has the same last bit whichever questions share its batch: they
agree in all that decides a shape, and shapes are those of a full batch. So a run can be continued
with more questions, in other batches, and has the rows of one that began with all of them.
"""

from collections.abc import Sequence

import jax

from cola_jax.execute.common_prefix import FRESH, Batches
from cola_jax.execute.evaluator import Workload
from cola_jax.prompts import Prompts
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.scorer import prompt_buckets

FIRST = 32  # questions that decide what common prefixes there are


def question_batches(
    asked: Sequence[Sequence[Encoded]], workload: Workload, first: Sequence[Encoded]
) -> Batches:
    """Finds what decides how questions are put into batches.

    Args:
      asked: the questions, and the same ones in every other way in which they are asked.
      first: the first questions of all, in each of which a common prefix may end.
    """
    keys = [sum(each, ()) for each in zip(*map(prompt_buckets, asked), strict=True)]
    both = [one.prompts for one in (*first[:FIRST], *asked[0])]
    fresh = 1 / default_batch_size() if workload.same else FRESH
    return Batches.of(Prompts.stack(both), keys, fresh, before=len(both) - len(keys))


def default_batch_size() -> int:
    """Returns the most questions of a batch: few on a CPU, where large batches save nothing."""
    return 8 if jax.default_backend() == "cpu" else 64
