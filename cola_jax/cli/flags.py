"""Flags that subcommands share: the run, its task and devices, and paths."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tyro.conf import OmitArgPrefixes

from cola_jax.cli.command_line import values_of
from cola_jax.cli.values import BatchSize, Dtype, Model, Output
from cola_jax.cli.verbosity import console as console
from cola_jax.cli.verbosity import errors, log, log_devices
from cola_jax.errors import InputError, UsageError
from cola_jax.files import check_writable
from cola_jax.runs.devices import Devices
from cola_jax.runs.hosts import Hosts
from cola_jax.tasks.registry import check_task
from cola_jax.tasks.task import TaskConfig, refuse_variants

if TYPE_CHECKING:
    from cola_jax.runs.directory import RunDirectory
    from cola_jax.runs.session import RunConfig, Session

Result = TypeVar("Result")
MOST_PATHS = 100_000
TOO_MANY = f"more than a run takes, which are {MOST_PATHS:,}: divide them over several runs."


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """How a run is executed."""

    dtype: Dtype = None
    """Dtype of weights and activations; auto is float32 on a CPU, else the checkpoint's own."""
    batch_size: BatchSize = None
    """Questions per batch, on which no result depends. Auto is 8 on a CPU, else 64."""
    devices: OmitArgPrefixes[Devices] = dataclasses.field(default_factory=Devices)
    shard: str | None = None
    """Part of the questions to run, such as 0/4, the first of four; other processes run the
    others."""
    hosts: OmitArgPrefixes[Hosts] = dataclasses.field(default_factory=Hosts)

    def resolve(self) -> "RunConfig":
        """Meets the other hosts, if any; returns the configuration of a session."""
        from cola_jax.runs.session import RunConfig
        from cola_jax.runs.shard import Shard

        if self.shard is not None and self.hosts.distributed:
            raise InputError("give --shard or --distributed: hosts that meet assign the shards.")
        return RunConfig(
            dtype=self.dtype,
            batch_size=self.batch_size,
            devices=self.devices,
            hosts=self.hosts,
            shard=self.hosts.join() if self.shard is None else Shard.parse(self.shard),
        )


@dataclasses.dataclass(frozen=True)
class TaskFlags:
    """The model and the task of a run, and its directory."""

    model: Model
    task: OmitArgPrefixes[TaskConfig]
    out: Output
    """Run directory: created, or resumed."""
    run: OmitArgPrefixes[RunFlags] = dataclasses.field(default_factory=RunFlags)

    def check(self) -> None:
        """Checks what takes no time to check; raises ValueError."""
        check_output(self.out)
        for flags in self.each():
            check_task(flags.task.task)

    def prepare(self, decoys: str | None = None, command: Any = None) -> "Session":
        """Checks and loads what a session needs; `decoys` is a run with the model's answers.

        The flags of `command`, to which these belong, are recorded.
        """
        self.check()
        checkpoint_of(self.model)
        from cola_jax.runs.session import Session

        metadata = {"task": self.task.task, "task_config": dataclasses.asdict(self.task)}
        if command is not None:
            metadata["flags"] = dict(values_of(dataclasses.replace(command, flags=self)))
        config = self.run.resolve()
        return Session.prepare(self.model, self.task.prepare, config, metadata, decoys)

    def each(self) -> "list[TaskFlags]":
        """Returns the flags of each task; those of several have a directory of their own each.

        Raises ValueError for a task that is given twice.
        """
        names = task_names(self.task.task)
        if len(names) < 2:
            return [self]
        found: dict[str, TaskFlags] = {}
        for name in names:
            task = dataclasses.replace(self.task, task=name)
            folder = Path(task.task).stem if task.subject is None else f"{task.task}-{task.subject}"
            if folder in found:
                raise InputError(f"the task {name} is given twice: give each once.")
            found[folder] = dataclasses.replace(self, task=task, out=f"{self.out}/{folder}")
        return list(found.values())

    def prepare_each(
        self, decoys: str | None = None, command: Any = None
    ) -> "list[tuple[TaskFlags, Session]]":
        """Prepares a session for each task, all before the first runs; they share the weights."""
        made: list[tuple[TaskFlags, Session]] = []
        self.check()
        for flags in self.each():
            session = flags.prepare(decoys, command)
            if made:
                session = dataclasses.replace(session, handle=made[0][1].handle)
            made.append((flags, session))
        return made


def task_names(task: str) -> list[str]:
    """Returns the names of tasks that are given with commas between them; a file is one."""
    if Path(task).exists():
        return [task]
    return [name.strip() for name in task.split(",") if name.strip()]


def check_one_task(command: str, task: TaskConfig) -> None:
    """Raises ValueError for several tasks, and for variants, of a command that takes neither."""
    refuse_variants(command, task.variants)
    names = task_names(task.task)
    if len(names) > 1:
        raise UsageError(
            f"`cola {command}` takes one task, not {len(names)} ({' and '.join(names)}): give one, "
            "and start the command once for each."
        )


def check_output(directory: str) -> None:
    """Raises UsageError where the directory of a run would lie at a file, or below one.

    OSError where it cannot be written.
    """
    if "://" in directory:
        return
    for place in (Path(directory), *Path(directory).parents):
        if place.is_file():
            raise UsageError(f"--output {directory}: {place} is a file: give a directory.")
    check_writable(directory)


def write_config(directory: Any, command: Any) -> None:
    """Writes the flags of a command into a directory, with which --config starts it again."""
    import yaml
    from etils import epath

    from cola_jax.files import write_whole
    from cola_jax.runs.directory import CONFIG

    content = yaml.safe_dump(dict(values_of(command)), sort_keys=False, allow_unicode=True)
    write_whole(epath.Path(directory) / CONFIG, content.encode())


@dataclasses.dataclass(frozen=True)
class PathFlags:
    """Paths that are given, read from a file, or drawn at random."""

    paths: tuple[str, ...] = ()
    """Paths such as 0-5,7,7,8-29 or 0-5,(6-7)x2,8-29."""
    paths_file: Path | None = None
    """File with a path on each line, where # starts a comment; or a file of paths of another
    project, which is recognised: PoLar, Dr.LLM, RYS or mergekit."""
    random: int = 0
    """Number of random paths of 1 to 3 edits to add."""
    seed: int = 0
    """Random seed of the random paths."""
    max_length: int | None = None
    """Longest path allowed, in layers; twice the model's by default."""

    def collect(self, num_layers: int) -> list[tuple[int, ...]]:
        """Reads all paths asked for, each once, in order; ValueError for one that is malformed."""
        from cola_jax.edits import random_paths
        from cola_jax.formats.peers.document import MOST_LAYERS
        from cola_jax.formats.peers.read import read_paths
        from cola_jax.path import parse_path

        if self.random < 0:
            raise InputError(f"the number of random paths must be at least 0, it is {self.random}.")
        if self.max_length is not None and not 1 <= self.max_length <= MOST_LAYERS:
            raise InputError(
                f"the longest path must have 1 to {MOST_LAYERS:,} layers, not {self.max_length:,}."
            )
        if self.max_length is not None and not (self.paths or self.paths_file or self.random):
            raise InputError(
                f"a longest path of {self.max_length} layers limits nothing without paths: give "
                "--paths, --paths-file or --random."
            )
        if self.random > MOST_PATHS:
            raise InputError(f"{self.random:,} random paths are {TOO_MANY}")
        paths = [parse_path(text, num_layers, self.max_length) for text in self.paths]
        if self.paths_file is not None:
            paths += read_paths(self.paths_file, num_layers, self.max_length)
        if len(paths) > MOST_PATHS:
            raise InputError(f"{len(paths):,} paths are {TOO_MANY}")
        if self.random:
            paths += random_paths(num_layers, self.random, self.seed, max_length=self.max_length)
        return list(dict.fromkeys(paths))


@functools.cache
def checkpoint_of(model: str) -> str:
    """Returns the checkpoint directory of a model, converting it first where it has not been.

    Says that it is being loaded before anything that takes seconds is imported.
    """
    log.info("loading %s", model)
    from cola_jax.formats.cache import find
    from cola_jax.runs.progress import byte_bar

    directory = find(model, lambda what: byte_bar(errors, f"{what} {model}"))
    log.debug("checkpoint: %s", directory)
    return directory


def num_layers_of(model: str) -> int:
    """Returns the number of a model's layers, converting it first where it has not been."""
    from cola_jax.checkpoint import read_metadata

    return read_metadata(checkpoint_of(model))["config"]["num_layers"]


def run_with_metrics(run: "Callable[[Any], Result]") -> "Result":
    """Calls a function with metrics that are shown while it runs, and prints what it took."""
    from cola_jax.execute.metrics import Metrics
    from cola_jax.runs.progress import ProgressDisplay, describe_metrics

    log_devices()
    metrics = Metrics()
    with ProgressDisplay(errors, metrics, searches=False):
        result = run(metrics)
    if metrics.evaluations:
        log.info(describe_metrics(metrics.report()))
    return result


def run_with_progress(run: "Callable[[Any], RunDirectory]", *, searches: bool) -> "RunDirectory":
    """Calls a function with metrics that are shown while it runs, and prints what it took."""
    from cola_jax.execute.metrics import Metrics
    from cola_jax.runs.progress import ProgressDisplay, describe_metrics

    log_devices()
    metrics = Metrics()
    with ProgressDisplay(errors, metrics, searches=searches):
        directory = run(metrics)
    if recorded := directory.starts()[-1].get("metrics"):
        log.info(describe_metrics(recorded))
    return directory
