"""Progress of calls and commands: bars of tqdm in a notebook or on a terminal.

Elsewhere the logger `cola_jax` gets a line every ten seconds, which commands print.
"""

import contextlib
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cola_jax.errors import count

if TYPE_CHECKING:
    from cola_jax.metrics import Metrics

DELAY = 1.0  # seconds, so that short calls show nothing
INTERVAL = 0.2  # seconds between two looks at the metrics
SECONDS_PER_LINE = 10.0
LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
COUNT = "{desc}: {n_fmt}{unit} [{elapsed}, {rate_fmt}{postfix}]"  # of an unknown total
SHARE = "{desc}: {percentage:.0f}% [{elapsed}<{remaining}{postfix}]"
BAR = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
UNITS = {"loading": "B", "compiling": " programs", "evaluating": " evaluations"}

OnProgress = Callable[[int, int], None]  # called with the bytes done and the total

log = logging.getLogger("cola_jax")
hidden = False  # as with --quiet


def ignore_progress(done: int, total: int) -> None:
    """No-op."""


class LogFile:
    """A file for tqdm that logs each line."""

    def write(self, text: str) -> None:
        if line := text.strip():
            log.info(line)

    def flush(self) -> None:
        """No-op."""


def new_bar(label: str, progress: bool | None, *, steps: bool = False, **options: Any) -> Any:
    """Make a bar, as a widget where a notebook can show one; of `steps`, the share alone counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets are missing: the bar is text then
        from tqdm.auto import tqdm

    options |= {"delay": DELAY, "miniters": 0, "smoothing": 0, "unit_divisor": 1000}
    if not (progress or "ipykernel" in sys.modules or sys.stderr.isatty()):
        options |= {"delay": SECONDS_PER_LINE, "mininterval": SECONDS_PER_LINE}
        line = SHARE if steps else LINE if options.get("total") else COUNT
        options |= {"file": LogFile(), "bar_format": line}
    elif steps:
        options |= {"bar_format": BAR}
    return tqdm(desc=label, dynamic_ncols=True, **options)


def is_hidden(progress: bool | None) -> bool:
    """Return whether a call shows no progress: by its argument, or else with --quiet."""
    return hidden if progress is None else not progress


@contextlib.contextmanager
def byte_bar(label: str, progress: bool | None = None) -> Iterator[OnProgress]:
    """Yield the function to call with bytes done and in all, which a bar shows."""
    if is_hidden(progress):
        yield ignore_progress
        return
    with new_bar(label, progress, unit="B", unit_scale=True, total=1) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


class MetricsBar:
    """A bar for each stage of a run; counts of its metrics before now are left out."""

    def __init__(self, metrics: "Metrics", progress: bool | None):
        self.metrics = metrics
        self.progress = progress
        self.before = metrics.earlier + metrics.evaluations
        self.stage = ""
        self.bar = None
        self.began = 0.0  # when the bar was made, and the evaluations by then
        self.evaluated = 0

    def show(self, *, complete: bool = False) -> None:
        """Draw the bar; a complete run ends at its total."""
        name, done, total = self.metrics.stage()
        if name == "loading" and not total:  # nothing is known yet
            return
        if name == "evaluating":
            done = done - self.before
            total = total - self.before
        known = total if total >= max(done, 1) else None
        if name != self.stage:
            self.close()
            # earlier evaluations are done, but do not count for the speed
            options = {"unit": UNITS.get(name, ""), "unit_scale": name == "loading"}
            options |= {"initial": done, "steps": name == "searching", "total": known}
            self.stage = name
            self.began = time.perf_counter()
            self.evaluated = self.metrics.evaluations
            self.bar = new_bar(name, self.progress, leave=False, **options)
        bar: Any = self.bar
        speed = [self.describe_speed()] if name == "searching" else []
        results = ", ".join([*speed, *describe_results(self.metrics)])
        bar.set_postfix_str(results, refresh=False)
        bar.total = done if complete else known
        bar.update(done - bar.n)
        bar.leave = complete

    def describe_speed(self) -> str:
        """Write the evaluations so far, and the speed of those since the bar was made."""
        metrics = self.metrics
        seconds = max(time.perf_counter() - self.began, 1e-9)
        rate = (metrics.evaluations - self.evaluated) / seconds
        return f"{metrics.earlier + metrics.evaluations:,} evaluations, {rate:,.1f}/s"

    def close(self) -> None:
        """Remove the bar, unless it is complete."""
        if self.bar is not None:
            self.bar.close()


@contextlib.contextmanager
def metrics_bar(metrics: "Metrics", progress: bool | None = None) -> Iterator[None]:
    """Show the growth of metrics while the body runs."""
    if is_hidden(progress):
        yield
        return
    bar = MetricsBar(metrics, progress)
    ended = threading.Event()
    complete = False

    def watch() -> None:
        while not ended.wait(INTERVAL):
            bar.show()

    thread = threading.Thread(target=watch, name="progress bar")
    thread.start()
    try:
        yield
        complete = True
    finally:
        ended.set()
        thread.join()
        bar.show(complete=complete)
        bar.close()


def describe_results(metrics: "Metrics") -> list[str]:
    """Write the machines of a cluster, and the results of a search or the tokens decoded first."""
    parts = [count(metrics.machines, "machine")] if metrics.machines else []
    if metrics.corrected or metrics.shortened:
        parts.append(f"W→C {metrics.corrected}, shorter C→C {metrics.shortened}")
    elif metrics.tokens and not metrics.evaluations:
        parts.append(f"{metrics.tokens:,} tokens decoded")
    return parts


def describe_metrics(metrics: Mapping[str, Any]) -> str:
    """Write the speed of a start, and its savings, from the metrics in a run's manifest."""
    text = f"{metrics['evaluations']:,} evaluations in {metrics['seconds']:,.0f} s "
    text += f"({metrics['evaluations_per_second']:,.1f}/s)"
    if metrics["prefix_sharing"]:
        text += f"; prefix sharing {metrics['prefix_sharing']:.2f}x"
    if metrics["idle_share"] is not None:
        text += f"; device idle at most {metrics['idle_share']:.1%}"
    if compilations := metrics["compilations"]:  # workers of Ray count none here
        text += f"; {compilations} compilations, {metrics['compilation_seconds']:.0f} s"
    return text
