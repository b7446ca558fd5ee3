"""Decoding scorers: what binds them to a batch, and `Completions`, which grades nothing."""

import abc
import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.execute.allocator import DecodeRow
from cola_jax.execute.decoder import NOT_FINITE, TRUNCATED, Decoder, rows_of
from cola_jax.execute.evaluator import ReferenceEvaluator, Workload
from cola_jax.execute.generate import check_limit
from cola_jax.execute.memory import Memory, choose_decode_sizes
from cola_jax.execute.stop import Stop
from cola_jax.execute.worker import Worker
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, Readings
from cola_jax.question import Question
from cola_jax.scoring.answer import Rule, find_answer
from cola_jax.scoring.encode import Encoded, encode_prompt, render_chat
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import Evaluate, Scorer, most_options, prompt_buckets
from cola_jax.scoring.verdicts import NO_ANSWER, Completion, Verdicts

GOLD, DECOY = 0, 1  # the options of an open question
DECODED = 32  # answers decoded in one call, and then kept
TIE = 1e-6  # the margin of a token that is as likely as its rival


class DecodingScorer(Scorer):
    """A scorer that decodes completions after prompts alone."""

    open = True
    decodes = True
    call_size = DECODED
    stop: Stop
    max_new_tokens: int

    @abc.abstractmethod
    def row_verdicts(self, rows: Sequence[DecodeRow], questions: Sequence[Question]) -> Verdicts:
        """Returns the verdicts [R] of R decoded rows, each of its question."""

    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Raises TypeError: answers are decoded, not read; see `row_verdicts`."""
        raise TypeError(f"the scorer {self.name!r} decodes answers and takes no readings.")

    @contextlib.contextmanager
    def evaluator(
        self, worker: Worker, batch: Sequence[Encoded], workload: Workload
    ) -> Iterator[Evaluate]:
        prompts = Prompts.stack([encoded.prompts for encoded in batch])
        decoder = Decoder(
            worker, prompts, workload, max_new_tokens=self.max_new_tokens, stop=self.stop
        )

        def evaluate(paths: np.ndarray) -> Verdicts:
            rows = rows_of(paths)
            with worker.decoding:
                decoder.decode(rows)
            verdicts = self.row_verdicts(rows, [batch[row.question].question for row in rows])
            out = Verdicts.empty(paths.shape[:2], most_options(batch))
            out.put(np.nonzero(paths[:, :, 0] != STOP), verdicts)
            return out

        try:
            yield evaluate
        finally:
            decoder.close()

    def confirm(
        self, worker: Worker, batch: Sequence[Encoded], paths: np.ndarray, verdicts: Verdicts
    ) -> list[bool | None]:
        """Feeds what was decoded to the reference: each token must be the most likely again."""
        out: list[bool | None] = [None] * len(paths)
        decoded = [b for b in range(len(paths)) if paths[b, 0] != STOP]
        if not decoded:
            return out
        forced = [after_prompt(batch[b], verdicts.completion[b]) for b in decoded]
        run = ReferenceEvaluator(worker, Prompts.stack(forced), np.dtype(np.float32), "highest")
        readings = run(paths[decoded][:, None])
        for i, b in enumerate(decoded):
            targets = np.asarray(forced[i].targets)
            same = readings.token[i, 0, : len(targets)] == targets
            out[b] = bool(same.all() and readings.finite[i, 0])
        return out

    def check_memory(
        self, config: ModelConfig, memory: Memory, batch: Sequence[Encoded], positions: int
    ) -> None:
        for tokens, _ in sorted(set(prompt_buckets(batch)), reverse=True):
            choose_decode_sizes(
                config,
                tokens,
                memory,
                positions=positions,
                max_new_tokens=self.max_new_tokens,
            )

    def record(self) -> dict[str, Any]:
        return super().record() | {"max_new_tokens": self.max_new_tokens}


def after_prompt(encoded: Encoded, completion: Completion) -> Prompts:
    """Puts what a path decoded after its prompt, read at every token of it."""
    prompt = np.asarray(encoded.prompts.ids).tolist()
    ids = [*prompt, *completion.tokens]
    return Prompts(
        ids=np.array(ids[:-1], np.int32),
        positions=np.arange(len(ids) - 1, dtype=np.int32),
        branch=np.zeros(len(ids) - 1, np.int32),
        read=np.arange(len(prompt) - 1, len(ids) - 1, dtype=np.int32),
        targets=np.array(completion.tokens, np.int32),
    )


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
        self.stop, self.max_new_tokens = stop, max_new_tokens

    def encode(self, question: Question) -> Encoded:
        """Encodes a question's text; ValueError where it is empty or too long."""
        text = render_chat(self.tokenizer, question.text) if self.chat else question.text
        encoded = encode_prompt(question, self.tokenizer, text, special=not self.chat)
        if not encoded.num_tokens:
            raise InputError(f"prompt {question.id} is empty: there is nothing to complete.")
        if self.context is not None:
            try:
                check_limit(encoded.num_tokens, self.max_new_tokens, self.context)
            except ValueError as error:
                raise InputError(f"prompt {question.id}: {error}") from None
        return encoded

    def record(self) -> dict[str, Any]:
        stop = {"stop": list(self.stop.strings), "stop_tokens": [int(i) for i in self.stop.tokens]}
        return super().record() | stop

    def row_verdicts(self, rows: Sequence[DecodeRow], questions: Sequence[Question]) -> Verdicts:
        completions = [completion(row, self.stop, None, None) for row in rows]
        return completion_verdicts(completions, [False] * len(rows), rows)


def completion(row: DecodeRow, stop: Stop, rule: Rule | None, grade: Grade | None) -> Completion:
    """Makes the completion of a row, with the answer that a rule finds in its text."""
    text = stop.text(row.tokens)
    answer, complete = None, row.finish != TRUNCATED
    if rule is not None:
        answer, complete = find_answer(text, rule, row.finish == TRUNCATED)
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
    completions: Sequence[Completion], decoys: Sequence[bool], rows: Sequence[DecodeRow]
) -> Verdicts:
    """Scores completions; `decoys` says which are graded as their question's decoy.

    The score of the option that was answered is how close any chosen token came to its rival, that
    of the others the same with a minus sign.
    """
    right = np.array([one.grade is Grade.RIGHT for one in completions], bool)
    finite = np.array([one.finish != NOT_FINITE for one in completions], bool)
    decoy = np.array(decoys, bool)
    answer = np.where(right, GOLD, np.where(decoy, DECOY, NO_ANSWER))
    # else the margin of a tie would have no sign
    nearest = np.maximum(np.array([closest(row) for row in rows], np.float32), TIE)
    scores = np.stack([np.where(hit, nearest, -nearest) for hit in (right, decoy)], axis=1)
    verdicts = Verdicts.of_scores(scores, GOLD, finite, answer=answer, outside=np.nan)
    column = np.full(len(completions), None, object)
    column[:] = completions
    return verdicts._replace(completion=column)


def closest(row: DecodeRow) -> float:
    """Returns the least difference between a token that a row chose and the next best."""
    return min((a - b for a, b in zip(row.logprob, row.rival, strict=True)), default=0.0)
