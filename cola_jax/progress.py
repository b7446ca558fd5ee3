"""Progress of calls and commands: bars of tqdm in a notebook or on a terminal.

Elsewhere the logger `cola_jax` gets a line every ten seconds, which commands print.
"""

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cola_jax.errors import count

if TYPE_CHECKING:
    from cola_jax.execute.metrics import Metrics

DELAY = 1.0  # seconds, so that short calls show nothing
INTERVAL = 0.2  # seconds between two looks at the metrics
SECONDS_PER_LINE = 10.0
LINE = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
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


def new_bar(label: str, progress: bool | None, **options: Any) -> Any:
    """Make a bar, as a widget where a notebook can show one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets are missing: the bar is text then
        from tqdm.auto import tqdm

    options |= {"delay": DELAY, "miniters": 0, "smoothing": 0, "unit_divisor": 1000}
    if not (progress or "ipykernel" in sys.modules or sys.stderr.isatty()):
        options |= {"delay": SECONDS_PER_LINE, "mininterval": SECONDS_PER_LINE}
        options |= {"file": LogFile(), "bar_format": LINE}
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
    with new_bar(label, progress, unit="B", unit_scale=True) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


class MetricsBar:
    """A bar for each stage of a run; counts of its metrics before now are left out."""

    def __init__(self, metrics: "Metrics", progress: bool | None):
        self.metrics, self.progress = metrics, progress
        self.before = metrics.earlier + metrics.evaluations
        self.stage, self.bar = "", None

    def show(self, *, complete: bool = False) -> None:
        """Draw the bar; the total of a search is a bound, and a complete run ends there."""
        name, done, total = self.metrics.stage()
        if name == "loading" and not total:  # nothing is known yet
            return
        if name == "evaluating":
            done, total = done - self.before, total - self.before
        if name != self.stage:
            self.close()
            # earlier evaluations are done, but do not count for the speed
            options = {"unit": UNITS[name], "unit_scale": name == "loading", "initial": done}
            self.stage = name
            self.bar = new_bar(name, self.progress, total=total, leave=False, **options)
        bar: Any = self.bar
        bar.set_postfix_str(describe_results(self.metrics), refresh=False)
        bar.total = done if complete else total
        bar.update(done - bar.n)
        bar.leave = complete

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
    bar, ended, complete = MetricsBar(metrics, progress), threading.Event(), False

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


def describe_results(metrics: "Metrics") -> str:
    """Write the machines of a cluster, and the results of a search or the tokens decoded first."""
    parts = [count(metrics.machines, "machine")] if metrics.machines else []
    if metrics.corrected or metrics.shortened:
        parts.append(f"W→C {metrics.corrected}, shorter C→C {metrics.shortened}")
    elif metrics.tokens and not metrics.evaluations:
        parts.append(f"{metrics.tokens:,} tokens decoded")
    return ", ".join(parts)


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
