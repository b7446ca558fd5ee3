"""A session: a model over the questions of a task, filling a run directory group by group."""

import dataclasses
import datetime
import functools
import platform
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cola_jax import checkpoint
from cola_jax.config import ModelConfig
from cola_jax.runs.counts import Counts, Watch, earlier
from cola_jax.runs.devices import Devices
from cola_jax.search.evaluate import evaluate_groups
from cola_jax.execute.memory import Memory
from cola_jax.execute.engine import Engine
from cola_jax.execute.inputs import check_tokens
from cola_jax.runs.hosts import Hosts
from cola_jax.scoring.judge import check_budget, grading
from cola_jax.params import Model
from cola_jax.runs.schema import (
    evaluation_rows,
    question_row,
    search_evaluation_rows,
    search_question_row,
)
from cola_jax.runs.directory import WHOLE, RunDirectory, Shard
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.search import Preset
from cola_jax.search.search import IN_FLIGHT, check_settings, search_groups
from cola_jax.tasks import Encoded
from cola_jax.tasks.task import Asking
from cola_jax.scoring.grader import Grader, check_installed
from cola_jax.tasks.task import task_digest

Rows = list[dict[str, Any]]
Parts = Iterator[tuple[Rows, Rows]]  # of evaluations and of questions


class Todo(NamedTuple):
    """What a run directory still lacks, and what it is filled with."""

    engine: Engine
    questions: list[Encoded]
    group: int  # the most questions in step
    counts: Counts
    grader: Grader | None


@dataclasses.dataclass(frozen=True)
class Session:
    """A model, questions encoded for a scorer, and what is recorded about both."""

    model_directory: str
    config: ModelConfig
    questions: list[Encoded]
    settings: dict[str, Any]  # with what a command adds, these decide the rows
    environment: dict[str, Any]
    devices: Devices = dataclasses.field(default_factory=Devices)
    hosts: Hosts = dataclasses.field(default_factory=Hosts)
    shard: Shard = WHOLE
    reference: bool = False  # run paths one by one; for comparison

    @classmethod
    def prepare(
        cls,
        model: str,
        asking: Asking,
        *,
        dtype: str | None = None,
        devices: Devices = Devices(),  # noqa: B008
        hosts: Hosts = Hosts(),  # noqa: B008
        shard: Shard = WHOLE,
        reference: bool = False,
    ) -> "Session":
        """Checks and loads what a session needs, but for the weights, which take longest.

        `model` is a checkpoint directory. `dtype` None means float32 on a CPU, where bfloat16 is
        no faster, and the checkpoint's own elsewhere. Raises ValueError for whatever is wrong with
        the checkpoint, the task, a prompt or the devices.
        """
        devices.check_backend()
        metadata = checkpoint.read_metadata(model)
        config = ModelConfig.from_json(metadata["config"])
        encoded, asked = asking.ask(
            checkpoint.load_tokenizer(model),
            context=config.context,
            stop_tokens=lambda: checkpoint.stop_tokens(model),
        )
        check_vocabulary(encoded, config)
        dtype = dtype or ("float32" if jax.default_backend() == "cpu" else metadata["dtype"])
        settings = {
            "model": checkpoint.identity(metadata),
            "dtype": dtype,
            "task": task_digest(encoded),
            "questions": len(encoded),
            **asked,
        }
        if asked["scorer"] == "generate":
            check_installed()
            settings["grader"] = f"math-verify {version('math-verify')}"
        mine = encoded[shard.index :: shard.count]
        if not mine:
            raise ValueError(f"shard {shard} has none of the {len(encoded)} questions.")
        packages = ("cola-jax", "jax", "jaxlib", "flax", "transformers", "numpy")
        device = jax.local_devices()[0]
        environment = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "model": str(model),
            "origin": metadata["origin"],
            "num_layers": config.num_layers,
            "task": asking.task,
            "asking": dataclasses.asdict(asking),
            "versions": {name: version(name) for name in packages},
            "python": platform.python_version(),
            "device": f"{device.platform} {device.device_kind}",
            "shard": str(shard),
        }
        return cls(
            model_directory=str(model),
            config=config,
            questions=mine,
            settings=settings,
            environment=environment,
            devices=devices,
            hosts=hosts,
            shard=shard,
            reference=reference,
        )

    @property
    def num_layers(self) -> int:
        """The model's layers, L."""
        return self.config.num_layers

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """The devices of this host; not before the hosts have agreed."""
        return self.devices.mesh(len(self.questions))

    @functools.cached_property
    def model(self) -> Model:
        """The weights, loaded when first needed: after the run directory has been checked."""
        return checkpoint.load(self.model_directory, dtype=self.settings["dtype"], mesh=self.mesh)

    def search(
        self,
        directory: str,
        preset: Preset,
        *,
        simulations: int,
        leaves: int,
        seed: int = 0,
        early_stop: bool = False,
        group: int | None = None,
        watch: Watch = lambda counts: None,
    ) -> RunDirectory:
        """Searches every question that the run directory does not have yet.

        `group` is the most questions in step, chosen for the backend when None. It decides how
        much work a kill can lose, not the rows.
        """
        rules = check_settings(self.questions, preset, simulations, leaves, seed, early_stop)
        settings = self.settings | {"command": "search"} | dataclasses.asdict(rules)
        self.check_budget(preset.lengths(self.num_layers)[1])

        def work(todo: Todo) -> Parts:
            counts, base = todo.counts, dataclasses.replace(todo.counts)

            def show(evaluations: int, fixed: int, shortened: int):
                counts.evaluations = base.evaluations + evaluations
                counts.fixed = base.fixed + fixed
                counts.shortened = base.shortened + shortened
                watch(counts)

            groups = search_groups(
                todo.engine, todo.questions, rules, todo.group, show, todo.grader
            )
            for _, outcomes in groups:
                rows = [row for outcome in outcomes for row in search_evaluation_rows(outcome)]
                yield rows, [search_question_row(outcome) for outcome in outcomes]

        return self.fill(directory, settings, work, simulations + 1, group)

    def evaluate(
        self,
        directory: str,
        paths: Sequence[tuple[int, ...]],
        *,
        group: int | None = None,
        watch: Watch = lambda counts: None,
    ) -> RunDirectory:
        """Evaluates the same paths on every question that the run directory does not have yet."""
        settings = self.settings | {"command": "evaluate", "paths": [list(p) for p in paths]}
        self.check_budget(max(map(len, paths)))

        def work(todo: Todo) -> Parts:
            def show(evaluations: int):
                todo.counts.evaluations += evaluations
                watch(todo.counts)

            groups = evaluate_groups(
                todo.engine, todo.questions, paths, todo.group, show, todo.grader
            )
            for mine, verdicts in groups:
                rows = []
                for b, encoded in enumerate(mine):
                    row = Verdicts(*(column[b] for column in verdicts))
                    rows += evaluation_rows(encoded, list(paths), row)
                yield rows, [question_row(encoded, len(paths)) for encoded in mine]

        return self.fill(directory, settings, work, len(paths), group)

    def check_budget(self, positions: int) -> None:
        """Raises ValueError where a budget that was given is too small, before weights load."""
        if self.devices.budget is not None:
            memory = Memory(
                self.devices.budget,
                sharing=IN_FLIGHT,
                itemsize=jnp.dtype(self.settings["dtype"]).itemsize,
                backend=jax.default_backend(),
                rows=self.devices.rows,
            )
            check_budget(self.config, self.questions, positions, memory)

    def fill(
        self,
        directory: str,
        settings: dict[str, Any],
        work: Callable[[Todo], Parts],
        each: int,
        group: int | None,
    ) -> RunDirectory:
        """Opens a run and writes the parts of the questions it lacks, `each` evaluations apiece."""
        if group is not None and group < 1:
            raise ValueError(f"a group needs at least 1 question, it is {group}.")
        self.hosts.agree(self.shard, settings, together=self.devices.tensor > 1)
        size = group or (8 if jax.default_backend() == "cpu" else 64)
        devices = 1 if self.mesh is None else self.mesh.size
        environment = self.environment | {"devices": devices}
        run = RunDirectory(directory, self.shard)
        with run.locked():
            done = run.open(settings, environment)
            left = [q for q in self.questions if q.question.id not in done]
            counts = earlier(run, self.num_layers, each * len(left))
            if not left:
                return run
            with (
                grading(left) as grader,
                Engine(
                    self.model,
                    memory_budget=self.devices.budget,
                    rows=self.devices.rows,
                    in_flight=IN_FLIGHT,
                    reference=self.reference,
                ) as engine,
            ):
                todo = Todo(engine, left, size, counts, grader)
                for evaluations, questions in work(todo):
                    run.write_part(evaluations, questions)
                run.close(engine.report())
        return run


def check_vocabulary(questions: Sequence[Encoded], config: ModelConfig) -> None:
    """Raises ValueError for tokens that the model does not have, an answer's ends included."""
    for encoded in questions:
        check_tokens("token ids", encoded.prompts.ids, config.vocab_size)
        if encoded.prompts.targets is not None:
            check_tokens("targets", encoded.prompts.targets, config.vocab_size)
