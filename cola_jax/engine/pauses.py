"""`Pauses`: failures by machine, and the pause after each."""

import dataclasses
import time
from collections.abc import Callable

LONGEST = 300.0  # seconds of a pause


@dataclasses.dataclass
class Pause:
    """The failures of a machine since its last success, and when its pause ends."""

    failures: int
    end: float


class Pauses:
    """Counts the failures of machines, each of which doubles the pause of its machine."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.machines: dict[str | None, Pause] = {}

    def fail(self, machine: str | None) -> None:
        """Count a failure; those during a pause are of the same cause, and do not count."""
        now = self.clock()
        pause = self.machines.setdefault(machine, Pause(0, now))
        if now >= pause.end:
            pause.failures += 1
            pause.end = now + min(2.0 ** (pause.failures - 1), LONGEST)

    def succeed(self, machine: str | None) -> None:
        """Forget the failures of a machine."""
        self.machines.pop(machine, None)

    def failures(self, machine: str | None) -> int:
        """Return the failures of a machine, one after the other."""
        return self.machines[machine].failures if machine in self.machines else 0

    def remaining(self, machine: str | None) -> float:
        """Return the seconds until the pause of a machine ends, 0 where it has none."""
        if machine not in self.machines:
            return 0.0
        return max(self.machines[machine].end - self.clock(), 0.0)
