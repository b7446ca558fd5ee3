"""The command `cola`: its signals, errors and exit status."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
RETRY = 0.02  # seconds until an exception that was lost is raised again
PIPE = 141  # the exit status of a shell after writing to a closed pipe
KEPT = "all written rows are kept. Re-run the same command to resume."


class Interrupted(KeyboardInterrupt):
    """A signal ended a command; `kept` says which work is kept, where that is known."""

    def __init__(self, number: int = signal.SIGINT, kept: str = KEPT):
        super().__init__(kept)
        self.number, self.kept = number, kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `cola`; bad input is one line on stderr, and exit status 1, or 2 for bad usage.

    Signals are handled before anything that takes long is imported; after the process's own command
    line (None), a signal ends the process at once.
    """
    try:
        with raising_signals(last=arguments is None):
            run_command(sys.argv[1:] if arguments is None else [*arguments])
    except KeyboardInterrupt as interrupt:
        end = interrupt if isinstance(interrupt, Interrupted) else Interrupted()
        name = "terminated" if end.number == signal.SIGTERM else "interrupted"
        print(f"\n{name}: {end.kept}", file=sys.stderr)
        sys.exit(128 + end.number)  # as of a shell
    except BrokenPipeError:  # the reader of the results has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE)


def run_command(arguments: Sequence[str]) -> None:
    """Parse a command line and run its command; exit with a line for an error of the input."""
    from cola_jax.cli import verbosity
    from cola_jax.cli.commands import log_start, parse
    from cola_jax.errors import InputError, UsageError, of_system
    from cola_jax.files import keep_programs

    keep_programs()
    # transformers serves for tokenizers alone, and need not report that torch is missing
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    verbosity.choose()
    try:
        command = parse(arguments)
        verbosity.choose(verbose=command.general.verbose, quiet=command.general.quiet)
        log_start(command)
        command.run()
    except BrokenPipeError:
        raise
    except (InputError, OSError, MemoryError) as error:
        text = of_system(error) if isinstance(error, OSError) else str(error)
        if isinstance(error, MemoryError):
            text = f"memory ran out ({error}): close other programs, or take a smaller model."
        verbosity.log.debug("traceback:", exc_info=error)
        verbosity.log.error("%s", text)
        sys.exit(2 if isinstance(error, UsageError) else 1)


@contextlib.contextmanager
def raising_signals(*, last: bool = False) -> Iterator[None]:
    """Raise Interrupted in the body on SIGINT and SIGTERM; a second signal kills the process.

    Threads other than the main one leave signals alone. After the `last` body of a process a signal
    kills too: a handler of Python's would only print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def receive(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        received.append(number)
        interrupt(number, frame)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if is_importing(frame):  # extensions print a traceback of their own, and go on
            retry()
        else:
            raise Interrupted(received[0])

    def unraisable(lost: Any) -> None:
        if isinstance(lost.exc_value, Interrupted):  # raised in the garbage collector
            retry()
        else:
            hook(lost)

    def retry() -> None:
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, RETRY)

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {each: signal.signal(each, receive) for each in SIGNALS}
    before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
    try:
        yield
        if received:  # the body ended before the next try
            raise Interrupted(received[0])
    finally:
        if received:
            signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if last else handler)


def is_importing(frame: FrameType | None) -> bool:
    """Return whether a frame belongs to an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def keeping(kept: str) -> Iterator[None]:
    """Add a message to an interruption of the body: the work that is kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise Interrupted(getattr(interrupt, "number", signal.SIGINT), kept) from None
