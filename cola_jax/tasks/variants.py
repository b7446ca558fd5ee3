"""Variants: the same questions asked in other ways, to tell knowledge from luck."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cola_jax.errors import InputError, did_you_mean
from cola_jax.files import read_text
from cola_jax.question import Question, digest, sha256
from cola_jax.scoring.encoder import FIRST, Encoder
from cola_jax.scoring.scorer import Encoded, Scorer

ORDER = "order"
NAMES = ("plain", "chat", "instruction", "shots", ORDER)
FIELD = "{question}"  # of a template
INSTRUCTION = f"Read the question with care, then give the best answer.\n\n{FIELD}"
MORE_SHOTS = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """Another way to ask the questions of a task."""

    name: str
    scorer: Scorer
    record: dict[str, Any]  # of its prompts, as that of the task
    template: str = FIELD

    @property
    def encoder(self) -> Encoder:
        """The encoder of changed questions."""
        return Encoder((self.scorer,))

    def change(self, question: Question) -> tuple[Question, tuple[int, ...]]:
        """Return a question as it is asked here, and the place of each of its options.

        Raises InputError for a question that cannot be changed.
        """
        if self.name == ORDER:
            return reordered(question)
        places = tuple(range(len(question.options)))
        if self.template == FIELD:
            return question, places
        text = self.template.replace(FIELD, question.text)
        return dataclasses.replace(question, text=text), places

    def check(self, questions: Sequence[Question], sample: Sequence[Encoded]) -> list[Encoded]:
        """Check questions of a task, and encode a sample of them, as `Encoder.check`.

        Raises InputError for a variant that asks just as the task does; `sample` are prompts of
        the same questions there.
        """
        try:
            changed = [self.change(question)[0] for question in questions]
            ours = self.encoder.check(changed)
        except InputError as error:
            raise cannot_be_made(self.name, error) from error
        if all(map(has_same_tokens, ours[:FIRST], sample[:FIRST])):
            raise InputError(f"the variant {self.name!r} asks just as the task does: leave it out.")
        return ours

    def digest(self) -> str:
        """Return the digest of what decides the prompts."""
        return digest(self.name == ORDER, self.template, self.record)


def has_same_tokens(ours: Encoded, theirs: Encoded) -> bool:
    """Return whether two prompts, with what follows them, have the same tokens."""
    return ours.prompts.ids.tolist() == theirs.prompts.ids.tolist()


def cannot_be_made(name: str, error: InputError) -> InputError:
    """Return the error for a variant that this task or tokenizer cannot have."""
    return InputError(f"the variant {name!r} cannot be made: {error}")


def make_variant(
    name: str, make_scorer: Callable[..., tuple[Scorer, dict[str, Any]]], shots: int
) -> Variant:
    """Make the variant of a name, or of a template file.

    `make_scorer` makes a scorer with changed settings and its record, and `shots` is the task's own
    number of shots. Raises InputError for an unknown name, and a variant that this task or
    tokenizer cannot have.
    """
    settings: dict[str, Any] = {}
    template = FIELD
    if name in ("plain", "chat"):
        settings["chat"] = name == "chat"
    elif name == "shots":
        settings["shots"] = shots + MORE_SHOTS
    elif name != ORDER:
        template = INSTRUCTION if name == "instruction" else read_template(name)
    try:
        scorer, record = make_scorer(**settings)
        if name == ORDER and not scorer.lists_options:
            raise InputError(
                f"the prompt of the scorer {scorer.name!r} does not list the options: use a scorer "
                "of letters."
            )
    except InputError as error:
        raise cannot_be_made(name, error) from error
    return Variant(name, scorer, record, template)


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
