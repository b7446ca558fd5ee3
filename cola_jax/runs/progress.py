"""Showing the progress of a run: a bar on a terminal, a line now and then elsewhere."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cola_jax.execute.metrics import Metrics, compilations

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_UPDATES = 0.5


class ProgressDisplay:
    """Shows the metrics of a run while it runs; a context manager that owns a thread."""

    def __init__(self, console: Console, metrics: Metrics, *, searches: bool):
        self.console, self.metrics, self.searches = console, metrics, searches
        self.bar = Progress(
            TextColumn("{task.completed:,} of {task.total} evaluations"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None, visible=False, note="")
        self.begun: float | None = None
        self.last_line = time.monotonic()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.watch, name="progress")

    def __enter__(self) -> "ProgressDisplay":
        self.bar.start()
        self.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.set()
        self.thread.join()
        self.show()
        self.bar.stop()

    def watch(self) -> None:
        """Shows the metrics every now and then."""
        while not self.ended.wait(SECONDS_BETWEEN_UPDATES):
            self.show()

    def show(self) -> None:
        """Shows the metrics; evaluations of earlier starts are done, but not part of the speed."""
        metrics, now = self.metrics, time.monotonic()
        if not metrics.evaluations:
            self.show_start(now)
            return
        self.begun = now if self.begun is None else self.begun
        seconds = now - self.begun
        speed = metrics.evaluations / seconds if seconds > 1 else 0.0
        note = f"{speed:.1f}/s"
        if self.searches:
            note += f"  W→C {metrics.corrected}  shorter C→C {metrics.shortened}"
        done = metrics.earlier + metrics.evaluations
        self.bar.update(self.task, total=metrics.total, completed=done, note=note, visible=True)
        if self.bar.disable and now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            left = f"  {(metrics.total - done) / speed:.0f} s left" if speed else ""
            self.console.print(f"{done:,}/{metrics.total:,} evaluations  {note}{left}")

    def show_start(self, now: float) -> None:
        """Shows what goes on before the first evaluations are done."""
        count = compilations().count - self.metrics.compiled.count
        note = f"compiling and evaluating: {count} programs" if count else "loading the weights"
        self.bar.update(self.task, total=self.metrics.total or None, note=note, visible=True)
        if self.bar.disable and now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            self.console.print(note)


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Writes what a start took and saved, as a run's manifest has it, for people."""
    text = f"{metrics['evaluations']:,} evaluations in {metrics['seconds']:,.0f} s "
    text += f"({metrics['evaluations_per_second']:,.1f}/s)"
    if metrics["prefix_sharing"]:
        text += f"; prefix sharing {metrics['prefix_sharing']:.2f}x"
    if metrics["idle_share"] is not None:
        text += f"; device idle {metrics['idle_share']:.1%}"
    compiling = f"{metrics['compilations']} compilations, {metrics['compilation_seconds']:.0f} s"
    return f"{text}; {compiling}"


@contextlib.contextmanager
def byte_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows the bytes of a conversion, once there are any.

    Yields the function to call with bytes done and in all.
    """
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None, visible=False)
        said = False

        def show(done: int, total: int) -> None:
            nonlocal said
            if bar.disable and not said:
                console.print(f"{what} ({total / 1e6:,.0f} MB)", soft_wrap=True)
            said = True
            bar.update(task, completed=done, total=total, visible=True)

        yield show
