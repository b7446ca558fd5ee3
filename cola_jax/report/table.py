"""Tables for the terminal, and the lines that the HTML page sets in the same order."""

from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cola_jax.path import format_path, identity
from cola_jax.report.share import Difference, Share, between, number, percent, points
from cola_jax.report.summary import Summary, flags
from cola_jax.run import RunDirectory


class Line(NamedTuple):
    """One line of the summary: what is counted, and its value as text."""

    label: str
    value: str
    interval: str = ""
    n: str = ""
    role: str = ""  # `control` sets a line apart
    share: Share | Difference | None = None  # for whoever draws it


def summary_lines(summary: Summary) -> list[tuple[str, list[Line]]]:
    """Lists the lines of a summary under their headings."""
    return [
        ("Answers", answer_lines(summary)),
        ("Layers and search", [*length_lines(summary), *search_lines(summary)]),
    ]


def answer_lines(summary: Summary) -> list[Line]:
    """Lists the shares, the control directly beneath what it is to be compared with."""
    return [
        share_line("right before (identity path)", summary.before),
        share_line("right after (some path is right)", summary.after),
        share_line("W→C: wrong before, right after", summary.corrected),
        share_line("control: reached a wrong option", summary.control_wrong, "control"),
        difference_line("W→C minus control, in points", summary.net),
        share_line("control over all questions", summary.control, "control"),
        share_line("C→C: still right on fewer layers", summary.shortened),
        share_line("best path right in float32 too", summary.confirmed),
    ]


def share_line(label: str, share: Share, role: str = "") -> Line:
    """Makes the line of a share."""
    return Line(label, percent(share.value), between(share.interval), f"{share.n:,}", role, share)


def difference_line(label: str, difference: Difference) -> Line:
    """Makes the line of a difference of shares."""
    interval = between(difference.interval, signed=True)
    return Line(
        label, points(difference.value), interval, f"{difference.n:,}", "control", difference
    )


def length_lines(summary: Summary) -> list[Line]:
    """Lists the mean lengths."""
    return [
        Line("layers before", f"{summary.num_layers}"),
        Line("layers after, mean over questions", number(summary.length)),
        Line("layers of the best paths, C→C", number(summary.length_right)),
        Line("layers of the best paths, W→C", number(summary.length_corrected)),
    ]


def search_lines(summary: Summary) -> list[Line]:
    """Lists what the search did."""
    shape = summary.shape
    return [
        Line(
            "distinct options answered, mean",
            f"{number(summary.answers)} of {number(summary.options)}",
        ),
        Line("evaluations", f"{summary.evaluations:,}"),
        Line("evaluations per question", number(summary.per_question)),
        share_line("evaluations not finite", summary.not_finite),
        Line("evaluations of a path seen before", f"{summary.duplicates.hits:,}"),
        Line("edits from the identity, mean (most)", f"{number(shape.depth)} ({shape.max_depth})"),
        Line("children of the identity, mean", number(shape.root_children)),
        Line("children of paths with any, mean", number(shape.children)),
    ]


def caption(summary: Summary) -> str:
    """Says how much the numbers rest on."""
    done = f"{summary.done:,} of {summary.planned:,} questions"
    unfinished = "" if summary.done == summary.planned else " (unfinished)"
    return (
        f"{summary.evaluations:,} evaluations on {done}{unfinished}. Intervals: 95 %, Wilson; the "
        "difference's is paired. Control: a fixed option that is neither right nor the model's "
        "first answer; W→C shows skill only as far as it exceeds the control."
    )


def summary_table(summary: Summary) -> Table:
    """Sets a summary as a table that fits 80 columns."""
    table = Table(box=SIMPLE_HEAD, caption=caption(summary), caption_justify="left")
    table.add_column("")
    for name in ("value", "95 % interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, lines in summary_lines(summary):
        for line in lines:
            style = "yellow" if line.role == "control" else None
            label = Text(("↳ " if line.role else "") + line.label)
            table.add_row(label, line.value, line.interval, line.n, style=style)
        table.add_section()
    return table


class PathLine(NamedTuple):
    """What one given path made of all questions."""

    path: tuple[int, ...]
    right: Share
    margin: float  # mean over the finite evaluations, NaN without one
    not_finite: Share


def path_lines(run: RunDirectory) -> list[PathLine]:
    """Counts each path of an evaluate run, best first, of equals the shorter one.

    Raises ValueError for a run that is not of `evaluate` or has no question done yet.
    """
    settings = run.manifest()["settings"]
    check_evaluate(run, settings)
    rows = run.evaluations(["node", "verdict", "margin", "finite"])
    if not rows.num_rows:
        raise ValueError(f"{run.directory} has no question done yet: let the evaluation run first.")
    paths = [tuple(path) for path in settings["paths"]]
    node, margin = rows["node"].to_numpy(), rows["margin"].to_numpy()
    usable = flags(rows["finite"]) & np.isfinite(margin)

    def per_path(weights: np.ndarray) -> np.ndarray:
        return np.bincount(node, weights=weights, minlength=len(paths))

    counts = per_path(np.ones(len(node))).astype(int)
    right = per_path(flags(rows["verdict"])).astype(int)
    broken = per_path(~flags(rows["finite"])).astype(int)
    with np.errstate(invalid="ignore"):
        margins = per_path(np.where(usable, margin, 0.0)) / per_path(usable)
    lines = [
        PathLine(path, Share(int(r), int(n)), float(m), Share(int(b), int(n)))
        for path, r, n, m, b in zip(paths, right, counts, margins, broken, strict=True)
    ]
    return sorted(lines, key=lambda line: (-line.right.value, len(line.path)))


def check_evaluate(run: RunDirectory, settings: dict[str, Any]) -> None:
    """Raises ValueError for a run that did not evaluate given paths."""
    if settings.get("command") != "evaluate":
        raise ValueError(
            f"{run.directory} was made by {settings.get('command')!r}, not by an evaluation of "
            "given paths: use summarise for a search."
        )


def paths_table(run: RunDirectory) -> Table:
    """Sets an evaluate run as a table, one row per path, the identity path marked."""
    lines = path_lines(run)
    original = identity(int(run.manifest()["starts"][-1]["num_layers"]))
    planned, done = run.manifest()["settings"]["questions"], run.questions(["question"]).num_rows
    table = Table(
        box=SIMPLE_HEAD,
        caption=(
            f"{sum(line.right.n for line in lines):,} evaluations on {done:,} of {planned:,} "
            "questions. Intervals: 95 %, Wilson. The best of many paths was picked on these very "
            "questions, so it looks better than it is."
        ),
        caption_justify="left",
    )
    table.add_column("path", overflow="fold", min_width=20)
    for name in ("layers", "right", "95 % interval", "margin", "not finite"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        marked = line.path == original
        table.add_row(
            Text(format_path(line.path) + (" (identity)" if marked else "")),
            str(len(line.path)),
            percent(line.right.value),
            between(line.right.interval),
            number(line.margin, 2),
            percent(line.not_finite.value),
            style="bold" if marked else None,
        )
    return table
