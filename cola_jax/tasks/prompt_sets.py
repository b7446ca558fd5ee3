"""Prompts of a task: its own, and random draws of format, order of options, and shots.

A prompt is a draw, as a question is: the same path gained 2.9 points after one pair of shots and
lost 3.5 after another. A draw serves all questions of a task.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cola_jax.errors import InputError
from cola_jax.question import Question, digest
from cola_jax.tasks.scorers import ScorerMaker
from cola_jax.wording import Wording

if TYPE_CHECKING:
    from cola_jax.scoring.scorer import Scorer

CHOOSE, MEASURE = "choose", "measure"  # purposes: draws for the one are none for the other
MOST = 1000  # prompts of a task; the questions are asked in each
ATTEMPTS = 20  # draws in a row without a new prompt, for each known one, before there are no more
RESERVED = 8  # draws for measuring, at least, that those for choosing leave out


class Prompt(NamedTuple):
    """A way to ask the questions of a task: its scorer, and its record for a run's settings."""

    scorer: "Scorer"
    record: dict[str, Any]
    wording: Wording

    def ask(self, question: Question) -> Question:
        """Return a question as it is asked, with its options in the order of the draw."""
        if self.wording.is_drawn and self.scorer.lists_options:
            return self.wording.reorder(question)
        return question

    @property
    def key(self) -> str:
        """The digest by which prompts are told apart."""
        name = self.record.get("prompt_set") if self.scorer.lists_options else None
        return digest(self.record.get("prompt"), name)


def own_prompt(maker: ScorerMaker) -> Prompt:
    """Make the task's own prompt."""
    return Prompt(*maker.make(), maker.wording)


def choosing_prompts(maker: ScorerMaker, count: int, measuring: int = 1) -> list[Prompt]:
    """Make the task's own prompt and others, none of which is among those that measure a result.

    `measuring` is the number of these. Raises InputError where the task has too few.
    """
    own = own_prompt(maker)
    if count == 1:
        return [own]
    reserved = draw(maker, MEASURE, max(RESERVED, measuring), [own])
    return [own, *enough(maker, draw(maker, CHOOSE, count - 1, [own, *reserved]), count - 1)]


def measuring_prompts(maker: ScorerMaker, count: int) -> list[Prompt]:
    """Make the task's own prompt, or draw several others; InputError where it has too few."""
    own = own_prompt(maker)
    return [own] if count == 1 else enough(maker, draw(maker, MEASURE, count, [own]), count)


def check_count(name: str, count: int | None) -> None:
    """Raise InputError for a number of prompts that cannot be asked; `name` is its setting."""
    if count is not None and not 1 <= count <= MOST:
        raise InputError(f"{name} must be from 1 to {MOST:,} prompts, it is {count:,}.")


def draw(maker: ScorerMaker, purpose: str, count: int, others: Sequence[Prompt]) -> list[Prompt]:
    """Draw up to `count` distinct prompts that are none of the others."""
    known, drawn = {prompt.key for prompt in others}, list[Prompt]()
    repeated = 0  # draws since the last new prompt
    for number in itertools.count():
        wording = dataclasses.replace(maker.wording, draw=f"{purpose} {number}")
        scorer, record = dataclasses.replace(maker, wording=wording).make()
        record["prompt_set"] = f"{wording.draw}, seed {wording.seed}"
        prompt = Prompt(scorer, record, wording)
        if prompt.key not in known:
            known.add(prompt.key)
            drawn.append(prompt)
            repeated = 0
        else:
            repeated += 1
        if len(drawn) == count or repeated == ATTEMPTS * len(known):
            break
    return drawn


def enough(maker: ScorerMaker, drawn: list[Prompt], count: int) -> list[Prompt]:
    """Return the prompts drawn; InputError for fewer than `count`."""
    if len(drawn) < count:
        raise InputError(
            f"{maker.task.name} has {len(drawn)} other prompts to draw, but {count} are wanted: "
            "show solved examples (--num-fewshot 1 or more, from a --shots-file that is long "
            "enough), or ask for fewer (--prompts, --choose-prompts)."
        )
    return drawn
