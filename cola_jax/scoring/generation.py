"""`generation`: decode an answer and grade it. And the base of all scorers of open questions."""

import contextlib
import dataclasses
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Protocol

from cola_jax.errors import InputError
from cola_jax.execute.decoder import NOT_FINITE, TRUNCATED, DecodeRow
from cola_jax.execute.stop import Stop
from cola_jax.question import Question
from cola_jax.scoring.answer import GenerationSettings, Rule, find_answer
from cola_jax.scoring.decoding import DECOY, DecodingScorer, checked_limit, completion
from cola_jax.scoring.encode import PromptFormat, ShotSource, render_chat, shots_of
from cola_jax.scoring.grader import Grade, Grader, check_installed
from cola_jax.scoring.scorer import Scorer
from cola_jax.scoring.verdicts import Completion


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
        """Take the arguments of `Scorer`, and more.

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
        """Write a question's prompt; InputError for a question that offers options."""
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
        """Take the arguments of `OpenScorer`, the most tokens to decode, and a grader to share.

        Raises InputError where math-verify is not installed.
        """
        super().__init__(tokenizer, format, **options)
        usual = format.max_new_tokens
        self.max_new_tokens = checked_limit(usual if max_new_tokens is None else max_new_tokens)
        if grader is None:
            check_installed()
        self.grader, self.stack = grader, contextlib.ExitStack()

    def __enter__(self) -> "Generation":
        """Start the grader's processes."""
        if self.grader is None:
            self.grader = self.stack.enter_context(Grader())
            self.stack.callback(setattr, self, "grader", None)
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def record(self) -> dict[str, Any]:
        # another version may grade otherwise
        return super().record() | {"grader": f"math-verify {version('math-verify')}"}

    def complete(
        self, rows: Sequence[DecodeRow], questions: Sequence[Question]
    ) -> list[Completion]:
        """Make the completions of rows, graded against gold."""
        completions = [completion(row, self.stop, self.rule, Grade.WRONG) for row in rows]
        grades = self.grade(completions, [question.gold for question in questions])
        return [
            dataclasses.replace(each, grade=grade)
            for each, grade in zip(completions, grades, strict=True)
        ]

    def give_decoys(
        self, completions: Sequence[Completion], questions: Sequence[Question]
    ) -> list[bool]:
        decoys = [question.options[DECOY] for question in questions]
        return [grade is Grade.RIGHT for grade in self.grade(completions, decoys)]

    def grade(self, completions: Sequence[Completion], options: Sequence[str]) -> list[Grade]:
        """Grade the answers of completions, each against an option; wrong where none is whole."""
        assert self.grader is not None, "a scorer that grades is used as a context manager"
        pairs = {
            i: (each.answer, option)
            for i, (each, option) in enumerate(zip(completions, options, strict=True))
            if each.answer is not None and not each.truncated and each.finish != NOT_FINITE
        }
        grades = dict(zip(pairs, self.grader.grade(list(pairs.values())), strict=True))
        return [grades.get(i, Grade.WRONG) for i in range(len(completions))]


class CompletionGrader(Protocol):
    """What ends the completions of a task, and how they are graded."""

    settings: GenerationSettings

    def grade(self, question: Question, text: str) -> tuple[str | None, Grade]: ...
    def gives(self, question: Question, text: str, answer: str) -> bool: ...
    def record(self) -> dict[str, Any]: ...


class FilteredGeneration(DecodingScorer):
    """`generation` for a task of lm-evaluation-harness that filters and grades completions itself.

    Prompts are whole, as those of the harness's `generate_until`.
    """

    name = "generation"

    def __init__(
        self,
        tokenizer: Any,
        grader: CompletionGrader,
        *,
        stop_tokens: Sequence[int],
        max_new_tokens: int | None = None,
        context: int | None = None,
        chat: bool = False,
    ):
        """Take the arguments of `Scorer`, the task's grader, and ids that end a text.

        `max_new_tokens` replaces the task's own limit. Raises InputError for one below 1.
        """
        super().__init__(tokenizer, chat=chat, context=context)
        until, usual = grader.settings
        self.max_new_tokens = checked_limit(usual if max_new_tokens is None else max_new_tokens)
        self.grader = grader
        end = tokenizer.eos_token  # a stop string as well, as in the harness's model `hf`
        strings = (*until, *([end] if end and end not in until else []))
        self.stop = Stop(tuple(stop_tokens), strings, tokenizer=tokenizer)

    def record(self) -> dict[str, Any]:
        return super().record() | self.grader.record()

    def complete(
        self, rows: Sequence[DecodeRow], questions: Sequence[Question]
    ) -> list[Completion]:
        """Make the graded completions of rows.

        The harness grades what the token limit cut as well; here that is recorded as truncated
        where no answer is found in it.
        """
        completions = []
        for row, question in zip(rows, questions, strict=True):
            made = completion(row, self.stop, None, Grade.WRONG)
            if row.finish != NOT_FINITE:
                text = self.tokenizer.decode(list(row.tokens), skip_special_tokens=True)
                text = text[: self.stop.found(text)]
                answer, grade = self.grader.grade(question, text)
                cut = row.finish == TRUNCATED and answer is None
                made = dataclasses.replace(
                    made, text=text, answer=answer, grade=grade, truncated=cut
                )
            completions.append(made)
        return completions

    def give_decoys(
        self, completions: Sequence[Completion], questions: Sequence[Question]
    ) -> list[bool]:
        return [
            self.grader.gives(question, each.text, question.options[DECOY])
            for each, question in zip(completions, questions, strict=True)
        ]


def box_closed(text: str) -> bool:
    """Say whether a text has a complete box, as if it were truncated here."""
    return "}" in text and find_answer(text, "boxed", True).complete
