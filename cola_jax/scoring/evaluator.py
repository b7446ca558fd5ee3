"""`evaluator`: a function from paths to verdicts; `evaluate`: what it makes of given paths."""

import contextlib
import dataclasses
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Unpack

import jax
import numpy as np

from cola_jax.errors import InputError
from cola_jax.execute.common_prefix import FRESH, Batches
from cola_jax.execute.evaluator import Workload
from cola_jax.execute.inputs import Paths, count_paths, pad_paths, tokenizer_of
from cola_jax.execute.worker import Worker, WorkerOptions, Workers
from cola_jax.params import Model
from cola_jax.path import STOP, format_path
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.registry import scorer_class, scorer_names
from cola_jax.scoring.scorer import Evaluate, Scorer, most_options, prompt_buckets
from cola_jax.scoring.verdicts import Verdicts

THREADS = 2  # batches that share a worker: the host works for one while devices run the other
OPEN = 4  # batches that share a worker where they stay open
FIRST = 32  # questions that decide what common prefixes there are
WAVE = 16  # paths of a question for which an open batch keeps states


class EvaluatorOptions(WorkerOptions, total=False):
    """Keywords of `evaluator`: the most questions of a batch, and those of `WorkerOptions`."""

    batch_size: int | None


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


def layers_of(evaluate: Evaluate, num_layers: int | None) -> int:
    """Returns L: the attribute `num_layers` of an evaluator of a model, or the argument."""
    layers = getattr(evaluate, "num_layers", None) or num_layers
    if layers is None:
        raise InputError("a function of your own does not tell the layers: give num_layers.")
    return layers


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
    **options: Unpack[EvaluatorOptions],
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
    padded = pad_paths(paths, len(questions), layers_of(model, num_layers))
    return Evaluation(list(questions), padded, model(padded))


class ModelEvaluator:
    """A function from paths to verdicts of encoded questions, on all workers of a model.

    Up to `OPEN` batches keep their buffers from call to call, and with them the states of paths
    that begin alike; with more questions, each call starts afresh.
    """

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
        self.questions = [each.question for each in self.encoded]
        self.num_layers = model.config.num_layers
        self.batch_size = batch_size or default_batch_size()
        keeps_open = len(self.encoded) <= OPEN * self.batch_size
        self.workers = Workers(model, threads=OPEN if keeps_open else THREADS, **options)
        self.workers.check_count(len(self.encoded))
        self.keeps_open = keeps_open and len(self.workers.workers) == 1
        self.stack, self.opened = contextlib.ExitStack(), dict[int, Evaluate]()
        weakref.finalize(self, self.stack.close)  # gives the buffers back
        self.positions = 0  # layers of the longest path that batches were opened for
        self.batches: list[np.ndarray] = []

    def __call__(self, paths: Paths) -> Verdicts:
        """Evaluates paths [B, C, P], STOP-padded, or for each question a list of paths."""
        padded = pad_paths(paths, len(self.encoded), self.num_layers)
        out = Verdicts.empty(padded.shape[:2], most_options(self.encoded))
        self.divide(padded)

        def run(worker: Worker, indices: np.ndarray) -> Verdicts:
            with self.opening(worker, indices) as evaluate:
                return evaluate(padded[indices])

        with self.scorer:
            total = count_paths(padded)
            for indices, verdicts in self.workers.map(run, self.batches, total):
                out.put((indices,), verdicts)
        return out

    def divide(self, paths: np.ndarray) -> None:
        """Divides the questions into batches, at first and where paths are longer than before."""
        if self.keeps_open and paths.shape[2] <= self.positions:
            return
        self.stack.close()
        self.opened.clear()
        self.positions = paths.shape[2]
        self.scorer.check_memory(
            self.model.config, self.workers.memory, self.encoded, self.positions
        )
        self.workload = workload = self.workload_of(paths)
        found = question_batches([self.encoded], workload, self.encoded)
        asked = np.flatnonzero((paths[:, :, 0] != STOP).any(axis=1)).tolist()
        if self.keeps_open:
            self.batches = found.cut(range(len(self.encoded)), 1, self.batch_size)
        else:
            self.batches = found.cut(asked, self.workers.batches_at_once, self.batch_size)
        self.prefixes = found.prefixes

    def workload_of(self, paths: np.ndarray) -> Workload:
        """Returns what batches are opened for: this call, or any that may follow."""
        if self.keeps_open:
            return Workload(max(paths.shape[1], WAVE), paths.shape[2])
        return Workload(*paths.shape[1:], same=bool((paths == paths[:1]).all()))

    @contextlib.contextmanager
    def opening(self, worker: Worker, indices: np.ndarray) -> Iterator[Evaluate]:
        """Opens the evaluator of a batch, or takes one that is open."""
        batch = [self.encoded[i] for i in indices]
        workload = self.workload._replace(prefix=self.prefixes[indices[0]])
        if not self.keeps_open:
            with self.scorer.evaluator(worker, batch, workload) as evaluate:
                yield evaluate
            return
        key = int(indices[0])
        if key not in self.opened:
            opened = self.scorer.evaluator(worker, batch, workload)
            self.opened[key] = self.stack.enter_context(opened)
        yield self.opened[key]


def question_batches(
    asked: Sequence[Sequence[Encoded]], workload: Workload, first: Sequence[Encoded]
) -> Batches:
    """Finds what decides how questions are put into batches.

    They agree in all that decides a shape, and shapes are those of a full batch, so that rows
    depend on no other question: a run can be continued with more questions, in other batches.

    Args:
      asked: the questions, and the same ones in every other way in which they are asked.
      first: the first questions of all, in each of which a common prefix may end.
    """
    keys = [sum(each, ()) for each in zip(*map(prompt_buckets, asked), strict=True)]
    both = [one.prompts for one in (*first[:FIRST], *asked[0])]
    fresh = 1 / default_batch_size() if workload.same else FRESH
    return Batches.of(Prompts.stack(both), keys, fresh, before=len(both) - len(keys))


def default_batch_size() -> int:
    """Returns the most questions of a batch: few on a CPU, where large batches save nothing."""
    return 8 if jax.default_backend() == "cpu" else 64
