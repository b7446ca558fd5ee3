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

from cola_jax.execute.metrics import Metrics

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_UPDATES = 0.5


class ProgressDisplay:
    """Shows the metrics of a run while it runs; a context manager that owns a thread."""

    def __init__(self, console: Console, metrics: Metrics, *, searches: bool):
        self.console, self.metrics, self.searches = console, metrics, searches
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.stage: str | None = None
        self.begun = 0.0  # when the stage began
        self.counted = 0  # what was done of it then
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
        self.show(complete=kind is None)
        self.bar.stop()

    def watch(self) -> None:
        """Shows the metrics every now and then."""
        while not self.ended.wait(SECONDS_BETWEEN_UPDATES):
            self.show()

    def show(self, *, complete: bool = False) -> None:
        """Show how far the stage is that the run has reached, and what is left of it.

        The total of a search is a bound, so a `complete` run ends at what it evaluated.
        """
        name, done, total = self.metrics.stage()
        if complete and name == "evaluating":
            total = done
        now = time.monotonic()
        # what earlier starts evaluated is done, but no part of the speed
        count = self.metrics.evaluations if name == "evaluating" else done
        if name != self.stage:
            self.stage, self.begun, self.counted = name, now, count
            for task in self.bar.task_ids:
                self.bar.remove_task(task)
            self.bar.add_task("", total=None, note="")
        seconds = now - self.begun
        speed = (count - self.counted) / seconds if seconds > 1 else 0.0
        what, note = self.describe(name, done, total), self.note(name, speed)
        self.bar.update(
            self.bar.task_ids[0], total=total or None, completed=done, description=what, note=note
        )
        if self.bar.disable and now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            left = f"{(total - done) / speed:.0f} s left" if speed and total else ""
            self.console.print("  ".join(part for part in (what, note, left) if part))

    def describe(self, name: str, done: int, total: int) -> str:
        """Writes what is done of a stage."""
        if name == "evaluating":
            return f"{done:,}/{total:,} evaluations"
        if name == "compiling":
            return f"compiling: {done} of {total} programs"
        if not total:
            return "loading the weights"
        return f"loading the weights: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB"

    def note(self, name: str, speed: float) -> str:
        """Writes how fast evaluations are made, and what they have found."""
        if name != "evaluating":
            return ""
        metrics = self.metrics
        parts = [f"{speed:.1f}/s"] if metrics.evaluations else []
        if metrics.tokens and not metrics.evaluations:
            parts.append(f"{metrics.tokens:,} tokens decoded")
        if self.searches:
            parts += [f"W→C {metrics.corrected}", f"shorter C→C {metrics.shortened}"]
        return "  ".join(parts)


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
