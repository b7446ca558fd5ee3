"""`evaluator`: a function from paths to verdicts; `evaluate`: what it makes of given paths."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, Unpack

import numpy as np

from cola_jax.errors import InputError
from cola_jax.execute.evaluator import Workload
from cola_jax.execute.inputs import Paths, count_paths, pad_paths, tokenizer_of
from cola_jax.execute.worker import Worker, WorkerOptions, Workers
from cola_jax.params import Model
from cola_jax.path import STOP, format_path
from cola_jax.question import Question
from cola_jax.scoring.batches import default_batch_size, question_batches
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.registry import scorer_class, scorer_names
from cola_jax.scoring.scorer import BatchEvaluator, Evaluate, Scorer, most_options
from cola_jax.scoring.verdicts import Verdicts

Result = TypeVar("Result")
THREADS = 2  # batches that share a worker: the host works for one while devices run the other


def evaluator(
    model: Model,
    questions: Sequence[Question],
    scorer: Scorer | str,
    *,
    batch_size: int | None = None,
    **options: Unpack[WorkerOptions],
) -> "ModelEvaluator":
    """Makes a function that evaluates paths of questions.

    Args:
      model: the pretrained model; questions are divided over the `data` axis of its mesh.
      questions: what is asked; `evaluate(paths)` takes paths for each of them, in this order.
      scorer: how they are asked, and what makes an answer right; for multiple choice also the name
        of one (options, options-norm, letter, letter-strict).
      batch_size: the most questions of a batch.
      options: dtype, memory_budget, rows, metrics; see `WorkerOptions`.

    Returns:
      A function from paths [B, C, P], or lists of paths, to Verdicts with fields [B, C]. It is what
      `cola_jax.search` and `cola_jax.evaluate` take; so is any other function of that form.

    Raises:
      ValueError: for questions that the scorer cannot ask; and as `run_paths`, where it is called.
    """
    if not questions:
        raise InputError("there are no questions to evaluate.")
    if isinstance(scorer, str):
        scorer = named_scorer(model, scorer)
    encoded = [scorer.encode(question) for question in questions]
    return ModelEvaluator(model, encoded, scorer, batch_size=batch_size, **options)


def named_scorer(model: Model, name: str) -> Scorer:
    """Makes a scorer of multiple choice with the model's own tokenizer; ValueError for others."""
    chosen = scorer_class(name)
    if chosen.open:
        raise InputError(
            f"the scorer {name!r} needs a format as well, so that a name does not do: make it, or "
            f"give one of {', '.join(scorer_names(open=False))}."
        )
    if model.checkpoint is None:
        raise InputError("this model was not loaded from a checkpoint with a tokenizer.")
    make: Any = chosen
    return make(tokenizer_of(model.checkpoint), context=model.config.context)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The verdicts of paths on questions, as `evaluate` returns them."""

    questions: list[Question]
    paths: np.ndarray  # [B, C, P], STOP-padded
    verdicts: Verdicts  # fields [B, C]

    def to_pandas(self) -> Any:
        """Makes a table of the evaluations; needs pandas.

        Returns:
          A DataFrame with a row for each question and path, and the columns question (its id),
          path (text), length (layers), correct, margin and answer (the index of the option).
        """
        import pandas

        present = np.argwhere(self.paths[:, :, 0] != STOP).tolist()
        return pandas.DataFrame(
            {
                "question": [self.questions[b].id for b, _ in present],
                "path": [format_path(self.paths[b, c]) for b, c in present],
                "length": [int((self.paths[b, c] != STOP).sum()) for b, c in present],
                "correct": [bool(self.verdicts.verdict[b, c]) for b, c in present],
                "margin": [float(self.verdicts.margin[b, c]) for b, c in present],
                "answer": [int(self.verdicts.answer[b, c]) for b, c in present],
            }
        )


def evaluate(
    model: "Model | Evaluate",
    questions: Sequence[Question],
    paths: Paths,
    *,
    scorer: Scorer | str | None = None,
    num_layers: int | None = None,
    **options: Any,
) -> Evaluation:
    """Evaluates paths of questions.

    Args:
      model: a model, with its `scorer`; or what `cola_jax.evaluator` returns, or any function from
        paths [B, C, P] to Verdicts.
      questions: B questions.
      paths: one list of paths for all questions, a list for each, or an array [B, C, P]; each path
        as text or layer ids.
      num_layers: L; needed where `model` is a function of your own.
      options: those of `cola_jax.evaluator`, where `model` is a model.

    Returns:
      The verdicts, with fields [B, C].

    Raises:
      ValueError: for a model without a scorer, and for paths that are out of range.
    """
    if isinstance(model, Model):
        if scorer is None:
            raise InputError("give a scorer as well: it decides how a model is asked.")
        model = evaluator(model, questions, scorer, **options)
    layers = model.num_layers if isinstance(model, ModelEvaluator) else num_layers
    if layers is None:
        raise InputError("a function of your own does not tell the layers: give num_layers.")
    padded = pad_paths(paths, len(questions), layers)
    return Evaluation(list(questions), padded, model(padded))


class ModelEvaluator:
    """Evaluates paths of encoded questions in batches, on all workers of a model."""

    def __init__(
        self,
        model: Model,
        encoded: Sequence[Encoded],
        scorer: Scorer,
        *,
        batch_size: int | None = None,
        **options: Unpack[WorkerOptions],
    ):
        """Takes what `evaluator` does, with the questions encoded."""
        self.model, self.encoded, self.scorer = model, list(encoded), scorer
        self.num_layers = model.config.num_layers
        self.options = options
        self.batch_size = batch_size or default_batch_size()

    @functools.cached_property
    def workers(self) -> Workers:
        """The model's workers, made once: on a CPU each has a copy of the layers."""
        return Workers(self.model, threads=THREADS, **self.options)

    @property
    def questions(self) -> list[Question]:
        """The questions, in order."""
        return [encoded.question for encoded in self.encoded]

    def __call__(self, paths: Paths) -> Verdicts:
        """Evaluates paths [B, C, P], STOP-padded, or for each question a list of paths."""
        padded = pad_paths(paths, len(self.encoded), self.num_layers)
        out = Verdicts.empty(padded.shape[:2], most_options(self.encoded))
        same = bool((padded == padded[:1]).all())
        workload = Workload(padded.shape[1], padded.shape[2], same)
        count = count_paths(padded)

        def run(evaluate: BatchEvaluator, some: np.ndarray) -> Verdicts:
            return evaluate(padded[some])

        for some, verdicts in self.map(run, workload, evaluations=count):
            out.put((some,), verdicts)
        return out

    def map(
        self,
        function: Callable[[BatchEvaluator, np.ndarray], Result],
        workload: Workload,
        batches: Sequence[np.ndarray] | None = None,
        prefixes: Sequence[int] | None = None,
        evaluations: int = 0,
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Yields the indices of each batch with what a function makes of it, as they finish.

        The function takes the evaluator of a batch and the indices of its questions. `batches` are
        chosen here when None. `prefixes` are, for each question, the tokens to run once for its
        batch, all of which have as many; none where only `batches` are given.
        `evaluations` are those to expect, where the metrics do not say it yet.
        """
        with self.scorer:
            workers = self.workers
            workers.check_count(len(self.encoded))
            self.scorer.check_memory(
                self.model.config, workers.memory, self.encoded, workload.positions
            )
            if batches is None:
                found = question_batches([self.encoded], workload, self.encoded)
                every = range(len(self.encoded))
                batches = found.cut(every, workers.batches_at_once, self.batch_size)
                prefixes = found.prefixes

            def run(worker: Worker, some: np.ndarray) -> Result:
                batch = [self.encoded[i] for i in some]
                work = workload._replace(prefix=0 if prefixes is None else prefixes[some[0]])
                with self.scorer.evaluator(worker, batch, work) as evaluate:
                    return function(evaluate, some)

            yield from workers.map(run, batches, evaluations)
