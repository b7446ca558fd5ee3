"""Flags that subcommands share: the run, its task and devices, and paths."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from tyro.conf import OmitArgPrefixes, arg

from cola_jax import progress
from cola_jax.cli.parser import reader, values_of, yaml_of
from cola_jax.cli.verbosity import log, log_devices
from cola_jax.errors import InputError, UsageError, did_you_mean, shown
from cola_jax.files import check_writable, write_whole
from cola_jax.runs.devices import Devices
from cola_jax.runs.hosts import Hosts, Shard
from cola_jax.tasks.load import check_task
from cola_jax.tasks.task import TaskConfig, refuse_variants

if TYPE_CHECKING:
    from cola_jax.runs.session import RunConfig, Session

Result = TypeVar("Result")
SPEED = "Speed and devices"  # a help group
DTYPES = {
    "auto": None,
    **dict.fromkeys(("float32", "fp32", "float"), "float32"),
    **dict.fromkeys(("bfloat16", "bf16"), "bfloat16"),
    **dict.fromkeys(("float16", "fp16", "half"), "float16"),
    "int8": "int8",
}


def read_dtype(text: str) -> str | None:
    """Read a dtype by any of its usual names; auto is None."""
    if text.lower() not in DTYPES:
        near = did_you_mean(text, DTYPES)
        raise InputError(
            f"{shown(text)} is not a dtype{near}: give auto, float32, bfloat16, float16 or int8."
        )
    return DTYPES[text.lower()]


def read_batch_size(text: str) -> int | None:
    """Read a number of questions; auto is None."""
    if text.lower() == "auto":
        return None
    if not text.isdecimal():
        raise InputError(f"a batch size is auto or a whole number, not {shown(text)}.")
    return int(text)


def group(title: str) -> object:
    """Name the help group of a nested dataclass."""
    return arg(name=title, prefix_name=False)


Dtype = Annotated[str | None, reader(read_dtype, "auto|float32|bfloat16|float16|int8")]
BatchSize = Annotated[int | None, reader(read_batch_size, "auto|N")]
Output = Annotated[str, arg(name="output", aliases=["-o"], metavar="DIRECTORY")]
Model = Annotated[
    str,
    arg(
        aliases=["-m"],
        metavar="MODEL",
        help="A Hub id (also as ID@REVISION), a local Hugging Face directory, a .gguf file, or a "
        "checkpoint that `cola convert` made. All but the last are converted on first use.",
    ),
]
TaskChoice = Annotated[OmitArgPrefixes[TaskConfig], group("Task")]
DeviceChoice = Annotated[OmitArgPrefixes[Devices], group(SPEED)]


@dataclasses.dataclass(frozen=True)
class General:
    """The flags of every command."""

    config: Path | None = None
    """YAML file of flags by their names, such as the config.yaml that a run writes; flags on the
    command line take precedence."""
    verbose: Annotated[bool, arg(aliases=["-v"])] = False
    """Also print the resolved configuration, versions, devices, and the traceback of an error."""
    quiet: Annotated[bool, arg(aliases=["-q"])] = False
    """Print results, warnings and errors alone, without progress."""

    def __post_init__(self):
        if self.verbose and self.quiet:
            raise InputError("--verbose and --quiet contradict each other: give one.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `cola`; its fields are its flags."""

    general: Annotated[OmitArgPrefixes[General], group("General")] = General()

    def run(self) -> None:
        """Run the command; InputError for bad input."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """The execution of a run."""

    dtype: Dtype = None
    """Dtype of weights and activations; auto is float32 on a CPU, else the checkpoint's own."""
    batch_size: BatchSize = None
    """Questions per batch, which changes no result. Auto is 8 on a CPU, else 64."""
    devices: DeviceChoice = dataclasses.field(default_factory=Devices)
    shard: str | None = None
    """Part of the questions to run, such as 0/4, the first of four; other processes run the
    others."""
    hosts: Annotated[OmitArgPrefixes[Hosts], group(SPEED)] = dataclasses.field(
        default_factory=Hosts
    )

    def resolve(self) -> "RunConfig":
        """Connect to the other hosts, if any, and return the configuration of a session."""
        from cola_jax.runs.session import RunConfig

        if self.shard is not None and self.hosts.distributed:
            raise InputError("give --shard or --distributed: hosts that meet assign the shards.")
        shard = self.hosts.join()  # refuses one host of a TPU slice with --shard, too
        if self.shard is not None:
            shard = Shard.parse(self.shard)
        return RunConfig(self.dtype, self.batch_size, self.devices, self.hosts, shard)


RunChoice = Annotated[OmitArgPrefixes[RunFlags], group(SPEED)]


@dataclasses.dataclass(frozen=True)
class TaskFlags:
    """The model and the task of a run, and its directory."""

    model: Model
    task: TaskChoice
    out: Output
    """Run directory: created, or resumed."""
    run: RunChoice = dataclasses.field(default_factory=RunFlags)

    def each(self) -> "list[TaskFlags]":
        """Return the flags of each task, each of several with a directory of its own.

        Raises InputError for a task that is given twice.
        """
        names = split_tasks(self.task.task)
        if len(names) < 2:
            return [self]
        each: dict[str, TaskFlags] = {}
        for name in names:
            task = dataclasses.replace(self.task, task=name)
            folder = Path(task.task).stem if task.subject is None else f"{task.task}-{task.subject}"
            if folder in each:
                raise InputError(f"the task {name} is given twice: give each once.")
            each[folder] = dataclasses.replace(self, task=task, out=f"{self.out}/{folder}")
        return list(each.values())

    def prepare(self, decoys: str | None = None, command: Any = None) -> "Session":
        """Open the session of one task, without loading the weights.

        Args:
          decoys: run with the model's answers.
          command: the command whose flags are recorded.
        """
        check_output(self.out)
        check_task(self.task.task)
        metadata = {"task": self.task.task, "task_config": dataclasses.asdict(self.task)}
        if command is not None:
            metadata["flags"] = values_of(dataclasses.replace(command, flags=self))
        return open_session(self.model, self.task.prepare, self.run.resolve(), metadata, decoys)

    def prepare_each(self, decoys: str | None = None, command: Any = None) -> "dict[str, Session]":
        """Prepare the session of each task, by directory; they share the weights."""
        for flags in self.each():
            check_task(flags.task.task)
        sessions = {flags.out: flags.prepare(decoys, command) for flags in self.each()}
        handle = next(iter(sessions.values())).handle
        return {
            out: dataclasses.replace(session, handle=handle) for out, session in sessions.items()
        }


Flags = Annotated[OmitArgPrefixes[TaskFlags], group("Model and output")]


def open_session(
    model: str,
    prepare: Callable[..., Any],
    config: "RunConfig",
    metadata: dict[str, Any] | None = None,
    decoys: str | None = None,
) -> "Session":
    """Open a session without loading the weights; see `Session.prepare`."""
    checkpoint_of(model, config.dtype)
    from cola_jax.runs.session import Session

    return Session.prepare(model, prepare, config, metadata, decoys)


def split_tasks(task: str) -> list[str]:
    """Split the names of tasks at commas; an existing file is one task."""
    if Path(task).exists():
        return [task]
    return [name.strip() for name in task.split(",") if name.strip()]


def check_one_task(command: str, task: TaskConfig) -> None:
    """Raise InputError for an unknown task, several tasks, and variants."""
    refuse_variants(command, task.variants)
    names = split_tasks(task.task)
    if len(names) > 1:
        raise UsageError(
            f"`cola {command}` takes one task, not {len(names)} ({' and '.join(names)}): give one, "
            "and start the command once for each."
        )
    check_task(task.task)


def check_output(directory: str) -> None:
    """Raise UsageError for a file in place of a run directory, OSError where none can be made."""
    if Path(directory).is_file():
        raise UsageError(f"--output {directory} is a file: give a directory.")
    check_writable(directory)


def write_flags(directory: str, command: Any) -> None:
    """Write the flags of a command into a directory as a file for --config."""
    from cola_jax.runs.run import CONFIG

    write_whole(f"{directory}/{CONFIG}", yaml_of(command).encode())


@dataclasses.dataclass(frozen=True)
class PathFlags:
    """Paths as texts, from a file, or drawn at random."""

    paths: Annotated[tuple[str, ...], arg(aliases=["--path"])] = ()
    """Paths such as 0-5,7,7,8-29 or 0-5,(6-7)x2,8-29."""
    paths_file: Path | None = None
    """File with a path on each line, where # starts a comment; or a file of PoLar, Dr.LLM, RYS or
    mergekit, which is recognised."""
    random: int = 0
    """Number of random paths of 1 to 3 edits to add."""
    seed: int = 0
    """Random seed of the random paths."""
    max_length: int | None = None
    """Longest path allowed, in layers; twice the model's by default."""

    def collect(self, num_layers: int) -> list[tuple[int, ...]]:
        """Read all paths, each once, in order; InputError for malformed paths."""
        from cola_jax.formats.peers import read_paths
        from cola_jax.path import parse_path, random_paths

        if self.random < 0:
            raise InputError(f"the number of random paths must be at least 0, it is {self.random}.")
        paths = [parse_path(text, num_layers, self.max_length) for text in self.paths]
        if self.paths_file is not None:
            paths += read_paths(self.paths_file, num_layers, self.max_length)
        if self.random:
            paths += random_paths(num_layers, self.random, self.seed, max_length=self.max_length)
        return list(dict.fromkeys(paths))

    def of_session(self, session: "Session") -> list[tuple[int, ...]]:
        """Read all paths as `collect` does; the identity path by default."""
        return self.collect(session.num_layers) or [tuple(range(session.num_layers))]


PathChoice = Annotated[OmitArgPrefixes[PathFlags], group("Paths")]


@functools.cache
def checkpoint_of(model: str, dtype: str | None = None) -> str:
    """Return the checkpoint directory of a model, which is converted on first use.

    Logs the model before anything that takes seconds is imported.
    """
    log.info("loading %s", model)
    from cola_jax.formats.cache import find

    directory = find(model, dtype, progress=None)
    log.debug("checkpoint: %s", directory)
    return directory


def run_with_progress(run: Callable[[Any], Result]) -> Result:
    """Call a function with metrics, show them while it runs, and log its speed."""
    from cola_jax.execute.metrics import Metrics

    log_devices()
    metrics = Metrics()
    with progress.metrics_bar(metrics):
        result = run(metrics)
    if metrics.evaluations:
        log.info(progress.describe_metrics(metrics.report()))
    return result
