"""Ends a command on a signal: in order the first time, at once the second."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS = 0.02  # until an exception that was dropped is raised again


class Interrupted(KeyboardInterrupt):
    """A signal ended a command; its text says which work is kept, where that is known."""

    number = signal.SIGINT


class Terminated(Interrupted):
    """The same, by SIGTERM."""

    number = signal.SIGTERM


@contextlib.contextmanager
def ended_in_order(*, last: bool = False) -> Iterator[None]:
    """Raise Interrupted in the body on SIGINT, Terminated on SIGTERM; a second one kills.

    Elsewhere than in the main thread, signals are left to whoever handles them. After the `last`
    body of a process a signal kills too: a handler of Python's would only print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ended: list[type[Interrupted]] = []

    def end(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)
        ended.append(Interrupted if number == signal.SIGINT else Terminated)
        again(number, frame)

    def again(number: int, frame: FrameType | None) -> None:
        if importing(frame):  # extensions print a traceback of their own, and go on
            put_off()
        else:
            raise ended[0]

    def unraisable(lost: Any) -> None:
        if isinstance(lost.exc_value, Interrupted):  # it fell into the garbage collector
            put_off()
        else:
            hook(lost)

    def put_off() -> None:
        signal.signal(signal.SIGALRM, again)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)

    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    before = {each: signal.signal(each, end) for each in SIGNALS}
    before[signal.SIGALRM] = signal.getsignal(signal.SIGALRM)
    try:
        yield
        if ended:  # put off until the body was done
            raise ended[0]
    finally:
        if ended:
            signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for each, handler in before.items():
            signal.signal(each, signal.SIG_DFL if last else handler)


def importing(frame: FrameType | None) -> bool:
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
        raise (Terminated if isinstance(interrupt, Terminated) else Interrupted)(kept) from None
