"""A session: a model over the questions of a task, filling a run directory batch by batch."""

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
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
from cola_jax.formats import cache
from cola_jax.params import Model, shapes
from cola_jax.prompts import Prompts
from cola_jax.runs.batch_search import BatchSearch, Questions, check_robust
from cola_jax.runs.comparable import ANY_SCORER, asked_by_run, asked_here, check_comparable
from cola_jax.runs.decoys import Answers
from cola_jax.runs.devices import Devices, choose_dtype
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.growth import continues
from cola_jax.runs.hosts import Hosts
from cola_jax.runs.journal import Journal, ResumedEvaluator
from cola_jax.runs.machine import machine
from cola_jax.runs.reuse import Reuse
from cola_jax.runs.schema import Part, evaluation_rows, question_row
from cola_jax.runs.shard import WHOLE, Shard
from cola_jax.scoring import Encoded, Scorer
from cola_jax.scoring.batches import default_batch_size, question_batches
from cola_jax.scoring.evaluator import THREADS, ModelEvaluator
from cola_jax.scoring.scorer import BatchEvaluator
from cola_jax.strategies.memory import check_memory
from cola_jax.strategies.rules import InfluenceRules, Settings
from cola_jax.tasks.task import Prepared, refuse_variants, task_digest
from cola_jax.tasks.variants import Variant

log = logging.getLogger(__name__)
FIRST = 32  # questions on which the influence of layers is measured


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


@dataclasses.dataclass(frozen=True)
class Session:
    """A model, questions encoded for a scorer, and what is recorded about both."""

    source: str  # of the model, as `cola_jax.load` takes it
    config: ModelConfig
    scorer: Scorer
    encoded: list[Encoded]  # of this shard
    others: list[Encoded]  # held-out questions of this shard
    variants: list[Variant]  # of the same questions
    first: list[Encoded]  # of all shards, to measure the model on
    settings: dict[str, Any]  # with what a command adds, these decide the rows
    environment: dict[str, Any]
    run_config: RunConfig
    # the settings that the first so many questions decide; None where a run may not grow
    of_first: Callable[[int], dict[str, Any]] | None = None
    whole: "Session | None" = None  # another session of the same model, whose weights it shares
    loaded: list[Model] = dataclasses.field(default_factory=list, init=False, repr=False)

    @classmethod
    def prepare(
        cls,
        model: str,
        prepare: Callable[..., Prepared],
        run_config: RunConfig = RunConfig(),
        metadata: dict[str, Any] | None = None,
        decoys: str | None = None,
    ) -> "Session":
        """Checks and loads what a session needs, except the weights, which take longest.

        `model` is what `cola_jax.load` takes; `prepare` is that of a TaskConfig, or a function like
        it. `metadata` is recorded of each start. `decoys` is a run that decoded answers on other
        paths, of which open questions get their decoys. Raises ValueError for whatever is wrong
        with the model, the task, a prompt, the decoys or the devices.
        """
        run_config.devices.check_backend()
        directory = cache.find(model)
        saved = checkpoint.read_metadata(directory)
        answers = None
        if decoys is not None:
            answers = Answers(decoys, checkpoint.identity(saved))
            prepare = functools.partial(prepare, decoy=answers.decoy)
        config = ModelConfig.from_json(saved["config"])
        prepared = prepare(
            checkpoint.load_tokenizer(directory),
            context=config.context,
            stop_tokens=lambda: checkpoint.stop_tokens(directory),
        )
        ways = (variant.encoded for variant in prepared.variants)
        for asked in (prepared.encoded, prepared.held_out, *ways):
            check_vocabulary(asked, config)
        settings = {
            "model": checkpoint.identity(saved),
            "dtype": choose_dtype(run_config.dtype, saved["dtype"]),
            "questions": len(prepared.encoded),
            **prepared.settings(),
        }
        if answers is not None:
            here = asked_here(settings, prepared.encoded)
            if told := check_comparable(asked_by_run(answers.run), here, (*ANY_SCORER, "options")):
                log.info(
                    "the answers of %s are those of other settings: %s", decoys, "; ".join(told)
                )
        shard = run_config.shard
        some = slice(shard.index, None, shard.count)
        own = prepared.encoded[some]
        if not own:
            raise InputError(f"shard {shard} has none of the {len(prepared.encoded)} questions.")
        environment = {
            "model": str(model),
            "origin": saved["origin"],
            "num_layers": config.num_layers,
            "scorer": {"open": prepared.scorer.open, "decodes": prepared.scorer.decodes},
            "shard": str(shard),
            **machine(),
            **(metadata or {}),
        }
        return cls(
            source=str(model),
            config=config,
            scorer=prepared.scorer,
            encoded=own,
            others=list(prepared.held_out[some]),
            first=prepared.encoded[:FIRST],
            variants=[variant.take(some) for variant in prepared.variants],
            settings=settings,
            environment=environment,
            run_config=run_config,
            of_first=prepared.settings,
        )

    @property
    def num_layers(self) -> int:
        """The model's layers, L."""
        return self.config.num_layers

    @property
    def held_out(self) -> "Session":
        """The same session over its held-out questions, asked in one way; it shares the weights.

        Raises ValueError where none are held out.
        """
        if not self.others:
            raise InputError(
                "no questions are held out: give --held-out or --held-out-from, on which what the "
                "others taught is measured."
            )
        asked = {"task": task_digest(self.others, self.scorer), "questions": len(self.others)}
        return dataclasses.replace(
            self,
            encoded=self.others,
            others=[],
            variants=[],
            settings=self.settings | asked,
            of_first=None,
            whole=self,
        )

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """The devices of this host; not before the hosts have agreed."""
        if self.whole is not None:
            return self.whole.mesh
        least = min(len(some) for some in (self.encoded, self.others) if some)
        return self.run_config.devices.mesh(least)

    @property
    def num_devices(self) -> int:
        """The devices of this host that are used."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def model(self) -> Model:
        """The weights; see `load`."""
        return self.load(None)

    def load(self, metrics: Metrics | None) -> Model:
        """Loads the weights when first needed: after the run directory has been checked.

        How far that is can be read in the metrics; without them, a bar shows it.
        """
        if self.whole is not None:
            return self.whole.load(metrics)
        if not self.loaded:
            source, dtype, mesh = self.source, self.settings["dtype"], self.mesh
            if metrics is None:
                model = cache.load(source, dtype=dtype, mesh=mesh)
            else:
                found = cache.find(source)
                model = cache.load_converted(source, found, dtype, mesh, metrics.load)
            self.loaded.append(model)
        return self.loaded[0]

    def search(
        self,
        directory: str,
        settings: Settings,
        metrics: Metrics | None = None,
        reuse: Sequence[str] = (),
        robust: bool = False,
    ) -> RunDirectory:
        """Searches every question that the run directory does not have yet.

        What the run directories `reuse` have evaluated of the same questions is not run again. With
        `robust`, a path is right where it is right in all variants. Raises ValueError for a robust
        search without another variant, of a scorer that decodes, or that reuses other runs.
        """
        if robust:
            check_robust(self.scorer, self.variants, reuse)
        workload = settings.workload(self.num_layers)
        self.check_budget(workload.positions)
        self.check_search(settings)
        if isinstance(settings.preset, InfluenceRules) and not settings.preset.order:
            settings = dataclasses.replace(
                settings, preset=self.ordered(directory, settings.preset, metrics)
            )
        stored = Reuse(reuse, self.settings, self.encoded, self.scorer) if reuse else None
        questions = Questions(self.scorer, self.encoded, self.variants, self.num_layers)
        search = BatchSearch(questions, settings, stored, robust)
        strategy = {"strategy": settings.preset.name}
        recorded = {"command": "search", **strategy, **dataclasses.asdict(settings)}
        if robust:
            recorded["robust"] = True
        return self.fill(directory, recorded, workload, search, metrics, search.most_evaluations)

    def check_search(self, settings: Settings) -> None:
        """Raises ValueError where searches that run together need too much memory."""
        options = max(len(one.question.options) for one in self.encoded)
        together = THREADS * self.batch_size(len(self.encoded)) * settings.searches(options)
        check_memory(settings, self.num_layers, together, self.budget)

    @property
    def budget(self) -> int:
        """The bytes that buffers may take on each device, as its workers will have it."""
        devices = self.run_config.devices
        if devices.budget is not None:
            return devices.budget
        sizes = (math.prod(shape) for shape in shapes(self.config).values())
        weights = sum(sizes) * jnp.dtype(self.settings["dtype"]).itemsize
        return default_budget(jax.local_devices()[0], weights // devices.tensor)

    def ordered(
        self, directory: str, rules: InfluenceRules, metrics: Metrics | None
    ) -> InfluenceRules:
        """Orders the layers by their influence on the first questions, once for a run."""
        run = RunDirectory(directory)
        run.refuse_foreign()  # before the weights load
        asked = min(FIRST, self.settings["questions"])
        if min(FIRST, run.recorded("questions") or 0) == asked:
            before = run.recorded("preset") or {}  # a run of another strategy is refused, without
            return dataclasses.replace(rules, order=tuple(before.get("order", ())))
        prompts = Prompts.stack([one.prompts for one in self.first])
        model = self.load(metrics)
        order = np.argsort(block_influence(model, prompts), kind="stable").tolist()
        return dataclasses.replace(rules, order=tuple(order))

    def evaluate(
        self,
        directory: str,
        paths: Sequence[tuple[int, ...]],
        metrics: Metrics | None = None,
        command: str = "evaluate",
    ) -> RunDirectory:
        """Evaluates the same paths on every question that the run directory does not have yet.

        Raises ValueError for variants, in which nothing would be asked.
        """
        refuse_variants(command, [variant.name for variant in self.variants])

        def work(evaluate: ResumedEvaluator, some: np.ndarray) -> Part:
            batch = [self.encoded[i] for i in some]
            verdicts = evaluate(np.tile(padded, (len(batch), 1, 1)))
            rows = [
                row
                for b, encoded in enumerate(batch)
                for row in evaluation_rows(encoded, list(paths), verdicts.take(b))
            ]
            return Part(rows, [question_row(encoded, len(paths)) for encoded in batch])

        padded = pad_all(paths)
        recorded = {"command": command, "paths": [list(p) for p in paths]}
        workload = Workload(len(paths), padded.shape[1], same=True, fixed=True)
        return self.fill(directory, recorded, workload, work, metrics, len(paths))

    def fill(
        self,
        directory: str,
        recorded: dict[str, Any],
        workload: Workload,
        work: Callable[[ResumedEvaluator, np.ndarray], Part],
        metrics: Metrics | None,
        each: int,
    ) -> RunDirectory:
        """Opens a run and writes the parts of the questions it lacks, `each` evaluations each."""
        config = self.run_config
        settings = self.settings | recorded
        self.check_budget(workload.positions)
        config.hosts.agree(config.shard, settings, together=config.devices.tensor > 1)
        run = RunDirectory(directory, config.shard)
        metrics = Metrics() if metrics is None else metrics
        environment = self.environment | {"devices": self.num_devices}  # or they do not fit
        with run.locked():
            asked = (self.encoded, *(variant.encoded for variant in self.variants))
            batches = question_batches(asked, workload, self.first)

            def check(old: Mapping[str, Any]) -> bool:
                further = continues(run.directory, old, settings, self.of_first)
                if old["questions"] == 1 < settings["questions"] and any(batches.prefixes):
                    run.discard()  # what all prompts begin with is known from two on
                return further

            done = run.open(settings, environment, check)
            left = [i for i, one in enumerate(self.encoded) if one.question.id not in done]
            run.count_earlier(metrics, self.num_layers)
            before = metrics.earlier + metrics.evaluations  # of a part of the same command, too
            metrics.total = before + each * len(left)
            if not left:
                run.tidy(settings["questions"])
                return run
            journal = Journal(run, [self.encoded[i] for i in left], metrics)

            def resumed(evaluate: BatchEvaluator, some: np.ndarray) -> Part:
                batch = [self.encoded[i] for i in some]
                return work(journal.evaluator(evaluate, batch), some)

            cut = batches.cut(left, largest=self.batch_size(len(left)))
            with contextlib.ExitStack() as stack:
                stack.callback(journal.flush)  # however the run ends
                for variant in self.variants:
                    stack.enter_context(variant.scorer)
                evaluator = self.evaluator(metrics)
                for _, rows in evaluator.map(resumed, workload, cut, batches.prefixes):
                    run.write_part(rows.evaluations, rows.questions)
                    journal.finish([row["question"] for row in rows.questions])
                    metrics.add(corrected=rows.corrected, shortened=rows.shortened)
            run.tidy(settings["questions"])
            run.close(metrics.report())
        return run

    def evaluator(self, metrics: Metrics) -> ModelEvaluator:
        """Returns what evaluates paths of the questions, on the devices of this session."""
        devices = self.run_config.devices
        return ModelEvaluator(
            self.load(metrics),
            self.encoded,
            self.scorer,
            memory_budget=devices.budget,
            rows=devices.rows,
            metrics=metrics,
            progress=False,  # whoever gave the metrics shows them
        )

    def batch_size(self, questions: int) -> int:
        """Returns the most questions of a batch: enough batches to keep all workers busy."""
        workers = 1 if self.mesh is None else self.mesh.shape["data"]
        even = -(-questions // (THREADS * workers))
        return min(even, self.run_config.batch_size or default_batch_size())

    def check_budget(self, positions: int) -> None:
        """Raises ValueError where a given budget is too small, before weights load."""
        devices = self.run_config.devices
        if devices.budget is not None:
            memory = Memory(
                devices.budget,
                sharing=THREADS,
                itemsize=jnp.dtype(self.settings["dtype"]).itemsize,
                backend=jax.default_backend(),
                rows=devices.rows,
            )
            self.scorer.check_memory(self.config, memory, self.encoded, positions)
            for variant in self.variants:
                variant.scorer.check_memory(self.config, memory, variant.encoded, positions)


def pad_all(paths: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Pads paths [C, P] to the length of the longest, in a bucket."""
    return pad_paths([list(paths)], 1, 1 + max(map(max, paths)))[0]


def check_vocabulary(encoded: Sequence[Encoded], config: ModelConfig) -> None:
    """Raises ValueError for tokens that the model does not have."""
    for one in encoded:
        check_tokens("token ids", one.prompts.ids, config.vocab_size)
        if one.prompts.targets is not None:
            check_tokens("targets", one.prompts.targets, config.vocab_size)
