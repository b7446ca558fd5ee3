"""`evaluator`: a function from paths to verdicts; `evaluate`: the verdicts of given paths."""

import abc
import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, TypeVar, Unpack

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cola_jax.checkpoint import stop_tokens, tokenizer_of
from cola_jax.errors import InputError, check_keywords, check_whole, did_you_mean, shown
from cola_jax.execute.inputs import Paths, count_paths, pad_paths
from cola_jax.execute.memory import Limits, default_limits
from cola_jax.execute.plan import FRESH, Batches, Workload
from cola_jax.execute.worker import Worker, WorkerOptions, Workers
from cola_jax.params import Model
from cola_jax.path import STOP, identity
from cola_jax.question import Question, check_questions
from cola_jax.scoring import scorer_class
from cola_jax.scoring.evaluation import Evaluation
from cola_jax.scoring.format import FREE_FORMATS, Format
from cola_jax.scoring.grader import choose_grader
from cola_jax.scoring.pictures import with_pictures
from cola_jax.scoring.scorer import Encoded, Evaluate, Scorer, most_options, prompts_of
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts

if TYPE_CHECKING:
    from cola_jax.runs.ray import RayEngine

Result = TypeVar("Result")
# a function of the user's own, which `FunctionEvaluator` checks
PathFunction = Callable[[np.ndarray], Verdicts | ArrayLike]

OPEN = 4  # batches that share a worker where they stay open
FIRST = 32  # questions that decide the common prefixes
WAVE = 16  # paths of a question for which an open batch keeps states


class ScorerOptions(TypedDict, total=False):
    """Keywords of a scorer that is given by its name; a Scorer has its own.

    chat: whether prompts go through the tokenizer's chat template.
    format: how `exact` and `generation` put a question: question (the default, "Question: ...,
      Answer:"), prompt (the text alone), or direct (an answer in a box).
    max_new_tokens: the most tokens that `generation` decodes; 50 by default.
    """

    chat: bool
    format: str
    max_new_tokens: int | None


class EvaluatorOptions(WorkerOptions, ScorerOptions, total=False):
    """Keywords of `evaluate` and `search` of a model, beside those of their scorer and workers.

    batch_size: the most questions of a batch.
    engine: the machines that evaluate, such as `cola_jax.RayEngine()`, which load the model's
      checkpoint; it takes batch_size and metrics alone. By default the model's own devices.
    """

    batch_size: int | None
    engine: "RayEngine | None"


def evaluator(
    model: Model | PathFunction,
    questions: Sequence[Question],
    scorer: Scorer | str | None = None,
    *,
    num_layers: int | None = None,
    **options: Unpack[EvaluatorOptions],
) -> "Evaluator":
    """Make the function that evaluates paths of questions, of a model or of a function.

    Args:
      model: a pretrained model, whose mesh divides questions over its `data` axis; a function from
        paths [B, C, P], padded with STOP, to Verdicts or an array, as `FunctionEvaluator` takes
        it; or an evaluator of these questions, which is returned.
      questions: B questions, in the order of `evaluate(paths)`; InputError for any that the scorer
        cannot ask.
      scorer: of a model; a Scorer or a name, as for `evaluate`.
      num_layers: L, of a function.
      options: those of `EvaluatorOptions`, of a model.
    """
    questions = check_questions(questions)
    if isinstance(model, Model):
        if num_layers not in (None, model.config.num_layers):
            raise InputError(
                f"the model has {model.config.num_layers} layers, not num_layers={num_layers}: "
                "leave it out, as it is for a function of your own."
            )
        return evaluator_of_model(model, questions, scorer, **options)
    if not callable(model):
        raise InputError(
            f"the model is {shown(model)}, but must be what cola_jax.load returns, or a function "
            "from paths [B, C, P] to scores."
        )
    if scorer is not None or options:
        names = ", ".join(["scorer"] * (scorer is not None) + sorted(options))
        raise InputError(f"{names}: this is for a model, not for a function of paths.")
    if isinstance(model, Evaluator):
        if model.questions != questions:
            raise InputError("the questions are not those that the evaluator was made for.")
        return model
    return FunctionEvaluator(model, questions, num_layers)


def evaluator_of_model(
    model: Model,
    questions: Sequence[Question],
    scorer: Scorer | str | None,
    *,
    engine: "RayEngine | None" = None,
    **options: Any,
) -> "BatchEvaluator":
    """Make the evaluator of a model, on its own devices or those of an engine."""
    if isinstance(engine, str):
        raise InputError(f"engine must be a cola_jax.RayEngine, not {shown(engine)}.")
    if options.get("batch_size") is not None:
        check_whole("batch_size", options["batch_size"])
    named = {name: options.pop(name) for name in ScorerOptions.__annotations__ if name in options}
    if isinstance(scorer, str):
        scorer = named_scorer(model, scorer, questions, **named)
    elif named:
        raise InputError(f"{', '.join(named)}: this is for a scorer that is given by its name.")
    if not isinstance(scorer, Scorer):
        given = "" if scorer is None else f", not {shown(scorer)}"
        raise InputError(
            f"give scorer= as well{given}: the name of a scorer such as 'options', or a Scorer; it "
            "decides how a model is asked."
        )
    encoded = [scorer.encode(question) for question in questions]
    encoded = with_pictures(scorer, encoded, model.checkpoint)
    if engine is not None:
        return engine.evaluator_of(model, encoded, scorer, **options)
    return ModelEvaluator(model, encoded, scorer, **options)


def named_scorer(
    model: Model, name: str, questions: Sequence[Question], **options: Unpack[ScorerOptions]
) -> Scorer:
    """Make a scorer of questions by its name, with the model's own tokenizer and stop tokens.

    InputError for an unknown name, and for options that the scorer does not have.
    """
    make: Any = scorer_class(name)
    if model.checkpoint is None:
        raise InputError("this model was not loaded from a checkpoint with a tokenizer.")
    known = {"chat"} | ({"format"} if make.open else set())
    known |= {"max_new_tokens"} if make.decodes else set()
    if unknown := sorted(options.keys() - known):
        raise InputError(f"the scorer {name!r} has no {', '.join(unknown)}: leave it out.")
    settings: dict[str, Any] = {**options, "context": model.config.context}
    if make.open:
        format = ask_format(settings.pop("format", "question"))
        settings |= {"format": format, "stop_tokens": stop_tokens(model.checkpoint)}
    if make.decodes:
        golds = ((f"question {each.id}", each.gold) for each in questions if each.open)
        settings["grader"] = choose_grader(golds)
    return make(tokenizer_of(model.checkpoint), **settings)


def ask_format(name: str) -> Format:
    """Return the format of open questions of a name."""
    if name not in FREE_FORMATS:
        near = did_you_mean(str(name), FREE_FORMATS)
        raise InputError(f"format {shown(name)} is not one of {', '.join(FREE_FORMATS)}{near}.")
    return FREE_FORMATS[name]


def evaluate(
    model: Model | PathFunction,
    questions: Sequence[Question],
    paths: Paths | None = None,
    *,
    scorer: Scorer | str | None = None,
    num_layers: int | None = None,
    **options: Unpack[EvaluatorOptions],
) -> Evaluation:
    """Evaluate paths of questions; InputError for paths that are out of range.

    Args:
      model: a model, with its `scorer`; or a function of your own from paths [B, C, P], padded with
        STOP, to scores [B, C] or [B, C, J], or to Verdicts, as `cola_jax.search` takes it.
      questions: B questions, such as those of `cola_jax.load_questions`.
      paths: one list of paths for all questions, a list for each, or an array [B, C, P]; each path
        as text or layer ids. By default the identity path, which is the whole model.
      scorer: how the model is asked: options, options-norm, letter or letter-strict for multiple
        choice, exact or generation for open questions, or a Scorer.
      num_layers: L; needed where `model` is a function of your own.
      options: of a model: chat, format and max_new_tokens of a scorer that is given by name;
        batch_size, engine, dtype, memory_budget, tile_tokens, metrics and progress, as
        `cola_jax.scoring.evaluator.EvaluatorOptions` describes them.
    """
    check_keywords(evaluate, options, EvaluatorOptions)
    run = evaluator(model, questions, scorer, num_layers=num_layers, **options)
    chosen = identity(run.num_layers) if paths is None else paths
    padded = pad_paths(chosen, len(run.questions), run.num_layers)
    return Evaluation(run.questions, padded, run(padded), run.num_layers)


class EncodedQuestions(NamedTuple):
    """Questions as a model was asked them, to ask again or to record."""

    model: Model
    scorer: Scorer
    encoded: Sequence[Encoded]
    options: Mapping[str, Any]  # of `ModelEvaluator`


class Evaluator(abc.ABC):
    """A function from paths [B, C, P] of B questions to Verdicts with fields [B, C]."""

    questions: list[Question]
    num_layers: int
    asked: EncodedQuestions | None = None  # where a model is asked that is loaded here

    @abc.abstractmethod
    def __call__(self, paths: Paths) -> Verdicts:
        """Evaluate paths [B, C, P], STOP-padded, or for each question a list of paths."""

    @abc.abstractmethod
    def over_batches(
        self,
        function: Callable[[Evaluate, np.ndarray], Result],
        workload: Workload,
        evaluations: int | None,
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Call a function of an `Evaluate` and the indices of its questions for each batch.

        `evaluations` are expected of all batches, None where unknown. Yields indices with results,
        as they finish.
        """


class FunctionEvaluator(Evaluator):
    """A function of the user's own, whose results are checked; all questions are one batch."""

    def __init__(
        self,
        function: PathFunction,
        questions: list[Question],
        num_layers: int | None,
    ):
        """Take a function from paths [B, C, P], padded with STOP, to verdicts or scores.

        These are Verdicts with fields [B, C]; scores of every option [B, C, J], the higher the
        better, where those of options that a question lacks are ignored, and the score of an option
        alone is right where it is 0 or more; or [B, C], a number for each path, right likewise, or
        a bool. One number a path says nothing of wrong options.
        """
        if num_layers is None:
            raise InputError("a function of your own does not tell the layers: give num_layers.")
        check_whole("num_layers", num_layers)
        self.function, self.questions, self.num_layers = function, questions, num_layers
        self.gold = np.array([question.answer for question in questions])
        self.options = np.array([max(1, len(question.options)) for question in questions])

    def __call__(self, paths: Paths) -> Verdicts:
        return self.run(pad_paths(paths, len(self.questions), self.num_layers))

    def over_batches(
        self,
        function: Callable[[Evaluate, np.ndarray], Result],
        workload: Workload,
        evaluations: int | None,
    ) -> Iterator[tuple[np.ndarray, Result]]:
        indices = np.arange(len(self.questions))
        yield indices, function(self.run, indices)

    def run(self, paths: np.ndarray) -> Verdicts:
        """Evaluate valid paths [B, C, P]; InputError for results of another kind or shape."""
        made = self.function(paths)
        verdicts = made if isinstance(made, Verdicts) else self.score(made, paths)
        if np.shape(verdicts.verdict) != paths.shape[:2]:
            raise InputError(
                f"the function returned Verdicts of shape {np.shape(verdicts.verdict)} for paths "
                f"{paths.shape}: give one for each path, {paths.shape[:2]}."
            )
        if verdicts.scores.shape[-1] > 1 or self.options.max() == 1:
            return verdicts
        return verdicts.of_gold_alone(self.gold, int(self.options.max()))

    def score(self, made: Any, paths: np.ndarray) -> Verdicts:
        """Make verdicts of an array of scores."""
        wave, most = paths.shape[:2], int(self.options.max())
        try:
            scores = np.asarray(made)
        except ValueError:  # lists of unequal lengths
            scores = np.empty(0)
        if scores.dtype == bool and scores.shape == wave:
            return Verdicts.of_margins(np.where(scores, 1.0, -1.0))
        if not jnp.issubdtype(scores.dtype, jnp.floating) or scores.shape not in (
            wave,
            (*wave, most),
        ):
            raise InputError(
                f"the function returned {scores.dtype} of shape {scores.shape} for paths "
                f"{paths.shape}: give floats {wave}, right where they are 0 or more, or bools, or "
                f"the scores of every option {(*wave, most)}, or Verdicts."
            )
        if scores.dtype.kind != "f":  # bfloat16, of which numpy knows no more than its size
            scores = scores.astype(np.float32)
        if scores.ndim == 2:
            return Verdicts.of_margins(scores)
        lacking = np.arange(most) >= self.options[:, None, None]
        present = (np.isfinite(scores) | lacking).all(axis=-1) & (paths[:, :, 0] != STOP)
        alone = (self.options == 1)[:, None]  # has no rival, so is judged against 0
        answer = np.where(lacking, -np.inf, scores).argmax(axis=-1)
        return Verdicts.of_scores(
            np.where(lacking, np.nan, scores),
            self.gold[:, None],
            present,
            answer=np.where(alone & (scores[..., 0] < 0), NO_ANSWER, answer),
            outside=np.where(alone, np.nan, -np.inf),
        )


class BatchEvaluator(Evaluator):
    """A function from paths to verdicts of encoded questions, which run in batches."""

    encoded: Sequence[Encoded]

    def __call__(self, paths: Paths) -> Verdicts:
        """Evaluate paths [B, C, P], STOP-padded, or for each question a list of paths."""
        padded = pad_paths(paths, len(self.encoded), self.num_layers)
        out = Verdicts.empty(padded.shape[:2], most_options(self.encoded))
        questions = np.flatnonzero((padded[:, :, 0] != STOP).any(axis=1)).tolist()
        workload = Workload(*padded.shape[1:], same=bool((padded == padded[:1]).all()))
        for indices, verdicts in self.evaluate_batches(padded, workload, questions):
            out.put((indices,), verdicts)
        return out

    @abc.abstractmethod
    def evaluate_batches(
        self, paths: np.ndarray, workload: Workload, questions: Sequence[int]
    ) -> Iterator[tuple[np.ndarray, Verdicts]]:
        """Evaluate the paths [B, C, P] of some questions; yield indices and verdicts."""


class ModelEvaluator(BatchEvaluator):
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
        first: Sequence[Encoded] | None = None,
        keep_open: bool = True,
        **options: Unpack[WorkerOptions],
    ):
        """Take the arguments of `evaluator`, with the questions encoded.

        Args:
          first: the questions whose common prefixes are run once; the first ones when None.
          keep_open: whether few batches keep their buffers between calls.
        """
        limits = default_limits()
        self.model, self.encoded, self.scorer = model, list(encoded), scorer
        self.questions = [each.question for each in self.encoded]
        self.num_layers = model.config.num_layers
        asked_with = {"batch_size": batch_size, **options}
        self.asked = EncodedQuestions(model, scorer, self.encoded, asked_with)
        self.batch_size = batch_size or limits.questions
        self.first = self.encoded if first is None else first
        few = keep_open and len(self.encoded) <= OPEN * self.batch_size
        self.workers = Workers(model, threads=OPEN if few else limits.threads, **options)
        self.workers.check_count(len(self.encoded))
        self.keeps_open = few and len(self.workers.workers) == 1
        self.stack = contextlib.ExitStack()
        self.opened: dict[int, Evaluate] = {}  # by the first question of a batch
        self.workload = Workload(0, 0)  # that batches were opened for
        weakref.finalize(self, self.stack.close)  # gives the buffers back

    def evaluate_batches(
        self, paths: np.ndarray, workload: Workload, questions: Sequence[int]
    ) -> Iterator[tuple[np.ndarray, Verdicts]]:
        """Evaluate the paths [B, C, P] of some questions; yield indices and verdicts."""

        def run(evaluate: Evaluate, indices: np.ndarray) -> Verdicts:
            return evaluate(paths[indices])

        return self.over_batches(run, workload, count_paths(paths), questions)

    def over_batches(
        self,
        function: Callable[[Evaluate, np.ndarray], Result],
        workload: Workload,
        evaluations: int | None,
        questions: Sequence[int] | None = None,
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Call a function of an `Evaluate` for each batch; the rest is as for `map_batches`."""
        if self.keeps_open:
            questions, workload = None, self.widest(workload)

        def run(worker: Worker, indices: np.ndarray, workload: Workload) -> Result:
            with self.opening(worker, indices, workload) as evaluate:
                return function(evaluate, indices)

        return self.map_batches(run, workload, evaluations, questions)

    def map_batches(
        self,
        function: Callable[[Worker, np.ndarray, Workload], Result],
        workload: Workload,
        evaluations: int | None = 0,
        questions: Sequence[int] | None = None,
    ) -> Iterator[tuple[np.ndarray, Result]]:
        """Call a function for each batch of questions, in threads, under one progress bar.

        Args:
          function: takes a worker, the indices of the batch's questions, and its workload.
          workload: of a batch, without its prefix.
          evaluations: expected number of all batches, where it is not in the metrics yet; None
            where it is unknown.
          questions: indices; all when None.

        Yields:
          Indices with results, as they finish.
        """
        batches = question_batches(self.encoded, workload, self.first)
        parts = default_limits().threads if self.keeps_open else self.workers.batches_at_once
        left = range(len(self.encoded)) if questions is None else questions

        def run(worker: Worker, indices: np.ndarray) -> Result:
            prefix = batches.prefixes[indices[0]]
            return function(worker, indices, workload._replace(prefix=prefix))

        with self.scorer:
            cut = batches.cut(left, parts, self.batch_size)
            yield from self.workers.map(run, cut, evaluations)

    def widest(self, workload: Workload) -> Workload:
        """Return the workload of open batches; close them where their paths are too short."""
        if workload.positions > self.workload.positions:
            self.stack.close()
            self.opened.clear()
            self.workload = Workload(max(workload.wave, WAVE), workload.positions)
        return self.workload

    @contextlib.contextmanager
    def opening(
        self, worker: Worker, indices: np.ndarray, workload: Workload
    ) -> Iterator[Evaluate]:
        """Open the evaluator of a batch, unless it is open."""
        opened = self.scorer.evaluator(worker, [self.encoded[i] for i in indices], workload)
        if not self.keeps_open:
            with opened as evaluate:
                yield evaluate
            return
        key = int(indices[0])
        if key not in self.opened:
            self.opened[key] = self.stack.enter_context(opened)
        yield self.opened[key]


def question_batches(
    encoded: Sequence[Encoded],
    workload: Workload,
    first: Sequence[Encoded],
    limits: Limits | None = None,
) -> Batches:
    """Make the plan that puts questions into batches.

    A common prefix may end in each of the `first` questions of all. `limits` are by default those
    of the devices that JAX uses.
    """
    both, limits = [*first[:FIRST], *encoded], limits or default_limits()
    fresh = 1 / limits.questions if workload.same else FRESH
    return Batches.of(prompts_of(both), fresh, len(both) - len(encoded), limits)
