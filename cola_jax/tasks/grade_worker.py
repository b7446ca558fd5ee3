r"""Grades pairs of answers with math-verify: a script of its own, started by `Grader`.

It is run by its path, never imported with the package, so that a worker does not load jax. It
reads one JSON pair [answer, gold] per line and writes true, false or null for an error.
"""

import json
import os
import signal
import sys


def main(memory: int, seconds: float) -> None:
    """Serves pairs until its input ends."""
    replies = os.fdopen(os.dup(1), "w")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent to say when to end
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    limit_memory(memory)
    from math_verify import parse, verify

    replies.write("ready\n")
    replies.flush()
    for line in sys.stdin:
        answer, gold = json.loads(line)
        if hasattr(signal, "alarm"):  # ends a worker whose parent was killed and can't end it
            signal.alarm(int(2 * seconds) + 10)
        try:
            said = [parse(boxed(text), parsing_timeout=None) for text in (gold, answer)]
            verdict = bool(verify(*said, timeout_seconds=None, raise_on_error=True))
        except Exception:
            verdict = None
        replies.write(json.dumps(verdict) + "\n")
        replies.flush()
        if hasattr(signal, "alarm"):
            signal.alarm(0)


def boxed(text: str) -> str:
    """Puts an answer where math-verify looks for one."""
    return f"\\boxed{{{text.strip().strip('$')}}}"


def limit_memory(size: int) -> None:
    """Limits the address space, where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))
    except (ImportError, OSError, ValueError):
        pass


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
