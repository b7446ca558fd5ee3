"""`generation`: decode an answer and grade it. And what all scorers of open questions share."""

import contextlib
import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from cola_jax.errors import InputError
from cola_jax.execute.allocator import DecodeRow
from cola_jax.execute.decoder import NOT_FINITE
from cola_jax.execute.stop import Stop
from cola_jax.question import Question
from cola_jax.scoring.answer import Rule, find_answer
from cola_jax.scoring.decoding import DECOY, DecodingScorer, completion, completion_verdicts
from cola_jax.scoring.encode import (
    Encoded,
    PromptFormat,
    ShotSource,
    check_length,
    encode_prompt,
    render_chat,
    shots_of,
)
from cola_jax.scoring.grader import Grade, Grader, check_installed
from cola_jax.scoring.scorer import Scorer
from cola_jax.scoring.verdicts import Completion, Verdicts


class OpenScorer(Scorer):
    """A scorer of open questions, which are asked and answered in a format."""

    open = True

    def __init__(
        self,
        tokenizer: Any,
        format: PromptFormat,
        *,
        shots: ShotSource = (),
        chat: bool = False,
        context: int | None = None,
        stop_tokens: Sequence[int] = (),
        rule: Rule | None = None,
    ):
        """Takes what `Scorer` does.

        Args:
          format: the wording around a question, and how an answer ends and is found.
          shots: questions shown with their answers before each.
          stop_tokens: ids that end a text.
          rule: how the answer is found in the text, instead of the format's way.
        """
        super().__init__(tokenizer, chat=chat, context=context)
        self.format, self.shots = format, shots
        self.rule: Rule = format.extract if rule is None else rule
        # after a closed box nothing counts; other answers are complete when their text ends
        complete = box_closed if self.rule == "boxed" else None
        self.stop = Stop(tuple(stop_tokens), format.stop, rule=complete, tokenizer=tokenizer)

    def prompt(self, question: Question) -> str:
        """Writes a question's prompt; ValueError for a question that offers options."""
        if not question.open:
            raise InputError(
                f"question {question.id} is multiple choice: use a scorer of options or letters."
            )
        text = self.format.ask(question, shots_of(self.shots, question))
        return render_chat(self.tokenizer, text) if self.chat else text

    def record(self) -> dict[str, Any]:
        return super().record() | {"rule": self.rule}


class Generation(OpenScorer, DecodingScorer):
    """Decodes an answer and grades it with math-verify; used as a context manager."""

    name = "generation"

    def __init__(
        self,
        tokenizer: Any,
        format: PromptFormat,
        *,
        max_new_tokens: int | None = None,
        grader: Grader | None = None,
        **options: Any,
    ):
        """Takes what `OpenScorer` does, the most tokens to decode, and a grader to share.

        Raises ValueError where math-verify is not installed.
        """
        super().__init__(tokenizer, format, **options)
        limit = format.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise InputError(f"max_new_tokens must be at least 1, it is {limit}.")
        if grader is None:
            check_installed()
        self.max_new_tokens, self.grader = limit, grader
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> "Generation":
        """Starts the grader's processes."""
        if self.grader is None:
            self.grader = self.stack.enter_context(Grader())
            self.stack.callback(setattr, self, "grader", None)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def record(self) -> dict[str, Any]:
        # another version may grade otherwise
        return super().record() | {"grader": f"math-verify {version('math-verify')}"}

    def encode(self, question: Question) -> Encoded:
        """Encodes the prompt alone; ValueError where it and the answer exceed the context."""
        text = self.prompt(question)
        encoded = encode_prompt(question, self.tokenizer, text, special=not self.chat)
        check_length(encoded, self.context, self.max_new_tokens)
        return encoded

    def row_verdicts(self, rows: Sequence[DecodeRow], questions: Sequence[Question]) -> Verdicts:
        """Grades the answers of rows against gold, and the wrong ones against the decoys.

        A control is held to what gold is held to, so it is graded, not compared as text.
        """
        found = [completion(row, self.stop, self.rule, Grade.WRONG) for row in rows]
        answered = [i for i, one in enumerate(found) if is_answer(one)]
        grades = self.grade(found, answered, {i: questions[i].gold for i in answered})
        for i, grade in grades.items():
            found[i] = dataclasses.replace(found[i], grade=grade)
        wrong = [i for i in answered if grades[i] is Grade.WRONG]
        decoys = {
            i: questions[i].options[DECOY] for i in wrong if len(questions[i].options) > DECOY
        }
        chosen = self.grade(found, list(decoys), decoys)
        hits = [chosen.get(i) is Grade.RIGHT for i in range(len(found))]
        return completion_verdicts(found, hits, rows)

    def grade(
        self, completions: Sequence[Completion], some: Sequence[int], options: dict[int, str]
    ) -> dict[int, Grade]:
        """Grades the answers of some completions, each against an option."""
        assert self.grader is not None, "a scorer that grades is used as a context manager"
        pairs = [(str(completions[i].answer), options[i]) for i in some]
        return dict(zip(some, self.grader.grade(pairs), strict=True))


def is_answer(completion: Completion) -> bool:
    """Whether there is a whole answer to grade."""
    return (
        completion.answer is not None
        and not completion.truncated
        and completion.finish != NOT_FINITE
    )


def box_closed(text: str) -> bool:
    """Whether a text has a complete box, as if it were truncated here."""
    return "}" in text and find_answer(text, "boxed", True).complete
