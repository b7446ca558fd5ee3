"""Flags that subcommands share: the run, its task and devices, and paths."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

from rich.console import Console
from tyro.conf import OmitArgPrefixes, arg
from tyro.constructors import PrimitiveConstructorSpec

from cola_jax import progress
from cola_jax.dtypes import DTYPES, SHORT, dtype_name
from cola_jax.engine.devices import Devices
from cola_jax.engine.hosts import Hosts
from cola_jax.errors import InputError, Unfinished, shown
from cola_jax.files import check_writable, inside
from cola_jax.progress import log
from cola_jax.tasks.task import TaskConfig

if TYPE_CHECKING:
    from cola_jax.config import ModelConfig
    from cola_jax.engine.engine import Engine
    from cola_jax.engine.model import ModelHandle
    from cola_jax.formats.identity import Identity
    from cola_jax.runs.session import Session

Result = TypeVar("Result")
SPEED = "Speed and devices"  # a help group
CHOOSING = 4  # prompts over which a result is chosen
MEASURING = 8  # prompts in which it is measured
NO_SHARES = "none"  # where a preset has some
RULES = "rules."  # before the flags of a preset's rules
SEARCHED = ("parts", "shares")  # rules that are flags of `cola search` itself
# for results; rich would take [/b] in a name for markup, and :b: for an emoji
console = Console(markup=False, emoji=False)


def group(title: str) -> object:
    """Name the help group of a nested dataclass."""
    return arg(name=title, prefix_name=False)


DtypeChoice = Annotated[
    str | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="auto|float32|bfloat16|float16|int8",
        instance_from_str=lambda texts: dtype_name(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, str),
        str_from_instance=lambda value: [value or "auto"],
        choices=("auto", *DTYPES, *SHORT),
    ),
]


def share_of_text(text: str) -> float:
    """Read a share of an update; ValueError for other text than a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"{shown(text)} is not a share of an update: give numbers such as 0.5,0.25, separated "
            "by commas alone"
        ) from None


def shares_of_texts(texts: list[str]) -> tuple[float, ...]:
    """Read the shares of a flag; ValueError where there are none, and for other texts."""
    if not texts:
        raise ValueError(f"give shares such as 0.5,0.25, or {NO_SHARES}")
    if texts == [NO_SHARES]:
        return ()
    return tuple(share_of_text(share) for text in texts for share in text.split(","))


Shares = Annotated[
    tuple[float, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="SHARE,...",
        instance_from_str=shares_of_texts,
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [f"{share:g}" for share in value] or [NO_SHARES],
    ),
]
Output = Annotated[str, arg(name="output", aliases=["-o"], metavar="DIRECTORY")]
Model = Annotated[
    str,
    arg(
        aliases=["-m"],
        metavar="MODEL",
        help="A Hub id (also as ID@REVISION), a local Hugging Face directory, a .gguf file, a "
        "checkpoint that `cola convert` made, or smollm2, the demo's model. All but checkpoints "
        "are converted on first use.",
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
    """Also print the resolved configuration, devices, and the traceback of an error."""
    quiet: Annotated[bool, arg(aliases=["-q"])] = False
    """Print results, warnings and errors alone, without progress."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `cola`; its fields are its flags."""

    general: Annotated[OmitArgPrefixes[General], group("General")] = General()

    def run(self) -> None:
        """Run the command; InputError for bad input."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Printing(Command):
    """A command that prints results."""

    json: bool = False
    """Print the results as JSON, instead of a table."""


def flag_values(command: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names of a command's flags, without hyphens, and their values."""
    hints = get_type_hints(type(command), include_extras=True)
    for field in dataclasses.fields(command):
        if prefix == RULES and field.name in SEARCHED:
            continue
        value = getattr(command, field.name)
        if dataclasses.is_dataclass(value):
            yield from flag_values(value, RULES if field.name == "rules" else prefix)
        else:
            notes = getattr(hints[field.name], "__metadata__", ())
            names = [note.name for note in notes if getattr(note, "name", None)]
            yield prefix + (names or [field.name.replace("_", "-")])[0], value


def values_of(command: Any) -> dict[str, Any]:
    """Return the flags of a command with their values, as --config reads them, without None."""
    start = dict(flag_values(command.general))  # of one start, so not recorded with a run
    values = {name: value for name, value in flag_values(command) if name not in start}
    return {name: yaml_value(value) for name, value in values.items() if value is not None}


def yaml_value(value: Any) -> Any:
    """Return a value as YAML has it."""
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return value if isinstance(value, bool | int | float) else str(value)


def yaml_of(command: Any) -> str:
    """Return the flags of a command as a file for --config."""
    import yaml

    return yaml.safe_dump(values_of(command), sort_keys=False, allow_unicode=True)


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """The execution of a run."""

    dtype: DtypeChoice = None
    """Dtype of weights and activations; auto is float32 on a CPU, else the checkpoint's own."""
    batch_size: int | Literal["auto"] = "auto"
    """Questions per batch, which changes no result. Auto is 32 on a CPU, else 64."""
    devices: DeviceChoice = dataclasses.field(default_factory=Devices)
    engine: str = "local"
    """Machines that run the batches: local, this one; ray, the Ray cluster of RAY_ADDRESS or of
    this machine; or ray://HOST:PORT."""
    worker_resources: str | None = None
    """Resources of each worker of Ray, such as TPU=4; all TPUs of a machine by default, else
    --tensor GPUs, else all CPUs of the smallest machine."""
    hosts: Annotated[OmitArgPrefixes[Hosts], group(SPEED)] = dataclasses.field(
        default_factory=Hosts
    )

    def connect(self) -> "Engine":
        """Return the engine: the devices of this machine, after the other hosts are there, or Ray.

        It is the same for all sessions of a command.
        """
        scheme = self.engine.partition("://")[0]
        batch_size = None if self.batch_size == "auto" else self.batch_size
        if batch_size is not None and batch_size < 1:
            raise InputError(f"a batch needs at least 1 question, not {batch_size}.")
        if self.engine == "local":
            if self.worker_resources is not None:
                raise InputError("--worker-resources are for workers of Ray: give --engine ray.")
            return open_local(self.devices, batch_size, self.hosts)
        if scheme != "ray":
            raise InputError(
                f"the engine {self.engine!r} is not one of local, ray, and ray://HOST:PORT."
            )
        if self.hosts.distributed:
            raise InputError("give --distributed or --engine ray: Ray finds the machines itself.")
        return open_ray(self.engine, self.worker_resources, self.devices, batch_size)


@functools.cache
def open_local(devices: Devices, batch_size: int | None, hosts: Hosts) -> "Engine":
    """Return the engine of this machine, once for all sessions of a command."""
    from cola_jax.engine.local import LocalEngine

    return LocalEngine(devices, batch_size=batch_size, share=hosts.join())


@functools.cache
def open_ray(
    address: str, resources: str | None, devices: Devices, batch_size: int | None
) -> "Engine":
    """Connect to a Ray cluster, once for all sessions of a command."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # the devices of this machine are for its worker
    from cola_jax.engine.cluster import parse_resources
    from cola_jax.engine.ray import RayEngine

    asked = None if resources is None else parse_resources(resources)
    place = None if address == "ray" else address
    return RayEngine(place, asked, devices=devices, batch_size=batch_size)


RunChoice = Annotated[OmitArgPrefixes[RunFlags], group(SPEED)]


@dataclasses.dataclass(frozen=True)
class TaskFlags:
    """The model and the task of a run, and its directory."""

    model: Model
    task: TaskChoice
    out: Output
    """Run directory: created, or resumed."""
    run: RunChoice = dataclasses.field(default_factory=RunFlags)

    @property
    def name(self) -> str:
        """The name of the task or of its file, with the subject."""
        name = self.task.task
        subject = self.task.subject
        return Path(name).stem if subject is None else f"{name}-{subject}"

    def each(self) -> "list[TaskFlags]":
        """Return the flags of each task, each of several with a directory of its own.

        Raises InputError for a task that is given twice.
        """
        names = split_tasks(self.task.task)
        if len(names) < 2:
            return [self]
        each: dict[str, TaskFlags] = {}
        for name in names:
            flags = dataclasses.replace(self, task=dataclasses.replace(self.task, task=name))
            if flags.name in each:
                raise InputError(f"two tasks are named {flags.name}: give each once.")
            each[flags.name] = dataclasses.replace(flags, out=str(inside(self.out, flags.name)))
        return list(each.values())

    def prepare(self, command: Any = None) -> "Session":
        """Open the session of one task, without loading the weights.

        The flags of `command` are recorded.
        """
        check_writable(self.out)
        self.task.check()
        return open_session(self.model, self.task.prepare, self.run, self.metadata(command))

    def prepare_search(self, decoys: str | None = None, command: Any = None) -> "Session":
        """Open the session of a search, which asks again in other wordings.

        A run that is there keeps their number. `decoys` is a run with the model's answers.
        """
        check_writable(self.out)
        self.task.check()
        checkpoint_of(self.model, self.run.dtype)
        from cola_jax.runs.session import prompts_of_run

        task = dataclasses.replace(self.task, prompts=prompts_of_run(self.out, self.task.prompts))
        prepare = functools.partial(task.prepare, again=True)
        return open_session(self.model, prepare, self.run, self.metadata(command), decoys)

    def prepare_each(self, command: Any = None) -> "dict[str, Session]":
        """Prepare the session of each task, by directory.

        A task of several prompts has a session and a directory for each.
        """
        sessions: dict[str, Session] = {}
        for flags in self.each():
            if not flags.task.measures_in_several:
                sessions[flags.out] = flags.prepare(command)
                continue
            if flags.task.chooses_over_several:
                raise InputError(
                    "--choose-prompts asks each question in one of several prompts, and --prompts "
                    "in all of them: give one of the two."
                )
            for number, session in enumerate(flags.prepare_prompts(command), start=1):
                sessions[str(inside(flags.out, f"prompt-{number}"))] = session
        return sessions

    def prepare_prompts(
        self, command: Any = None, model: "ModelHandle | None" = None, usual: int = 1
    ) -> "list[Session]":
        """Open a session for each prompt in which a task is measured, without the weights.

        `usual` is the number of prompts where none is given.
        """
        if self.run.hosts.distributed:
            raise InputError(
                "a result over prompts needs the answers to all questions: leave out "
                "--distributed, and give --engine ray to use several machines."
            )
        check_writable(self.out)
        self.task.check()
        checkpoint_of(self.model, self.run.dtype)
        from cola_jax.runs.session import prepare_prompts

        return prepare_prompts(
            model or self.model,
            self.task,
            self.run.connect(),
            dtype=self.run.dtype,
            metadata=self.metadata(command),
            usual=usual,
        )

    def over_prompts(self) -> "TaskFlags":
        """Return the flags with several prompts to choose and to measure by, where none are given.

        They stay one where the task has no others, which is logged.
        """
        self.task.check()
        task = self.task.with_prompts(CHOOSING, MEASURING)
        if self.task.prompts is self.task.choose_prompts is None and not task.measures_in_several:
            log.warning(
                "%s has one prompt, in which alone the result is chosen and measured: for several, "
                "%s",
                task.task,
                task.more_prompts(),
            )
        return dataclasses.replace(self, task=task)

    def measuring(self, session: "Session", command: Any) -> "list[Session]":
        """Return the sessions in which a result is measured: its own, or those of drawn prompts."""
        if self.task.measures_in_several:
            return self.prepare_prompts(command, session.model)
        return [session]

    def metadata(self, command: Any) -> dict[str, Any]:
        """Return the record of a start of a run, with the flags of a command."""
        metadata = {"task": self.task.task, "task_config": dataclasses.asdict(self.task)}
        if command is not None:
            metadata["flags"] = values_of(dataclasses.replace(command, flags=self))
        return metadata


Flags = Annotated[OmitArgPrefixes[TaskFlags], group("Model and output")]


def sharing_weights(sessions: "dict[str, Session]") -> "dict[str, Session]":
    """Return sessions of one model, by directory, with the weights of the first."""
    (first, *_) = sessions.values()
    return {out: dataclasses.replace(s, model=first.model) for out, s in sessions.items()}


def open_session(
    model: str,
    prepare: Callable[..., Any],
    run: RunFlags,
    metadata: dict[str, Any] | None = None,
    decoys: str | None = None,
) -> "Session":
    """Open a session without loading the weights; see `Session.prepare`."""
    checkpoint_of(model, run.dtype)
    from cola_jax.runs.session import Session

    return Session.prepare(
        model, prepare, run.connect(), dtype=run.dtype, metadata=metadata, decoys=decoys
    )


def split_tasks(task: str) -> list[str]:
    """Split the names of tasks at commas; an existing file is one task."""
    if Path(task).exists():
        return [task]
    return [name.strip() for name in task.split(",") if name.strip()]


@dataclasses.dataclass(frozen=True)
class PathFlags:
    """Paths as texts, from a file, or drawn at random."""

    paths: Annotated[tuple[str, ...], arg(aliases=["--path"])] = ()
    """Paths such as 0-5,7,7,8-29, 0-5,(6-7)x2,8-29 or 0-5,7a,8*0.5,9-29; path.json files
    or their folders; or repositories OWNER/NAME of the Hub with one, also with @REVISION."""
    paths_file: Path | None = None
    """File with a path on each line, where # starts a comment; or a file of PoLar, Dr.LLM, RYS,
    EvoPress, SWIFT or mergekit, or of a loop, which is recognised."""
    random: int = 0
    """Number of random paths of 1 to 3 edits to add."""
    seed: int = 0
    """Random seed of the random paths."""
    max_length: int | None = None
    """Longest path allowed, in steps; twice the layers of the model by default."""

    def collect(
        self, config: "ModelConfig", model: "Identity | None" = None
    ) -> list[tuple[int, ...]]:
        """Read all paths, each once, in order; the identity path where there are none.

        Raises InputError for malformed paths, named ones that the model cannot run, and a file that
        names another model than `model`.
        """
        from cola_jax.deploy.path_file import read_path
        from cola_jax.formats.peers import read_paths
        from cola_jax.path import identity, random_paths

        num_layers = config.num_layers
        paths = [read_path(text, num_layers, model, self.max_length) for text in self.paths]
        if self.paths_file is not None:
            paths += read_paths(self.paths_file, num_layers, self.max_length, model)
        for path in paths:
            config.check_keys(path)
        if self.random:
            paths += random_paths(
                num_layers,
                self.random,
                self.seed,
                max_length=self.max_length,
                refused=config.missing_keys,
            )
        return list(dict.fromkeys(paths)) or [identity(num_layers)]


PathChoice = Annotated[OmitArgPrefixes[PathFlags], group("Paths")]


@dataclasses.dataclass(frozen=True)
class HubFlags:
    """An upload to the Hub."""

    push_to_hub: Annotated[str | None, arg(metavar="OWNER/NAME")] = None
    """Repository of the Hugging Face Hub to upload the directory to, as `hf auth login` or HF_TOKEN
    allow. A new one is public, unless your organization's default is private. Runs hold the
    command lines that made them."""
    private: bool = False
    """Make a new repository private."""

    def check(self, folder: Any) -> None:
        """Raise InputError where the directory cannot be uploaded, before any work."""
        if self.private and self.push_to_hub is None:
            raise InputError("--private is for uploads: give --push-to-hub as well.")
        if self.push_to_hub is not None:
            from cola_jax.formats.hub import check_push

            check_push(folder, self.push_to_hub)

    def push(self, folder: Any, kind: Literal["model", "dataset"]) -> None:
        """Upload the directory where a repository is given."""
        if self.push_to_hub is not None:
            from cola_jax.formats.hub import push

            log.info("uploaded: %s", push(folder, self.push_to_hub, kind, private=self.private))


HubChoice = Annotated[OmitArgPrefixes[HubFlags], group("Hugging Face Hub")]


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


def log_devices() -> None:
    """Log the devices of this host with --verbose, which imports JAX."""
    if log.isEnabledFor(logging.DEBUG):
        import jax

        names = ", ".join(f"{device} ({device.device_kind})" for device in jax.local_devices())
        log.debug("devices: %s", names)


@contextlib.contextmanager
def keeping(kept: str) -> Iterator[None]:
    """Add a message to an interruption of the body: the work that is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        interruption.add_note(kept)
        raise


class Finishing:
    """Lets a command go on after questions that fail again and again, and then end with them.

    So the other tasks of the command are run, and what there is is shown, before the exit status
    says that not all was done.
    """

    def __init__(self) -> None:
        self.failures: list[Unfinished] = []

    @contextlib.contextmanager
    def others(self) -> Iterator[None]:
        """Keep an `Unfinished` of the body for the end."""
        try:
            yield
        except Unfinished as error:
            self.failures.append(error)

    def end(self) -> None:
        """Raise Unfinished where questions have failed."""
        if self.failures:
            raise Unfinished(" ".join(map(str, self.failures)))


def run_with_progress(run: Callable[[Any], Result]) -> Result:
    """Call a function with metrics, show them while it runs, and log its speed."""
    from cola_jax.metrics import Metrics

    log_devices()
    metrics = Metrics()
    with progress.metrics_bar(metrics):
        result = run(metrics)
    if metrics.evaluations:
        log.info(progress.describe_metrics(metrics.report()))
    return result
