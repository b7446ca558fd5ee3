"""`Encoder`: turns questions into the prompts of a scorer, on whatever machine runs them."""

import dataclasses
from collections.abc import Sequence

from cola_jax.question import Question, stable_hash
from cola_jax.scoring.pictures import with_pictures
from cola_jax.scoring.scorer import Encoded, Scorer


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
    """The prompts in which questions are asked: one for all, or one of several for each.

    The scorers differ in their prompts alone; the first one scores all questions.
    """

    scorers: tuple[Scorer, ...]

    @property
    def scorer(self) -> Scorer:
        """The scorer of verdicts."""
        return self.scorers[0]

    def group(self, question: Question) -> int:
        """Return which of the prompts a question is asked in, by a hash of its id."""
        return place_of(question, len(self.scorers))

    def __call__(self, questions: Sequence[Question], checkpoint: str | None) -> list[Encoded]:
        """Encode questions, with their pictures; InputError for one that cannot be asked so.

        `checkpoint` is the directory of the model, whose tower embeds pictures.
        """
        encoded = [self.scorers[self.group(each)].encode(each) for each in questions]
        return with_pictures(self.scorer, encoded, checkpoint)


def place_of(question: Question, prompts: int) -> int:
    """Return which of several prompts a question is asked in, by a hash of its id."""
    return stable_hash(f"prompt {question.id}") % prompts if prompts > 1 else 0
