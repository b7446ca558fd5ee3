"""Scorers that decode: what they have in common, and `Completions`, which grades nothing."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.execute.decoder import NOT_FINITE, TRUNCATED, Decoder, DecodeRow, check_decode_memory
from cola_jax.execute.evaluator import Workload
from cola_jax.execute.memory import Memory
from cola_jax.execute.stop import Stop
from cola_jax.execute.worker import Worker
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, Readings
from cola_jax.question import Question
from cola_jax.scoring.answer import Rule, find_answer
from cola_jax.scoring.encode import Encoded, check_length, encode_prompt, render_chat
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import Evaluate, Scorer, most_options, prompts_of
from cola_jax.scoring.verdicts import NO_ANSWER, Completion, Verdicts

GOLD, DECOY = 0, 1  # the options of an open question
DECODED = 32  # answers decoded in one call, and then kept
TIE = 1e-6  # the margin of a token that is as likely as its rival


class DecodingScorer(Scorer):
    """A scorer that decodes completions after prompts alone; without a subclass, it grades none."""

    open = True
    decodes = True
    call_size = DECODED
    stop: Stop
    max_new_tokens: int

    def prompt(self, question: Question) -> str:
        """Write a question's prompt: here its text."""
        return render_chat(self.tokenizer, question.text) if self.chat else question.text

    def encode(self, question: Question) -> Encoded:
        """Encode the prompt alone; InputError where it is empty, or too long with new tokens."""
        text = self.prompt(question)
        encoded = encode_prompt(question, self.tokenizer, text, special=not self.chat)
        if not encoded.num_tokens:
            raise InputError(f"prompt {question.id} is empty: there is nothing to complete.")
        check_length(encoded, self.context, self.max_new_tokens)
        return encoded

    def complete(
        self, rows: Sequence[DecodeRow], questions: Sequence[Question]
    ) -> list[Completion]:
        """Make the completions of decoded rows, graded against the gold answers."""
        return [completion(row, self.stop) for row in rows]

    def give_decoys(
        self, completions: Sequence[Completion], questions: Sequence[Question]
    ) -> list[bool]:
        """Say which of the wrong completions give the decoy, the second option, of their question.

        A control is held to what gold is held to, so it is graded, not compared as text.
        """
        return [False] * len(completions)

    def row_verdicts(self, rows: Sequence[DecodeRow], questions: Sequence[Question]) -> Verdicts:
        """Return the verdicts [R] of R decoded rows, each of its question."""
        completions = self.complete(rows, questions)
        wrong = [
            i
            for i, (each, question) in enumerate(zip(completions, questions, strict=True))
            if each.grade is Grade.WRONG
            and each.finish != NOT_FINITE
            and len(question.options) > DECOY
        ]
        decoys = np.zeros(len(rows), bool)
        decoys[wrong] = self.give_decoys(
            [completions[i] for i in wrong], [questions[i] for i in wrong]
        )
        return completion_verdicts(completions, decoys, rows)

    @contextlib.contextmanager
    def evaluator(
        self, worker: Worker, batch: Sequence[Encoded], workload: Workload
    ) -> Iterator[Evaluate]:
        def evaluate(paths: np.ndarray) -> Verdicts:
            rows = decoder(paths)
            verdicts = self.row_verdicts(rows, [batch[row.question].question for row in rows])
            out = Verdicts.empty(paths.shape[:2], most_options(batch))
            out.put(np.nonzero(paths[:, :, 0] != STOP), verdicts)
            return out

        decoder = Decoder(
            worker,
            prompts_of(batch),
            workload,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
        )
        with contextlib.closing(decoder):
            yield evaluate

    def reread(self, encoded: Encoded, completion: Completion | None) -> Encoded:
        """Put what a path decoded after its prompt, read at every token of it."""
        assert completion is not None
        prompt, tokens = np.asarray(encoded.prompts.ids).tolist(), completion.tokens
        ids = [*prompt, *tokens[:-1]]
        prompts = Prompts(
            ids=np.array(ids, np.int32),
            positions=np.arange(len(ids), dtype=np.int32),
            branch=np.zeros(len(ids), np.int32),
            read=np.arange(len(prompt) - 1, len(ids), dtype=np.int32),
            targets=np.array(tokens, np.int32),
        )
        return dataclasses.replace(encoded, prompts=prompts, option=np.zeros(len(tokens), int))

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Confirm what `reread` reads: each token must be the likeliest again."""
        same = (readings.token == encoded.prompts.targets).all(axis=1) & readings.finite
        return Verdicts.of_margins(np.where(same, 0.0, -1.0))

    def check_memory(
        self, config: ModelConfig, memory: Memory, batch: Sequence[Encoded], positions: int
    ) -> None:
        check_decode_memory(config, prompts_of(batch), memory, positions, self.max_new_tokens)

    def record(self) -> dict[str, Any]:
        return super().record() | {"max_new_tokens": self.max_new_tokens}


class Completions(DecodingScorer):
    """Decodes completions of prompts; there is no answer, and no verdict."""

    name = "completions"

    def __init__(
        self,
        tokenizer: Any,
        *,
        stop: Stop,
        max_new_tokens: int,
        chat: bool = False,
        context: int | None = None,
    ):
        super().__init__(tokenizer, chat=chat, context=context)
        self.stop, self.max_new_tokens = stop, checked_limit(max_new_tokens)

    def record(self) -> dict[str, Any]:
        stop = {"stop": list(self.stop.strings), "stop_tokens": [int(i) for i in self.stop.tokens]}
        return super().record() | stop


def checked_limit(tokens: int) -> int:
    """Return the most tokens to decode; InputError for a limit below 1."""
    if tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, it is {tokens}.")
    return tokens


def completion(
    row: DecodeRow, stop: Stop, rule: Rule | None = None, grade: Grade | None = None
) -> Completion:
    """Make the completion of a row, with the answer that a rule finds in its text."""
    text, cut = stop.text(row.tokens), row.finish == TRUNCATED
    answer, complete = (None, not cut) if rule is None else find_answer(text, rule, cut)
    return Completion(
        text=text,
        answer=answer,
        finish=row.finish,
        truncated=not complete,
        grade=grade,
        tokens=tuple(row.tokens),
        logprob=float(np.sum(row.logprob)),
        entropy=float(np.mean(row.entropy)) if row.entropy else math.nan,
        certainty=float(np.mean(row.certainty)) if row.certainty else math.nan,
    )


def completion_verdicts(
    completions: Sequence[Completion], decoys: np.ndarray, rows: Sequence[DecodeRow]
) -> Verdicts:
    """Score the completions of R rows; `decoys` [R] are those that give their question's decoy.

    The score of the option that was answered is how close any chosen token came to its rival, that
    of the others the same with a minus sign.
    """
    right = np.array([each.grade is Grade.RIGHT for each in completions], bool)
    finite = np.array([each.finish != NOT_FINITE for each in completions], bool)
    answer = np.where(right, GOLD, np.where(decoys, DECOY, NO_ANSWER))
    # else the margin of a tie would have no sign
    nearest = np.maximum(np.array([closest(row) for row in rows], np.float32), TIE)
    scores = np.stack([np.where(hit, nearest, -nearest) for hit in (right, decoys)], axis=1)
    verdicts = Verdicts.of_scores(scores, GOLD, finite, answer=answer, outside=np.nan)
    verdicts.completion[:] = completions
    return verdicts


def closest(row: DecodeRow) -> float:
    """Return the least difference between a token that a row chose and the next best."""
    return min((a - b for a, b in zip(row.logprob, row.rival, strict=True)), default=0.0)
