"""`Scorer`: turns questions into prompts, and the readings of the model into verdicts."""

import abc
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import jax
import numpy as np

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.memory import Memory
from cola_jax.execute.plan import Workload
from cola_jax.execute.run_paths import PathEvaluator, choose_path_sizes
from cola_jax.execute.worker import Worker
from cola_jax.path import STOP
from cola_jax.prompts import Prompts, Readings
from cola_jax.question import Question
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.verdicts import Completion, Verdicts

Evaluate = Callable[[np.ndarray], Verdicts]  # paths [B, C, P], STOP-padded -> fields [B, C]


class Scorer(abc.ABC):
    """Scores paths of questions; a scorer of your own has a name, `encode` and `verdicts`."""

    name: ClassVar[str]
    open: ClassVar[bool] = False  # for questions that are asked without offering options
    decodes: ClassVar[bool] = False  # decodes completions instead of reading the model
    formats: ClassVar[tuple[str, ...]] = ("plain",)  # prompts of multiple choice
    lists_options: ClassVar[bool] = False  # the prompt shows the options, in their order
    call_size: ClassVar[int | None] = None  # the most evaluations of a call; None for a wave

    def __init__(self, tokenizer: Any, *, chat: bool = False, context: int | None = None):
        """Take the model's tokenizer.

        Args:
          chat: put prompts through the tokenizer's chat template; InputError where it has none.
          context: the longest prompt allowed, in tokens.
        """
        if chat and not tokenizer.chat_template:
            raise InputError(
                "the tokenizer has no chat template: use the plain prompt (drop --chat)."
            )
        self.tokenizer, self.chat, self.context = tokenizer, chat, context

    @abc.abstractmethod
    def encode(self, question: Question) -> Encoded:
        """Encode one question.

        Returns:
          Its prompt and continuations, and the positions to read.

        Raises:
          InputError: for a question that cannot be asked so, or a prompt longer than the context.
        """

    @abc.abstractmethod
    def verdicts(self, readings: Readings, encoded: Encoded) -> Verdicts:
        """Turn readings along C paths of one question into verdicts.

        Args:
          readings: [C, Q], at the read positions of `encoded`.
          encoded: the question, from `encode`.

        Returns:
          Verdicts with fields [C].
        """

    @contextlib.contextmanager
    def evaluator(
        self, worker: Worker, batch: Sequence[Encoded], workload: Workload
    ) -> Iterator[Evaluate]:
        """Bind the scorer to a batch of questions on a worker, best of similar lengths.

        Returns:
          A context manager of a function from paths [B, C, P] to Verdicts [B, C], which blocks.
        """
        with contextlib.closing(PathEvaluator(worker, prompts_of(batch), workload)) as run:
            yield lambda paths: score_readings(self, batch, run(paths), paths)

    def confirm(
        self,
        worker: Worker,
        batch: Sequence[Encoded],
        workload: Workload,
        paths: Sequence[tuple[int, ...] | None],
        completions: Sequence[Completion | None],
    ) -> list[bool | None]:
        """Run at most one path a question once more in float32, all questions at once.

        Args:
          workload: of the batch before; with the same, a CPU compiles nothing.
          completions: decoded along the paths before; None where nothing was.

        Returns:
          Whether each path is right; None without a path.
        """
        held: list[bool | None] = [None] * len(paths)
        present = [b for b, path in enumerate(paths) if path is not None]
        if not present:
            return held
        # all questions, so that the shapes are those of the batch, unless the prompts are others
        chosen = present if self.decodes else list(range(len(paths)))
        rows = [self.reread(batch[b], completions[b]) for b in chosen]
        given = [[path] if (path := paths[b]) is not None else [] for b in chosen]
        padded = pad_paths(given, len(rows), worker.config.num_layers)
        if self.decodes:  # other prompts than before, and few states
            workload = workload._replace(wave=1)
        # a CPU multiplies in full precision; a setting would compile all programs again
        precision = None if worker.device.platform == "cpu" else "highest"
        with jax.default_matmul_precision(precision):
            run = PathEvaluator(worker.in_float32(), prompts_of(rows), workload)
            with contextlib.closing(run):
                right = score_readings(self, rows, run(padded), padded).verdict[:, 0].tolist()
        for b, verdict in zip(chosen, right, strict=True):
            held[b] = verdict if b in present else None
        return held

    def reread(self, encoded: Encoded, completion: Completion | None) -> Encoded:
        """Make the prompt that confirms a verdict.

        Returns:
          By default the same prompt.
        """
        return encoded

    def check_memory(
        self, config: ModelConfig, memory: Memory, batch: Sequence[Encoded], positions: int
    ) -> None:
        """Raise InputError where memory is too small to evaluate a path of `positions` layers."""
        choose_path_sizes(config, prompts_of(batch), memory)

    def record(self) -> dict[str, Any]:
        """Describe the prompts for a run's settings.

        Returns:
          Settings by name, as JSON has them; runs with different ones are kept apart.
        """
        return {}

    def __enter__(self) -> "Scorer":
        """Start the resources of evaluation, such as processes."""
        return self

    def __exit__(self, *error: object) -> None:  # noqa: B027 - most scorers need nothing
        """End it."""


def score_readings(
    scorer: Scorer, batch: Sequence[Encoded], readings: Readings, paths: np.ndarray
) -> Verdicts:
    """Score readings [B, C, Q] of every entry of paths [B, C, P] that is a path."""
    out = Verdicts.empty(paths.shape[:2], most_options(batch))
    for b, encoded in enumerate(batch):
        present = np.flatnonzero(paths[b, :, 0] != STOP)
        reads = len(encoded.option)
        row = Readings(
            logprob=readings.logprob[b, present, :reads],
            token=readings.token[b, present, :reads],
            rival=readings.rival[b, present, :reads],
            finite=readings.finite[b, present],
        )
        out.put((b, present), scorer.verdicts(row, encoded))
    return out


def prompts_of(batch: Sequence[Encoded]) -> Prompts:
    """Stack the prompts of a batch."""
    return Prompts.stack([encoded.prompts for encoded in batch])


def most_options(batch: Sequence[Encoded]) -> int:
    """Return the most options, decoys included, that a question of a batch has."""
    return max(len(encoded.question.options) for encoded in batch)
