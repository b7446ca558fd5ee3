"""Variants: the same questions asked in other ways, to tell knowledge from luck."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cola_jax.errors import InputError, did_you_mean
from cola_jax.files import read_text
from cola_jax.question import Question, sha256

if TYPE_CHECKING:
    from cola_jax.scoring.scorer import Encoded, Scorer

NAMES = ("plain", "chat", "instruction", "shots", "order")
FIELD = "{question}"  # of a template
INSTRUCTION = f"Read the question with care, then give the best answer.\n\n{FIELD}"
MORE_SHOTS = 2


@dataclasses.dataclass(frozen=True)
class Variant:
    """Every question of a task, asked in another way."""

    name: str
    scorer: "Scorer"
    encoded: "list[Encoded]"
    places: list[tuple[int, ...]]  # for each question, the place of each of its options here

    def take(self, indices: Sequence[int]) -> "Variant":
        """Select questions."""
        encoded, places = ([each[i] for i in indices] for each in (self.encoded, self.places))
        return dataclasses.replace(self, encoded=encoded, places=places)


def make_variant(
    name: str,
    questions: Sequence[Question],
    encoded: "Sequence[Encoded]",
    make_scorer: "Callable[..., Scorer]",
    shots: int,
) -> Variant:
    """Encode questions in the variant of a name, or in the words of a template file.

    `encoded` are the prompts of the task, `shots` is its number of shots, and `make_scorer` makes a
    scorer with changed settings. Raises InputError for an unknown name, a variant that this task or
    tokenizer cannot have, and one with the prompts of the task.
    """
    settings: dict[str, Any] = {}
    template = FIELD
    if name in ("plain", "chat"):
        settings["chat"] = name == "chat"
    elif name == "shots":
        settings["shots"] = shots + MORE_SHOTS
    elif name != "order":
        template = INSTRUCTION if name == "instruction" else read_template(name)

    def change(question: Question) -> tuple[Question, tuple[int, ...]]:
        if name == "order":
            return reordered(question)
        text = template.replace(FIELD, question.text)
        return dataclasses.replace(question, text=text), tuple(range(len(question.options)))

    try:
        scorer = make_scorer(**settings)
        if name == "order" and not scorer.lists_options:
            raise InputError(
                f"the prompt of the scorer {scorer.name!r} does not list the options: use a scorer "
                "of letters."
            )
        changed = [change(question) for question in questions]
        ours = [scorer.encode(question) for question, _ in changed]
    except InputError as error:
        raise InputError(f"the variant {name!r} cannot be made: {error}") from error
    if [each.prompts.ids.tolist() for each in ours] == [e.prompts.ids.tolist() for e in encoded]:
        raise InputError(f"the variant {name!r} asks just as the task does: leave it out.")
    return Variant(name, scorer, ours, [places for _, places in changed])


def read_template(name: str) -> str:
    """Read a user's template; InputError where there is none, or no place for the question."""
    if not Path(name).is_file():
        raise InputError(
            f"the variant {name!r} is not one of {', '.join(NAMES)}, nor a file with {FIELD} in "
            f"it{did_you_mean(name, NAMES)}."
        )
    template = read_text(name).replace("\r\n", "\n").rstrip("\n")
    if FIELD not in template:
        raise InputError(f"the template {name} does not say {FIELD}, where the question belongs.")
    return template


def reordered(question: Question) -> tuple[Question, tuple[int, ...]]:
    """Rotate the options by a hash of the question's id; return the new place of each too."""
    count = len(question.options)
    if count < 2:
        raise InputError(f"question {question.id} has one option, which has no other order.")
    turn = 1 + sha256(f"order {question.id}")[0] % (count - 1)
    places = tuple((j - turn) % count for j in range(count))
    options = tuple(question.options[(k + turn) % count] for k in range(count))
    answer = places[question.answer]
    return dataclasses.replace(question, options=options, answer=answer), places
