"""Wordings of a task: its own, and random draws of format, shots, chat and order of options.

A prompt is a draw, as a question is: the same path gained 2.9 points after one pair of shots and
lost 3.5 after another. A draw serves all questions of a task. Wordings are distinct: neither equal
texts nor other orders of the same shots count as another one.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cola_jax.errors import InputError, count
from cola_jax.question import Question, digest
from cola_jax.scoring import SCORERS, scorer_class
from cola_jax.wording import Wording

if TYPE_CHECKING:
    from cola_jax.scoring.encoder import Encoder
    from cola_jax.scoring.scorer import Encoded, Scorer

# the draws for one purpose are none of those for another; found paths are asked again in the last
Purpose = Literal["choose", "measure", "again"]
MOST = 1000  # prompts of a task; the questions are asked in each
PLAIN = {"format": "plain", "shots": []}  # the prompt of a record that has none
LIBRARY = "lm-evaluation-harness"  # the format of prompts that it writes
DIGITS = 12  # hexadecimal, of a key
AGAIN = 4  # other wordings in which found paths are asked again, where they exist
ATTEMPTS = 20  # draws in a row without a new wording, for each known one, before there are no more
RESERVED = 8  # draws for measuring, at least, that those for choosing leave out
COMPARED = 32  # questions whose orders of options tell wordings apart


class Maker(Protocol):
    """Makes the scorer of a wording."""

    @property
    def name(self) -> str:
        """The name of the task, for messages."""
        ...

    @property
    def wording(self) -> Wording:
        """The task's own wording."""
        ...

    @property
    def questions(self) -> Sequence[Question]:
        """Questions to compare wordings by, the first of the task."""
        ...

    @property
    def has_template(self) -> bool:
        """Whether prompts can be put through a chat template."""
        ...

    def make(self, wording: Wording) -> "tuple[Scorer, dict[str, Any]]":
        """Make the scorer, and its record for a run's settings; InputError where it cannot be."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class WordedScorer:
    """A way to ask the questions of a task: a wording and its scorer."""

    wording: Wording
    scorer: "Scorer"
    record: dict[str, Any]  # for a run's settings

    @classmethod
    def of(cls, maker: Maker, wording: Wording | None = None) -> "WordedScorer":
        """Make the scorer of a wording, by default the task's own."""
        wording = wording or maker.wording
        scorer, record = maker.make(wording)
        if wording.is_drawn:
            record["prompt_set"] = f"{wording.draw}, seed {wording.seed}"
        return cls(wording, scorer, record)

    @property
    def encoder(self) -> "Encoder":
        """The encoder of questions as they are asked."""
        from cola_jax.scoring.encoder import Encoder

        return Encoder((self.scorer,))

    @property
    def digest(self) -> str:
        """The digest of what decides the texts, whatever the number of questions."""
        listed = self.record["prompt_set"] if self.reorders else None
        return digest(self.scorer.chat, self.record.get("prompt"), listed)

    @property
    def reorders(self) -> bool:
        """Whether options are listed in an order of the draw."""
        return self.wording.is_drawn and self.scorer.lists_options

    def order(self, question: Question) -> list[int]:
        """Return the options of a question in the order in which they are listed."""
        if self.reorders:
            return self.wording.order(question)
        return list(range(len(question.options)))

    def ask(self, question: Question) -> Question:
        """Return a question as it is asked, with its options in the order of the draw."""
        if not self.reorders:
            return question
        order = self.order(question)
        options = tuple(question.options[i] for i in order)
        return dataclasses.replace(question, options=options, answer=order.index(question.answer))

    def content(self, questions: Sequence[Question]) -> str:
        """Return the digest of what is shown, by which wordings are told apart."""
        orders = [self.order(question) for question in questions[:COMPARED]]
        prompt = dict(self.record.get("prompt") or {})
        if shots := prompt.pop("shots", ()):
            return digest(self.scorer.chat, prompt, sorted(shots), orders)
        (encoded,) = self.encoder.tokenize(questions[:1])
        return digest(encoded.prompt_hash, orders)

    def sample(self, encoded: "Sequence[Encoded]") -> "list[Encoded]":
        """Encode questions that were encoded in another wording, without pictures."""
        return self.encoder.tokenize([self.ask(each.question) for each in encoded])


def wording_key(record: Mapping[str, Any]) -> str | None:
    """Return the key of a wording by its record, or by the settings of a run that asked in it.

    It is the digest of chat, format and shots, whose order does not count, and of the draw where
    that orders options. Returns None where an earlier version did not record the shots.
    """
    prompt = record.get("prompt") or PLAIN
    name = format_name(prompt)
    shots = prompt.get("shots")
    number = prompt.get("num_fewshot") or None
    if shots is None or (number and not shots and name != LIBRARY):
        return None
    if name == LIBRARY:
        name = f"{name}, {number} shots"
    scorer = record.get("scorer")
    listed = None
    if scorer in SCORERS and scorer_class(scorer).lists_options:
        listed = record.get("prompt_set") or "in order"
    return digest(bool(record.get("chat")), name, sorted(shots), listed)[:DIGITS]


def format_name(prompt: Mapping[str, Any]) -> str:
    """Return the name of the format in the record of a prompt."""
    style = prompt.get("format", "plain")
    return style["name"] if isinstance(style, Mapping) else style


def wording_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Say how questions are put, by a record as for `wording_key`, which is among the facts."""
    prompt = record.get("prompt") or PLAIN
    facts = {
        "key": wording_key(record),
        "format": format_name(prompt),
        "shots": prompt.get("num_fewshot") or len(prompt.get("shots") or ()),
        "chat": bool(record.get("chat")),
        "draw": record.get("prompt_set"),
    }
    return {name: value for name, value in facts.items() if value is not None}


def draw_wordings(
    maker: Maker,
    purpose: Purpose,
    number: int,
    taken: Sequence[WordedScorer],
    *,
    exact: bool = True,
    check: Callable[[WordedScorer], None] | None = None,
) -> list[WordedScorer]:
    """Draw distinct wordings, none of which is among those that are taken.

    To ask again, the chat template is drawn as well; otherwise where there are too few with the
    task's own. Those that cannot be asked, or for which `check` raises InputError, are passed over
    then, so that the first n are the same however many are wanted. Raises InputError for too few,
    unless `exact` is False.
    """
    known = {worded.content(maker.questions) for worded in taken}
    refused: set[str | None] = set()  # contents, None where it is not known
    reason: InputError | None = None  # of the first with the task's own chat template or none
    drawn: list[WordedScorer] = []
    numbers = itertools.count()
    own = maker.wording.chat
    chats = [(own, not own)] if maker.has_template else []
    for choices in chats if purpose == "again" and chats else [(own,), *chats]:
        repeated = 0  # draws since the last new wording
        while len(drawn) < number and repeated < ATTEMPTS * len(known):
            wording = dataclasses.replace(maker.wording, draw=f"{purpose} {next(numbers)}")
            wording = dataclasses.replace(wording, chat=wording.choose("chat", choices))
            repeated += 1
            content = None
            worded = None
            try:
                worded = WordedScorer.of(maker, wording)
                content = worded.content(maker.questions)
                if check is not None and content not in known and content not in refused:
                    check(worded)
            except InputError as error:
                if exact and wording.chat == own and purpose != "again":
                    raise
                refused.add(content)  # such as one that is longer in the chat template
                reason = reason or (error if wording.chat == own else None)
            is_new = content not in known and content not in refused
            if worded is not None and content is not None and is_new:
                known.add(content)
                drawn.append(worded)
                repeated = 0
    if exact and len(drawn) < number:
        if reason is not None and purpose == "again":
            raise InputError(
                f"{maker.name} can be asked again in {count(len(drawn), 'other wording')}, but "
                f"{number} are wanted ({reason}): give --prompts {len(drawn)}."
            ) from reason
        raise InputError(
            f"{maker.name} has {count(len(drawn), 'other wording')}, but {number} are wanted: show "
            "solved examples (--num-fewshot 1 or more, from a --shots-file that is long enough), "
            "or ask for fewer (--prompts, --choose-prompts)."
        )
    return drawn


def choosing_wordings(maker: Maker, number: int, measuring: int) -> list[WordedScorer]:
    """Return the task's own wording and others, none of which is among those that measure a result.

    `measuring` is the number of these. Raises InputError where the task has too few.
    """
    own = WordedScorer.of(maker)
    if number == 1:
        return [own]
    reserved = draw_wordings(maker, "measure", max(RESERVED, measuring), [own], exact=False)
    if len(reserved) < RESERVED:  # all that there are
        reserved = reserved[:measuring] if measuring > 1 else []
    return [own, *draw_wordings(maker, "choose", number - 1, [own, *reserved])]


def check_count(name: str, number: int | None) -> None:
    """Raise InputError for a number of prompts that cannot be asked; `name` is its setting."""
    least = 0 if name == "prompts" else 1
    if number is not None and not least <= number <= MOST:
        raise InputError(f"{name} must be from {least} to {MOST:,}, it is {number:,}.")
