"""`Wording`: how the questions of a task are put."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np

from cola_jax.question import Question, random_of

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Wording:
    """How questions are put: the format, the solved examples (shots), and the chat template.

    What is None is the task's own. A drawn wording has another format where none is given, other
    shots, and another order of listed options; its random numbers depend on the seed and on the
    name of the draw alone.
    """

    format: str | None = None
    shots: int | None = None  # before each question
    shots_file: str | None = None
    seed: int = 0
    chat: bool = False
    draw: str | None = None  # purpose and number of the draw; None for the task's own wording

    @property
    def is_drawn(self) -> bool:
        """Whether it is a random draw."""
        return self.draw is not None

    def random(self, *key: str) -> "np.random.Generator":
        """Return the generator of one part of the draw."""
        return random_of(self.seed, str(self.draw), *key)

    def choose(self, name: str, choices: Sequence[Item]) -> Item:
        """Draw one of the choices of a part, such as the formats that a scorer has."""
        return choices[int(self.random(name).integers(len(choices)))]

    def shuffle(self, shots: Sequence[Item]) -> list[Item]:
        """Shuffle the questions of which the first are shown."""
        return [shots[i] for i in self.random("shots").permutation(len(shots))]

    def order(self, question: Question) -> list[int]:
        """Draw the order in which the options of a question are listed."""
        return self.random("order", question.id).permutation(len(question.options)).tolist()
