"""The report of a search: a verdict, the ten rows that matter, and all other rows."""

import math

from cola_jax.report.controls import AGAIN, ONCE, ROBUST
from cola_jax.report.layers import CONTROLS, CORRECTED, RETAINED, SHORTEST, Depth
from cola_jax.report.summary import Summary
from cola_jax.report.tables import (
    NO_VALUE,
    Row,
    RunReport,
    Table,
    cut_middle,
    format_interval,
    format_mean,
    format_p,
    format_points,
    format_signed,
    is_shown,
    run_settings,
    run_title,
    share_row,
    value_row,
)
from cola_jax.runs.run import Run
from cola_jax.scoring.preference import Net

MAX_LEVEL = 100  # characters
LABELS = {
    ONCE: "now correct, beyond control (W→C)",
    AGAIN: "best path right in all variants, beyond control",
    ROBUST: "robust, beyond control (W→C)",
}
GROUPS = {RETAINED: "correct before (C→C)", CORRECTED: "wrong before (W→C)"}


def search_report(run: Run, summary: Summary) -> RunReport:
    """Make the report of a search from its summary."""
    manifest = run.manifest()
    return RunReport(
        run_title(manifest["starts"][-1]),
        [search_verdict(summary)],
        Table(main_rows(summary)),
        rest_tables(summary),
        search_lead(summary),
        search_note(summary),
        [*run_settings(manifest), ("run directory", summary.directory)],
    )


def search_verdict(summary: Summary) -> str:
    """State in a sentence whether the search found the correct answers more often than others.

    The p-value is corrected for all tests of the run.
    """
    net, noun, (_, p) = summary.net, summary.answer_noun, summary.p_values[summary.counted]
    low, high = net.interval
    interval = format_interval(net.interval, signed=True)
    size = f"{format_points(net.value)} points, 95 % interval {interval}, p {format_p(p)}"
    if low > 0 and is_shown(p, net.interval):
        return f"Shown: the search reaches the correct {noun} more often than a wrong one ({size})."
    if not net.n and summary.unscored:
        reason = "the pretrained model's scores, which the comparison needs, are not stored"
    elif not net.n:
        reason = "no question that was wrong before has a control search to compare with"
    elif net.undecided:
        reason = f"the model's preference alone nearly decides which {noun} is the correct one"
    elif math.isnan(low):
        reason = (
            f"the correct {noun} was reached on {net.reached} of {net.n} wrong questions, with "
            f"{net.expected:.1f} expected by chance, too few for an interval"
        )
    elif low > 0:
        reason = f"the lead of the correct {noun} does not survive the correction ({size})"
    elif high < 0:
        reason = f"a wrong {noun} is reached more often than the correct one ({size})"
    else:
        reason = f"a wrong {noun} may be reached as often as the correct one ({size})"
    return f"Nothing shown: {reason}."


def main_rows(summary: Summary) -> list[Row]:
    """List the at most ten rows that a reader looks for first."""
    p, corrected = summary.p_values[summary.counted]
    uncorrected = "" if math.isnan(p) else f"uncorrected {format_p(p)}"
    rows = [
        share_row("correct before (pretrained model)", summary.before),
        share_row("correct after, on some path", summary.after),
        share_row("wrong, then correct (W→C)", summary.corrected),
        share_row(f"control: reached a wrong {summary.answer_noun}", summary.control, True),
        net_row(LABELS[summary.counted], summary.net),
        Row("p, corrected for all tests", (format_p(corrected), uncorrected, "")),
        share_row("correct on a shorter path too (C→C)", summary.shortened),
        value_row(f"mean positions (model: {summary.num_layers})", format_mean(summary.length)),
        value_row("evaluations per question", format_mean(summary.per_question)),
    ]
    if summary.dtype != "float32":  # nothing else was computed
        action = "decodes the same" if summary.decodes else "correct"
        rows.append(share_row(f"best path {action} in float32", summary.confirmed))
    return rows


def rest_tables(summary: Summary) -> list[Table]:
    """List all other rows by heading."""
    tables = [
        Table(answer_rows(summary), "Answers"),
        Table(net_rows(summary), "Beyond control"),
        Table(again_rows(summary), "Asked again in other variants"),
        Table(kept_rows(summary), "Layers saved while the model keeps its answer"),
        Table(level_rows(summary), "By level"),
        Table(depth_rows(summary), "Positions of paths (distinct layers)"),
        Table(cost_rows(summary), "Cost"),
    ]
    return [table for table in tables if table.rows]


def answer_rows(summary: Summary) -> list[Row]:
    """List what became of all questions, and of all paths that were tried."""
    counts = {
        "wrong before, without a control": summary.without_control * bool(summary.control.n),
        "without finite scores, not compared": summary.unscored,
        "questions excluded, ungraded before": summary.excluded,
    }
    return [
        share_row("no shorter path is correct", summary.unchanged),
        share_row("correct on no path (W→W)", summary.unsolved),
        share_row("paths tried, correct before: wrong (C→W)", summary.broken),
        share_row("paths tried, wrong before: correct (W→C)", summary.fixed),
        *(value_row(label, f"{count:,}") for label, count in counts.items() if count),
    ]


def net_rows(summary: Summary) -> list[Row]:
    """List the net effects in the other ways of counting and testing."""
    rows = []
    for name, net in summary.nets.items():
        if net.n and name != summary.counted:
            rows += [net_row(LABELS[name], net), p_row(f"p: {name}", summary, name)]
        if net.n and (curve := summary.curves.get(name)) is not None:
            value, interval = 100 * curve.value, scaled(curve.interval)
            rows.append(signed_row(f"by distance: {name}", value, interval, curve.n, " points"))
    if summary.preference is not None:
        value = f"{summary.preference.tau:.2f} ± {summary.preference.error:.2f}"
        rows.append(value_row("the model's preference for gold, tau", value))
    return rows


def net_row(label: str, net: Net) -> Row:
    """Make the row of a net effect, in points, or as counts without an interval."""
    n = f"{net.n:,}"
    if net.undecided:
        return Row(label, ("undecided", "", n))
    if math.isnan(net.interval[0]) and net.n:
        return Row(label, (f"{net.reached} reached", f"{net.expected:.1f} expected", n))
    return signed_row(label, 100 * net.value, scaled(net.interval), net.n, " points")


def scaled(interval: tuple[float, float]) -> tuple[float, float]:
    """Convert an interval of shares to points."""
    return 100 * interval[0], 100 * interval[1]


def signed_row(
    label: str, value: float, interval: tuple[float, float], n: int, unit: str = ""
) -> Row:
    """Make the row of a difference; without an interval, it has no value either."""
    if math.isnan(interval[0]):
        return Row(label, (NO_VALUE, "", f"{n:,}"))
    shown, low, high = map(format_signed, (value, *interval))
    return Row(label, (shown + unit, f"{low} to {high}", f"{n:,}"))


def p_row(label: str, summary: Summary, name: str) -> Row:
    """Make the row of a p-value, with its correction."""
    p, corrected = summary.p_values[name]
    return Row(label, (format_p(p), "" if math.isnan(p) else f"Holm: {format_p(corrected)}", ""))


def again_rows(summary: Summary) -> list[Row]:
    """List the results of asking the questions in other variants."""
    again = summary.again
    if again is None:
        return []
    return [
        share_row("model's answer in a variant: the same", again.agreement),
        share_row("correct in all variants before", again.before),
        share_row("robust W→C: wrong in all, then correct", again.corrected),
        share_row("its best path correct in all variants", again.held),
        share_row("control: best path, likewise", again.held_control, True),
        share_row("mixed: correct in some, then in all", again.mixed),
        share_row("robust C→C: on a shorter path", again.shortened),
    ]


def kept_rows(summary: Summary) -> list[Row]:
    """List the layers saved where the model's answer is kept, whether right or wrong."""
    rows = []
    for name, kept in summary.kept.items():
        if not kept.n_wrong:  # no search for such an answer
            continue
        suffix, n = "" if name == ONCE else ", all variants", kept.n_right + kept.n_wrong
        rows += [
            value_row(f"on right answers{suffix}", format_mean(kept.right), kept.n_right),
            value_row(f"on own wrong answers{suffix}", format_mean(kept.wrong), kept.n_wrong, True),
            signed_row(f"difference, equal margin{suffix}", kept.difference, kept.interval, n),
            p_row(f"p{suffix}", summary, f"kept {name}"),
        ]
    return rows


def level_rows(summary: Summary) -> list[Row]:
    """List the shares before and after by level."""
    rows = []
    for name, value, before, after in summary.levels:
        level = cut_middle(f"{name.replace('_', ' ')} {value}", MAX_LEVEL)
        rows.append(share_row(f"{level}: correct before", before))
        rows.append(share_row(f"{level}: correct after", after))
    return rows


def depth_rows(summary: Summary) -> list[Row]:
    """List the depth of best and of shortest paths, each with that of its control searches."""
    rows = []
    for name, group in GROUPS.items():
        rows.append(depth_row(f"best paths, {group}", summary.depths[name]))
        rows.append(depth_row(f"control: {group}", summary.depths[CONTROLS[name]], True))
    each = zip(SHORTEST, summary.shortest, summary.shortest_control, strict=True)
    for share, gold, control in each:
        rows.append(depth_row(f"shortest {100 * share:g} % of correct paths", gold))
        rows.append(depth_row(f"control: shortest {100 * share:g} %", control, True))
    return rows


def depth_row(label: str, depth: Depth, control: bool = False) -> Row:
    """Make the row of the depth of some paths."""
    value = f"{format_mean(depth.layers)} ({format_mean(depth.distinct)})"
    return value_row(label, value if depth.paths else NO_VALUE, depth.paths, control)


def cost_rows(summary: Summary) -> list[Row]:
    """List what the search evaluated, and how decoding and grading ended."""
    total = summary.evaluations + summary.control_evaluations
    share = summary.control_evaluations / summary.evaluations
    rows = [
        value_row("evaluations without control searches", f"{summary.evaluations:,}"),
        value_row("control: added evaluations", f"{total - summary.evaluations:,}", control=True),
        value_row("control: added share", f"{share:+.0%}", control=True),
        share_row("evaluations not finite", summary.not_finite),
    ]
    if summary.decodes:
        rows.append(value_row("distinct answers, mean", format_mean(summary.answers)))
    elif not summary.open:
        answers = f"{format_mean(summary.answers)} of {format_mean(summary.options)}"
        rows.append(value_row("distinct options answered, mean", answers))
    if summary.ungraded.hits:
        rows.append(share_row("evaluations ungraded", summary.ungraded))
    if summary.decodes:
        rows.append(share_row("evaluations truncated", summary.truncated))
        rows.append(value_row("tokens decoded per evaluation", format_mean(summary.tokens)))
    return rows


def search_lead(summary: Summary) -> str:
    """State the size of the search."""
    unfinished = "" if summary.done == summary.planned else " (unfinished)"
    return (
        f"{summary.evaluations:,} evaluations on {summary.done:,} of {summary.planned:,} questions"
        f"{unfinished}, {summary.num_layers} layers."
    )


def search_note(summary: Summary) -> str:
    """Explain what the comparison assumes."""
    parts = [
        "Intervals: 95 %; all tests are two-sided. Control: the same search for an "
        f"{summary.answer_noun} that is neither correct nor the model's own."
    ]
    if summary.preference is None:
        parts.append("Beyond control: compared with another answer that was given as often.")
    else:
        parts.append(
            "Beyond control: gold is drawn among the targets of a question by the model's "
            "preference, exp(tau x score). By distance: of two answers as far from the model's "
            "own, either is reached as easily. Skill should show in both."
        )
    if any(net.undecided for net in summary.nets.values()):
        parts.append("Undecided: preference alone nearly decides which answer is gold.")
    if summary.ungraded.hits:
        parts.append("Ungraded: the grader failed; counts neither as correct nor as wrong.")
    if summary.decodes:
        parts.append("Truncated: the token limit ended the text before the answer was complete.")
    return " ".join(parts)
