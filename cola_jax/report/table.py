"""Tables for the terminal, and the lines that the HTML page sets in the same order."""

from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cola_jax.path import format_path, identity
from cola_jax.report.share import Difference, Share, between, number, percent, points
from cola_jax.report.summary import Summary, flags, nulls
from cola_jax.runs.directory import RunDirectory


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
    groups = [
        ("Answers", answer_lines(summary)),
        ("By level", level_lines(summary)),
        ("Layers and search", [*length_lines(summary), *search_lines(summary)]),
    ]
    return [(heading, lines) for heading, lines in groups if lines]


def answer_lines(summary: Summary) -> list[Line]:
    """Lists the shares, the control directly beneath what it is to be compared with."""
    same = "best path decodes the same in float32" if summary.decodes else None
    lines = [
        share_line("right before (identity path)", summary.before),
        share_line("right after (some path is right)", summary.after),
        share_line("W→C: wrong before, right after", summary.corrected),
        share_line(f"control: reached a wrong {noun(summary)}", summary.control_wrong, "control"),
        difference_line("W→C minus control, in points", summary.net),
        share_line("control over all questions", summary.control, "control"),
        share_line("C→C: still right on fewer layers", summary.shortened),
        share_line(same or "best path right in float32 too", summary.confirmed),
    ]
    if summary.left_out:
        lines.append(Line("questions left out, ungraded before", f"{summary.left_out:,}"))
    return lines


def noun(summary: Summary) -> str:
    """Says what a question's answer is one of."""
    return "answer" if summary.open else "option"


def level_lines(summary: Summary) -> list[Line]:
    """Lists the shares before and after for each level."""
    lines = []
    for fact, value, before, after in summary.levels:
        name = f"{fact.replace('_', ' ')} {value}"
        lines.append(share_line(f"{name}: right before", before))
        lines.append(share_line(f"{name}: right after", after))
    return lines


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
        *variety_lines(summary),
        Line("evaluations", f"{summary.evaluations:,}"),
        Line("evaluations per question", number(summary.per_question)),
        share_line("evaluations not finite", summary.not_finite),
        *decoding_lines(summary),
        Line("evaluations of a path seen before", f"{summary.duplicates.hits:,}"),
        Line("edits from the identity, mean (most)", f"{number(shape.depth)} ({shape.max_depth})"),
        Line("children of the identity, mean", number(shape.root_children)),
        Line("children of paths with any, mean", number(shape.children)),
    ]


def variety_lines(summary: Summary) -> list[Line]:
    """Says how many answers a question got, where the scorer tells them apart."""
    if summary.decodes:
        return [Line("distinct answers, mean", number(summary.answers))]
    if summary.open:
        return []
    count = f"{number(summary.answers)} of {number(summary.options)}"
    return [Line("distinct options answered, mean", count)]


def decoding_lines(summary: Summary) -> list[Line]:
    """Lists what became of decoded answers."""
    lines = []
    if summary.ungraded.hits:
        lines.append(share_line("evaluations ungraded", summary.ungraded))
    if summary.decodes:
        lines.append(share_line("evaluations cut by the token limit", summary.cut))
        lines.append(Line("tokens decoded per evaluation, mean", number(summary.decoded)))
    return lines


def caption(summary: Summary) -> str:
    """Says how much the numbers rest on."""
    done = f"{summary.done:,} of {summary.planned:,} questions"
    unfinished = "" if summary.done == summary.planned else " (unfinished)"
    failed = (
        " Ungraded: the grader failed, so the answer counts neither as right nor as wrong."
        if summary.ungraded.hits
        else ""
    )
    return (
        f"{summary.evaluations:,} evaluations on {done}{unfinished}. Intervals: 95 %, Wilson; the "
        f"difference's is paired. Control: a fixed {noun(summary)} that is neither right nor the "
        "model's first answer; W→C shows skill only as far as it exceeds the control." + failed
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
    right: Share  # of the evaluations that were graded
    margin: float  # mean over the finite evaluations of them, NaN without one
    not_finite: Share  # of all evaluations
    cut: Share  # ended by the token limit; 0 of 0 where nothing is decoded
    decoded: float  # tokens, mean; NaN where nothing is decoded


def path_lines(run: RunDirectory) -> list[PathLine]:
    """Counts each path of an evaluate run, best first, of equals the shorter one.

    Raises ValueError for a run that is not of `evaluate` or has no question done yet.
    """
    settings = run.manifest()["settings"]
    check_evaluate(run, settings)
    rows = run.evaluations(["node", "verdict", "margin", "finite", "cut", "decoded"])
    if not rows.num_rows:
        raise ValueError(f"{run.directory} has no question done yet: let the evaluation run first.")
    paths = [tuple(path) for path in settings["paths"]]
    node, margin = rows["node"].to_numpy(), rows["margin"].to_numpy()
    graded, finite = ~nulls(rows["verdict"]), flags(rows["finite"])
    everything, read = np.ones(len(node), bool), ~nulls(rows["decoded"])

    def shares(hits: np.ndarray, among: np.ndarray) -> list[Share]:
        hit, all_ = (np.bincount(node[m], minlength=len(paths)) for m in (hits & among, among))
        return [Share(int(h), int(n)) for h, n in zip(hit, all_, strict=True)]

    def means(values: np.ndarray, among: np.ndarray) -> list[float]:
        sums = np.bincount(node[among], values[among], minlength=len(paths))
        with np.errstate(invalid="ignore"):
            return (sums / np.bincount(node[among], minlength=len(paths))).tolist()

    columns = (
        shares(flags(rows["verdict"]), graded),
        means(margin, graded & finite & np.isfinite(margin)),
        shares(~finite, everything),
        shares(flags(rows["cut"]), ~nulls(rows["cut"])),
        means(rows["decoded"].fill_null(0).to_numpy(), read),
    )
    lines = [PathLine(path, *line) for path, *line in zip(paths, *columns, strict=True)]
    # a path that was never graded has no share and comes last
    return sorted(lines, key=lambda x: (-x.right.value if x.right.n else 1, len(x.path)))


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
    settings, done = run.manifest()["settings"], run.questions(["question"]).num_rows
    table = Table(
        box=SIMPLE_HEAD,
        caption=paths_caption(lines, done, settings["questions"]),
        caption_justify="left",
    )
    decodes = settings.get("scorer") == "generate"
    table.add_column("path", overflow="fold", min_width=14 if decodes else 20)
    names = ["layers", "right", "95 % interval"]
    # the margin of a decoded answer is that of any one token, and makes room for what is telling
    names += ["not\nfinite", "cut", "tokens"] if decodes else ["margin", "not finite"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        marked = line.path == original
        broken = percent(line.not_finite.value)
        table.add_row(
            Text(format_path(line.path) + (" (identity)" if marked else "")),
            str(len(line.path)),
            percent(line.right.value),
            between(line.right.interval),
            *([broken, percent(line.cut.value)] if decodes else [number(line.margin, 2), broken]),
            *([number(line.decoded)] if decodes else []),
            style="bold" if marked else None,
        )
    return table


def paths_caption(lines: list[PathLine], done: int, planned: int) -> str:
    """Says how much the table of paths rests on."""
    evaluations = sum(line.not_finite.n for line in lines)
    ungraded = evaluations - sum(line.right.n for line in lines)
    cut, decoded = sum(line.cut.hits for line in lines), sum(line.cut.n for line in lines)
    parts = [f"{evaluations:,} evaluations on {done:,} of {planned:,} questions."]
    if ungraded:
        parts.append(
            f"{ungraded:,} of them ungraded, as the grader failed: they count neither as right "
            "nor as wrong."
        )
    if decoded:
        tokens = sum(line.decoded * line.cut.n for line in lines if line.cut.n) / decoded
        parts.append(
            f"Cut by the token limit: {percent(cut / decoded)}; tokens decoded: {number(tokens)} "
            "on average."
        )
    parts.append(
        "Intervals: 95 %, Wilson. The best of many paths was picked on these very questions, so "
        "it looks better than it is."
    )
    return " ".join(parts)
