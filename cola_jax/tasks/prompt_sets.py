"""Prompts of a task: its own, and random draws of format, order of options, and shots.

A prompt is a draw, as a question is: the same path gained 2.9 points after one pair of shots and
lost 3.5 after another. A set serves all questions of a task.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    import numpy as np

    from cola_jax.scoring.scorer import Encoded, Scorer
    from cola_jax.tasks.scorers import ScorerMaker

from cola_jax.errors import InputError
from cola_jax.question import Question, digest, random_of, stable_hash

Item = TypeVar("Item")
CHOOSE, MEASURE = "choose", "measure"  # purposes: sets of the one are none of the other
MOST = 1000  # prompts of a task; the questions are asked in each
ATTEMPTS = 20  # draws in a row without a new prompt, for each known one, before there are no more
RESERVED = 8  # sets for measuring, at least, that those for choosing leave out


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """One draw; its random numbers depend on the seed and the name alone."""

    name: str  # its purpose and number
    seed: int

    def random(self, *key: str) -> "np.random.Generator":
        """Return the generator of one part of the set."""
        return random_of(self.seed, self.name, *key)

    def format(self, formats: Sequence[str]) -> str:
        """Draw one of the formats that a scorer has."""
        return formats[int(self.random("format").integers(len(formats)))]

    def shuffle(self, shots: Sequence[Item]) -> list[Item]:
        """Shuffle the questions of which the first are shown."""
        return [shots[i] for i in self.random("shots").permutation(len(shots))]

    def reorder(self, question: Question) -> Question:
        """Shuffle the options of a question."""
        order = self.random("order", question.id).permutation(len(question.options)).tolist()
        options = tuple(question.options[i] for i in order)
        return dataclasses.replace(question, options=options, answer=order.index(question.answer))


class Prompt(NamedTuple):
    """A way to ask the questions of a task: its scorer, and its record for a run's settings."""

    scorer: "Scorer"
    record: dict[str, Any]
    prompt_set: PromptSet | None = None  # None for the task's own

    def encode(self, question: Question) -> "Encoded":
        """Encode a question, with its options in the order of the set."""
        if self.prompt_set is not None and self.scorer.lists_options:
            question = self.prompt_set.reorder(question)
        return self.scorer.encode(question)

    @property
    def key(self) -> str:
        """The digest by which prompts are told apart."""
        name = self.record.get("prompt_set") if self.scorer.lists_options else None
        return digest(self.record.get("prompt"), name)


def own_prompt(maker: "ScorerMaker") -> Prompt:
    """Make the task's own prompt."""
    return Prompt(*maker.make())


def choosing_prompts(maker: "ScorerMaker", count: int) -> list[Prompt]:
    """Make the task's own prompt and others, none of which measures a result.

    Raises InputError where the task has too few.
    """
    own = own_prompt(maker)
    if count == 1:
        return [own]
    measuring = draw(maker, MEASURE, max(RESERVED, maker.config.prompts or 1), [own])
    return [own, *enough(maker, draw(maker, CHOOSE, count - 1, [own, *measuring]), count - 1)]


def measuring_prompts(maker: "ScorerMaker", count: int) -> list[Prompt]:
    """Make the task's own prompt, or draw several others; InputError where it has too few."""
    own = own_prompt(maker)
    return [own] if count == 1 else enough(maker, draw(maker, MEASURE, count, [own]), count)


def check_count(name: str, count: int | None) -> None:
    """Raise InputError for a number of prompts that cannot be asked; `name` is its setting."""
    if count is not None and not 1 <= count <= MOST:
        raise InputError(f"{name} must be from 1 to {MOST:,} prompts, it is {count:,}.")


def draw(maker: "ScorerMaker", purpose: str, count: int, others: Sequence[Prompt]) -> list[Prompt]:
    """Draw up to `count` distinct prompts that are none of the others."""
    known, drawn = {prompt.key for prompt in others}, list[Prompt]()
    repeated = 0  # draws since the last new prompt
    for number in itertools.count():
        prompt_set = PromptSet(f"{purpose} {number}", maker.config.shots_seed)
        scorer, record = dataclasses.replace(maker, prompt_set=prompt_set).make()
        record["prompt_set"] = f"{prompt_set.name}, seed {prompt_set.seed}"
        prompt = Prompt(scorer, record, prompt_set)
        if prompt.key not in known:
            known.add(prompt.key)
            drawn.append(prompt)
            repeated = 0
        else:
            repeated += 1
        if len(drawn) == count or repeated == ATTEMPTS * len(known):
            break
    return drawn


def enough(maker: "ScorerMaker", drawn: list[Prompt], count: int) -> list[Prompt]:
    """Return the prompts drawn; InputError for fewer than `count`."""
    if len(drawn) < count:
        raise InputError(
            f"{maker.config.task} has {len(drawn)} other prompts to draw, but {count} are wanted: "
            "show solved examples (--num-fewshot 1 or more, from a --shots-file that is long "
            "enough), or ask for fewer (--prompts, --choose-prompts)."
        )
    return drawn


def place_of(question: Question, prompts: int) -> int:
    """Return which of several prompts a question is asked in, by a hash of its id."""
    return stable_hash(f"prompt {question.id}") % prompts
