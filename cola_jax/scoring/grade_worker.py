r"""Grades pairs of answers with math-verify: a script of its own, started by `Grader`.

It is run by its path, never imported with the package, so that a worker does not load jax. It
reads one JSON pair [answer, gold] per line and writes true, false or null for a failure.
"""

import json
import os
import re
import signal
import sys

FAILURES = (MemoryError, RecursionError)
THIN_SPACE = re.compile(r"(?<=[0-9])(?:\\[,;:]|~)(?=[0-9]{3})")


def main(memory: int, seconds: float) -> None:
    """Serves pairs until its input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent to say when to end
    limit_memory(memory)
    import math_verify

    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        if hasattr(signal, "alarm"):  # ends a worker whose parent was killed and can't end it
            signal.alarm(int(2 * seconds) + 10)
        verdict = grade(math_verify, *json.loads(line))
        print(json.dumps(verdict), file=replies, flush=True)
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def grade(math_verify, answer: str, gold: str) -> bool | None:
    """Returns math-verify's verdict, None where it failed.

    It takes most errors for "not the same", one of memory too. So those that end nowhere are
    watched for, at the price of about twice the time.
    """
    failed = False

    def watch(frame, event, argument):
        nonlocal failed
        frame.f_trace_lines = False
        failed = failed or (event == "exception" and issubclass(argument[0], FAILURES))
        return watch

    sys.settrace(watch)
    try:
        # without its other way to read: that takes the last number of what is no formula
        whole = [math_verify.LatexExtractionConfig()]
        said = [
            math_verify.parse(wrap(text), extraction_config=whole, parsing_timeout=None)
            for text in (gold, answer)
        ]
        same = math_verify.verify(*said, timeout_seconds=None, raise_on_error=True)
    except Exception:
        return None
    finally:
        sys.settrace(None)
    return None if failed and not same else bool(same)


def wrap(text: str) -> str:
    r"""Puts an answer where math-verify looks for one, without thin spaces.

    It reads 10\,000 as 10 times 000, which is what a wrong answer of 0 would be compared with.
    """
    text = text.strip().rstrip(".").strip("$").rstrip("\\ .").replace(r"\!", "")  # \$ is a price
    return f"${THIN_SPACE.sub('', text)}$"


def limit_memory(size: int) -> None:
    """Limits the address space, where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (ImportError, OSError, ValueError):
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
