"""What faults of machines, drivers and storage cost a run on a Ray cluster of four nodes.

`python -m tests.cluster.faults --out FOLDER` starts such a cluster on this machine for each fault,
and `cola search` on it, applies the fault while the search is in progress, and compares the rows
with those of a single process. The results are in FOLDER/faults.jsonl, and a fault that has its
row there is not tried again; the table of all is printed at the end. Of a race there are three
trials. Needs Linux and root.

Columns: questions without a row at the end, with rows twice, with other rows than those of one
process, and begun again; questions that the run names as set aside; the exit status of the command
(of both, where there are two), and its seconds. A command that does not end within `--limit` is
killed.
"""

import collections
import contextlib
import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tyro

from cola_jax.runs.run import Run
from tests.cluster import bucket as buckets
from tests.cluster.machines import Machines, end, lines_of, start_cola, until
from tests.cluster.trial import NODES, PAUSE, QUESTIONS, Trial, busy
from tests.same_rows import Rows, compare, read_rows

MANY = 128  # questions, for batches of 32
POISONED = "q7"
HEAD = (
    "| fault | lost | doubled | other rows | begun again | set aside | status | seconds | |",
    "| --- | ---: | ---: | ---: | ---: | --- | --- | ---: | --- |",
)
FULL = {"automatic_object_spilling_enabled": False, "local_fs_capacity_threshold": 0.01}


@dataclasses.dataclass
class Faults:
    """Try a run under each fault."""

    out: Path
    """Folder of the runs and of the results."""
    only: tuple[str, ...] = ()
    """Faults to try, by their names; all by default."""
    without: tuple[str, ...] = ()
    """Faults to leave out."""
    races: int = 3
    """Trials of each race."""
    away: float = 600.0
    """Seconds for which storage is away."""
    limit: float = 180.0
    """Seconds within which a command is to end after the fault."""


# Workers


def no_fault(trial: Trial) -> None:
    trial.nodes()
    trial.finish(trial.begin())


def worker_killed(trial: Trial) -> None:
    signal_worker(trial, signal.SIGKILL)


def worker_hung(trial: Trial) -> None:
    signal_worker(trial, signal.SIGSTOP)


def signal_worker(trial: Trial, number: signal.Signals) -> None:
    """Send a signal to the worker that has begun a batch last."""
    cluster = trial.nodes()
    process = trial.begin()
    os.kill(busy(cluster)["pid"], number)
    trial.finish(process)


def worker_slow(trial: Trial) -> None:
    """Let one worker take ten times as long as the others."""
    cluster = trial.nodes(NODES - 1)
    cluster.add({"pause": 10 * PAUSE})
    trial.finish(trial.begin())


def out_of_memory(trial: Trial) -> None:
    """Raise what XLA raises, for batches of more than two questions."""
    trial.batch_size = 8
    trial.nodes(holds=2)
    trial.finish(trial.start())


def poisoned(trial: Trial, how: str, size: int) -> None:
    """Let a question kill each worker that evaluates it, or raise an exception there."""
    trial.batch_size = size
    trial.questions = MANY if size * NODES > QUESTIONS else QUESTIONS
    trial.nodes(NODES, **{how: POISONED})
    trial.finish(trial.start())


# Nodes


def node_killed(trial: Trial) -> None:
    cluster = trial.nodes()
    process = trial.begin()
    cluster.kill(busy(cluster)["node"])
    trial.finish(process)


def node_frozen(trial: Trial) -> None:
    cluster = trial.nodes()
    process = trial.begin()
    cluster.freeze(busy(cluster)["node"])
    trial.finish(process)


def node_added(trial: Trial) -> None:
    cluster = trial.nodes(NODES - 1)
    process = trial.begin()
    added = cluster.add()
    trial.finish(process)
    trial.notes.append(shares(cluster, added))


def other_version(trial: Trial) -> None:
    """Let one node have another version of transformers."""
    cluster = trial.nodes(NODES - 1)
    added = cluster.add({"transformers": "5.1.0"})
    trial.finish(trial.start())
    trial.notes.append(shares(cluster, added))


def other_code(trial: Trial) -> None:
    """Let one node have another version of cola-jax, which its tags do not tell."""
    cluster = trial.nodes(NODES - 1)
    added = cluster.add(code=changed_code(trial.folder / "code"))
    trial.finish(trial.start())
    trial.notes.append(shares(cluster, added))


def changed_code(folder: Path) -> Path:
    """Copy the package, and change a constant of it."""
    import cola_jax

    source = Path(cola_jax.__file__).parent
    shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    file = folder / source.name / "scoring" / "verdicts.py"
    file.write_text(file.read_text() + "\nCHANGED = True\n")
    return folder


def without_checkpoint(trial: Trial) -> None:
    """Hide the checkpoint from one node."""
    cluster = trial.nodes(NODES - 1)
    cache = {"COLA_CACHE": str(trial.folder / "cache")}
    added = cluster.add(hidden=Path(trial.material.model), variables=cache)
    trial.finish(trial.start())
    trial.notes.append(shares(cluster, added))


def without_credentials(trial: Trial) -> None:
    """Let one node lack the file of credentials for the bucket that has the checkpoint."""
    model, home = upload_model(trial), trial.folder / "home"
    write_credentials(home)
    trial.environment["HOME"] = str(home)
    for name in buckets.KEYS:
        del trial.environment[name]
    assert trial.bucket is not None
    cache = {"COLA_CACHE": str(trial.folder / "cache")}
    variables = trial.bucket.environment | cache
    cluster = trial.nodes(0)
    for _ in range(NODES - 1):
        cluster.add(variables=variables | {"HOME": str(home)})
    added = cluster.add(variables=variables | {"COLA_CACHE": str(trial.folder / "other")})
    trial.finish(trial.start(model=model))
    trial.notes.append(shares(cluster, added))


def driver_has_credentials(trial: Trial) -> None:
    """Let the environment of the driver alone have the credentials of the bucket."""
    model = upload_model(trial)
    cluster = trial.nodes(0)
    for _ in range(NODES):
        cluster.add(variables={"COLA_CACHE": str(trial.folder / "cache")})
    trial.finish(trial.start(model=model))


def upload_model(trial: Trial) -> str:
    """Copy the checkpoint to a bucket, where the run is as well; return its URL."""
    from cola_jax.files import store_of

    trial.storage()
    url = f"s3://{buckets.NAME}/model"
    store_of(url).move(Path(trial.material.model), url)
    return url


def write_credentials(home: Path) -> None:
    """Write the keys of the bucket where Amazon's programs look for them."""
    (home / ".aws").mkdir(parents=True)
    keys = "".join(f"{name.lower()} = {value}\n" for name, value in buckets.KEYS.items())
    (home / ".aws" / "credentials").write_text(f"[default]\n{keys}")


def shares(cluster: Machines, node: str) -> str:
    """Say how many batches a node has begun."""
    begun = [each["node"] == node for each in cluster.begun()]
    return f"{sum(begun)} of {len(begun)} batches there"


# Drivers


def driver_restarted(trial: Trial) -> None:
    trial.nodes()
    kill_driver(trial)
    trial.finish(trial.start())


def driver_restarted_elsewhere(trial: Trial) -> None:
    """End the cluster with the driver, and start the command on another one."""
    folder = trial.folder / "cluster"
    trial.cluster, shared = Machines(folder), trial.cluster
    with contextlib.closing(trial.cluster):
        trial.nodes()
        kill_driver(trial)
    trial.cluster = shared
    trial.nodes()
    trial.finish(trial.start())


def kill_driver(trial: Trial) -> None:
    """Kill the driver in the middle of the run."""
    process = trial.begin()
    process.kill()
    process.wait()


def old_driver_ends_late(trial: Trial) -> None:
    """Freeze a driver, and let it go on while, or after, one with more simulations runs."""
    trial.storage()
    trial.simulations //= 2
    trial.nodes()
    old = trial.begin()
    old.send_signal(signal.SIGSTOP)
    trial.simulations *= 2
    new = trial.start("local")
    parts = (1, 8, 24)[trial.number % 3]  # of the new driver

    def is_time() -> bool:
        return len(Run(trial.out).read_starts()[1]) > 1 and trial.parts() >= parts

    until(is_time, new, trial.limit)
    old.send_signal(signal.SIGCONT)
    trial.finish(new)
    trial.finish(old)


def two_drivers(trial: Trial) -> None:
    """Start the same command twice, on storage that has no lock."""
    trial.storage()
    trial.nodes()
    first, second = trial.start(), trial.start()
    trial.finish(first)
    trial.finish(second)


# Storage


def storage_fails(trial: Trial) -> None:
    bucket = trial.storage()
    trial.nodes()
    bucket.set(failing=0.1)
    trial.finish(trial.start())
    bucket.set(failing=0.0)


def storage_late(trial: Trial) -> None:
    bucket = trial.storage()
    trial.nodes()
    bucket.set(delay=0.3)
    trial.finish(trial.start())
    bucket.set(delay=0.0)


def storage_away(trial: Trial) -> None:
    bucket = trial.storage()
    trial.nodes()
    process = trial.begin()
    bucket.set(away=1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(trial.away)
    trial.notes.append(f"away for {trial.away:.0f} s")
    bucket.set(away=0)
    trial.finish(process)


def object_store_full(trial: Trial) -> None:
    """Fill the object stores of all nodes, where nothing is moved to disk."""
    trial.cluster = Machines(trial.folder / "cluster", _system_config=FULL)
    trial.stack.callback(trial.cluster.close)
    cluster = trial.nodes()
    code = "import sys; from tests.cluster.faults import fill_stores; fill_stores(sys.argv[1])"
    filler = subprocess.Popen([sys.executable, "-c", code, cluster.address], stdout=subprocess.PIPE)
    trial.stack.callback(end, filler, 0)
    assert filler.stdout is not None
    trial.notes.append(filler.stdout.readline().decode().strip())
    trial.finish(trial.start())


def fill_stores(address: str) -> None:
    """Put objects into the store of every node, until it takes no more, and keep them."""
    import numpy as np
    import ray
    from ray.exceptions import ObjectStoreFullError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Filler:
        def fill(self) -> int:
            self.kept = []
            for size in (1 << 20, 1 << 17):
                with contextlib.suppress(ObjectStoreFullError):
                    while len(self.kept) < 10_000:
                        self.kept.append(ray.put(np.zeros(size, np.uint8)))
            return len(self.kept)

    ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    nodes = [each["NodeID"] for each in ray.nodes() if each["Alive"]]
    make: Any = ray.remote(Filler)
    places = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
    fillers = [make.options(num_cpus=0, scheduling_strategy=place).remote() for place in places]
    counts = ray.get([filler.fill.remote() for filler in fillers])
    print(f"{sum(counts)} objects in {len(nodes)} stores", flush=True)
    time.sleep(100_000)


# The cluster itself


def wrong_address(trial: Trial) -> None:
    trial.environment["RAY_ADDRESS"] = "127.0.0.1:1"
    trial.finish(trial.start())


def no_machines(trial: Trial) -> None:
    """Let the machines join after a while."""
    cluster = trial.nodes(0)
    process = trial.start()
    time.sleep(20)
    for _ in range(NODES):
        cluster.add()
    trial.finish(process)


ALL: dict[str, Callable[[Trial], None]] = {
    "none": no_fault,
    "worker killed": worker_killed,
    "worker hung": worker_hung,
    "worker ten times slower": worker_slow,
    "out of memory by exception": out_of_memory,
    "node killed": node_killed,
    "node frozen": node_frozen,
    "node added": node_added,
    "node with another transformers": other_version,
    "node with another cola-jax": other_code,
    "node without the checkpoint": without_checkpoint,
    "node without credentials": without_credentials,
    "credentials of the driver alone": driver_has_credentials,
    "question that kills, batches of 4": lambda trial: poisoned(trial, "kills", 4),
    "question that kills, batches of 32": lambda trial: poisoned(trial, "kills", 32),
    "question that raises, batches of 4": lambda trial: poisoned(trial, "raises", 4),
    "question that raises, batches of 32": lambda trial: poisoned(trial, "raises", 32),
    "driver killed, same cluster": driver_restarted,
    "driver killed, another cluster": driver_restarted_elsewhere,
    "old driver that ends late": old_driver_ends_late,
    "two drivers": two_drivers,
    "storage with 10 % errors": storage_fails,
    "storage with +300 ms": storage_late,
    "storage away": storage_away,
    "object store full": object_store_full,
    "wrong address": wrong_address,
    "no machines for 20 s": no_machines,
}
RACES = ("node added", "old driver that ends late", "two drivers")


def main(settings: Faults) -> None:
    settings.out = settings.out.absolute()
    settings.out.mkdir(parents=True, exist_ok=True)
    file = settings.out / "faults.jsonl"
    names = [name for name in ALL if name in (settings.only or ALL)]
    with contextlib.closing(Machines(settings.out / "cluster")) as cluster:
        for name in (name for name in names if name not in settings.without):
            for number in range(settings.races if name in RACES else 1):
                rows = [json.loads(line) for line in lines_of(file)]
                if any((row["fault"], row["trial"]) == (name, number) for row in rows):
                    continue
                try:
                    row = tried(settings, cluster, name, number)
                except TimeoutError as error:  # on a busy machine; the next start tries again
                    print(f"{name}: {error}", flush=True)
                    continue
                with file.open("a") as results:
                    results.write(json.dumps(row) + "\n")
                print(line_of(row), flush=True)
    print("\n".join(["", *HEAD, *(line_of(json.loads(line)) for line in lines_of(file))]))


def tried(settings: Faults, cluster: Machines, name: str, number: int) -> dict[str, Any]:
    """Try a run under a fault; return its row."""
    folder = settings.out / f"{name.replace(' ', '-').replace('%', 'percent')}-{number}"
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was interrupted
    folder.mkdir()
    with contextlib.ExitStack() as stack:
        trial = Trial(folder, number, settings.limit, settings.away, cluster, stack)
        trial.out = str(folder / "run")
        ALL[name](trial)
        return {"fault": name, "trial": number} | row_of(trial)


def row_of(trial: Trial) -> dict[str, Any]:
    """Compare the run of a trial with that of one process."""
    run, expected = Run(trial.out), rows_of_one_process(trial)
    done, rows, doubled, failures = set[str](), {}, set[str](), []
    if run.exists():
        failures = run.failures()
        done = set(run.questions(["question"])["question"].to_pylist())
        rows, doubled = read_rows(run)
    kept = {key: row for key, row in expected.items() if key[0] in done}
    starts = collections.Counter[str]()
    for batch in map(json.loads, lines_of(trial.folder / "begun.jsonl")):
        starts.update(batch["questions"])
    aside = [name for failure in failures for name in failure["questions"]]
    return {
        "lost": len({key[0] for key in expected} - done),
        "doubled": len(doubled),
        "other rows": len(compare(rows, kept)),
        "begun again": sum(starts.values()) - len(starts),
        "set aside": sorted(aside),
        "status": trial.statuses,
        "seconds": trial.seconds,
        "note": "; ".join([*trial.notes, *last_words(trial)]),
    }


def rows_of_one_process(trial: Trial) -> Rows:
    """Return the rows of the same search by one process, which is made once."""
    out = trial.folder.parent / f"alone-{trial.questions}-{trial.simulations}"
    log = trial.folder.parent / "alone.log"
    material = trial.material
    if not (out / "results.json").exists():  # which is written last
        command = ["search", "--model", material.model, "--task", material.task, "--seed", "0"]
        command += ["--simulations", str(trial.simulations), "--output", str(out)]
        if start_cola(command, log).wait():
            sys.exit(f"the run of one process failed: see {log}")
    return read_rows(Run(out))[0]


def last_words(trial: Trial) -> list[str]:
    """Return the last line that a command has printed, where one did not end well."""
    lines = [line for line in lines_of(trial.folder / "printed.log") if line.strip()]
    return lines[-1:] if any(trial.statuses) else []


def line_of(row: Mapping[str, Any]) -> str:
    """Write a row of the table."""
    status = ", ".join("killed" if each is None else str(each) for each in row["status"])
    aside = row["set aside"]
    named = ", ".join(aside) if len(aside) < 5 else f"{len(aside)} questions"
    numbers = [str(row[name]) for name in ("lost", "doubled", "other rows", "begun again")]
    cells = [row["fault"], *numbers, named, status, f"{row['seconds']:.0f}", row["note"][:160]]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main(tyro.cli(Faults, description=__doc__))
