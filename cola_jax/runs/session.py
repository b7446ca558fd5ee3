"""A session: a model over the questions of a task, filling run directories batch by batch."""

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.errors import InputError
from cola_jax.execute.device_memory import default_budget
from cola_jax.execute.evaluator import Workload
from cola_jax.execute.influence import block_influence
from cola_jax.execute.inputs import check_tokens, pad_paths
from cola_jax.execute.memory import Memory
from cola_jax.execute.metrics import Metrics
from cola_jax.execute.worker import Worker, WorkerOptions, Workers
from cola_jax.formats import cache
from cola_jax.params import Model, shapes
from cola_jax.path import identity
from cola_jax.prompts import Prompts
from cola_jax.runs.devices import Devices, choose_dtype, machine
from cola_jax.runs.hosts import WHOLE, Hosts, Shard
from cola_jax.runs.run import Run, improvements
from cola_jax.runs.schema import Part, evaluation_rows, question_row
from cola_jax.runs.searches import BatchSearch, check_robust, recorded_search
from cola_jax.runs.settings import asked_here
from cola_jax.runs.stored import Answers, Reuse
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.evaluator import THREADS, ModelEvaluator, default_batch_size, question_batches
from cola_jax.scoring.verdicts import NO_ANSWER
from cola_jax.strategies.loop import check_memory
from cola_jax.strategies.rules import InfluenceRules, Settings
from cola_jax.tasks.task import Prepared, refuse_variants, task_digest
from cola_jax.tasks.variants import Variant

log = logging.getLogger(__name__)
FIRST = 32  # questions on which the influence of layers is measured
WAVE = 32  # paths of a question that are evaluated, and written, at a time
COLLAPSED, BALANCED, ENOUGH = 0.9, 0.6, 20  # shares of questions, and how many tell

# makes the rows of a batch on a worker, from the indices of its questions
Work = Callable[[Worker, np.ndarray, Workload], Part]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What a session runs on, beside the model and the questions."""

    dtype: str | None = None
    batch_size: int | None = None
    devices: Devices = dataclasses.field(default_factory=Devices)
    hosts: Hosts = dataclasses.field(default_factory=Hosts)
    shard: Shard = WHOLE

    def __post_init__(self):
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"a batch needs at least 1 question, not {self.batch_size}.")


class ModelHandle:
    """A model that is loaded when it is first needed."""

    def __init__(self, source: str):
        """Read the metadata of what `cola_jax.load` takes."""
        self.source, self.directory = source, cache.find(source)
        self.metadata = checkpoint.read_metadata(self.directory)
        self.config = ModelConfig.from_json(self.metadata["config"])
        self.loaded: Model | None = None

    def prepare(self, prepare: Callable[..., Prepared]) -> Prepared:
        """Encode the questions of a task; InputError for tokens that the model does not have."""
        prepared = prepare(
            checkpoint.load_tokenizer(self.directory),
            context=self.config.context,
            stop_tokens=lambda: checkpoint.stop_tokens(self.directory),
        )
        ways = (variant.encoded for variant in prepared.variants)
        for encoded in itertools.chain(prepared.encoded, prepared.held_out, *ways):
            check_tokens("token ids", encoded.prompts.ids, self.config.vocab_size)
            if encoded.prompts.targets is not None:
                check_tokens("targets", encoded.prompts.targets, self.config.vocab_size)
        return prepared

    def load(self, dtype: str, mesh: Mesh | None, metrics: Metrics | None = None) -> Model:
        """Load the weights, once; the metrics, or a bar, show how far that is."""
        if self.loaded is None:
            if metrics is None:
                self.loaded = cache.load(self.source, dtype=dtype, mesh=mesh)
            else:
                place = self.source, self.directory, dtype, mesh
                self.loaded = cache.load_converted(*place, metrics.load)
        return self.loaded


@dataclasses.dataclass(frozen=True)
class Session:
    """A model, the questions of a task encoded for a scorer, and the devices they run on."""

    handle: ModelHandle
    scorer: Scorer
    encoded: list[Encoded]  # of this shard
    others: list[Encoded]  # held-out questions of this shard
    variants: list[Variant]  # of the same questions
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
        """Check and load what a session needs, except the weights, which take longest.

        Args:
          model: as `cola_jax.load` takes it.
          prepare: that of a TaskConfig, or a function like it.
          metadata: recorded of each start.
          decoys: a run that decoded answers on other paths, of which open questions get theirs.
        """
        run_config.devices.check_backend()
        handle = ModelHandle(str(model))
        saved, shard = handle.metadata, run_config.shard
        answers = None if decoys is None else Answers(decoys, checkpoint.model_digest(saved))
        if answers is not None:
            prepare = functools.partial(prepare, decoy=answers.decoy)
        prepared = handle.prepare(prepare)
        settings = {
            "model": checkpoint.model_digest(saved),
            "dtype": choose_dtype(run_config.dtype, saved["dtype"]),
            "questions": len(prepared.encoded),
            **prepared.settings(),
        }
        if answers is not None:
            answers.check(settings, prepared.encoded)
        indices = range(len(prepared.encoded))[shard.index :: shard.count]
        if not indices:
            raise InputError(f"shard {shard} has none of the {len(prepared.encoded)} questions.")
        return cls(
            handle=handle,
            scorer=prepared.scorer,
            encoded=[prepared.encoded[i] for i in indices],
            others=list(prepared.held_out[shard.index :: shard.count]),
            first=prepared.encoded[:FIRST],
            variants=[variant.take(indices) for variant in prepared.variants],
            settings=settings,
            environment={
                "model": handle.source,
                "origin": saved["origin"],
                "num_layers": handle.config.num_layers,
                "scorer": {"open": prepared.scorer.open, "decodes": prepared.scorer.decodes},
                "shard": str(shard),
                **machine(),
                **(metadata or {}),
            },
            run_config=run_config,
        )

    @property
    def config(self) -> ModelConfig:
        """The model's config."""
        return self.handle.config

    @property
    def num_layers(self) -> int:
        """The model's layers, L."""
        return self.config.num_layers

    @property
    def held_out(self) -> list[Encoded]:
        """The held-out questions; InputError where there are none."""
        if not self.others:
            raise InputError(
                "no questions are held out: give --held-out or --held-out-from, on which what the "
                "others taught is measured."
            )
        return self.others

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """The devices of this host; not before the hosts have agreed."""
        least = min(len(questions) for questions in (self.encoded, self.others) if questions)
        return self.run_config.devices.mesh(least)

    @property
    def model(self) -> Model:
        """The weights, loaded when they are first needed."""
        return self.handle.load(self.settings["dtype"], self.mesh)

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
          reuse: run directories; their evaluations of the same questions are not run again.
          robust: a path is right where it is right in all variants.

        Raises InputError for a robust search without another variant, of a scorer that decodes, or
        that reuses other runs; and where memory does not suffice.
        """
        if robust:
            check_robust(self.scorer, self.variants, reuse)
        workload = settings.workload(self.num_layers)
        self.check_search(settings)
        if isinstance(settings.preset, InfluenceRules) and not settings.preset.order:
            ordered = self.ordered(directory, settings.preset, metrics)
            settings = dataclasses.replace(settings, preset=ordered)
        stored = Reuse(reuse, self.settings, self.encoded) if reuse else None
        recorded = recorded_search(settings) | ({"robust": True} if robust else {})
        with self.open(directory, recorded, workload.positions, metrics) as run:
            work = BatchSearch(self, run, settings, stored, robust)
            self.fill(run, self.encoded, workload, work, work.most_evaluations)
        return run

    def ordered(
        self, directory: str, rules: InfluenceRules, metrics: Metrics | None
    ) -> InfluenceRules:
        """Order the layers by their influence on the first questions, once for a run."""
        run = Run(directory)
        run.refuse_foreign()  # before the weights load
        asked = min(FIRST, self.settings["questions"])
        if min(FIRST, run.recorded("questions") or 0) == asked:
            before = run.recorded("preset") or {}  # a run of another strategy is refused, without
            return dataclasses.replace(rules, order=tuple(before.get("order", ())))
        prompts = Prompts.stack([encoded.prompts for encoded in self.first])
        model = self.handle.load(self.settings["dtype"], self.mesh, metrics)
        order = np.argsort(block_influence(model, prompts), kind="stable").tolist()
        return dataclasses.replace(rules, order=tuple(order))

    def evaluate(
        self,
        directory: str,
        paths: Sequence[tuple[int, ...]],
        metrics: Metrics | None = None,
        command: str = "evaluate",
        held_out: bool = False,
    ) -> Run:
        """Evaluate the same paths on every question that the run directory does not have yet.

        The questions are those of the session, or the held-out ones. Raises InputError for
        variants, in which nothing would be asked.
        """
        if not held_out:
            refuse_variants(command, [variant.name for variant in self.variants])
        questions = self.held_out if held_out else self.encoded
        padded = pad_paths([list(paths)], 1, self.num_layers)[0]
        recorded: dict[str, Any] = {"command": command, "paths": [list(p) for p in paths]}
        workload = Workload(min(WAVE, len(paths)), padded.shape[1], same=True, fixed=True)
        positions = workload.positions
        with self.open(directory, recorded, positions, metrics, held_out=held_out) as run:

            def work(worker: Worker, indices: np.ndarray, workload: Workload) -> Part:
                batch = [questions[i] for i in indices]
                size = self.scorer.call_size or WAVE * len(batch)
                write = size < len(paths) * len(batch)  # else all is written when it is done
                with self.scorer.evaluator(worker, batch, workload) as evaluate:
                    evaluations = run.resume(evaluate, batch, call_size=size, write=write)
                    verdicts = evaluations(np.tile(padded, (len(batch), 1, 1)))
                each = [evaluation_rows(e, paths, verdicts.take(b)) for b, e in enumerate(batch)]
                rows = list(itertools.chain(*each))
                return Part(rows, [question_row(encoded, len(paths)) for encoded in batch])

            self.fill(run, questions, workload, work, len(paths))
        return run

    @contextlib.contextmanager
    def recording(
        self,
        directory: str,
        recorded: Mapping[str, Any],
        longest: int,
        metrics: Metrics | None = None,
    ) -> Iterator[Evaluations]:
        """Open a run, and yield a function from paths [B, C, P] of all questions to verdicts.

        A search over all questions chooses paths by the verdicts of others, so it is resumed by
        running it again, with the evaluations of an earlier start known. Its questions are done
        together, when the body ends.

        Args:
          recorded: as `open`.
          longest: P, the layers of the longest path.
        """
        refuse_variants(recorded["command"], [variant.name for variant in self.variants])
        if self.run_config.shard != WHOLE or self.run_config.hosts.distributed:
            raise InputError(
                "one path is sought for all questions, so they cannot be divided: leave out "
                "--shard and --distributed."
            )
        with self.open(directory, recorded, longest, metrics, again=True) as run:
            evaluator = functools.cache(lambda: self.evaluator(run.metrics))  # when first needed
            evaluations = run.resume(lambda paths: evaluator()(paths), self.encoded)
            yield evaluations
            rows, done = [], []
            for b, encoded in enumerate(self.encoded):
                if paths := list(evaluations.known[b]):
                    rows += evaluation_rows(encoded, paths, evaluations.of_question(b, paths))
                    done.append(question_row(encoded, len(paths)))
            if run.waves or not run.parts():  # or nothing is new
                run.replace(rows, done)

    @contextlib.contextmanager
    def open(
        self,
        directory: str,
        recorded: Mapping[str, Any],
        positions: int,
        metrics: Metrics | None,
        *,
        held_out: bool = False,
        again: bool = False,
    ) -> Iterator[Run]:
        """Open a run of the questions, where memory suffices for paths of so many layers.

        `recorded` decides, with the session's own settings, whether a run can be resumed.
        """
        questions = self.held_out if held_out else self.encoded
        settings, config = self.settings | dict(recorded), self.run_config
        if held_out:
            settings |= {"task": task_digest(questions, self.scorer), "questions": len(questions)}
            settings.pop("variants", None)
        self.check_memory(positions)
        config.hosts.agree(config.shard, settings, together=config.devices.tensor > 1)
        devices = 1 if self.mesh is None else self.mesh.size
        opened = Run(directory, config.shard).open(
            settings,
            self.environment | {"devices": devices},
            asked_here(settings, questions),
            again=again,
            metrics=metrics or Metrics(),
        )
        with opened as run:
            yield run

    def fill(
        self, run: Run, questions: Sequence[Encoded], workload: Workload, work: Work, each: int
    ) -> None:
        """Write the rows of the questions that a run lacks, at most `each` evaluations of each."""
        metrics = run.metrics
        left = [i for i, asked in enumerate(questions) if asked.question.id not in run.done]
        run.count_earlier(self.num_layers)
        before = metrics.earlier + metrics.evaluations  # of a part of the same command, too
        metrics.total = before + each * len(left)
        if not left:
            return
        variants = self.variants if questions is self.encoded else []
        ways = [questions, *(variant.encoded for variant in variants)]
        batches = question_batches(ways, workload, self.first)
        plain, answers = identity(self.num_layers), []

        def run_batch(worker: Worker, indices: np.ndarray) -> Part:
            prefix = batches.prefixes[indices[0]]
            return work(worker, indices, workload._replace(prefix=prefix))

        with contextlib.ExitStack() as stack:
            for scorer in (self.scorer, *(variant.scorer for variant in variants)):
                stack.enter_context(scorer)
            workers = self.workers(metrics)
            workers.check_count(len(questions))
            cut = batches.cut(left, largest=self.batch_size(len(left)))
            for _, part in workers.map(run_batch, cut):
                run.write(part.evaluations, part.questions)
                metrics.add(**improvements(part.questions, self.num_layers))
                if not self.scorer.open:
                    rows = (row for row in part.evaluations if not row["control"])
                    answers += [(r["answer"], r["target"]) for r in rows if r["path"] == plain]
                    self.warn_of_collapse(answers, metrics)

    def warn_of_collapse(self, answers: Sequence[tuple[int, int]], metrics: Metrics) -> None:
        """Warn once where the answers of the pretrained model are all alike."""
        problem = None if metrics.collapsed else collapse(answers)
        if problem:
            metrics.collapsed = True  # once for all runs of a command
            log.warning("by the scorer %s, %s", self.scorer.name, problem)

    def workers(self, metrics: Metrics) -> Workers:
        """Make workers on the devices of this session."""
        model = self.handle.load(self.settings["dtype"], self.mesh, metrics)
        return Workers(model, threads=THREADS, **self.options(metrics))

    def evaluator(self, metrics: Metrics) -> ModelEvaluator:
        """Make a function from paths of all questions to verdicts; loads the weights."""
        return ModelEvaluator(
            self.handle.load(self.settings["dtype"], self.mesh, metrics),
            self.encoded,
            self.scorer,
            batch_size=self.batch_size(len(self.encoded)),
            **self.options(metrics),
        )

    def options(self, metrics: Metrics) -> WorkerOptions:
        """Return how the model is executed; the caller shows the metrics."""
        devices = self.run_config.devices
        return {
            "memory_budget": devices.budget,
            "rows": devices.rows,
            "metrics": metrics,
            "progress": False,
        }

    def batch_size(self, questions: int) -> int:
        """Return the most questions of a batch: enough batches to keep all workers busy."""
        workers = 1 if self.mesh is None else self.mesh.shape["data"]
        even = -(-questions // (THREADS * workers))
        return min(even, self.run_config.batch_size or default_batch_size())

    @property
    def memory(self) -> Memory:
        """The memory that workers will have, before weights load."""
        devices, itemsize = self.run_config.devices, jnp.dtype(self.settings["dtype"]).itemsize
        budget = devices.budget
        if budget is None:
            weights = sum(math.prod(shape) for shape in shapes(self.config).values()) * itemsize
            budget = default_budget(jax.local_devices()[0], weights // devices.tensor)
        backend = jax.default_backend()
        return Memory(budget, THREADS, itemsize=itemsize, backend=backend, rows=devices.rows)

    def check_memory(self, positions: int) -> None:
        """Raise InputError where memory does not suffice for a path of so many layers."""
        ways = [(self.scorer, self.encoded), *((v.scorer, v.encoded) for v in self.variants)]
        for scorer, encoded in ways:
            scorer.check_memory(self.config, self.memory, encoded, positions)

    def check_search(self, settings: Settings) -> None:
        """Raise InputError where searches that run together need too much memory."""
        options = max(len(encoded.question.options) for encoded in self.encoded)
        together = THREADS * self.batch_size(len(self.encoded)) * settings.searches(options)
        check_memory(settings, self.num_layers, together, self.memory.budget)


def collapse(answers: Sequence[tuple[int, int]]) -> str | None:
    """Describe answers, each with gold, that are nearly all one option where gold is not.

    Fewer than `ENOUGH` questions tell nothing, nor does no answer.
    """
    chosen = Counter(answer for answer, _ in answers if answer != NO_ANSWER)
    if len(answers) < ENOUGH or not chosen:
        return None
    (place, count), *_ = chosen.most_common(1)
    gold = Counter(gold for _, gold in answers)
    limit = BALANCED * len(answers)
    if count < COLLAPSED * len(answers) or gold.most_common(1)[0][1] > limit:
        return None
    return (
        f"the pretrained model answers {chr(ord('A') + place)}, whatever is asked: to {count} of "
        f"{len(answers)} questions, where it is right for {gold[place]}. What paths change may be "
        "this preference alone: try another --scorer, such as options, --format or --num-fewshot."
    )
