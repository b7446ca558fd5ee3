"""A session: a model, the questions of a task and an engine, filling run directories."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from cola_jax.config import ModelConfig
from cola_jax.engine.engine import Capacity, Engine
from cola_jax.engine.evaluator import EngineEvaluator, succeeded
from cola_jax.engine.local import LocalEngine
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.question_set import QuestionSet, check_vocabulary
from cola_jax.engine.work import Batch, Failed
from cola_jax.errors import InputError, Unfinished, count, shorten
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.plan import Workload
from cola_jax.files import exists, inside, write_whole
from cola_jax.formats.pictures import thumbnail
from cola_jax.layer_costs import LayerCosts, part_fractions
from cola_jax.metrics import Metrics
from cola_jax.path import LayerPath, format_path, is_whole_path
from cola_jax.question import Question
from cola_jax.runs.chosen_on import ChosenOn, question_key
from cola_jax.runs.compare import ANY_SCORER, asked_here, check_comparable
from cola_jax.runs.counts import improvements
from cola_jax.runs.facts import Facts
from cola_jax.runs.machine import machine
from cola_jax.runs.reuse import Reuse
from cola_jax.runs.run import Run
from cola_jax.runs.schema import (
    PICTURES,
    Part,
    RowLayout,
    evaluation_rows,
    host_name,
    known_verdicts,
    question_row,
    thumbnail_name,
)
from cola_jax.runs.stored import Answers, stored_verdicts
from cola_jax.runs.work import (
    WAVE,
    Influence,
    KnownRows,
    PathRows,
    RunWork,
    search_work,
    wave_part,
)
from cola_jax.scoring import Encoded
from cola_jax.scoring.evaluations import Evaluations, PathLists
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.steps import ATTENTION, MLP, Step
from cola_jax.strategies.rules import InfluenceRules, Rules, Settings
from cola_jax.tasks.prepared import Prepared, digest_of_questions
from cola_jax.tasks.task import TaskConfig
from cola_jax.tasks.wordings import WordedScorer

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Session:
    """A model, the questions of a task, and the engine that runs them."""

    model: ModelHandle
    engine: Engine
    asked: QuestionSet
    held_out: QuestionSet | None
    # other wordings in which found paths are asked again, with a sample in each, without pictures
    again: Mapping[WordedScorer, Sequence[Encoded]]
    settings: dict[str, Any]  # decide the rows, with the model and those that a command adds
    environment: dict[str, Any]  # recorded with each start

    @classmethod
    def prepare(
        cls,
        model: str | ModelHandle,
        prepare: Callable[..., Prepared],
        engine: Engine | None = None,
        *,
        dtype: str | None = None,
        metadata: dict[str, Any] | None = None,
        decoys: str | None = None,
    ) -> "Session":
        """Check and load everything but the weights, which take longest.

        Args:
          model: as `cola_jax.load` takes it, or the handle of another session with the model.
          prepare: that of a TaskConfig, or a function like it.
          engine: the devices of this process by default.
          metadata: recorded with each start.
          decoys: run of decoded answers, which become the decoys of open questions.
        """
        engine = engine or LocalEngine()
        handle = open_model(model, engine, dtype)
        answers = None if decoys is None else Answers(Run(decoys))
        if answers is not None:
            prepare = functools.partial(prepare, decoy=answers.decoy)
        session = make_session(handle, engine, call(prepare, handle), metadata)
        if answers is not None:
            ours = asked_here(settings_of(session), session.asked.questions, session.asked.sample)
            check_comparable(answers.run.asked(), ours, (*ANY_SCORER, "options"))
        return session

    def search(
        self,
        directory: str,
        settings: Settings,
        metrics: Metrics | None = None,
        reuse: Sequence[str] = (),
        *,
        on_device: bool = False,
    ) -> Run:
        """Search every question that the run directory does not have yet.

        `reuse` are run directories, whose evaluations of the same questions are used. With
        `on_device`, searches run whole on the devices. Raises Unfinished at the end where the
        engine has set questions aside.
        """
        asked, layers = self.asked, self.model.config.num_layers
        asked.scorer.check_confirmable()
        check_memory(self, settings.positions(layers))
        settings = fitted(self, directory, settings, metrics)
        kind = search_work(asked, settings, on_device)
        stored = Reuse([Run(each) for each in reuse], settings_of(self), asked)
        with open_run(self, directory, recorded_search(settings), metrics) as run:
            work = kind(
                **parts_of(self, asked),
                workload=settings.workload(layers),
                layout=run.layout,
                settings=settings,
                again=tuple(self.again),
            )
            fill(run, self.engine, work, asked, reused=stored.tables, steps=work.steps)
        return run

    def evaluate(
        self,
        directory: str,
        paths: Sequence[LayerPath],
        metrics: Metrics | None = None,
        command: str = "evaluate",
        held_out: bool = False,
        **recorded: Any,
    ) -> Run:
        """Evaluate paths on every question that the run directory does not have yet.

        `recorded` are more settings, with which alone the run is resumed. Raises Unfinished as
        `search`.
        """
        asked = held_out_of(self) if held_out else self.asked
        padded = pad_paths([list(paths)], 1, self.model.config.num_layers)[0]
        recorded |= {"command": command, "paths": recorded_paths(paths)}
        workload = Workload(min(WAVE, len(paths)), padded.shape[1], same=True)
        check_memory(self, workload.positions)
        with open_run(self, directory, recorded, metrics, held_out=held_out) as run:
            work = PathRows(
                **parts_of(self, asked),
                workload=workload,
                layout=run.layout,
                paths=paths,
                padded=padded,
            )
            fill(run, self.engine, work, asked, evaluations=len(paths))
        return run

    def chosen_on(self) -> ChosenOn:
        """Return the keys of the questions and wordings that a choice here depends on."""
        return ChosenOn.of(self.asked.questions, self.settings)

    def measured_on(self) -> ChosenOn:
        """Return the keys of the held-out questions, which are asked in the first wording."""
        record = {name: x for name, x in self.settings.items() if name != "choose_prompts"}
        return ChosenOn.of(held_out_of(self).questions, record)

    def without(self, chosen_on: ChosenOn) -> "Session":
        """Leave out the questions that chose something; InputError where none are left."""
        chosen = chosen_on.questions
        if not chosen:
            return self
        keys = map(question_key, self.asked.questions)
        kept = [i for i, key in enumerate(keys) if key not in chosen]
        if not kept:
            raise InputError(
                f"all {count(len(self.asked), 'question')} chose the claims, and none is left: "
                "raise --limit, or give the questions of another split or file."
            )
        asked = self.asked.take(kept)
        digest = digest_of_questions(asked.questions, asked.scorer)
        settings = self.settings | {"questions": len(asked), "questions_digest": digest}
        return dataclasses.replace(self, asked=asked, settings=settings)


@contextlib.contextmanager
def recording(
    session: Session, directory: str, recorded: Mapping[str, Any], metrics: Metrics | None = None
) -> Iterator[Evaluations]:
    """Open a run, and yield a function from paths [B, C, P] of all questions to verdicts.

    A search over all questions resumes by running again, with the evaluations of an earlier
    start known. Its questions are done together, when the body ends.
    """
    check_whole_share(session)
    with open_run(session, directory, recorded, metrics) as run:
        run.load_evaluations()
        encoded = session.asked.encode(session.model)
        scorer, earlier = session.asked.scorer, run.earlier
        known = [known_verdicts(earlier.get(q.question.id, ()), q, scorer) for q in encoded]
        run.metrics.add(earlier=sum(map(len, known)))
        written = 0

        def write(paths: PathLists, verdicts: Verdicts) -> None:
            nonlocal written
            run.write(wave_part(encoded, paths, verdicts, run.layout))
            written += 1

        evaluations = Evaluations(
            EngineEvaluator(session.engine, session.model, session.asked, run.metrics),
            [each.question for each in encoded],  # without options where none are scored
            resumed=known,
            write=write,
        )
        yield evaluations
        if written or run.missing(session.asked.questions):  # else it is left as it is
            run.replace(finished(encoded, evaluations, run.layout))


def check_whole_share(session: Session) -> None:
    """Raise InputError where other processes have some of the questions that a result needs."""
    if session.engine.share.count > 1:
        raise InputError(
            "the result needs the answers to all questions, which --distributed divides: leave it "
            "out, and give --engine ray to use several machines."
        )


def finished(encoded: Sequence[Encoded], evaluations: Evaluations, layout: RowLayout) -> Part:
    """Make the part of all questions that have evaluations."""
    rows, done = list[dict[str, Any]](), list[dict[str, Any]]()
    for b, each in enumerate(encoded):
        if paths := list(evaluations.known[b]):
            lengths = list(map(layout.length_of, paths))
            rows += evaluation_rows(each, paths, evaluations.of_question(b, paths), lengths)
            done.append(question_row(each, len(paths)))
    return Part(rows, done)


def open_model(model: str | ModelHandle, engine: Engine, dtype: str | None = None) -> ModelHandle:
    """Open a model without its weights."""
    return model if isinstance(model, ModelHandle) else ModelHandle(model, dtype, engine.backend)


def call(prepare: Callable[..., Any], model: ModelHandle) -> Any:
    """Call a function that prepares questions for the tokenizer of a model, as `TaskConfig`'s."""
    context = model.config.context
    return prepare(model.tokenizer, context=context, stop_tokens=model.stop_tokens)


def prepare_prompts(
    model: str | ModelHandle,
    task: TaskConfig,
    engine: Engine | None = None,
    *,
    dtype: str | None = None,
    metadata: dict[str, Any] | None = None,
    usual: int = 1,
) -> list[Session]:
    """Prepare a session for each prompt in which a task is measured; they share the weights.

    There are `usual` ones where the task does not say how many. The other arguments are as for
    `Session.prepare`.
    """
    engine = engine or LocalEngine()
    handle = open_model(model, engine, dtype)
    every = call(functools.partial(task.prepare_prompts, usual=usual), handle)
    return [make_session(handle, engine, prepared, metadata) for prepared in every]


def prompts_of_run(directory: str, prompts: int | None) -> int | None:
    """Return in how many other wordings a search asks again: as given, or as the run there has it.

    None for a new run where no number is given.
    """
    run = Run(directory)
    if prompts is None and run.exists():
        return run.settings().get("prompts") or 0
    return prompts


def make_session(
    model: ModelHandle,
    engine: Engine,
    prepared: Prepared,
    metadata: dict[str, Any] | None = None,
) -> Session:
    """Make the session of prepared questions."""
    encoder, others = prepared.encoder, None
    asked = QuestionSet.of(prepared.questions, encoder, model, prepared.sample)
    if prepared.held_out:
        sample = prepared.held_out_sample
        others = QuestionSet.of(prepared.held_out, encoder.own, model, sample)
    for sample in prepared.again.values():  # such as of a chat template that the model lacks
        try:
            check_vocabulary(sample, model)
        except InputError as error:
            raise InputError(f"in another wording, {error} Or give --prompts 0.") from error
    engine.capacity(model, min(len(asked), len(others or asked)))  # the fewest that it will run
    return Session(
        model=model,
        engine=engine,
        asked=asked,
        held_out=others,
        again=prepared.again,
        settings={"dtype": model.dtype, "questions": len(asked), **prepared.settings()},
        environment={
            "model": model.source,
            "origin": model.metadata.get("origin"),
            "num_layers": model.config.num_layers,
            "scorer": {
                "open": asked.scorer.open,
                "decodes": asked.scorer.decodes,
                "log_likelihoods": asked.scorer.log_likelihoods,
            },
            **engine.record(model),
            **(metadata or {}),
        },
    )


def settings_of(session: Session) -> dict[str, Any]:
    """Return the settings that decide rows, with the digest of the model."""
    return {"model": session.model.digest} | session.settings


def facts_of(session: Session, **recorded: Any) -> Facts:
    """Return the facts of a command that makes no run of its own; `recorded` are its settings."""
    return Facts(settings_of(session) | recorded, machine() | session.environment)


def held_out_of(session: Session) -> QuestionSet:
    """Return the held-out questions; InputError where there are none."""
    if session.held_out is None:
        raise InputError(
            "no questions are held out: give --held-out or --held-out-from, on which the result is "
            "measured."
        )
    return session.held_out


def capacity_of(session: Session) -> Capacity:
    """Return what the engine of a session has for its model."""
    return session.engine.capacity(session.model, len(session.asked))


def parts_of(session: Session, asked: QuestionSet) -> dict[str, Any]:
    """Return the fields of a work on questions."""
    return {"model": session.model, "encoder": asked.encoder, "prefixes": asked.prefixes}


def check_memory(session: Session, positions: int) -> None:
    """Raise InputError where memory does not suffice for a path of `positions` layers."""
    model, capacity = session.model, capacity_of(session)
    session.asked.check_memory(model, capacity, positions)
    for worded, sample in session.again.items():
        worded.scorer.check_memory(model.config, capacity.memory, sample, positions)


@contextlib.contextmanager
def open_run(
    session: Session,
    directory: str,
    recorded: Mapping[str, Any],
    metrics: Metrics | None,
    *,
    held_out: bool = False,
) -> Iterator[Run]:
    """Open a run of the questions; `recorded` are the settings of a command."""
    asked = held_out_of(session) if held_out else session.asked
    settings = settings_of(session) | with_steps(recorded, session.model.config)
    if held_out:
        digest = digest_of_questions(asked.questions, asked.scorer)
        settings |= {"questions_digest": digest, "questions": len(asked)}
    shared = session.engine.share.count > 1
    here, metrics = asked_here(settings, asked.recorded, asked.sample), metrics or Metrics()
    run = Run(directory, shared=shared)
    environment = machine() | session.environment
    with run.open(settings, environment, here, metrics=metrics):
        if settings.get("command") == "search":  # whose page lists the questions
            write_thumbnails(run.place(PICTURES), asked.questions)
        yield run


def fill(
    run: Run,
    engine: Engine,
    work: RunWork,
    asked: QuestionSet,
    *,
    reused: Mapping[str, Sequence[pa.Table]] | None = None,
    evaluations: int = 0,
    steps: int = 0,
) -> None:
    """Write the rows of the questions that a run lacks: evaluations, or steps, of each.

    Args:
      reused: evaluations of other runs, by question.

    Raises Unfinished at the end where questions were set aside.
    """
    metrics, num_layers, reused = run.metrics, work.model.config.num_layers, reused or {}
    missing = engine.share.of(run.missing(asked.questions))
    run.count_earlier(num_layers)
    # a command may fill several runs under the same metrics, and know how many
    expected = metrics.earlier + metrics.evaluations + evaluations * len(missing)
    metrics.total = max(metrics.total, expected) if evaluations else 0
    metrics.all_steps = steps * len(asked)
    metrics.steps = metrics.all_steps - steps * len(missing)
    known = {
        name: KnownRows(run.earlier.get(name, ()), reused.get(name, ()))
        for name in run.earlier.keys() | reused.keys()
    }
    failed: list[str] = []
    batches = asked.batches(missing, engine.capacity(work.model, len(asked)), known)
    # closed at once where a part cannot be written, so that no batch goes on
    with contextlib.closing(engine.map(work, batches, metrics)) as results:
        for batch, part, machine_name in results:
            if isinstance(part, Failed):
                names = [question.id for question in batch.questions]
                run.fail(names, part.reason, host_name(machine_name))
                failed += names
                log.warning("question %s is set aside: %s", shorten(names), part.reason)
                continue
            run.write(part, machine_name)
            metrics.add(**improvements(part.questions, num_layers, run.layout.costs))
    if failed:
        raise Unfinished(
            f"{run.directory} lacks {count(len(failed), 'question')} that failed again and again "
            f"({shorten(failed)}): the reasons are in its folder `failed`; run the command again, "
            "with a smaller --batch-size, more memory, or without these questions."
        )


def write_thumbnails(folder: epath.Path, questions: Sequence[Question]) -> None:
    """Write those thumbnails of the questions' pictures that a folder lacks."""
    for question in questions:
        if question.picture is not None:
            file = folder / thumbnail_name(question.id)
            if not exists(file):
                write_whole(file, thumbnail(question.picture))


def evaluate_prompts(
    sessions: Sequence[Session],
    directory: str,
    paths: Sequence[LayerPath],
    metrics: Metrics | None = None,
    *,
    held_out: bool = False,
    **recorded: Any,
) -> list[Verdicts]:
    """Evaluate paths on the questions of sessions that differ in the prompt.

    Returns the verdicts [n, C] in each prompt, from a run in `directory`, or from one for each of
    several prompts there.
    """
    folders = prompt_folders(directory, len(sessions))
    rows = []
    for session, folder in zip(sessions, folders, strict=True):
        run = session.evaluate(folder, paths, metrics, held_out=held_out, **recorded)
        asked = held_out_of(session) if held_out else session.asked
        rows.append(stored_verdicts(run, asked.recorded, asked.scorer, len(paths)))
    return rows


def prompt_folders(directory: str, prompts: int) -> list[str]:
    """Return the run directory of each prompt: of a single one the directory itself."""
    if prompts == 1:
        return [directory]
    return [str(inside(directory, f"prompt-{number}")) for number in range(1, prompts + 1)]


def order_of(influence: np.ndarray) -> list[int]:
    """Return the ids of layers by their influence [L], or of their parts by theirs [L, 2]."""
    order = np.argsort(influence, axis=None, kind="stable")
    if influence.ndim == 1:
        return order.tolist()
    return [
        Step(layer, (ATTENTION, MLP)[part]).id
        for layer, part in (divmod(i, 2) for i in order.tolist())
    ]


def influence_of(
    session: Session, metrics: Metrics | None = None, *, parts: bool = False
) -> np.ndarray:
    """Return the influence [L] of each layer on the first questions' prompts.

    Or with `parts` that of their attention and MLP, [L, 2].
    """
    asked = session.asked
    questions = [encoded.question for encoded in asked.first]
    work = Influence(model=session.model, encoder=asked.encoder, parts=parts)
    # a mean over all of them, which no cut in parts gives
    one = Batch(np.arange(len(questions)), questions)
    ((batch, result, _),) = session.engine.map(work, [one], metrics)
    return succeeded(batch, result)


def recorded_paths(paths: Sequence[LayerPath]) -> list[Any]:
    """Return paths as a run records them: as layers, or as texts where some have other steps."""
    if all(map(is_whole_path, paths)):
        return [list(path) for path in paths]
    return [format_path(path) for path in paths]


def with_steps(recorded: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Add to the settings of a command whether its paths may have parts or shares.

    And the costs of parts, which lengths need; a search has them in its settings.
    """
    rules = recorded.get("preset") or recorded
    paths = recorded.get("paths") or ()
    if not (rules.get("parts") or rules.get("shares") or any(isinstance(p, str) for p in paths)):
        return dict(recorded)
    if "preset" in recorded:
        return {"steps": True, **recorded}
    costs = LayerCosts(config.num_layers, recorded.get("layer_costs"))
    parts = costs.with_fractions(part_fractions(config)).parts
    return {"steps": True, "part_costs": parts, **recorded}


def recorded_search(settings: Settings) -> dict[str, Any]:
    """Return the settings of a search as a run records them."""
    rules = settings.preset
    name = {"command": "search", "strategy": rules.name, "stream": rules.stream}
    recorded = name | dataclasses.asdict(settings)
    # as in runs of earlier versions, where paths have whole layers alone
    for fields, names in ((recorded["preset"], ("parts", "shares")), (recorded, ("part_costs",))):
        for field in names:
            if not fields[field]:
                del fields[field]
    return recorded


def with_period(rules: Rules, config: ModelConfig) -> Rules:
    """Return rules whose blocks are of multiples of the period of a model, where they ask so."""
    if rules.block_multiple:
        return rules
    return dataclasses.replace(rules, block_multiple=config.period)


def with_part_costs(settings: Settings, config: ModelConfig) -> Settings:
    """Return settings with the costs of the parts of layers, where rules have parts.

    Where they are not given, by the weights of the model.
    """
    if not settings.preset.parts or settings.part_costs is not None:
        return settings
    costs = settings.costs(config.num_layers).with_fractions(part_fractions(config))
    return dataclasses.replace(settings, part_costs=costs.parts)


def fitted(
    session: Session, directory: str, settings: Settings, metrics: Metrics | None
) -> Settings:
    """Fit rules to the model: the period of its kinds of layers, and their order by influence.

    Influence is that on the first questions. With parts, also the costs of parts.
    """
    rules = with_period(settings.preset, session.model.config)
    settings = with_part_costs(dataclasses.replace(settings, preset=rules), session.model.config)
    if not isinstance(rules, InfluenceRules) or rules.order:
        return settings
    run = Run(directory)
    before = run.settings() if run.exists() else {}  # before the weights load
    if len(session.asked.first) <= before.get("questions", 0):
        # the run keeps its order; one of another strategy is refused later
        order = (before.get("preset") or {}).get("order", ())
    else:
        order = order_of(influence_of(session, metrics, parts=rules.parts))
    return dataclasses.replace(settings, preset=dataclasses.replace(rules, order=tuple(order)))
