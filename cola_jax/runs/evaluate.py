"""`evaluate`: the verdicts of given paths of a model, or of a function of the user's own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, cast

import numpy as np

from cola_jax.checkpoint import tokenizer_of
from cola_jax.engine.devices import Devices
from cola_jax.engine.engine import Engine
from cola_jax.engine.evaluator import EngineEvaluator
from cola_jax.engine.local import LocalEngine
from cola_jax.engine.model import ModelHandle
from cola_jax.errors import InputError, check_keywords, check_whole, shown
from cola_jax.execute.inputs import Paths, count_paths, pad_paths
from cola_jax.execute.worker import WorkerOptions
from cola_jax.layer_costs import part_fractions
from cola_jax.metrics import Metrics
from cola_jax.params import Model
from cola_jax.path import identity, unpad_path
from cola_jax.progress import metrics_bar
from cola_jax.question import Question, check_questions
from cola_jax.runs.evaluation import Evaluation
from cola_jax.runs.session import Session, make_session
from cola_jax.runs.stored import stored_verdicts
from cola_jax.scoring import scorer_class
from cola_jax.scoring.encoder import Encoder
from cola_jax.scoring.evaluator import FunctionEvaluator, PathFunction
from cola_jax.scoring.named_scorer import ScorerOptions, named_scorer
from cola_jax.scoring.scorer import Scorer
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.tasks.prepared import Prepared
from cola_jax.tasks.wordings import AGAIN, WordedScorer, check_count
from cola_jax.wording import Wording


@dataclasses.dataclass(frozen=True)
class GivenScorer:
    """A scorer of a model that a user names or gives, in its own wording and in drawn ones.

    Those of a name have other formats of multiple choice, other orders of listed options, and the
    chat template; one that is given has other orders of its options alone.
    """

    model: Model
    scorer: Scorer | str
    questions: Sequence[Question]
    options: ScorerOptions

    @property
    def name(self) -> str:
        """The scorer, for messages."""
        return f"the scorer {self.scorer if isinstance(self.scorer, str) else self.scorer.name!r}"

    @property
    def wording(self) -> Wording:
        """The wording that is given."""
        return Wording(self.options.get("format"), chat=self.options.get("chat", False))

    @property
    def has_template(self) -> bool:
        """Whether prompts can be put through a chat template."""
        if isinstance(self.scorer, Scorer) or self.model.checkpoint is None:
            return False
        return bool(tokenizer_of(self.model.checkpoint).chat_template)

    def make(self, wording: Wording) -> tuple[Scorer, dict[str, Any]]:
        """Make the scorer of a wording, and its record."""
        if isinstance(self.scorer, Scorer):
            return self.scorer, {}
        kind: Any = scorer_class(self.scorer)
        options = dict[str, Any](self.options)
        if wording.is_drawn:
            options["chat"] = wording.chat
            if wording.format is None and not kind.open:
                options["format"] = wording.choose("format", kind.formats)
        scorer = named_scorer(self.model, self.scorer, self.questions, **options)
        return scorer, {"prompt": {"format": options.get("format")}}


class EvaluatorOptions(WorkerOptions, ScorerOptions, total=False):
    """Keywords of `evaluate` and `search` of a model, beside those of their scorer and workers.

    batch_size: the most questions of a batch.
    engine: the machines that evaluate, such as `cola_jax.RayEngine()`, with its own devices and
      batches; by default the model's own devices.
    """

    batch_size: int | None
    engine: Engine | None


def evaluate(
    model: Model | PathFunction,
    questions: Sequence[Question],
    paths: Paths | None = None,
    *,
    scorer: Scorer | str | None = None,
    num_layers: int | None = None,
    output: str | None = None,
    **options: Unpack[EvaluatorOptions],
) -> Evaluation:
    """Evaluate paths of questions; InputError for paths that are out of range.

    Args:
      model: a model, with its `scorer`; or a function of your own from paths [B, C, P], padded with
        STOP, to scores [B, C] or [B, C, J], or to Verdicts, as `cola_jax.search` takes it.
      questions: B questions, such as those of `cola_jax.load_questions`.
      paths: one list of paths for all questions, a list for each, or an array [B, C, P]; each path
        as text or ids of steps. By default the identity path, which is the whole model.
      scorer: how the model is asked: options, options-norm, letter or letter-strict for multiple
        choice, exact or generation for open questions, or a Scorer.
      num_layers: L; needed where `model` is a function of your own.
      output: run directory of a model, created or resumed, as of `cola evaluate`; all questions
        then have the same paths.
      options: of a model: chat, format and max_new_tokens of a scorer that is given by name;
        batch_size, engine, dtype, memory_budget, tile_tokens, metrics and progress, as
        `cola_jax.runs.evaluate.EvaluatorOptions` describes them.

    Raises Unfinished where the engine sets questions aside; with `output` after the others.
    """
    check_keywords(evaluate, options, EvaluatorOptions)
    questions = check_questions(questions)
    layers = count_layers(model, num_layers)
    padded = pad_paths(identity(layers) if paths is None else paths, len(questions), layers)
    if not isinstance(model, Model):
        refuse_options(scorer, options, output)
        return Evaluation(
            questions, padded, FunctionEvaluator(model, questions, layers)(padded), layers
        )
    session, metrics, progress = session_in_memory(model, questions, scorer, options)
    if output is None:
        run = EngineEvaluator(
            session.engine, session.model, session.asked, metrics, keep_open=False
        )
        metrics.total += count_paths(padded)
        with metrics_bar(metrics, progress):
            verdicts = run(padded)
    else:
        with metrics_bar(metrics, progress):
            verdicts = evaluate_into(session, output, padded, metrics)
    return Evaluation(questions, padded, verdicts, layers, part_fractions(session.model.config))


def evaluate_into(session: Session, output: str, padded: np.ndarray, metrics: Metrics) -> Verdicts:
    """Evaluate the paths [B, C, P] of all questions through a run."""
    if not (padded == padded[:1]).all():
        raise InputError(
            "a run has the same paths for all questions: give one list of paths, or leave out "
            "output."
        )
    paths = [unpad_path(path) for path in padded[0]]
    run = session.evaluate(str(output), paths, metrics)
    return stored_verdicts(run, session.asked.questions, session.asked.scorer, len(paths))


def count_layers(model: Model | PathFunction, num_layers: int | None) -> int:
    """Return L of a model or a function; InputError for what is neither."""
    if isinstance(model, Model):
        if num_layers not in (None, model.config.num_layers):
            raise InputError(
                f"the model has {model.config.num_layers} layers, not num_layers={num_layers}: "
                "leave it out, as it is for a function of your own."
            )
        return model.config.num_layers
    if not callable(model):
        raise InputError(
            f"the model is {shown(model)}, but must be what cola_jax.load returns, or a function "
            "from paths [B, C, P] to scores."
        )
    if num_layers is None:
        raise InputError("a function of your own does not tell the layers: give num_layers.")
    check_whole("num_layers", num_layers)
    return num_layers


def refuse_options(scorer: Any, options: Mapping[str, Any], output: Any) -> None:
    """Raise InputError for options of a model that are given with a function."""
    names = ["scorer"] * (scorer is not None) + sorted(options) + ["output"] * (output is not None)
    if names:
        raise InputError(f"{', '.join(names)}: this is for a model, not for a function of paths.")


def session_in_memory(
    model: Model,
    questions: list[Question],
    scorer: Scorer | str | None,
    options: Mapping[str, Any],
    prompts: int | None = 0,
) -> tuple[Session, Metrics, bool | None]:
    """Make the session of a model in memory, its metrics, and whether a bar shows them.

    `prompts` are other wordings in which found paths are asked again; None for the usual number.
    """
    check_count("prompts", prompts)
    rest = dict(options)
    metrics, progress = rest.pop("metrics", None) or Metrics(), rest.pop("progress", None)
    engine = rest.pop("engine", None)
    named = {name: rest.pop(name) for name in ScorerOptions.__annotations__ if name in rest}
    if named and not isinstance(scorer, str):
        raise InputError(f"{', '.join(named)}: this is for a scorer that is given by its name.")
    if not isinstance(scorer, Scorer | str):
        given = "" if scorer is None else f", not {shown(scorer)}"
        raise InputError(
            f"give scorer= as well{given}: the name of a scorer such as 'options', or a Scorer; it "
            "decides how a model is asked."
        )
    if engine is None:
        engine = local_engine(**rest)
    elif isinstance(engine, str):
        raise InputError(f"engine must be a cola_jax.RayEngine, not {shown(engine)}.")
    elif rest:
        raise InputError(
            f"{', '.join(sorted(rest))}: this is for the model's own devices, not for an engine, "
            "which has its own."
        )
    maker = GivenScorer(model, scorer, questions, cast(ScorerOptions, named))
    own = WordedScorer.of(maker)
    prepared = prepared_by(own.scorer, questions)
    if prompts != 0:
        number, exact = AGAIN if prompts is None else prompts, prompts is not None
        prepared = prepared.asked_again(maker, number, [own], exact=exact)
    return make_session(ModelHandle.of(model), engine, prepared), metrics, progress


def prepared_by(scorer: Scorer, questions: list[Question]) -> Prepared:
    """Return questions that a scorer asks as it is, as a task prepares its own."""
    record = {"scorer": scorer.name, "chat": scorer.chat, **scorer.record()}
    return Prepared.of(questions, Encoder((scorer,)), record)


def local_engine(
    batch_size: int | None = None,
    dtype: Any = None,
    memory_budget: int | None = None,
    tile_tokens: int | None = None,
) -> LocalEngine:
    """Make the engine of a model in memory, on the devices that it lies on."""
    if batch_size is not None:
        check_whole("batch_size", batch_size)
    for name, value in {"memory_budget": memory_budget, "tile_tokens": tile_tokens}.items():
        if value is not None:
            check_whole(name, value)
    budget = None if memory_budget is None else str(memory_budget)
    devices = Devices(memory_budget=budget, tile_tokens=tile_tokens)
    return LocalEngine(devices, batch_size=batch_size, dtype=dtype)
