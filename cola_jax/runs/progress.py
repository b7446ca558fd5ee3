"""Showing how far a session is: a bar on a terminal, now and then a line elsewhere."""

import contextlib
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

from cola_jax.runs.counts import Counts

SECONDS_BETWEEN_LINES = 30.0


class Display:
    """Watches a session's counts, as a context manager that owns the bar."""

    def __init__(self, console: Console, searches: bool):
        self.console = console
        self.searches = searches
        self.bar = Progress(
            TextColumn("{task.completed:,}/{task.total:,} evaluations"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None, visible=False, note="")
        self.first: tuple[float, int] | None = None
        self.last_line = time.monotonic()

    def __enter__(self) -> "Display":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def watch(self, counts: Counts) -> None:
        """Shows the counts; what earlier starts did counts as done, but not for the speed."""
        now = time.monotonic()
        if self.first is None:
            self.first = (now, counts.evaluations)
        seconds = max(now - self.first[0], 1e-9)
        speed = (counts.evaluations - self.first[1]) / seconds if seconds > 1 else 0.0
        note = f"{speed:.1f}/s"
        if self.searches:
            note += f"  W→C {counts.fixed}  shorter C→C {counts.shortened}"
        self.bar.update(
            self.task, total=counts.total, completed=counts.evaluations, note=note, visible=True
        )
        if self.bar.disable and now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            left = f"  {(counts.total - counts.evaluations) / speed:.0f} s left" if speed else ""
            self.console.print(f"{counts.evaluations:,}/{counts.total:,} evaluations  {note}{left}")


def describe_use(use: Mapping[str, Any]) -> str:
    """Writes what a start took and saved, as a run's manifest has it, for people."""
    text = f"{use['evaluations']:,} evaluations in {use['seconds']:,.0f} s "
    text += f"({use['evaluations_per_second']:,.1f}/s)"
    if use["sharing"]:
        text += f"; a layer run served {use['sharing']:.2f} paths"
    if use["idle_share"] is not None:
        text += f"; device idle {use['idle_share']:.1%}"
    return f"{text}; {use['compilations']} compilations, {use['compilation_seconds']:.0f} s"


@contextlib.contextmanager
def byte_bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Shows a conversion's bytes; yields the function to call with bytes done and in all."""
    columns = (TextColumn("converting"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
