"""Metrics: evaluations and their cost."""

import dataclasses
import threading
import time
from typing import Any, Literal, NamedTuple

import jax

from cola_jax.execute.plan import Cost

COMPILED = "/jax/core/compile/backend_compile_duration"
compile_seconds: list[float] = []  # of each program of this process, from a cache or not


def hear(event: str, duration_secs: float, **kwargs: str | int) -> None:
    """Take an event of JAX, from any thread."""
    if event == COMPILED:
        compile_seconds.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(hear)


def compilations() -> int:
    """Count the programs compiled so far, also those from a persistent cache."""
    return len(compile_seconds)


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

    loading: bool = True  # until there are workers
    loaded: int = 0  # bytes of weights
    to_load: int = 0
    total: int = 0  # evaluations expected; a search that runs out of paths makes fewer
    earlier: int = 0  # evaluations of earlier starts
    evaluations: int = 0  # of this start
    corrected: int = 0  # questions wrong before and right after, earlier starts included
    shortened: int = 0  # questions still right on fewer layers, likewise
    cost: Cost = dataclasses.field(default_factory=Cost)
    prefix_layers: int = 0  # layers run, of `cost`, on common prefixes
    tokens: int = 0  # decoded

    def __post_init__(self):
        self.lock = threading.Lock()
        self.begun, self.compiled_before = time.perf_counter(), compilations()

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
        if self.loading:
            return Stage("loading", self.loaded, self.to_load)
        if not (self.evaluations or self.tokens):
            return Stage("compiling", compilations() - self.compiled_before, 0)
        return Stage("evaluating", self.earlier + self.evaluations, self.total)

    def report(self) -> dict[str, Any]:
        """Summarise this start so far.

        Returns:
          Numbers by name: counts, seconds, and shares from 0 to 1; None where there is nothing to
          divide by.
        """
        seconds = time.perf_counter() - self.begun
        compiled = compile_seconds[self.compiled_before :]
        cost, evaluations = self.cost, self.evaluations
        run = cost.unique + cost.last

        def ratio(part: int, whole: int, digits: int = 4) -> float | None:
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
            "tokens": self.tokens,
            "compilations": len(compiled),
            "compilation_seconds": round(sum(compiled), 2),
        }
