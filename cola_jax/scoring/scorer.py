"""`Scorer`: turns questions into prompts, and what the model returns into verdicts."""

import abc
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.execute.evaluator import PathEvaluator, ReferenceEvaluator, Workload
from cola_jax.execute.inputs import buckets
from cola_jax.execute.memory import Memory, choose_sizes
from cola_jax.execute.shared_prefix import SharedPrefixEvaluator, path_evaluator
from cola_jax.execute.worker import Worker
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, Readings
from cola_jax.question import Question
from cola_jax.scoring.encode import Encoded, check_chat
from cola_jax.scoring.verdicts import Verdicts

Evaluate = Callable[[np.ndarray], Verdicts]  # paths [B, C, P], STOP-padded -> fields [B, C]


class Scorer(abc.ABC):
    """Scores paths of questions; a scorer of your own has a name, `encode` and `verdicts`."""

    name: ClassVar[str]
    open: ClassVar[bool] = False  # for questions that are asked without offering options
    decodes: ClassVar[bool] = False  # decodes completions instead of reading the model
    formats: ClassVar[tuple[str, ...]] = ("plain",)  # prompts of multiple choice
    lists_options: ClassVar[bool] = False  # the prompt shows the options, in their order
    retargets: ClassVar[bool] = True  # `of_target` gives all that `verdicts` does, to the bit

    def __init__(self, tokenizer: Any, *, chat: bool = False, context: int | None = None):
        """Takes the model's tokenizer.

        Args:
          chat: put prompts through the tokenizer's chat template.
          context: the longest prompt allowed, in tokens.

        Raises ValueError where the tokenizer has no chat template.
        """
        check_chat(tokenizer, chat)
        self.tokenizer, self.chat, self.context = tokenizer, chat, context

    @abc.abstractmethod
    def encode(self, question: Question) -> Encoded:
        """Encodes one question.

        Returns:
          Its prompt and continuations, with the positions at which the model is read.

        Raises:
          ValueError: where it cannot be asked so, such as a prompt longer than the context.
        """

    @abc.abstractmethod
    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Turns what the model says along C paths of one question into verdicts.

        Args:
          readings: [C, Q], at the read positions of `encoded`.
          encoded: what `encode` made of the question.

        Returns:
          Verdicts with fields [C].
        """

    def of_target(self, verdicts: Verdicts, target: int | np.ndarray) -> Verdicts:
        """Reads verdicts with another option as the target.

        Returns:
          Verdicts of the same shape: how close the paths came to giving that answer.
        """
        return verdicts.of_target(target)

    def evaluator(
        self, worker: Worker, batch: Sequence[Encoded], workload: Workload
    ) -> "BatchEvaluator":
        """Binds the scorer to a batch of questions on a worker, best of one token bucket.

        Returns:
          A function from paths [B, C, P] to Verdicts [B, C], to be used as a context.
        """
        return ReadingEvaluator(self, worker, batch, workload)

    def check_memory(
        self, config: ModelConfig, memory: Memory, batch: Sequence[Encoded], positions: int
    ) -> None:
        """Raises ValueError where memory is too small to evaluate a path of `positions` layers."""
        for tokens, reads in sorted(set(prompt_buckets(batch)), reverse=True):
            choose_sizes(config, tokens, reads, memory)

    def record(self) -> dict[str, Any]:
        """Describes the scorer's prompts for a run's settings.

        Returns:
          Settings by name, of types that JSON has; runs with different ones are kept apart.
        """
        return {}

    def __enter__(self) -> "Scorer":
        """Starts what the scorer needs while it evaluates."""
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 - most scorers need nothing
        """Ends it."""


class BatchEvaluator(contextlib.AbstractContextManager["BatchEvaluator"], abc.ABC):
    """An evaluator: a scorer bound to a batch of questions on a worker."""

    together = 1  # evaluations that take hardly longer than one
    turn: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()  # held during a call

    def __init__(self, scorer: Scorer, worker: Worker, batch: Sequence[Encoded]):
        self.scorer, self.worker, self.batch = scorer, worker, batch
        self.prompts = Prompts.stack([encoded.prompts for encoded in batch])
        self.closed = False

    def __enter__(self) -> Self:
        return self

    @abc.abstractmethod
    def release(self) -> None:
        """Gives the buffers back to the worker."""

    def close(self) -> None:
        """Ends the evaluator, so that its memory serves for others."""
        if not self.closed:
            self.closed = True
            self.release()

    def __exit__(self, *error: object) -> None:
        self.close()

    @abc.abstractmethod
    def __call__(self, paths: np.ndarray) -> Verdicts:
        """Evaluates a wave of paths [B, C, P], STOP-padded; blocks; returns fields [B, C]."""

    def of_target(self, verdicts: Verdicts, target: int | np.ndarray) -> Verdicts:
        """Reads verdicts of an earlier call with another option as the target; as `Scorer`."""
        return self.scorer.of_target(verdicts, target)

    def given(self, question: int, plain: Verdicts) -> list[int]:
        """Returns the answers of the identity path, `plain` [B, 1], in every variant asked."""
        return [int(plain.answer[question, 0])]

    @abc.abstractmethod
    def confirm(self, paths: np.ndarray, verdicts: Verdicts) -> list[bool | None]:
        """Says whether one path [B, P] a question is right in float32 by the reference executor.

        `verdicts` [B] are what it was given before. None where a question has no path.
        """


class ReadingEvaluator(BatchEvaluator):
    """Evaluates paths by reading the model at positions of the prompts."""

    def __init__(
        self, scorer: Scorer, worker: Worker, batch: Sequence[Encoded], workload: Workload
    ):
        super().__init__(scorer, worker, batch)
        self.run = self.executor(workload)
        self.together = self.run.together

    def executor(
        self, workload: Workload
    ) -> PathEvaluator | SharedPrefixEvaluator | ReferenceEvaluator:
        """Makes what runs the paths."""
        return path_evaluator(self.worker, self.prompts, workload)

    def __call__(self, paths: np.ndarray) -> Verdicts:
        return self.score(self.run(paths), paths)

    def score(self, readings: Readings, paths: np.ndarray) -> Verdicts:
        """Scores the readings of every path that is one."""
        out = Verdicts.empty(paths.shape[:2], most_options(self.batch))
        for b, encoded in enumerate(self.batch):
            present = np.flatnonzero(paths[b, :, 0] != STOP)
            reads = len(encoded.option)
            row = Readings(
                logprob=readings.logprob[b, present, :reads],
                token=readings.token[b, present, :reads],
                rival=readings.rival[b, present, :reads],
                finite=readings.finite[b, present],
            )
            out.put((b, present), self.scorer.verdicts(row, encoded))
        return out

    def confirm(self, paths: np.ndarray, verdicts: Verdicts) -> list[bool | None]:
        run = ReferenceEvaluator(self.worker, self.prompts, np.dtype(np.float32), "highest")
        again = self.score(run(paths[:, None]), paths[:, None]).verdict[:, 0]
        return [
            None if path[0] == STOP else bool(right)
            for path, right in zip(paths, again, strict=True)
        ]

    def release(self) -> None:
        self.run.close()


def most_options(batch: Sequence[Encoded]) -> int:
    """Returns the most options, decoys included, that a question of a batch has."""
    return max(len(encoded.question.options) for encoded in batch)


def prompt_buckets(batch: Sequence[Encoded]) -> list[tuple[int, int]]:
    """Returns T and Q of each question."""
    return buckets(Prompts.stack([encoded.prompts for encoded in batch]))
