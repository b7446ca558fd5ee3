"""`Grader`: math-verify in worker processes, which may hang, crash or run out of memory.

`TextGrader` compares answers in words alone, in this process.

Run as a program, this module is such a worker, which loads no JAX: it reads one JSON pair
[answer, gold] per line, and writes true, false or, if grading failed, null.
"""

import contextlib
import enum
import importlib.util
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cola_jax.errors import InputError, shown

WORKER = ("-m", "cola_jax.scoring.grader")
FAILURES = (MemoryError, RecursionError)
THIN_SPACE = re.compile(r"(?<=[0-9])(?:\\[,;:]|~)(?=[0-9]{3})")
# math-verify reads a word as a product of letters, so that Pairs equals Paris, and a date as a
# difference: words, dates and times of day are compared as text
TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
LETTERS = r"[^\W\d_]+"
WORDS = re.compile(rf"{LETTERS}(?:[\s.,'’-]+{LETTERS})*")
PROSE = re.compile(r"[\w\s.,:'’-]+")  # not a formula, in which X differs from x
LONG = re.compile(r"[^\W\d_]{3}")  # shorter words may be products: xy equals yx
DATE = re.compile(r"\d{4}-\d\d?-\d\d?")
TIME = re.compile(r"\d\d?(?::\d\d)?\s*[ap]\.?\s?m")
# signs that words do not have. A name may have +, * and /, such as C++ and AC/DC, but not between
# two terms of which one is a number or a single letter, as in x/y and pi/2
ATOM = r"(?:[0-9]+|(?<![^\W\d_])[^\W\d_](?![^\W\d_]))"
TERM_BEFORE = r"[\w)]"
TERM_AFTER = r"[\w(]"
OPERATOR = r"\s*[+*/]\s*"
SIGNS = (r"[\\${}^_=<>|~]", r"\w\(", ATOM + OPERATOR + TERM_AFTER, TERM_BEFORE + OPERATOR + ATOM)
FORMULA = re.compile("|".join(SIGNS))
QUOTES = " \t\n\"'“”‘’«»"
BEGIN = re.compile(rf"[¿¡*]*(?:\((?={LONG.pattern}))?")  # signs before the first letter of a text
ENDS = QUOTES + ".,;:!?¿¡()"  # ignored around an answer in words
START_SECONDS = 120.0  # for a worker to import math-verify: a third of a second on an idle core


class Grade(enum.Enum):
    """The result of grading an answer."""

    RIGHT = "right"
    WRONG = "wrong"
    UNGRADED = "ungraded"  # the grader failed: the answer may be right or wrong


class Grader:
    """Grade answers, each pair of answer and gold once; formulas are graded in worker processes.

    A pair on which math-verify fails, or runs out of memory or time, is retried once in a new
    worker and is then `UNGRADED`. Use it as a context manager, which ends the processes.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        seconds: float = 5.0,
        memory: int = 1 << 30,
        recycle: int = 1000,
    ):
        """Start the first worker, which checks that math-verify works; InputError if it does not.

        Args:
          workers: number of processes; by default that of the cores less two, but 1 to 4.
          seconds: time limit for one pair.
          memory: address space of a worker in bytes, where the system can limit it.
          recycle: number of pairs after which a worker is replaced, since sympy's caches grow.
        """
        check_installed()
        self.seconds = seconds
        self.memory = memory
        self.recycle = recycle
        self.verdicts: dict[tuple[str, str], Grade] = {}
        self.count = workers or max(1, min(4, (os.cpu_count() or 1) - 2))
        self.idle: queue.SimpleQueue[GradeWorker | None] = queue.SimpleQueue()  # None: not started
        for worker in (GradeWorker(seconds, memory), *[None] * (self.count - 1)):
            self.idle.put(worker)
        self.threads = ThreadPoolExecutor(self.count, thread_name_prefix="grade")

    @staticmethod
    def describe() -> str:
        """Return the name that a run records: another version may grade otherwise.

        Raises InputError where math-verify is not installed.
        """
        check_installed()
        return f"math-verify {version('math-verify')}"

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
        # an exception of a pair is raised here; earlier verdicts are kept
        for pair, grade in zip(new, self.threads.map(self.grade_pair, new), strict=True):
            self.verdicts[pair] = grade
        return [self.verdicts[pair] for pair in stripped]

    def grade_pair(self, pair: tuple[str, str]) -> Grade:
        """Grade a pair by its texts, or else in a worker; retry once in a new worker."""
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


class TextGrader:
    """Grade answers in words by exact match, which needs no other package.

    Ignored are case, extra whitespace, and quotes, punctuation and parentheses at both ends. Used
    as `Grader`.
    """

    def __enter__(self) -> "TextGrader":
        return self

    def __exit__(self, *error: object) -> None:
        """No-op."""

    @staticmethod
    def describe() -> str:
        """Return the name that a run records."""
        return "exact match"

    def grade(self, pairs: Sequence[tuple[str, str]]) -> list[Grade]:
        """Grade pairs of (answer, gold)."""
        return [self.grade_pair(answer, gold) for answer, gold in pairs]

    def grade_pair(self, answer: str, gold: str) -> Grade:
        """Grade a pair as `Grader` does, but where that one asks math-verify."""
        same = match_text(answer.strip(), gold.strip())
        if same is None:
            same = bare(answer) == bare(gold) != ""
        return Grade.RIGHT if same else Grade.WRONG


AnyGrader = Grader | TextGrader


def choose_grader(golds: Iterable[tuple[str, str]]) -> type[AnyGrader]:
    """Return the grader of gold answers, each after its place: `TextGrader` where all are texts.

    Raises InputError for a number or a formula where math-verify is not installed.
    """
    place, formula = next((each for each in golds if not is_text(each[1])), (None, ""))
    if place is None:
        return TextGrader
    if missing := missing_packages():
        raise InputError(
            f"{place}: the answer {shown(formula)} is a number or a formula, "
            f"whose grading needs {missing}: pip install 'cola-jax[math]', or give a file of "
            "answers in words alone."
        )
    return Grader


class GradeWorker:
    """One process that grades one pair at a time."""

    def __init__(self, seconds: float, memory: int):
        """Start the process and wait until it is ready; InputError if it does not start."""
        self.seconds = seconds
        self.served = 0
        paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
        self.process = subprocess.Popen(
            # -P: modules in the working directory must not shadow the worker's imports
            [sys.executable, "-P", *WORKER, str(memory), str(seconds)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
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
        self.process.kill()
        with contextlib.suppress(OSError), self.process:  # buffered data can no longer be written
            pass


def check_installed() -> None:
    """Raise InputError if math-verify or its LaTeX parser is not installed."""
    if missing := missing_packages():
        raise InputError(f"grading needs {missing}: pip install 'cola-jax[math]'.")


def missing_packages() -> str:
    """Name math-verify and its LaTeX parser where they are not installed."""
    packages = ("math_verify", "antlr4")
    return " and ".join(name for name in packages if not importlib.util.find_spec(name))


def is_text(gold: str) -> bool:
    """Return whether an answer is compared as text: words, a date or a time of day.

    A text begins with a letter and has no sign of a formula: 7 cm and x + y are none. Signs before
    the first letter are ignored, such as in ¿Qué?, *NSYNC and (none).
    """
    text = BEGIN.sub("", gold.strip(QUOTES), count=1)
    whole = DATE.fullmatch(text) or TIME.fullmatch(text.casefold())
    return bool(whole) or (text[:1].isalpha() and not FORMULA.search(text))


def bare(text: str) -> str:
    """Return a text as answers in words are compared: `normalize`, without punctuation around."""
    return normalize(text).strip(ENDS)


def match_text(answer: str, gold: str) -> bool | None:
    """Compare equal texts, and words ignoring case; None where math-verify must decide.

    So it must if only the gold has words, since they may agree: 7 cm and 7.
    """
    if not answer or answer == gold:
        return bool(answer)
    answer = normalize(answer)
    gold = normalize(gold)
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


def serve(memory: int, seconds: float) -> None:
    """Grade the pairs on stdin until it is closed."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of a library must not be taken for a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    with contextlib.suppress(ImportError, OSError, ValueError):  # where it cannot be limited
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    import math_verify

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        signal.alarm(int(2 * seconds) + 10)  # ends a worker whose parent was killed during a pair
        verdict = grade_formulas(math_verify, *json.loads(line))
        print(json.dumps(verdict), file=replies, flush=True)
        signal.alarm(0)


def grade_formulas(math_verify: Any, answer: str, gold: str) -> bool | None:
    """Return math-verify's verdict, or None if it failed.

    math-verify turns most exceptions into "not the same", MemoryError and RecursionError included,
    so exceptions are traced, which doubles the time.
    """
    failed = False

    def watch(frame: Any, event: str, argument: Any) -> Any:
        nonlocal failed
        frame.f_trace_lines = False
        failed = failed or (event == "exception" and issubclass(argument[0], FAILURES))
        return watch

    sys.settrace(watch)
    try:
        # LaTeX only: the other default extracts the last number from text that is not a formula
        latex = [math_verify.LatexExtractionConfig()]
        parsed = [
            math_verify.parse(in_dollars(text), extraction_config=latex, parsing_timeout=None)
            for text in (gold, answer)
        ]
        same = math_verify.verify(*parsed, timeout_seconds=None, raise_on_error=True)
    except Exception:
        return None
    finally:
        sys.settrace(None)
    return None if failed and not same else bool(same)


def in_dollars(text: str) -> str:
    r"""Put a formula between dollars, where math-verify looks for it, without thin spaces.

    math-verify reads 10\,000 as 10 times 000, so that an answer of 0 would be right.
    """
    text = text.strip().rstrip(".").strip("$").rstrip("\\ .").replace(r"\!", "")  # \$ is a price
    return f"${THIN_SPACE.sub('', text)}$"


if __name__ == "__main__":
    serve(int(sys.argv[1]), float(sys.argv[2]))
