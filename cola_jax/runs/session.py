"""A session: a model, the questions of a task and devices, filling run directories by batches."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath
from jax.sharding import Mesh

from cola_jax.errors import InputError, count, shorten
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.plan import Workload
from cola_jax.execute.reference import block_influence
from cola_jax.execute.worker import Worker
from cola_jax.files import exists, inside, write_whole
from cola_jax.formats.pictures import thumbnail
from cola_jax.layer_costs import LayerCosts, read_layer_costs
from cola_jax.metrics import Metrics
from cola_jax.params import Model
from cola_jax.runs.batches import (
    WAVE,
    Batch,
    BatchSearch,
    Influence,
    MakeBatch,
    PathRows,
    Rewording,
    SetAside,
    Work,
)
from cola_jax.runs.compare import ANY_SCORER, asked_here, check_comparable
from cola_jax.runs.devices import Devices, machine
from cola_jax.runs.handle import ModelHandle
from cola_jax.runs.hosts import WHOLE, Hosts, Shard
from cola_jax.runs.run import Run, improvements
from cola_jax.runs.schema import PICTURES, Part, evaluation_rows, question_row, thumbnail_name
from cola_jax.runs.searches import (
    Reuse,
    check_robust,
    fitted,
    recorded_search,
)
from cola_jax.runs.stored import Answers, stored_verdicts
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.evaluator import FIRST, ModelEvaluator
from cola_jax.scoring.scorer import prompts_of
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.storage import AnyPath
from cola_jax.strategies.rules import Settings
from cola_jax.tasks.encoded import EncodedTask, EncodedVariant, task_digest
from cola_jax.tasks.prepared import Prepared
from cola_jax.tasks.task import TaskConfig, refuse_variants

if TYPE_CHECKING:
    from cola_jax.runs.ray import RayEngine, RayEvaluator


log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The execution of a session: dtype, batches and devices, none of which decides results."""

    dtype: str | None = None
    batch_size: int | None = None
    devices: Devices = dataclasses.field(default_factory=Devices)
    hosts: Hosts = dataclasses.field(default_factory=Hosts)
    shard: Shard = WHOLE
    engine: "RayEngine | None" = None  # the devices of this process when None

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"a batch needs at least 1 question, not {self.batch_size}.")


@dataclasses.dataclass(frozen=True)
class Session:
    """A model, the encoded questions of a task, and devices."""

    handle: ModelHandle
    scorer: Scorer
    encoded: list[Encoded]  # of this shard
    others: list[Encoded]  # held-out questions of this shard
    variants: list[EncodedVariant]  # of the same questions
    first: list[Encoded]  # of all shards, to measure the model on
    settings: dict[str, Any]  # decide the rows, with those that a command adds
    environment: dict[str, Any]
    run_config: RunConfig

    @classmethod
    def prepare(
        cls,
        model: str,
        prepare: Callable[..., Prepared],
        run_config: RunConfig = RunConfig(),
        metadata: dict[str, Any] | None = None,
        decoys: str | None = None,
    ) -> "Session":
        """Check and load everything but the weights, which take longest.

        Args:
          model: as `cola_jax.load` takes it.
          prepare: that of a TaskConfig, or a function like it.
          metadata: recorded with each start.
          decoys: run of decoded answers, which become the decoys of open questions.
        """
        handle = open_handle(model, run_config)
        answers = None if decoys is None else Answers(Run(decoys))
        if answers is not None:
            prepare = functools.partial(prepare, decoy=answers.decoy)
        prepared = handle.encode(handle.prepare(prepare))
        session = cls.of(handle, prepared, run_config, metadata)
        if answers is not None:
            ours = asked_here(session.settings, prepared.encoded)
            check_comparable(answers.run.asked(), ours, (*ANY_SCORER, "options"))
        return session

    @classmethod
    def prepare_prompts(
        cls,
        model: str,
        task: TaskConfig,
        run_config: RunConfig = RunConfig(),
        metadata: dict[str, Any] | None = None,
        handle: ModelHandle | None = None,
    ) -> "list[Session]":
        """Prepare a session for each prompt in which a task is measured; they share the weights.

        `handle` is that of another session with the model.
        """
        handle = handle or open_handle(model, run_config)
        every = map(handle.encode, handle.prepare(task.prepare_prompts))
        return [cls.of(handle, prepared, run_config, metadata) for prepared in every]

    @classmethod
    def of(
        cls,
        handle: ModelHandle,
        prepared: EncodedTask,
        run_config: RunConfig,
        metadata: dict[str, Any] | None = None,
    ) -> "Session":
        """Make the session of encoded questions; the arguments are as for `prepare`."""
        handle.check(prepared)
        engine, shard, saved = run_config.engine, run_config.shard, handle.metadata
        settings = {
            "model": saved["digest"],
            "dtype": handle.dtype,
            "questions": len(prepared.encoded),
            **prepared.settings(),
        }
        indices = range(len(prepared.encoded))[shard.index :: shard.count]
        if not indices:
            raise InputError(
                f"host {shard} has none of the {len(prepared.encoded)} questions: use fewer hosts."
            )
        return cls(
            handle=handle,
            scorer=prepared.scorer,
            encoded=[prepared.encoded[i] for i in indices],
            others=list(prepared.held_out[shard.index :: shard.count]),
            variants=[variant.take(indices) for variant in prepared.variants],
            first=prepared.encoded[:FIRST],
            settings=settings,
            environment={
                "model": handle.source,
                "origin": saved["origin"],
                "num_layers": handle.config.num_layers,
                "scorer": {"open": prepared.scorer.open, "decodes": prepared.scorer.decodes},
                "shard": str(shard),
                **machine(),
                **({} if engine is None else engine.record()),
                **(metadata or {}),
            },
            run_config=run_config,
        )

    @property
    def num_layers(self) -> int:
        """The model's layers, L."""
        return self.handle.config.num_layers

    @property
    def held_out(self) -> list[Encoded]:
        """The held-out questions; InputError where there are none."""
        if not self.others:
            raise InputError(
                "no questions are held out: give --held-out or --held-out-from, on which the "
                "result is measured."
            )
        return self.others

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """The devices of this host; not before the hosts have agreed."""
        if self.run_config.engine is not None:  # whose workers have devices
            return None
        least = min(len(questions) for questions in (self.encoded, self.others) if questions)
        return self.run_config.devices.mesh(least)

    @property
    def model(self) -> Model:
        """The weights, loaded on first use."""
        return self.handle.load(self.mesh)

    def layer_costs(self, file: AnyPath | None) -> LayerCosts:
        """Read the costs of the model's layers, 1 each without a file."""
        return read_layer_costs(file, self.num_layers, self.settings["model"])

    def influence(self, metrics: Metrics | None = None) -> np.ndarray:
        """Return the influence [L] of each layer on the first questions' prompts."""
        if self.run_config.engine is None:
            model = self.handle.load(self.mesh, metrics)
            return block_influence(model, prompts_of(self.first))
        return self.run_config.engine.run(
            self.handle, Influence(), Batch(self.first, Workload(0, 0))
        )

    def search(
        self,
        directory: str,
        settings: Settings,
        metrics: Metrics | None = None,
        reuse: Sequence[str] = (),
        robust: bool = False,
    ) -> Run:
        """Search every question that the run directory does not have yet.

        Args:
          reuse: run directories, whose evaluations of the same questions are used.
          robust: a path is right where it is right in all variants.
        """
        self.scorer.check_confirmable()
        if robust:
            check_robust(self, reuse)
        self.check_memory(settings.positions(self.num_layers))
        settings = fitted(self, directory, settings, metrics)
        stored = Reuse([Run(each) for each in reuse], self.settings, self.encoded)
        recorded = recorded_search(settings) | ({"robust": True} if robust else {})
        scorers = [self.scorer, *(variant.scorer for variant in self.variants)]
        workload = settings.workload(self.num_layers)
        with self.open(directory, recorded, metrics) as run:

            def batch(indices: np.ndarray, workload: Workload) -> Batch:
                encoded = [self.encoded[i] for i in indices]
                variants = [variant.take(indices.tolist()) for variant in self.variants]
                rewordings = [Rewording(variant.encoded, variant.places) for variant in variants]
                known = [stored.known(each, workload.positions) for each in encoded]
                return Batch(encoded, workload, rewordings, known=known)

            work = BatchSearch(scorers, settings, robust)
            self.fill(run, self.encoded, workload, work, batch, steps=work.steps)
        return run

    def evaluate(
        self,
        directory: str,
        paths: Sequence[tuple[int, ...]],
        metrics: Metrics | None = None,
        command: str = "evaluate",
        held_out: bool = False,
        **recorded: Any,
    ) -> Run:
        """Evaluate paths on every question that the run directory does not have yet.

        `recorded` are more settings, with which alone the run is resumed.
        """
        if not held_out:
            refuse_variants(command, [variant.name for variant in self.variants])
        questions = self.held_out if held_out else self.encoded
        padded = pad_paths([list(paths)], 1, self.num_layers)[0]
        recorded |= {"command": command, "paths": [list(p) for p in paths]}
        workload = Workload(min(WAVE, len(paths)), padded.shape[1], same=True)
        self.check_memory(workload.positions)
        with self.open(directory, recorded, metrics, held_out=held_out) as run:

            def batch(indices: np.ndarray, workload: Workload) -> Batch:
                return Batch([questions[i] for i in indices], workload)

            work = PathRows(self.scorer, paths, padded)
            self.fill(run, questions, workload, work, batch, evaluations=len(paths))
        return run

    @contextlib.contextmanager
    def recording(
        self, directory: str, recorded: Mapping[str, Any], metrics: Metrics | None = None
    ) -> Iterator[Evaluations]:
        """Open a run, and yield a function from paths [B, C, P] of all questions to verdicts.

        A search over all questions resumes by running again, with the evaluations of an earlier
        start known. Its questions are done together, when the body ends.
        """
        refuse_variants(recorded["command"], [variant.name for variant in self.variants])
        if self.run_config.hosts.distributed:
            raise InputError(
                "one path is searched for all questions, which cannot be divided: leave out "
                "--distributed."
            )
        with self.open(directory, recorded, metrics) as run:
            run.load_finished()
            # the weights load when the first path is evaluated
            evaluator = functools.cache(lambda: self.evaluator(self.encoded, run.metrics))
            evaluations = run.resume(lambda paths: evaluator()(paths), self.encoded)
            yield evaluations
            rows, done = [], []
            for b, encoded in enumerate(self.encoded):
                if paths := list(evaluations.known[b]):
                    rows += evaluation_rows(encoded, paths, evaluations.of_question(b, paths))
                    done.append(question_row(encoded, len(paths)))
            missing = run.missing([each.question for each in self.encoded])
            if run.waves or missing:  # else a finished run is left as it is
                run.replace(Part(rows, done))

    @contextlib.contextmanager
    def open(
        self,
        directory: str,
        recorded: Mapping[str, Any],
        metrics: Metrics | None,
        *,
        held_out: bool = False,
    ) -> Iterator[Run]:
        """Open a run of the questions; `recorded` are the settings of a command."""
        questions = self.held_out if held_out else self.encoded
        settings, config = self.settings | dict(recorded), self.run_config
        if held_out:
            settings |= {"task": task_digest(questions, self.scorer), "questions": len(questions)}
            settings.pop("variants", None)
        config.hosts.agree(config.shard, settings, together=config.devices.tensor > 1)
        devices = 1 if self.mesh is None else self.mesh.size
        with Run(directory, shared=config.shard != WHOLE).open(
            settings,
            self.environment | {"devices": devices},
            asked_here(settings, questions),
            metrics=metrics or Metrics(),
        ) as run:
            if settings.get("command") == "search":  # whose page lists the questions
                write_thumbnails(run.place(PICTURES), questions)
            yield run

    def fill(
        self,
        run: Run,
        questions: Sequence[Encoded],
        workload: Workload,
        work: Work,
        batch: MakeBatch,
        *,
        evaluations: int = 0,
        steps: int = 0,
    ) -> None:
        """Write the rows of the questions that a run lacks: evaluations, or steps, of each."""
        metrics, missing = run.metrics, run.missing([each.question for each in questions])
        run.count_earlier(self.num_layers)
        # a command may fill several runs under the same metrics, and know how many
        expected = metrics.earlier + metrics.evaluations + evaluations * len(missing)
        metrics.total = max(metrics.total, expected) if evaluations else 0
        metrics.all_steps = steps * len(questions)
        metrics.steps = metrics.all_steps - steps * len(missing)
        if not missing:
            return

        def resumed(indices: np.ndarray, workload: Workload) -> Batch:
            made = batch(indices, workload)
            ids = {encoded.question.id for encoded in made.encoded}
            earlier = {name: run.earlier[name] for name in ids & run.earlier.keys()}
            if self.run_config.engine is not None:
                return made._replace(earlier=earlier, mark=run.mark)
            return made._replace(earlier=earlier, write=run.write_wave)

        def set_aside(indices: np.ndarray, reason: str, machine: str) -> None:
            names = [questions[i].question.id for i in indices]
            run.fail(names, reason, machine)
            log.warning(
                "%s set aside (%s), as each worker ended that ran them: run the command again with "
                "a smaller --batch-size, or workers with more memory",
                count(len(names), "question"),
                shorten(names),
            )

        results = self.map(questions, missing, workload, work, resumed, metrics, set_aside)
        for _, part, host in results:
            run.write(part, host)
            metrics.add(**improvements(part.questions, self.num_layers))

    def map(
        self,
        questions: Sequence[Encoded],
        left: Sequence[int],
        workload: Workload,
        work: Work,
        batch: MakeBatch,
        metrics: Metrics,
        set_aside: SetAside,
    ) -> Iterator[tuple[np.ndarray, Any, str | None]]:
        """Do the work on the questions `left`, in batches.

        Yields indices, results, and the machine where it is another one, as batches end.
        """
        engine, config = self.run_config.engine, self.run_config
        if engine is not None:
            batches = engine.batches(questions, left, workload, self.first, config.batch_size)
            yield from engine.map(self.handle, work, batches, batch, metrics, set_aside)
            return
        evaluator = self.local_evaluator(questions, metrics, keep_open=False)

        def run(worker: Worker, indices: np.ndarray, workload: Workload) -> Any:
            return work(worker, batch(indices, workload))

        with contextlib.ExitStack() as stack:
            for scorer in work.scorers[1:]:  # `map_batches` enters the first
                stack.enter_context(scorer)
            for indices, result in evaluator.map_batches(run, workload, questions=left):
                yield indices, result, None

    def evaluator(
        self, questions: Sequence[Encoded], metrics: Metrics
    ) -> "ModelEvaluator | RayEvaluator":
        """Make a function from paths of questions to verdicts."""
        engine = self.run_config.engine
        if engine is None:
            return self.local_evaluator(questions, metrics)
        size = self.run_config.batch_size
        return engine.evaluator(
            self.handle, questions, self.scorer, first=self.first, batch_size=size, metrics=metrics
        )

    def local_evaluator(
        self, questions: Sequence[Encoded], metrics: Metrics, *, keep_open: bool = True
    ) -> ModelEvaluator:
        """Make an evaluator on the devices of this process; loads the weights."""
        return ModelEvaluator(
            self.handle.load(self.mesh, metrics),
            questions,
            self.scorer,
            batch_size=self.run_config.batch_size,
            first=self.first,
            keep_open=keep_open,
            memory_budget=self.handle.memory.budget,
            tile_tokens=self.handle.devices.tile_tokens,
            metrics=metrics,
            progress=False,  # the caller shows the metrics
        )

    def check_memory(self, positions: int) -> None:
        """Raise InputError where memory does not suffice for a path of `positions` layers."""
        config, memory = self.handle.config, self.handle.memory
        for asked in (self, *self.variants):
            asked.scorer.check_memory(config, memory, asked.encoded, positions)


def write_thumbnails(folder: epath.Path, questions: Sequence[Encoded]) -> None:
    """Write those thumbnails of the questions' pictures that a folder lacks."""
    for encoded in questions:
        file, picture = folder / thumbnail_name(encoded.question.id), encoded.question.picture
        if picture is not None and not exists(file):
            write_whole(file, thumbnail(picture))


def evaluate_prompts(
    sessions: Sequence[Session],
    directory: str,
    paths: Sequence[tuple[int, ...]],
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
        encoded = session.held_out if held_out else session.encoded
        rows.append(stored_verdicts(run, encoded, len(paths)))
    return rows


def prompt_folders(directory: str, prompts: int) -> list[str]:
    """Return the run directory of each prompt: of a single one the directory itself."""
    if prompts == 1:
        return [directory]
    return [str(inside(directory, f"prompt-{number}")) for number in range(1, prompts + 1)]


def open_handle(model: str, config: RunConfig) -> ModelHandle:
    """Open a model without its weights."""
    if config.engine is None:
        config.devices.check_backend()
    return ModelHandle(str(model), config.devices, config.dtype, config.engine)
