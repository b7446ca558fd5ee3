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
HOOK = ROOT / "experiments" / "faulty_worker"


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
        tiny.write_questions(task, questions)
        rows = [json.loads(line) for line in task.read_text().splitlines()]
        prompts = folder / f"prompts-{questions}.jsonl"
        prompts.write_text("".join(json.dumps({"prompt": r["question"]}) + "\n" for r in rows))
        return cls(str(model), str(task), str(prompts))


class Machines:
    """A cluster of nodes."""

    def __init__(self, log: Path, environment: Mapping[str, str] | None = None, **head: Any):
        """Start a head without CPUs; `environment` is that of every node, `head` its settings."""
        self.log, self.environment = log, dict(environment or {})
        self.nodes: dict[str, Any] = {}  # by the name that is in the log
        self.numbers = itertools.count()
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0} | head)

    @property
    def address(self) -> str:
        """The address for RAY_ADDRESS."""
        return str(self.cluster.address)

    def add(self, *, code: Path = ROOT, hidden: Path | None = None, **variables: str) -> str:
        """Add a node with variables of its own; return its name.

        Args:
          code: the folder of its package.
          hidden: a folder that is empty for its processes.
        """
        name = f"node-{next(self.numbers)}"
        noted = {"FAULTS_LOG": str(self.log), "FAULTS_NODE": name, "PYTHONPATH": f"{HOOK}:{code}"}
        environment = self.environment | noted | variables
        if hidden is None:
            self.nodes[name] = self.cluster.add_node(num_cpus=1, env_vars=environment)
        else:
            self.nodes[name] = start_node(self.address, hidden, environment)
        return name

    def kill(self, name: str) -> None:
        """End a node and its workers at once."""
        self.cluster.remove_node(self.nodes.pop(name), allow_graceful=False)

    def freeze(self, name: str) -> None:
        """Stop the processes of a node, whose connections stay open."""
        for process in processes_of(self.nodes[name]):
            process.suspend()

    def begun(self) -> list[dict[str, Any]]:
        """Return the batches that workers have begun: time, pid, node and questions."""
        return [json.loads(line) for line in lines_of(self.log)]

    def close(self) -> None:
        """End all processes of the cluster, those that are stopped as well; again does nothing."""
        for node in self.nodes.values():
            for process in processes_of(node):
                process.kill()
        self.nodes = {}
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
def machines(
    log: Path, count: int, environment: Mapping[str, str] | None = None, **head: Any
) -> Iterator[Machines]:
    """Start a cluster of `count` nodes, and end it; the arguments are those of `Machines`."""
    made = Machines(log, environment, **head)
    try:
        for _ in range(count):
            made.add()
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
