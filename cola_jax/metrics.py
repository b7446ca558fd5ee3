"""Metrics: evaluations, their cost, and the time in which devices were idle."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
compile_seconds: list[float] = []  # of each program of this process, from a cache or not
thread = threading.local()  # its `seconds` of compilation


def hear(event: str, duration_secs: float, **kwargs: str | int) -> None:
    """Take an event of JAX, on the thread that compiles."""
    if event == COMPILED:
        compile_seconds.append(duration_secs)
        thread.seconds = thread_seconds() + duration_secs


def thread_seconds() -> float:
    """Return the seconds that the calling thread has spent compiling."""
    return getattr(thread, "seconds", 0.0)


jax.monitoring.register_event_duration_secs_listener(hear)


def compilations() -> int:
    """Count the programs compiled so far, also those from a persistent cache."""
    return len(compile_seconds)


class Clock:
    """Adds up the time in which threads waited for a worker's devices, which then had work.

    A CPU runs what is dispatched in the thread that dispatches it.
    """

    def __init__(self, on_cpu: bool):
        self.on_cpu = on_cpu
        self.lock = threading.Lock()
        self.threads = 0  # that wait
        self.since = self.waited = self.compiled = 0.0
        self.first: float | None = None  # when work was dispatched
        self.last = 0.0

    @contextlib.contextmanager
    def dispatching(self) -> Iterator[None]:
        """Note the time of the first dispatch, and that of the compiler."""
        if self.first is None:
            self.first = time.perf_counter()
        before = thread_seconds()
        with self.waiting() if self.on_cpu else contextlib.nullcontext():
            yield
        compiled = thread_seconds() - before
        self.compiled += compiled
        self.waited -= compiled if self.on_cpu else 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time in which this thread, or another one, waits."""
        with self.lock:
            if not self.threads:
                self.since = time.perf_counter()
            self.threads += 1
        try:
            yield
        finally:
            with self.lock:
                self.last = time.perf_counter()
                self.threads -= 1
                if not self.threads:
                    self.waited += self.last - self.since

    @property
    def wall(self) -> float:
        """Seconds from the first dispatch to the last result, without those of a compiler."""
        return 0.0 if self.first is None else self.last - self.first - self.compiled


class Stage(NamedTuple):
    """The present stage of a run, and its progress."""

    name: Literal["loading", "compiling", "searching", "evaluating"]
    done: int  # bytes of weights, programs, steps of a search, or evaluations
    total: int  # 0 where it is not known yet


class Cost(NamedTuple):
    """Counts of a plan: layers run on a state, and tokens of these states."""

    useful: int = 0  # of all paths, each run in full
    unique: int = 0  # run, without the last layers of the paths
    last: int = 0  # last layers, run at the read positions
    tokens: int = 0  # of the states run; of last layers, the positions read
    token_rows: int = 0  # of their tiles, padding included
    hits: int = 0  # saved by states held from earlier waves
    evicted: int = 0  # states that lost their slot
    again: int = 0  # states of questions, of `unique`, that had been run before and were evicted

    def __add__(self, other: "Cost") -> "Cost":  # pyright: ignore[reportIncompatibleMethodOverride]
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


@dataclasses.dataclass
class Metrics:
    """Progress and cost of a run, written by the workers and read by whoever shows them.

    The numbers of earlier starts of a run are kept apart in `earlier`.
    """

    loaded: int = 0  # bytes of weights
    to_load: int = 0
    total: int = 0  # evaluations expected, where they are known
    steps: int = 0  # of a search, whose evaluations are not: those for gold, of `all_steps`
    all_steps: int = 0
    earlier: int = 0  # evaluations of earlier starts
    evaluations: int = 0  # of this start
    corrected: int = 0  # questions wrong before and right after, earlier starts included
    shortened: int = 0  # questions still right on fewer layers, likewise
    cost: Cost = dataclasses.field(default_factory=Cost)
    prefix_layers: int = 0  # layers run, of `cost`, on common prefixes
    tokens: int = 0  # decoded
    machines: int = 0  # of a cluster
    clocks: list[Clock] = dataclasses.field(default_factory=list)  # of workers

    def __post_init__(self):
        self.lock = threading.Lock()
        self.begun = time.perf_counter()
        self.compiled_before = compilations()

    def add(self, **amounts: Any) -> None:
        """Add to fields by name; safe from any thread."""
        with self.lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def take(self) -> dict[str, Any]:
        """Return the counts since the last call, for the metrics of another process to add."""
        with self.lock:
            names = ("earlier", "evaluations", "steps", "cost", "prefix_layers", "tokens")
            amounts = {name: getattr(self, name) for name in names}
            for name in names:
                setattr(self, name, type(amounts[name])())
        return amounts

    def load(self, loaded: int, to_load: int) -> None:
        """Take the bytes of weights loaded so far, and in all."""
        self.loaded = loaded
        self.to_load = to_load

    def stage(self) -> Stage:
        """Return the present stage; programs compiled while others run belong to evaluating."""
        if not (self.clocks or self.machines):
            return Stage("loading", self.loaded, self.to_load)
        if not (self.evaluations or self.tokens or self.machines):
            return Stage("compiling", compilations() - self.compiled_before, 0)
        if self.all_steps:
            return Stage("searching", self.steps, self.all_steps)
        return Stage("evaluating", self.earlier + self.evaluations, self.total)

    def report(self) -> dict[str, Any]:
        """Summarise this start so far.

        Returns:
          Numbers by name: counts, seconds, and shares from 0 to 1; None where there is nothing to
          divide by.
        """
        seconds = time.perf_counter() - self.begun
        compiled = compile_seconds[self.compiled_before :]
        cost = self.cost
        evaluations = self.evaluations
        run = cost.unique + cost.last
        wall = max(sum(clock.wall for clock in self.clocks), 0)
        waited = sum(clock.waited for clock in self.clocks)

        def ratio(part: int | float, whole: int | float, digits: int = 4) -> float | None:
            return round(part / whole, digits) if whole else None

        return {
            "evaluations": evaluations,
            "seconds": round(seconds, 3),
            "evaluations_per_second": round(evaluations / seconds, 3),
            # layers of all paths in full over layers run, on the prompts' own tokens
            "prefix_sharing": ratio(cost.useful, run - self.prefix_layers, 3),
            "layer_evaluations": run,
            "common_prefix_share": ratio(self.prefix_layers, run),
            "hit_share": ratio(cost.hits, cost.hits + run),
            "padding_share": ratio(cost.token_rows - cost.tokens, cost.token_rows),
            "evicted": cost.evicted,
            # states run again over those that run where none loses its slot
            "again_share": ratio(cost.again, cost.unique - cost.again),
            # at most: while a thread waits for results, the devices run what was dispatched
            "idle_share": ratio(wall - waited, wall),
            "tokens": self.tokens,
            "compilations": len(compiled),
            "compilation_seconds": round(sum(compiled), 2),
        }
