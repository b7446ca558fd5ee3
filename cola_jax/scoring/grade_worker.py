r"""Script that grades pairs of answers with math-verify; started by `Grader`.

It is run by path and not imported from the package, so that a worker does not load JAX. It reads
one JSON pair [answer, gold] per line, and writes true, false or, if grading failed, null.
"""

import contextlib
import json
import os
import re
import resource
import signal
import sys

FAILURES = (MemoryError, RecursionError)
THIN_SPACE = re.compile(r"(?<=[0-9])(?:\\[,;:]|~)(?=[0-9]{3})")


def main(memory: int, seconds: float) -> None:
    """Grade the pairs on stdin until it is closed."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of a library must not be taken for a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles it
    limit_memory(memory)
    import math_verify

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        signal.alarm(int(2 * seconds) + 10)  # ends a worker whose parent was killed during a pair
        verdict = grade(math_verify, *json.loads(line))
        print(json.dumps(verdict), file=replies, flush=True)
        signal.alarm(0)


def grade(math_verify, answer: str, gold: str) -> bool | None:
    """Return math-verify's verdict, or None if it failed.

    math-verify turns most exceptions into "not the same", MemoryError and RecursionError included,
    so exceptions are traced, which doubles the time.
    """
    failed = False

    def watch(frame, event, argument):
        nonlocal failed
        frame.f_trace_lines = False
        failed = failed or (event == "exception" and issubclass(argument[0], FAILURES))
        return watch

    sys.settrace(watch)
    try:
        # LaTeX only: the other default extracts the last number from text that is not a formula
        latex = [math_verify.LatexExtractionConfig()]
        parsed = [
            math_verify.parse(wrap(text), extraction_config=latex, parsing_timeout=None)
            for text in (gold, answer)
        ]
        same = math_verify.verify(*parsed, timeout_seconds=None, raise_on_error=True)
    except Exception:
        return None
    finally:
        sys.settrace(None)
    return None if failed and not same else bool(same)


def wrap(text: str) -> str:
    r"""Put an answer between dollars, where math-verify looks for it, without thin spaces.

    math-verify reads 10\,000 as 10 times 000, so that an answer of 0 would be right.
    """
    text = text.strip().rstrip(".").strip("$").rstrip("\\ .").replace(r"\!", "")  # \$ is a price
    return f"${THIN_SPACE.sub('', text)}$"


def limit_memory(size: int) -> None:
    """Limit the address space in bytes, where the system supports it."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
