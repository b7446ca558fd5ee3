"""Metrics: evaluations, their cost, and the time that devices and compilers were busy."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import jax

from cola_jax.execute.plan import Cost

COMPILED = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Compilations:
    """Programs compiled since the process began, also those from a persistent cache."""

    count: int = 0
    seconds: float = 0.0

    def __sub__(self, other: "Compilations") -> "Compilations":
        return Compilations(self.count - other.count, self.seconds - other.seconds)


class CompilationCounter:
    """Listens to JAX, which calls it on the thread that compiles."""

    def __init__(self):
        self.lock = threading.Lock()
        self.all = Compilations()
        self.local = threading.local()
        jax.monitoring.register_event_duration_secs_listener(self.hear)

    def hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event != COMPILED:
            return
        with self.lock:
            self.all = Compilations(self.all.count + 1, self.all.seconds + duration_secs)
        self.local.seconds = self.thread_seconds() + duration_secs

    def thread_seconds(self) -> float:
        """Return the seconds that the calling thread has spent compiling."""
        return getattr(self.local, "seconds", 0.0)


COUNTER = CompilationCounter()


def compilations() -> Compilations:
    """Return the compilations of all threads so far."""
    return COUNTER.all


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
        before = COUNTER.thread_seconds()
        with self.waiting() if self.on_cpu else contextlib.nullcontext():
            yield
        compiled = COUNTER.thread_seconds() - before
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

    name: Literal["loading", "compiling", "evaluating"]
    done: int  # bytes of weights, programs, or evaluations
    total: int  # 0 where it is not known yet


@dataclasses.dataclass
class Metrics:
    """Progress and cost of a run, written by the workers and read by whoever shows them.

    The numbers of earlier starts of a run are kept apart in `earlier`.
    """

    loaded: int = 0  # bytes of weights
    to_load: int = 0
    total: int = 0  # evaluations expected; a search that runs out of paths makes fewer
    earlier: int = 0  # evaluations of earlier starts
    evaluations: int = 0  # of this start
    corrected: int = 0  # questions wrong before and right after, earlier starts included
    shortened: int = 0  # questions still right on fewer layers, likewise
    cost: Cost = dataclasses.field(default_factory=Cost)
    prefix_layers: int = 0  # layers run, of `cost`, on common prefixes
    planning: float = 0.0  # seconds
    tokens: int = 0  # decoded
    decode_layers: int = 0  # layers run for one token of one row
    decode_rows: int = 0  # rows of the tiles of those, padding included
    clocks: list[Clock] = dataclasses.field(default_factory=list)
    collapsed: bool = False  # whether a warning has said that all answers are alike

    def __post_init__(self):
        self.lock = threading.Lock()
        self.begun, self.compilations_before = time.perf_counter(), compilations()

    def add(self, **amounts: Any) -> None:
        """Add to fields by name; safe from any thread."""
        with self.lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)

    def load(self, loaded: int, to_load: int) -> None:
        """Take the bytes of weights loaded so far, and in all."""
        self.loaded, self.to_load = loaded, to_load

    def stage(self) -> Stage:
        """Return the present stage; programs compiled while others run belong to evaluating."""
        if not self.clocks:  # of workers
            return Stage("loading", self.loaded, self.to_load)
        if not (self.evaluations or self.tokens):
            compiled = compilations() - self.compilations_before
            return Stage("compiling", compiled.count, 0)
        return Stage("evaluating", self.earlier + self.evaluations, self.total)

    def report(self) -> dict[str, Any]:
        """Summarise this start so far.

        Returns:
          Numbers by name: counts, seconds, and shares from 0 to 1; None where there is nothing to
          divide by.
        """
        seconds = time.perf_counter() - self.begun
        compiled = compilations() - self.compilations_before
        cost, evaluations = self.cost, self.evaluations
        wall = max(sum(clock.wall for clock in self.clocks), 0)
        waited = sum(clock.waited for clock in self.clocks)
        run = cost.unique + cost.last
        own = run - self.prefix_layers

        def ratio(part: int | float, whole: int | float, digits: int = 4) -> float | None:
            return round(part / whole, digits) if whole else None

        return {
            "evaluations": evaluations,
            "seconds": round(seconds, 3),
            "evaluations_per_second": round(evaluations / seconds, 3),
            # layers of all paths in full over layers run, on the prompts' own tokens
            "prefix_sharing": ratio(cost.useful, own, 3),
            "layer_evaluations": run,
            "common_prefix_share": ratio(self.prefix_layers, run),
            "hit_share": ratio(cost.hits, cost.hits + run),
            "padding_share": ratio(cost.token_rows - cost.tokens, cost.token_rows),
            "evicted": cost.evicted,
            "planning_seconds": round(self.planning, 3),
            # at most: while a thread waits for results, the devices run what was dispatched
            "idle_share": ratio(wall - waited, wall),
            "tokens": self.tokens,
            "tokens_per_second": round(self.tokens / seconds, 3),
            "decode_padding_share": ratio(self.decode_rows - self.decode_layers, self.decode_rows),
            "compilations": compiled.count,
            "compilation_seconds": round(compiled.seconds, 2),
        }
