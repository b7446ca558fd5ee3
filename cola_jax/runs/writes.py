"""Writes in threads: each may wait for storage, while the run hands out further work."""

import logging
import queue
import threading
from collections.abc import Callable

from cola_jax.errors import first_line

THREADS = 64  # writes at once: at 0.1 s a request, some 300 parts of two files a second
WAITING = 64  # writes that wait for a thread; further ones wait in the caller

log = logging.getLogger(__name__)


class Writes:
    """Calls functions in threads, and ends when all have returned.

    After an error no more are called. The threads do not keep a process alive that is
    interrupted once more while it waits for them.
    """

    def __init__(self):
        self.queue: queue.Queue[Callable[[], None] | None] = queue.Queue(WAITING)
        self.threads: list[threading.Thread] = []
        self.errors: list[Exception] = []

    def __enter__(self) -> "Writes":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.queue.join()
        for _ in self.threads:
            self.queue.put(None)
        if kind is None:
            self.check()
        for other in self.errors:  # the body has raised it, or one of its own
            log.error("a part was not written: %s", first_line(other))

    def submit(self, write: Callable[[], None]) -> None:
        """Call a function in a thread; waits while all are busy and many others wait.

        Raises the first error of an earlier one.
        """
        self.check()
        if len(self.threads) < THREADS:
            thread = threading.Thread(target=self.work, daemon=True)
            self.threads.append(thread)
            thread.start()
        self.queue.put(write)

    def flush(self) -> None:
        """Wait until all functions have returned; raises the first error."""
        self.queue.join()
        self.check()

    def check(self) -> None:
        """Raise the first error of a function."""
        if self.errors:
            raise self.errors[0]

    def work(self) -> None:
        """Call queued functions until the queue is closed."""
        while (write := self.queue.get()) is not None:
            try:
                if not self.errors:
                    write()
            except Exception as error:  # for the thread that hands out work
                self.errors.append(error)
            finally:
                self.queue.task_done()
