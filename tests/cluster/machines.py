"""A Ray cluster of several nodes on this machine, and commands of `cola` on it.

Each node stands for a machine with one CPU. Its workers note each batch that they begin in a log,
by `faulty_worker`, and can be made slow or faulty by its variables. Needs Linux, and root to hide
a folder from a node.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

import cola_jax
from tests import tiny

ROOT = Path(cola_jax.__file__).parents[1]  # of the checkout
PIECE = 1000  # questions that are unlike in more than their number
STARTS = 5  # attempts
HOOK = ROOT / "tests" / "cluster" / "faulty_worker"


@dataclasses.dataclass(frozen=True)
class Material:
    """A model and questions on which a run takes seconds."""

    model: str
    task: str
    prompts: str

    @classmethod
    def make(cls, folder: Path, questions: int = 48) -> "Material":
        """Write a tiny random checkpoint, questions of several options, and prompts."""
        model, task = folder / "model", folder / f"task-{questions}.jsonl"
        if not model.exists():
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / "model.partial"
            tiny.make_checkpoint(partial).rename(model)
        write_questions(task, questions)
        rows = [json.loads(line) for line in task.read_text().splitlines()]
        prompts = folder / f"prompts-{questions}.jsonl"
        prompts.write_text("".join(json.dumps({"prompt": r["question"]}) + "\n" for r in rows))
        return cls(str(model), str(task), str(prompts))


def write_questions(file: Path, count: int) -> None:
    """Write questions, each with an id and a text of its own."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [tiny.row(question) for question in tiny.questions(min(count, PIECE))]
    with file.open("w") as lines:
        for i in range(count):
            row = rows[i % len(rows)]
            own = {"id": f"q{i}", "question": f"{row['question']} ({i})"}
            lines.write(json.dumps(row | own) + "\n")


class Machines:
    """A cluster of nodes, which other commands can use after the first."""

    def __init__(self, folder: Path, **head: Any):
        """Start a head without CPUs; `head` are settings of it."""
        folder.mkdir(parents=True, exist_ok=True)
        self.file, self.log = folder / "faults.json", folder / "begun.jsonl"
        self.settings: dict[str, dict[str, Any]] = {"": {}}  # as `faulty_worker` reads them
        self.nodes: dict[str, Any] = {}  # by their names in the settings and the log
        self.other = set[str]()  # nodes that are unlike others, or damaged
        self.numbers = itertools.count()
        arguments = {"num_cpus": 0, "include_dashboard": False} | head
        self.cluster = Cluster(initialize_head=True, head_node_args=arguments)

    @property
    def address(self) -> str:
        """The address for RAY_ADDRESS."""
        return str(self.cluster.address)

    def prepare(self, count: int, log: Path, **settings: Any) -> None:
        """Have `count` sound nodes, whose workers have these settings and write to this log."""
        for batch in self.begun():  # of an earlier command, some of which may be stopped
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(batch["pid"]).kill()
        for name in list(self.other):
            self.kill(name)
        for name in list(self.nodes)[count:]:
            self.kill(name)
        self.log = log
        self.settings = {"": {"log": str(log), **settings}}
        self.write_settings()
        while len(self.nodes) < count:
            self.add()

    def add(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        code: Path = ROOT,
        hidden: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Add a node; return its name.

        Args:
          settings: of `faulty_worker`, for its workers alone.
          code: the folder of its package.
          hidden: a folder that is empty for its processes.
          variables: of its processes.
        """
        name = f"node-{next(self.numbers)}"
        self.settings[name] = dict(settings or {})
        self.write_settings()
        environment = {
            "JAX_PLATFORMS": "cpu",
            "FAULTS_FILE": str(self.file),
            "FAULTS_NODE": name,
            "PYTHONPATH": f"{HOOK}:{code}",
            **(variables or {}),
        }
        if hidden is None:
            self.nodes[name] = self.start(environment)
        else:
            self.nodes[name] = start_node(self.address, hidden, environment)
        if settings or hidden or variables or code != ROOT:
            self.other.add(name)
        return name

    def start(self, environment: Mapping[str, str]) -> Any:
        """Start a node; Ray gives up after 30 seconds, in which a busy machine may not start it."""
        process = psutil.Process()
        for _ in range(STARTS):
            before = {each.pid for each in process.children()}
            with contextlib.suppress(Exception):  # of no class of its own
                return self.cluster.add_node(num_cpus=1, env_vars=environment)
            for left in process.children(recursive=True):
                if left.pid not in before and left.ppid() == process.pid:
                    left.kill()
        raise TimeoutError(f"no node has started in {STARTS} attempts")

    def write_settings(self) -> None:
        """Write the settings for workers, whole even where one reads them."""
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.settings))
        partial.rename(self.file)

    def kill(self, name: str) -> None:
        """End a node and its workers at once."""
        node = self.nodes.pop(name)
        self.other.discard(name)
        for process in reversed(processes_of(node)):  # the workers first, which may be stopped
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if not isinstance(node, subprocess.Popen):
            self.cluster.remove_node(node, allow_graceful=False)

    def freeze(self, name: str) -> None:
        """Stop the processes of a node, whose connections stay open."""
        self.other.add(name)
        for process in processes_of(self.nodes[name]):
            process.suspend()

    def begun(self) -> list[dict[str, Any]]:
        """Return the batches that workers have begun: time, pid, node and questions."""
        return [json.loads(line) for line in lines_of(self.log)]

    def close(self) -> None:
        """End all processes of the cluster, those that are stopped as well."""
        for name in list(self.nodes):
            self.kill(name)
        self.cluster.shutdown()


def processes_of(node: Any) -> list[psutil.Process]:
    """Return the processes of a node of Ray, its workers among them."""
    if isinstance(node, subprocess.Popen):
        started = [node]
    else:
        started = [each.process for each in node.all_processes.get("raylet", [])]
    found = []
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(process.pid)
            found += [first, *first.children(recursive=True)]
    return found


def start_node(
    address: str, hidden: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a node whose processes see an empty folder in place of another."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]  # or its agent would take that of the head
    start = f"{sys.executable} -m ray.scripts.scripts start --address {address} --num-cpus 1"
    start += f" --object-store-memory {150 << 20} --dashboard-agent-listen-port {port} --block"
    mount = f"mount -t tmpfs tmpfs {shlex.quote(str(hidden))}"
    command = ["unshare", "--mount", "sh", "-c", f"{mount} && exec {start}"]
    return subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def machines(folder: Path, count: int, **settings: Any) -> Iterator[Machines]:
    """Start a cluster of `count` nodes with settings of `faulty_worker`, and end it."""
    made = Machines(folder)
    try:
        made.prepare(count, folder / "begun.jsonl", **settings)
        yield made
    finally:
        made.close()


def start_cola(
    arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command of `cola` that adds what it prints to a log.

    It runs in the folder of the log, not in the checkout, which Ray would put on the path of every
    worker, before that of its node.
    """
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | dict(environment or {})
    command = [sys.executable, "-m", "cola_jax", *arguments]
    with log.open("a") as output:
        return subprocess.Popen(
            command, env=variables, stdout=output, stderr=output, cwd=log.parent
        )


def end(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Return the exit status of a process; None where it has to be killed after some seconds."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return None


def until(ready: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until a function returns True; TimeoutError where the process ends before that."""
    limit = time.monotonic() + seconds
    while not ready():
        if process.poll() is not None or time.monotonic() > limit:
            raise TimeoutError("the command ended, or took too long, before the fault")
        time.sleep(0.1)


def lines_of(file: Path) -> list[str]:
    """Read the lines of a file that may be missing."""
    return file.read_text().splitlines() if file.exists() else []
