"""Counting XLA's compilations and their time, from JAX's own events."""

import dataclasses
import threading

import jax

EVENT = "/jax/core/compile/backend_compile_duration"


@dataclasses.dataclass(frozen=True)
class Compilations:
    """What was compiled since the process began; what a persistent cache held counts as well."""

    count: int = 0
    seconds: float = 0.0

    def __sub__(self, other: "Compilations") -> "Compilations":
        return Compilations(self.count - other.count, self.seconds - other.seconds)


class Counter:
    """Listens to JAX, which calls it on the thread that compiles."""

    def __init__(self):
        self.lock = threading.Lock()
        self.all = Compilations()
        self.mine = threading.local()
        jax.monitoring.register_event_duration_secs_listener(self.hear)

    def hear(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event != EVENT:
            return
        with self.lock:
            self.all = Compilations(self.all.count + 1, self.all.seconds + duration_secs)
        self.mine.seconds = self.thread_seconds() + duration_secs

    def thread_seconds(self) -> float:
        """Returns the seconds that the calling thread has spent compiling."""
        return getattr(self.mine, "seconds", 0.0)


COUNTER = Counter()


def compilations() -> Compilations:
    """Returns the compilations of all threads so far."""
    return COUNTER.all
