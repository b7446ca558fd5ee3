"""Progress bars of calls from a notebook or a script, drawn by tqdm.

Commands show the same numbers in a way of their own: see `cola_jax.runs.progress`.
"""

import contextlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cola_jax.execute.metrics import Metrics

DELAY = 1.0  # seconds, so that short calls show nothing
INTERVAL = 0.2  # seconds between two looks at the metrics
BYTES = {"unit": "B", "unit_scale": True, "unit_divisor": 1000}
UNITS = {"loading": "B", "compiling": " programs", "evaluating": " evaluations"}
hidden = False  # as with --quiet


def is_shown(progress: bool | None) -> bool:
    """Say whether a call shows a bar: where it is not said, in a notebook or on a terminal."""
    if progress is not None:
        return progress
    return not hidden and ("ipykernel" in sys.modules or sys.stderr.isatty())


def new_bar(**options: Any) -> Any:
    """Make a bar, as a widget where a notebook can show one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets are missing: the bar is text then
        from tqdm.auto import tqdm

        return tqdm(delay=DELAY, dynamic_ncols=True, **options)


@contextlib.contextmanager
def byte_bar(what: str, progress: bool | None) -> Iterator[Callable[[int, int], None]]:
    """Yield the function to call with bytes done and in all, which a bar shows."""
    if not is_shown(progress):
        yield lambda done, total: None
        return
    with new_bar(desc=what, **BYTES) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextlib.contextmanager
def metrics_bar(metrics: "Metrics", progress: bool | None) -> Iterator[None]:
    """Show what metrics count while the body runs; what they counted before is left out."""
    if not is_shown(progress):
        yield
        return
    ended, before = threading.Event(), metrics.earlier + metrics.evaluations
    with new_bar(desc="evaluating", unit=UNITS["evaluating"], total=metrics.total - before) as bar:

        def show() -> None:
            name, done, total = metrics.stage()
            if name == "evaluating":
                done, total = done - before, total - before
            if bar.desc != f"{name}: ":
                bar.set_description(name, refresh=False)
                bar.unit = UNITS[name]
                bar.reset(total)
            bar.total = total
            bar.update(done - bar.n)

        def watch() -> None:
            while not ended.wait(INTERVAL):
                show()

        thread = threading.Thread(target=watch, name="progress bar")
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            show()
            bar.refresh()
