"""Random faults on runs of a Ray cluster: machines and workers that end, new ones, a dead driver.

`python -m experiments.faults --model CHECKPOINT --task QUESTIONS.jsonl --out FOLDER` starts a
cluster of several nodes on this machine and runs `cola` on it, again and again, with a fault every
few seconds: a node, a worker or the driver is killed, or a node is added. Each run must have the
rows of one on a single process, once each. The command needs Linux.
"""

import collections
import contextlib
import dataclasses
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import tyro
from ray.cluster_utils import Cluster

from cola_jax.runs.run import Run
from experiments.same_rows import differences
from tests.buckets import serve

COMMANDS = {
    "search": ["--simulations", "24"],
    "evaluate": ["--random", "24"],
    "generate": ["--random", "12", "--max-new-tokens", "8"],
}
REPEATED = re.compile(r"(\d+) questions were in progress there")


@dataclasses.dataclass
class Faults:
    """Try runs under random faults."""

    model: str
    """Checkpoint directory."""
    task: str
    """File of questions."""
    out: Path
    """Folder of the runs."""
    faults: int = 40
    """Faults in all."""
    machines: int = 4
    """Nodes of the cluster, each with a CPU."""
    seconds: tuple[float, float] = (3.0, 9.0)
    """Between two faults, at least and at most."""
    batch_size: int = 2
    """Questions of a batch."""
    storage: float = 0.0
    """Share of its requests that an emulated bucket fails; with it, the runs are there."""
    seed: int = 0
    """Random seed."""

    def command(self, name: str, out: str) -> list[str]:
        """Return a command line, without the engine."""
        asked = ["--task", self.task]
        if name == "generate":
            prompts = self.out / "prompts.jsonl"
            rows = map(json.loads, Path(self.task).read_text().splitlines())
            prompts.write_text("".join(f"{json.dumps({'prompt': r['question']})}\n" for r in rows))
            asked = ["--prompts-file", str(prompts)]
        command = [sys.executable, "-m", "cola_jax", name, *COMMANDS[name], *asked]
        command += ["--model", self.model, "--output", out]
        return [*command, "--batch-size", str(self.batch_size)]


class Trial:
    """A run under faults."""

    def __init__(self, settings: Faults, cluster: Cluster, name: str, out: str, log: Path):
        self.cluster, self.log = cluster, log
        self.command = [*settings.command(name, out), "--engine", "ray"]
        self.machines, self.driver = settings.machines, self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the driver."""
        environment = os.environ | {"RAY_ADDRESS": str(self.cluster.address)}
        with self.log.open("a") as log:
            return subprocess.Popen(self.command, env=environment, stdout=log, stderr=log)

    def kinds(self) -> list[str]:
        """Return the faults that are possible now."""
        nodes = len(self.cluster.worker_nodes)
        kinds = ["worker killed", "driver killed"]
        kinds += ["node killed"] * (nodes > 1)
        return [*kinds, *["node added"] * (nodes <= self.machines)]

    def apply(self, kind: str, draw: random.Random) -> bool:
        """Apply a fault; return whether there was something to apply it to."""
        if kind == "node added":
            self.cluster.add_node(num_cpus=1)
        elif kind == "node killed":
            node = draw.choice(sorted(self.cluster.worker_nodes, key=lambda node: node.unique_id))
            self.cluster.remove_node(node, allow_graceful=False)
        elif kind == "driver killed":
            self.driver.kill()
            self.driver.wait()
            self.driver = self.start()
        else:
            own = {process.pid for process in psutil.Process().children(recursive=True)}
            each = psutil.process_iter(["cmdline"])
            named = (p for p in each if p.pid in own and p.info["cmdline"])
            workers = [p for p in named if p.info["cmdline"][0].startswith("ray::RayWorker")]
            if not workers:
                return False
            draw.choice(workers).kill()
        return True


def main(settings: Faults) -> None:
    draw, counts = random.Random(settings.seed), collections.Counter[str]()
    settings.out.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        if not (alone := settings.out / f"{name}-alone").exists():
            subprocess.run([*settings.command(name, str(alone)), "--quiet"], check=True)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(settings.machines):
        cluster.add_node(num_cpus=1)
    number = repeated = 0
    stack = contextlib.ExitStack()
    bucket = stack.enter_context(serve("s3")) if settings.storage else None
    if bucket is not None:
        stack.enter_context(bucket.answering(failing=settings.storage))
    while sum(counts.values()) < settings.faults:
        name = list(COMMANDS)[number % len(COMMANDS)]
        out = f"{bucket.folder() if bucket else settings.out}/{number}-{name}"
        trial = Trial(settings, cluster, name, out, settings.out / f"{number}-{name}.log")
        begun, faults = time.time(), []
        number += 1
        while trial.driver.poll() is None:
            try:
                trial.driver.wait(draw.uniform(*settings.seconds))
            except subprocess.TimeoutExpired:
                kind = draw.choice(trial.kinds())
                if sum(counts.values()) < settings.faults and trial.apply(kind, draw):
                    counts[kind] += 1
                    faults.append(kind)
        run, text = Run(out), trial.log.read_text()
        again = sum(map(int, REPEATED.findall(text)))
        repeated += again
        problems = differences(run, Run(settings.out / f"{name}-alone"))
        if trial.driver.returncode or problems or run.failures():
            sys.exit(f"{out}: {trial.driver.returncode}, {problems}, {run.failures()}\n{text}")
        rows, seconds = run.questions(["question"]).num_rows, time.time() - begun
        print(f"{name}: {rows} questions, {seconds:.0f} s, {again} run again, {faults}")
    print(f"{number} runs, {dict(counts)}, {repeated} questions run again by living drivers")
    stack.close()
    cluster.shutdown()


if __name__ == "__main__":
    main(tyro.cli(Faults, description=__doc__))
