"""Tables for the terminal, and the rows that the HTML page shows in the same order."""

import math
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cola_jax.report.controls import AGAIN, ONCE, ROBUST, AskedAgain
from cola_jax.report.details import cut_middle
from cola_jax.report.kept import Kept
from cola_jax.report.layers import ALL, CONTROLS, SHORTEST, Depth
from cola_jax.report.preference import Excess, Net
from cola_jax.report.summary import Summary
from cola_jax.scoring.statistics import Effect, Share

NO_VALUE = "–"
UNDECIDED = "undecided"
MAX_LEVEL = 100  # characters


class TableRow(NamedTuple):
    """One row of the summary, as text."""

    label: str
    value: str
    interval: str = ""
    n: str = ""
    role: str = ""  # `control` sets a row apart
    share: Share | None = None  # to draw


def summary_rows(summary: Summary, *, whole: bool = True) -> list[tuple[str, list[TableRow]]]:
    """Lists the rows of a summary by heading; not the whole of them for a terminal."""
    groups = [
        ("Answers", answer_rows(summary)),
        (
            "Against an answer given as often" if summary.open else "Beyond control",
            net_rows(summary),
        ),
        ("Asked again", again_rows(summary.again)),
        ("Layers kept", kept_rows(summary)),
        ("By level", level_rows(summary)),
        ("Depth", length_rows(summary)),
        ("Search", search_rows(summary)),
        ("Runs of a layer: early / middle / late third", use_rows(summary) if whole else []),
    ]
    return [(heading, rows) for heading, rows in groups if rows]


def answer_rows(summary: Summary) -> list[TableRow]:
    """Lists the shares of questions, each control directly below what it is compared with."""
    confirmed = "decodes the same in float32" if summary.decodes else "correct in float32 too"
    rows = [
        share_row("correct before (identity path)", summary.before),
        share_row("correct after (on some path)", summary.after),
        share_row("W→C: wrong before, correct after", summary.corrected),
        share_row(f"control: reached a wrong {summary.answer_noun}", summary.control, "control"),
        share_row("C→C, descriptive: on fewer layers", summary.shortened),
        share_row("identity path stays the best", summary.unchanged),
        share_row("W→W: correct on no path", summary.unsolved),
        share_row(f"best path {confirmed}", summary.confirmed),
    ]
    if summary.without_control and summary.control.n:
        count = f"{summary.without_control:,}"
        rows.append(TableRow("wrong before, without a control", count))
    if summary.unscored:
        rows.append(TableRow("without finite scores: not in net figures", f"{summary.unscored:,}"))
    if summary.excluded:
        rows.append(TableRow("questions excluded, ungraded before", f"{summary.excluded:,}"))
    return rows


def again_rows(again: AskedAgain | None) -> list[TableRow]:
    """Lists what held when the questions were asked in other variants."""
    if again is None:
        return []
    return [
        share_row("model's answer in a variant: the same", again.agreement),
        share_row("correct in all variants before", again.before),
        share_row("robust W→C: wrong in all, then right", again.corrected),
        share_row("its best path right in all variants", again.held),
        share_row("best path of its control, likewise", again.held_control, "control"),
        share_row("mixed: right in some, then in all", again.mixed),
        share_row("robust C→C: on fewer layers", again.shortened),
    ]


def level_rows(summary: Summary) -> list[TableRow]:
    """Lists the shares before and after by level."""
    rows = []
    for name, value, before, after in summary.levels:
        level = cut_middle(f"{name.replace('_', ' ')} {value}", MAX_LEVEL)
        rows.append(share_row(f"{level}: correct before", before))
        rows.append(share_row(f"{level}: correct after", after))
    return rows


def share_row(label: str, share: Share, role: str = "") -> TableRow:
    """Makes the row of a share."""
    interval = format_interval(share.interval)
    return TableRow(label, format_percent(share.value), interval, f"{share.n:,}", role, share)


LABELS = {
    ONCE: "W→C minus control",
    AGAIN: "best path, all ways, minus control",
    ROBUST: "robust W→C minus control",
}


def net_rows(summary: Summary) -> list[TableRow]:
    """Lists what was reached beyond the control searches."""
    if not any(net.n for net in summary.nets.values()):
        return []
    rows, p = [], summary.p_values
    for name, net in summary.nets.items():
        rows += [net_row(LABELS[name], net), p_row(name, *p[name])]
        if (curve := summary.curves.get(name)) is not None:
            rows.append(curve_row(f"by distance: {name}", curve))
    if summary.preference is not None:
        value = f"{summary.preference.tau:.2f} ± {summary.preference.error:.2f}"
        rows.append(TableRow("the model's preference for gold, tau", value))
    return rows


def p_row(name: str, p: float, corrected: float) -> TableRow:
    """Makes the row of a p-value, also as corrected for all of its table."""
    by_holm = "" if math.isnan(p) else f"Holm: {format_p(corrected)}"
    return TableRow(f"p, two-sided: {name}", format_p(p), by_holm, role="control")


def kept_rows(summary: Summary) -> list[TableRow]:
    """Lists the layers saved where the model's answer is kept, whether right or wrong."""
    rows, p = [], summary.p_values
    for name, kept in summary.kept.items():
        if not kept.n_wrong:  # no search for such an answer
            continue
        where = "" if name == ONCE else ", all ways"
        rows += [
            TableRow(
                f"saved on right answers{where}",
                format_mean(kept.right),
                n=f"{kept.n_right:,}",
            ),
            TableRow(
                f"on own wrong answers{where}",
                format_mean(kept.wrong),
                n=f"{kept.n_wrong:,}",
                role="control",
            ),
            kept_row(f"difference, equal margin{where}", kept),
            p_row(f"kept{where}", *p[f"kept {name}"]),
        ]
    return rows


def net_row(label: str, net: Net) -> TableRow:
    """Makes the row of what a search reached beyond its controls, in points, or as counts."""
    n = f"{net.n:,}"
    if net.undecided:
        return TableRow(label, UNDECIDED, "", n, "control")
    if math.isnan(net.interval[0]) and net.n:
        return TableRow(label, f"{net.reached}", f"{net.expected:.1f} expected", n, "control")
    interval = format_interval(net.interval, signed=True)
    return TableRow(label, format_points(net.value), interval, n, "control")


def curve_row(label: str, curve: Excess) -> TableRow:
    """Makes the row of what was reached beyond what the distance to gold explains."""
    interval = format_interval(curve.interval, signed=True)
    value = format_points(curve.value) if interval else NO_VALUE
    return TableRow(label, value, interval, f"{curve.n:,}", "control")


def format_p(p: float) -> str:
    """Formats a p-value."""
    return NO_VALUE if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def length_rows(summary: Summary) -> list[TableRow]:
    """Lists the mean lengths."""
    return [
        TableRow("layers before", f"{summary.num_layers}"),
        TableRow("layers after, mean over questions", format_mean(summary.length)),
        *depth_rows(summary),
    ]


def depth_rows(summary: Summary) -> list[TableRow]:
    """Lists the depth of best and of shortest paths, each with that of its control searches."""
    rows = []
    for name, control in CONTROLS.items():
        rows += [
            depth_row(f"{name} best paths: layers (different)", summary.depths[name]),
            depth_row("of control searches", summary.depths[control], "control"),
        ]
    each = zip(SHORTEST, summary.shortest, summary.shortest_control, strict=True)
    for share, own, control in each:
        rows += [
            depth_row(f"shortest {100 * share:g} % of correct paths", own),
            depth_row("of control searches", control, "control"),
        ]
    return rows


def depth_row(label: str, depth: Depth, role: str = "") -> TableRow:
    """Makes the row of the depth of some paths."""
    value = f"{format_mean(depth.layers)} ({format_mean(depth.distinct)})"
    return TableRow(label, value if depth.paths else NO_VALUE, n=f"{depth.paths:,}", role=role)


def use_rows(summary: Summary) -> list[TableRow]:
    """Lists how often paths run the layers of each third, and how evenly they run all."""
    rows = []
    for name, use in summary.layers.items():
        role = "control" if name in CONTROLS.values() else ""
        label = "all evaluations" if name == ALL else f"{name} best paths" if not role else name
        thirds = " / ".join(format_mean(third, 2) for third in use.thirds)
        rows.append(
            TableRow(label, thirds if use.paths else NO_VALUE, n=f"{use.paths:,}", role=role)
        )
    even = f"({math.log(summary.num_layers):.3f} if all run alike)"
    for name in CONTROLS:
        entropy = format_mean(summary.layers[name].entropy, 3)
        rows.append(TableRow(f"{name} entropy {even}", entropy))
    return rows


def kept_row(label: str, kept: Kept) -> TableRow:
    """Makes the row of layers saved on right answers beyond those saved on wrong ones."""
    n = f"{kept.n_right + kept.n_wrong:,}"
    if math.isnan(kept.interval[0]):
        return TableRow(label, NO_VALUE, "", n, "control")
    value, low, high = map(format_signed, (kept.difference, *kept.interval))
    return TableRow(label, value, f"{low} to {high}", n, "control")


def format_signed(value: float) -> str:
    """Formats a difference with its sign."""
    return f"{value:+.1f}".replace("-", "−")


def search_rows(summary: Summary) -> list[TableRow]:
    """Lists what the search evaluated."""
    tree = summary.tree
    return [
        *distinct_answer_rows(summary),
        TableRow("evaluations without control searches", f"{summary.evaluations:,}"),
        TableRow(
            f"with them ({control_cost(summary)})",
            f"{summary.evaluations + summary.control_evaluations:,}",
            role="control",
        ),
        TableRow("evaluations per question, mean", format_mean(summary.per_question)),
        share_row("evaluations not finite", summary.not_finite),
        *decoding_rows(summary),
        TableRow("duplicate evaluations", f"{summary.duplicates.hits:,}"),
        TableRow(
            "edits from the identity, mean (max)", f"{format_mean(tree.depth)} ({tree.max_depth})"
        ),
        TableRow("children per root, mean", format_mean(tree.root_children)),
        TableRow("children per expanded node, mean", format_mean(tree.children)),
    ]


def control_cost(summary: Summary) -> str:
    """Formats what the control searches cost beyond the searches for gold."""
    return f"{summary.control_evaluations / summary.evaluations:+.0%}"


def distinct_answer_rows(summary: Summary) -> list[TableRow]:
    """Lists the distinct answers of a question, where the scorer distinguishes them."""
    answers = format_mean(summary.answers)
    if summary.decodes:
        return [TableRow("distinct answers, mean", answers)]
    if summary.open:
        return []
    return [
        TableRow("distinct options answered, mean", f"{answers} of {format_mean(summary.options)}")
    ]


def decoding_rows(summary: Summary) -> list[TableRow]:
    """Lists how decoding and grading ended."""
    rows = []
    if summary.ungraded.hits:
        rows.append(share_row("evaluations ungraded", summary.ungraded))
    if summary.decodes:
        rows.append(share_row("evaluations truncated", summary.truncated))
        rows.append(TableRow("tokens decoded per evaluation, mean", format_mean(summary.tokens)))
    return rows


def summary_caption(summary: Summary) -> str:
    """Explains what the numbers are based on."""
    progress = f"{summary.done:,} of {summary.planned:,} questions"
    unfinished = "" if summary.done == summary.planned else " (unfinished)"
    parts = [
        f"{summary.evaluations:,} evaluations on {progress}{unfinished}. Intervals: 95 %; all "
        f"tests are two-sided. Control: the same search for an {summary.answer_noun} that is "
        "neither correct nor the model's own.",
        assumption(summary),
    ]
    if summary.ungraded.hits:
        parts.append("Ungraded: the grader failed; counts neither as correct nor as wrong.")
    if summary.decodes:
        parts.append("Truncated: the token limit ended the text before the answer was complete.")
    return " ".join(parts)


def assumption(summary: Summary) -> str:
    """Says what the figures beyond the control assume of a search that knows nothing."""
    if summary.preference is None:
        return "Minus control: against an answer given as often, either of which could be gold."
    undecided = any(net.undecided for net in summary.nets.values())
    return (
        f"{'Undecided: cannot be told from preference. ' if undecided else ''}"
        "Minus control: which target of a question is gold is drawn by the model's preference, "
        "exp(tau x score). By distance: of two answers as far from the model's own, either is "
        "reached as easily. A search that knows something should be clear by both. C→C is "
        "descriptive; compare layers kept on right and on wrong answers."
    )


def summary_table(summary: Summary) -> Table:
    """Formats a summary as a table that fits 80 columns."""
    table = Table(box=SIMPLE_HEAD, caption=summary_caption(summary), caption_justify="left")
    table.add_column("")
    for name in ("value", "95 % interval", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for _, rows in summary_rows(summary, whole=False):
        for row in rows:
            style = "yellow" if row.role == "control" else None
            label = Text(("↳ " if row.role else "") + row.label)
            table.add_row(label, row.value, row.interval, row.n, style=style)
        table.add_section()
    return table


def format_percent(value: float) -> str:
    """Formats a share with one decimal; only none and all read as 0 and 100 %."""
    if math.isnan(value):
        return NO_VALUE
    text = f"{100 * value:.1f} %"
    if text == "0.0 %" and value > 0:
        return "<0.1 %"
    if text == "100.0 %" and value < 1:
        return ">99.9 %"
    return text


def format_points(value: float) -> str:
    """Formats a difference of shares in percentage points, with its sign."""
    return NO_VALUE if math.isnan(value) else format_signed(100 * value)


def format_mean(value: float, decimals: int = 1) -> str:
    """Formats a mean."""
    return NO_VALUE if math.isnan(value) else f"{value:.{decimals}f}"


def format_interval(interval: tuple[float, float], signed: bool = False) -> str:
    """Formats an interval of shares in per cent, or of differences in percentage points."""
    low, high = interval
    if math.isnan(low):
        return ""
    if signed:
        return f"{format_points(low)} to {format_points(high)}"
    return f"{100 * low:.1f} to {100 * high:.1f}"


def effect_cells(effect: Effect) -> list[str]:
    """Formats accuracy, and the difference in points with its interval."""
    return [
        format_percent(effect.after.value),
        format_points(effect.difference.value),
        format_interval(effect.difference.interval, signed=True),
    ]
