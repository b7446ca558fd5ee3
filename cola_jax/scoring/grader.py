"""`Grader`: math-verify in worker processes, which may hang, crash or run out of memory."""

import contextlib
import enum
import importlib.util
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cola_jax.errors import InputError

WORKER = Path(__file__).with_name("grade_worker.py")
# math-verify reads a word as a product of letters, so that Pairs equals Paris, and a date as a
# difference: words, dates and times of day are compared as text
TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
LETTERS = r"[^\W\d_]+"
WORDS = re.compile(rf"{LETTERS}(?:[\s.,'’-]+{LETTERS})*")
PROSE = re.compile(r"[\w\s.,:'’-]+")  # not a formula, in which X differs from x
LONG = re.compile(r"[^\W\d_]{3}")  # shorter words may be products: xy equals yx
DATE = re.compile(r"\d{4}-\d\d?-\d\d?")
TIME = re.compile(r"\d\d?(?::\d\d)?\s*[ap]\.?\s?m")
START_SECONDS = 120.0  # for a worker to import math-verify: a third of a second on an idle core


class Grade(enum.Enum):
    """The result of grading an answer."""

    RIGHT = "right"
    WRONG = "wrong"
    UNGRADED = "ungraded"  # the grader failed: the answer may be right or wrong


class Grader:
    """Grade answers, each pair of answer and gold once; formulas are graded in worker processes.

    If math-verify fails on a pair, or runs out of memory or time, the pair is retried once in a
    new worker and is then `UNGRADED`; no other pair is affected. Use it as a context manager, which
    ends the processes.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        seconds: float = 5.0,
        memory: int = 1 << 30,
        recycle: int = 1000,
    ):
        """Start the first worker, which checks that math-verify works.

        Args:
          workers: number of processes; when None, the number of cores less two, but 1 to 4.
          seconds: time limit for one pair.
          memory: address space of a worker in bytes, where the system can limit it.
          recycle: number of pairs after which a worker is replaced, since sympy's caches grow.

        Raises:
          InputError: if math-verify is not installed or does not start.
        """
        check_installed()
        self.seconds, self.memory, self.recycle = seconds, memory, recycle
        self.verdicts: dict[tuple[str, str], Grade] = {}
        self.count = workers or max(1, min(4, (os.cpu_count() or 1) - 2))
        self.idle: queue.SimpleQueue[GradeWorker | None] = queue.SimpleQueue()  # None: not started
        for worker in (GradeWorker(seconds, memory), *[None] * (self.count - 1)):
            self.idle.put(worker)
        self.threads = ThreadPoolExecutor(self.count, thread_name_prefix="grade")

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *error: object) -> None:
        """Kill all workers."""
        self.threads.shutdown(wait=True, cancel_futures=True)
        for _ in range(self.count):
            if worker := self.idle.get():
                worker.kill()
        self.count = 0

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grade pairs of (answer, gold), each distinct pair once: paths share few answers."""
        stripped = [(answer.strip(), gold.strip()) for answer, gold in pairs]
        new = [pair for pair in dict.fromkeys(stripped) if pair not in self.verdicts]
        # what is raised for a pair is raised here; the verdicts of those before it are kept
        for pair, grade in zip(new, self.threads.map(self.grade_pair, new), strict=True):
            self.verdicts[pair] = grade
        return [self.verdicts[pair] for pair in stripped]

    def grade_pair(self, pair: tuple[str, str]) -> Grade:
        """Grade a pair by its texts, or else in a worker, and again in a new one if that fails."""
        same = match_text(*pair)
        if same is not None:
            return Grade.RIGHT if same else Grade.WRONG
        worker = self.idle.get()
        try:
            for _ in range(2):
                worker = worker or GradeWorker(self.seconds, self.memory)
                grade = worker.grade(pair)
                if grade is Grade.UNGRADED or worker.served >= self.recycle:
                    worker.kill()
                    worker = None
                if grade is not Grade.UNGRADED:
                    return grade
            return Grade.UNGRADED
        finally:
            self.idle.put(worker)


class GradeWorker:
    """One process that grades one pair at a time."""

    def __init__(self, seconds: float, memory: int):
        """Start the process and wait until it is ready; InputError if it does not start."""
        self.seconds, self.served = seconds, 0
        self.process = subprocess.Popen(
            # -P: modules in the script's folder must not shadow those that it imports
            [sys.executable, "-P", str(WORKER), str(memory), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        if self.exchange("", START_SECONDS) != "ready":
            self.kill()
            raise InputError(
                "math-verify does not start in a worker process: run `python -c 'import "
                "math_verify'` to see why. Install it with pip install 'cola-jax[math]'."
            )

    def grade(self, pair: tuple[str, str]) -> Grade:
        """Grade a pair; a worker that returns `UNGRADED` must be replaced."""
        self.served += 1
        reply = self.exchange(json.dumps(pair) + "\n", self.seconds)
        return {"true": Grade.RIGHT, "false": Grade.WRONG}.get(reply, Grade.UNGRADED)

    def exchange(self, line: str, seconds: float) -> str:
        """Write a line and read the reply; "" if the process died or exceeded the time limit.

        Killing the process unblocks a write or read that would never return.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(seconds, self.process.kill)
        timer.daemon = True
        timer.start()
        try:
            self.process.stdin.write(line)
            self.process.stdin.flush()
            return self.process.stdout.readline().strip()
        except OSError:
            return ""
        finally:
            timer.cancel()
            timer.join()

    def kill(self) -> None:
        """Kill the process and close its pipes."""
        self.process.kill()
        with contextlib.suppress(OSError), self.process:  # buffered data can no longer be written
            pass


def check_installed() -> None:
    """Raise InputError if math-verify or its LaTeX parser is not installed."""
    missing = [name for name in ("math_verify", "antlr4") if not importlib.util.find_spec(name)]
    if missing:
        raise InputError(f"grading needs {' and '.join(missing)}: pip install 'cola-jax[math]'.")


def match_text(answer: str, gold: str) -> bool | None:
    """Compare an answer with a gold that is equal to it, or words, ignoring case; None for others.

    Also None if the gold is words and the answer is not, since they may agree: 7 cm and 7.
    """
    if not answer or answer == gold:
        return bool(answer)
    answer, gold = normalize(answer), normalize(gold)
    if DATE.fullmatch(gold):
        return answer == gold
    if TIME.fullmatch(gold):
        return re.sub(r"[.\s]", "", answer) == re.sub(r"[.\s]", "", gold)
    if not LONG.search(gold) or not PROSE.fullmatch(gold):
        return None
    if answer == gold:
        return True
    return False if WORDS.fullmatch(answer) and WORDS.fullmatch(gold) else None


def normalize(text: str) -> str:
    """Remove dollars, TeX's text commands, a final full stop, case and extra whitespace."""
    text = TEXT.sub(r"\1", text.strip().strip("$"))
    return " ".join(text.split()).rstrip(".").casefold()
