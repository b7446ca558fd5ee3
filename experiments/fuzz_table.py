"""What becomes of mutated files of each kind: refused in one line, read, or a traceback.

`python -m experiments.fuzz_table --examples 3000` runs every kind of tests/fuzz in a process of
its own, and prints a table with the slowest example, and the most memory that the process took
beyond what it had before the first. An example fails that raises anything but one clear line, or
takes longer than `--seconds`; each is printed with its seed, for tests/fuzz/corpus.json.
"""

import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import tyro
from tyro.conf import Positional

from cola_jax.report.markdown import table
from tests.fuzz import MODULES
from tests.fuzz.kind import Kind, outcome

HEAD = ("kind", "examples", "clear errors", "read", "tracebacks", "slowest, s", "memory, MB")
WARM_UP = 10  # examples that are not counted, which import and compile
MOST_MEMORY = 8 * 2**30  # bytes that a process may take beyond those before the first example
SPAWNED = multiprocessing.get_context("spawn")
CURRENT: Any = None  # the seed that this process tries, for the one that started it


@dataclasses.dataclass(frozen=True)
class FuzzTable:
    """Try mutated files of each kind, and tabulate what becomes of them."""

    kinds: Positional[tuple[str, ...]] = ()
    """Kinds of tests/fuzz; all by default."""
    examples: int = 3000
    """Mutations of each kind."""
    seed: int = 0
    """Random seed of the mutations' seeds."""
    seconds: int = 20
    """Most seconds of an example."""


@dataclasses.dataclass
class Outcomes:
    """What became of the examples of a kind."""

    refused: int = 0
    read: int = 0
    slowest: float = 0.0  # seconds
    slowest_seed: int = 0
    memory: float = 0.0  # MB
    failed: list[tuple[int, str]] = dataclasses.field(default_factory=list)  # seeds, and how

    def row(self, name: str) -> tuple[str, ...]:
        """Formats a row of the table."""
        counts = (self.refused, self.read, len(self.failed))
        measures = (f"{self.slowest:.2f}", f"{self.memory:.0f}")
        return (name, *(f"{number:,}" for number in (sum(counts), *counts)), *measures)


def main(settings: FuzzTable) -> None:
    rows = []
    for name in settings.kinds or MODULES:
        outcomes = try_apart(name, settings)
        rows.append(outcomes.row(name))
        print(json.dumps({"kind": name} | dataclasses.asdict(outcomes)), flush=True)
    print("\n".join(table(HEAD, rows)))


def try_apart(name: str, settings: FuzzTable) -> Outcomes:
    """Tries a kind in a process of its own, which an example may end."""
    current = SPAWNED.Value("Q")
    with ProcessPoolExecutor(1, SPAWNED, initializer=share, initargs=(current,)) as pool:
        try:
            return pool.submit(try_kind, name, settings).result()
        except BrokenProcessPool as error:
            return Outcomes(failed=[(current.value, f"the process ended: {error}")])


def share(current: Any) -> None:
    """Keeps the shared number in which this process notes the seed that it tries."""
    global CURRENT
    CURRENT = current


def try_kind(name: str, settings: FuzzTable) -> Outcomes:
    """Tries the mutations of a kind."""
    draw, outcomes = random.Random(f"{settings.seed} {name}"), Outcomes()
    with tempfile.TemporaryDirectory() as folder, silent():
        MODULES[name].make(Path(folder))
        kind = MODULES[name].kinds(Path(folder))[name]
        for seed in range(WARM_UP):
            try_seed(kind, seed, settings.seconds, Outcomes())
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what is taken now
        before = memory("VmHWM")
        limit = int(1e6 * memory("VmData")) + MOST_MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        for _ in range(settings.examples):
            try_seed(kind, draw.randrange(2**32), settings.seconds, outcomes)
        outcomes.memory = memory("VmHWM") - before
    return outcomes


def try_seed(kind: Kind, seed: int, seconds: int, outcomes: Outcomes) -> None:
    """Tries one mutation."""
    CURRENT.value = seed
    content = kind.mutate(seed)
    signal.alarm(seconds)
    begun = time.perf_counter()
    try:
        if outcome(lambda: kind.read(content), kind.names) is None:
            outcomes.read += 1
        else:
            outcomes.refused += 1
    except BaseException as error:  # also that of a library in Rust, which is no Exception
        outcomes.failed.append((seed, f"{type(error).__name__}: {error}"[:500]))
    finally:
        signal.alarm(0)
    took = time.perf_counter() - begun
    if took > outcomes.slowest:
        outcomes.slowest, outcomes.slowest_seed = took, seed


def raise_timeout(number: int, frame: Any) -> None:
    """Ends an example that takes too long."""
    raise RuntimeError("it took too long")


def memory(name: str) -> float:
    """Returns a figure of this process's memory in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024 / 1e6


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Drops what commands and libraries print and warn of."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, raise_timeout)
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    yield


if __name__ == "__main__":
    main(tyro.cli(FuzzTable))
