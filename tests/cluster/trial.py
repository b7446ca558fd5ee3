"""A trial of `cola search` on a Ray cluster of this machine, during which a fault happens."""

import collections
import contextlib
import dataclasses
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cola_jax.runs.run import Run
from tests.cluster import bucket as buckets
from tests.cluster.machines import Machines, Material, end, start_cola, until

NODES = 4
QUESTIONS = 48
SIMULATIONS = 12
PAUSE = 0.8  # seconds that are added to each evaluation of a batch
Status = int | None  # None for a command that was killed as it did not end


@dataclasses.dataclass
class Trial:
    """A run under one fault."""

    folder: Path
    """Of this trial, in that of all."""
    number: int
    """Of the trials of this fault, from 0."""
    limit: float
    """Seconds after which a command is killed."""
    away: float
    """Seconds for which storage is away."""
    cluster: Machines
    """Which other trials use as well."""
    stack: contextlib.ExitStack
    """Ends what the trial starts."""
    batch_size: int = 2
    questions: int = QUESTIONS
    simulations: int = SIMULATIONS
    out: str = ""
    """The run directory."""
    bucket: buckets.Bucket | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    """Of the driver."""
    statuses: list[Status] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    begun: float = 0.0
    """When the command was started first."""
    seconds: float = 0.0
    """From then to the end of the last command."""

    @property
    def material(self) -> Material:
        """The model and the questions."""
        return Material.make(self.folder.parent / "material", self.questions)

    def nodes(self, count: int = NODES, **settings: Any) -> Machines:
        """Take the cluster, with sound nodes and settings of their workers."""
        self.cluster.prepare(count, self.folder / "begun.jsonl", pause=PAUSE, **settings)
        self.environment["RAY_ADDRESS"] = self.cluster.address
        return self.cluster

    def storage(self) -> buckets.Bucket:
        """Serve a bucket, where the run is to be."""
        self.bucket = self.stack.enter_context(buckets.serve())
        variables = self.bucket.environment | buckets.KEYS
        self.environment |= variables
        self.stack.enter_context(read_from(self.bucket))
        self.out = f"s3://{buckets.NAME}/run"
        return self.bucket

    def arguments(self, engine: str = "ray", model: str | None = None) -> list[str]:
        """Return the command."""
        material = self.material
        command = ["search", "--model", model or material.model, "--task", material.task]
        command += ["--simulations", str(self.simulations), "--output", self.out]
        return [*command, "--batch-size", str(self.batch_size), "--engine", engine, "--seed", "0"]

    def start(self, engine: str = "ray", model: str | None = None) -> subprocess.Popen[bytes]:
        """Start the command."""
        log = self.folder / "printed.log"
        self.begun = self.begun or time.monotonic()
        process = start_cola(self.arguments(engine, model), log, self.environment)
        self.stack.callback(end, process, 0)
        return process

    def begin(self) -> subprocess.Popen[bytes]:
        """Start the command, and wait until all machines are at work, or much of it is done."""
        process, machines = self.start(), self.cluster

        def at_work() -> bool:
            parts, nodes = self.parts(), {batch["node"] for batch in machines.begun()}
            started = len(nodes) == len(machines.nodes) or parts > 9
            return started and parts > 1 and bool(later_batches(machines))

        until(at_work, process, self.limit)
        return process

    def parts(self) -> int:
        """Count the parts of the run."""
        return len(Run(self.out).parts())

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the command to end, and note its exit status."""
        self.statuses.append(end(process, self.limit))
        self.seconds = round(time.monotonic() - self.begun, 1)


@contextlib.contextmanager
def read_from(bucket: buckets.Bucket) -> Iterator[None]:
    """Let this process read a bucket, without variables that nodes would inherit."""
    from fsspec.config import conf

    variables = bucket.environment | buckets.KEYS
    conf["s3"] = {
        "key": variables["AWS_ACCESS_KEY_ID"],
        "secret": variables["AWS_SECRET_ACCESS_KEY"],
        "endpoint_url": variables["AWS_ENDPOINT_URL"],
    }
    try:
        yield
    finally:
        del conf["s3"]


def busy(cluster: Machines) -> dict[str, Any]:
    """Return the last batch that was begun, but for the first ones of workers."""
    return later_batches(cluster)[-1]


def later_batches(cluster: Machines) -> list[dict[str, Any]]:
    """Return the batches of workers that have begun several: the first compiles, and takes long."""
    begun = [each for each in cluster.begun() if each["node"] in cluster.nodes]
    counts = collections.Counter(each["pid"] for each in begun)
    return [each for each in begun if counts[each["pid"]] > 1]
