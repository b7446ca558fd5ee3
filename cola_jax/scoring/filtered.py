"""`FilteredGeneration`: `generation` for a task that filters and grades completions itself."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from cola_jax.errors import InputError
from cola_jax.execute.allocator import DecodeRow
from cola_jax.execute.decoder import NOT_FINITE, TRUNCATED
from cola_jax.execute.stop import Stop
from cola_jax.question import Question
from cola_jax.scoring.decoding import DECOY, DecodingScorer, completion, completion_verdicts
from cola_jax.scoring.encode import Encoded, check_length, encode_prompt
from cola_jax.scoring.gen_kwargs import GenerationSettings
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.verdicts import Completion, Verdicts


class CompletionGrader(Protocol):
    """What ends the completions of a task, and how they are graded."""

    settings: GenerationSettings

    def grade(self, question: Question, text: str) -> tuple[str | None, Grade]: ...
    def gives(self, question: Question, text: str, answer: str) -> bool: ...
    def record(self) -> dict[str, Any]: ...


class FilteredGeneration(DecodingScorer):
    """Decode after prompts that are whole, as lm-evaluation-harness's `generate_until` does."""

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
        """Take what `Scorer` does, the task's grader, and ids that end a text.

        `max_new_tokens` replaces the task's own limit. Raises InputError for one below 1.
        """
        super().__init__(tokenizer, chat=chat, context=context)
        until, limit = grader.settings
        self.grader, self.max_new_tokens = grader, limit
        if max_new_tokens is not None:
            self.max_new_tokens = max_new_tokens
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, it is {self.max_new_tokens}.")
        end = tokenizer.eos_token  # a stop string as well, as in the harness's model `hf`
        strings = (*until, *([end] if end and end not in until else []))
        self.stop = Stop(tuple(stop_tokens), strings, tokenizer=tokenizer)

    def encode(self, question: Question) -> Encoded:
        """Encode the prompt alone; InputError where it and its answer exceed the context."""
        encoded = encode_prompt(question, self.tokenizer, question.text)
        check_length(encoded, self.context, self.max_new_tokens)
        return encoded

    def record(self) -> dict[str, Any]:
        return super().record() | self.grader.record()

    def row_verdicts(self, rows: Sequence[DecodeRow], questions: Sequence[Question]) -> Verdicts:
        """Grade the completions of rows against gold, and the wrong ones against the decoys."""
        found = [self.complete(row, one) for row, one in zip(rows, questions, strict=True)]
        hits = [
            completion.grade is Grade.WRONG
            and completion.finish != NOT_FINITE
            and len(one.options) > DECOY
            and self.grader.gives(one, completion.text, one.options[DECOY])
            for completion, one in zip(found, questions, strict=True)
        ]
        return completion_verdicts(found, hits, rows)

    def complete(self, row: DecodeRow, question: Question) -> Completion:
        """Make the graded completion of a row.

        The harness grades what the token limit cut as well; here that is recorded as truncated
        where no answer is found in it.
        """
        made = completion(row, self.stop, None, Grade.WRONG)
        if row.finish == NOT_FINITE:
            return made
        text = self.tokenizer.decode(list(row.tokens), skip_special_tokens=True)
        text = text[: self.stop.found(text)]
        answer, grade = self.grader.grade(question, text)
        cut = row.finish == TRUNCATED and answer is None
        return dataclasses.replace(made, text=text, answer=answer, grade=grade, truncated=cut)
