"""Reads finished searches for the tables and figures of the paper, and prints Markdown."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from cola_jax.report.layers import ALL, CONTROLS, CORRECTED, RETAINED, Depth, LayerUse
from cola_jax.report.markdown import table
from cola_jax.report.page import model_name, task_name
from cola_jax.report.statistics import Net
from cola_jax.report.summary import Summary, summarise
from cola_jax.report.table import format_interval, format_mean, format_p, format_points
from cola_jax.runs.directory import RunDirectory

GROUPS = (RETAINED, CONTROLS[RETAINED], CORRECTED, CONTROLS[CORRECTED])


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished search."""

    name: str  # of its model and task
    run: RunDirectory
    summary: Summary


def read(directories: Iterable[str]) -> list[Result]:
    """Reads the searches of run directories."""
    results = []
    for directory in directories:
        run = RunDirectory(directory)
        start = run.manifest()["starts"][-1]
        name = f"{model_name(start)}, {task_name(start).removesuffix('.jsonl')}"
        results.append(Result(name, run, summarise(run)))
    return results


def layer_uses(results: Iterable[Result]) -> Iterator[tuple[Result, str, LayerUse]]:
    """Yields how the paths of every group of a search that has any use the layers."""
    for one in results:
        for group in (*GROUPS, ALL):
            use = one.summary.layers[group]
            if use.paths:
                yield one, group, use


def show(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    print("\n".join(table(tuple(head), [tuple(row) for row in rows])))


def points(net: Net) -> str:
    """Formats a difference in points with its interval and p-value."""
    if not net.n:
        return "–"
    p = "" if net.p != net.p else f", p = {format_p(net.p)}".replace("= <", "< ")
    return f"{format_points(net.value)} ({format_interval(net.interval, signed=True)}{p})"


def layers(net: Net) -> str:
    """Formats a difference in layers with its interval."""
    if not net.n:
        return "–"
    low, high = net.interval
    return f"{net.value:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def depth(one: Depth) -> str:
    """Formats the mean layers of paths, and of them the different ones."""
    return f"{format_mean(one.layers)} ({format_mean(one.distinct)})"
