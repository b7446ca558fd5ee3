"""`Grader`: math-verify in worker processes that may hang, burst or die without harm."""

import enum
import importlib.metadata
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cola_jax.scoring.text_match import same_wording

WORKER = Path(__file__).with_name("grade_worker.py")
START_SECONDS = 120.0  # for a worker to import math-verify; it takes a third of one, if idle


class Grade(enum.Enum):
    """What grading an answer came to."""

    RIGHT = "right"
    WRONG = "wrong"
    UNGRADED = "ungraded"  # the grader failed; says nothing about the answer


class Grader:
    """Grades answers, formulas in worker processes, each pair of answer and gold once.

    A pair on which math-verify fails, runs out of memory or out of time is tried once more in a
    fresh worker and is then `UNGRADED`; no other pair is affected. Use it as a context manager:
    it holds processes.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        seconds: float = 5.0,
        memory: int = 1 << 30,
        recycle: int = 1000,
    ):
        """Checks that math-verify is here, by starting the first worker.

        Args:
          workers: processes; two less than there are cores, 1 to 4, when None.
          seconds: for one pair.
          memory: bytes of address space for one worker, where the system can limit it.
          recycle: pairs after which a worker is replaced, since sympy's caches grow.

        Raises:
          ValueError: where math-verify is not installed or does not start.
        """
        check_installed()
        self.seconds, self.memory, self.recycle = seconds, memory, recycle
        self.version = importlib.metadata.version("math-verify")
        self.verdicts: dict[tuple[str, str], Grade] = {}
        count = workers or max(1, min(4, (os.cpu_count() or 1) - 2))
        self.idle: queue.SimpleQueue[Worker | None] = queue.SimpleQueue()  # None: not started
        self.idle.put(Worker(seconds, memory))
        for _ in range(count - 1):
            self.idle.put(None)
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="grade")
        self.count = count

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers."""
        self.threads.shutdown(wait=True, cancel_futures=True)
        for _ in range(self.count):
            if worker := self.idle.get():
                worker.kill()
        self.count = 0

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grades pairs of (answer, gold); thousands of paths share a handful of answers."""
        stripped = [(answer.strip(), gold.strip()) for answer, gold in pairs]
        new = [pair for pair in dict.fromkeys(stripped) if pair not in self.verdicts]
        for _ in self.threads.map(self.grade_pair, new):
            pass  # raises what one of them raised; the verdicts of the others stay
        return [self.verdicts[pair] for pair in stripped]

    def grade_pair(self, pair: tuple[str, str]) -> None:
        """Notes the verdict on one pair."""
        answer, gold = pair
        if not answer:
            self.verdicts[pair] = Grade.WRONG
        elif answer == gold:
            self.verdicts[pair] = Grade.RIGHT
        elif (same := same_wording(answer, gold)) is not None:
            self.verdicts[pair] = Grade.RIGHT if same else Grade.WRONG
        else:
            self.verdicts[pair] = self.verify(pair)

    def verify(self, pair: tuple[str, str]) -> Grade:
        """Has a worker grade a pair, and a fresh one if that fails."""
        worker = self.idle.get()
        try:
            for _ in range(2):
                worker = worker or Worker(self.seconds, self.memory)
                grade = worker.grade(pair)
                if grade is Grade.UNGRADED or worker.served >= self.recycle:
                    worker.kill()
                    worker = None
                if grade is not Grade.UNGRADED:
                    return grade
            return Grade.UNGRADED
        finally:
            self.idle.put(worker)


class Worker:
    """One process that grades one pair at a time."""

    def __init__(self, seconds: float, memory: int):
        """Starts the process and waits until it can grade; ValueError where it can't."""
        self.seconds, self.served, self.expired = seconds, 0, False
        self.process = subprocess.Popen(
            # -P: modules beside the script must not hide those that it imports
            [sys.executable, "-P", str(WORKER), str(memory), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        if self.exchange("", START_SECONDS) != "ready":
            self.kill()
            raise ValueError(
                "math-verify does not start in a process of its own: run `python -c 'import "
                "math_verify'` to see why. It comes with pip install 'cola-jax[math]'."
            )

    def grade(self, pair: tuple[str, str]) -> Grade:
        """Grades a pair; after `UNGRADED` the worker is of no more use."""
        self.served += 1
        reply = self.exchange(json_line(pair), self.seconds)
        return {"true": Grade.RIGHT, "false": Grade.WRONG}.get(reply, Grade.UNGRADED)

    def exchange(self, line: str, seconds: float) -> str:
        """Writes a line and reads one; "" where the process died, or was killed for its time.

        Killing it is what ends a write or a read that would last for ever.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self.expire)
        timer.daemon = True
        timer.start()
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
            reply = self.process.stdout.readline().strip()
        except OSError:
            reply = ""
        timer.cancel()
        timer.join()
        return "" if self.expired else reply

    def expire(self) -> None:
        """Ends the process for taking too long."""
        self.expired = True
        self.process.kill()

    def kill(self) -> None:
        """Ends the process and closes its pipes."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            try:
                if pipe is not None:
                    pipe.close()
            except OSError:  # what was left to write has no reader
                pass


def json_line(pair: tuple[str, str]) -> str:
    """Writes a pair on one line."""
    return json.dumps(pair) + "\n"


def check_installed() -> None:
    """Raises ValueError where math-verify or its parser of LaTeX is missing."""
    missing = [name for name in ("math_verify", "antlr4") if not importlib.util.find_spec(name)]
    if missing:
        raise ValueError(f"grading needs {' and '.join(missing)}: pip install 'cola-jax[math]'.")
