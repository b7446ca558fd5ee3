"""The report of one or several searches: verdicts, the ten rows that matter, and all other rows."""

import math
from collections.abc import Sequence
from pathlib import PurePath

from cola_jax.report.controls import AGAIN, ONCE, ROBUST, Change
from cola_jax.report.layers import CONTROLS, CORRECTED, RETAINED
from cola_jax.report.summary import Summary
from cola_jax.report.tables import (
    NO_VALUE,
    Row,
    RunReport,
    Table,
    cost_texts,
    format_interval,
    format_mean,
    format_p,
    format_points,
    format_signed,
    in_prompts,
    is_shown,
    run_settings,
    run_title,
    title,
    value_row,
)
from cola_jax.runs.run import Run
from cola_jax.scoring.preference import Net

LABELS = {
    ONCE: "now correct, beyond control (W→C)",
    AGAIN: "best path right in all variants, beyond control",
    ROBUST: "robust, beyond control (W→C)",
}
GROUPS = {RETAINED: "correct before (C→C)", CORRECTED: "wrong before (W→C)"}


def search_report(run: Run, summary: Summary) -> RunReport:
    """Make the report of a search from its summary."""
    manifest = run.manifest()
    unfinished = "" if summary.done == summary.planned else " (unfinished)"
    lead = (
        f"{summary.evaluations:,} evaluations on {summary.done:,} of {summary.planned:,} questions"
        f"{unfinished}, {in_prompts(manifest['settings'])}; {summary.num_layers} layers."
    )
    tables = [
        Table(answer_rows(summary), "Answers"),
        Table(net_rows(summary), "Beyond control"),
        Table(again_rows(summary), "Asked again in other variants"),
        Table(kept_rows(summary), "Layers saved while the model keeps its answer"),
        Table(depth_rows(summary), "Positions of paths (distinct layers)"),
        Table(cost_rows(summary), "Cost"),
    ]
    return RunReport(
        run_title(manifest["starts"][-1]),
        [search_verdict(summary)],
        Table(main_rows(summary)),
        [table for table in tables if table.rows],
        lead,
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
    cost = ", ".join(cost_texts(summary.cost, summary.model_cost))
    positions = format_mean(summary.length), cost, ""
    rows = [
        value_row("correct before (pretrained model)", summary.before),
        value_row("correct after, on some path", summary.after),
        value_row("wrong, then correct (W→C)", summary.corrected),
        value_row(f"control: reached a wrong {summary.answer_noun}", summary.control, control=True),
        net_row(LABELS[summary.counted], summary.net),
        Row("p, corrected for all tests", (format_p(corrected), uncorrected, "")),
        value_row("correct on a shorter path too (C→C)", summary.shortened),
        Row(f"mean positions (model: {summary.num_layers})", positions),
        value_row("evaluations per question", summary.evaluations / summary.done),
    ]
    if summary.dtype != "float32":  # nothing else was computed
        action = "decodes the same" if summary.decodes else "correct"
        rows.append(value_row(f"best path {action} in float32", summary.confirmed))
    return rows


def answer_rows(summary: Summary) -> list[Row]:
    """List what became of all questions, and of all paths that were tried."""
    counts = {
        "wrong before, without a control": summary.without_control * bool(summary.control.n),
        "without finite scores, not compared": summary.unscored,
        "questions excluded, ungraded before": summary.excluded,
    }
    return [
        value_row("no shorter path is correct", summary.unchanged),
        value_row("correct on no path (W→W)", summary.unsolved),
        value_row("paths tried, correct before: wrong (C→W)", summary.broken),
        value_row("paths tried, wrong before: correct (W→C)", summary.fixed),
        *(value_row(label, count) for label, count in counts.items() if count),
    ]


def net_rows(summary: Summary) -> list[Row]:
    """List the net effects in the other ways of counting."""
    rows = []
    for name, net in summary.nets.items():
        if net.n and name != summary.counted:
            rows += [net_row(LABELS[name], net), p_row(f"p: {name}", summary, name)]
    if summary.preference is not None:
        value = f"{summary.preference.tau:.2f} ± {summary.preference.error:.2f}"
        rows.append(value_row("the model's preference for gold, tau", value))
    return rows


def net_row(label: str, net: Net) -> Row:
    """Make the row of a net effect, in points, or as counts without an interval."""
    n = f"{net.n:,}"
    if net.undecided:
        return Row(label, ("undecided", "", n))
    if math.isnan(net.interval[0]):
        counts = f"{net.reached} reached", f"{net.expected:.1f} expected"
        return Row(label, (*(counts if net.n else (NO_VALUE, "")), n))
    interval = format_interval(net.interval, signed=True)
    return Row(label, (f"{format_points(net.value)} points", interval, n))


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
        value_row("model's answer in a variant: the same", again.agreement),
        value_row("correct in all variants before", again.before),
        value_row("robust W→C: wrong in all, then correct", again.corrected),
        value_row("its best path correct in all variants", again.held),
        value_row("control: best path, likewise", again.held_control, control=True),
        value_row("mixed: correct in some, then in all", again.mixed),
        value_row("robust C→C: on a shorter path", again.shortened),
    ]


def kept_rows(summary: Summary) -> list[Row]:
    """List the layers saved where the model's answer is kept, whether right or wrong."""
    rows = []
    for name, kept in summary.kept.items():
        if not kept.n_wrong:  # no search for such an answer
            continue
        suffix, n = "" if name == ONCE else ", all variants", kept.n_right + kept.n_wrong
        difference, low, high = map(format_signed, (kept.difference, *kept.interval))
        shown = (difference, f"{low} to {high}") if low != NO_VALUE else (NO_VALUE, "")
        rows += [
            value_row(f"on right answers{suffix}", kept.right, kept.n_right),
            value_row(f"on own wrong answers{suffix}", kept.wrong, kept.n_wrong, control=True),
            Row(f"difference, equal margin{suffix}", (*shown, f"{n:,}")),
            p_row(f"p{suffix}", summary, f"kept {name}"),
        ]
    return rows


def depth_rows(summary: Summary) -> list[Row]:
    """List the depth of the best paths by group, each with that of its control searches."""
    rows = []
    for name, group in GROUPS.items():
        for label, key in ((f"best paths, {group}", name), (f"control: {group}", CONTROLS[name])):
            depth = summary.depths[key]
            value = f"{format_mean(depth.layers)} ({format_mean(depth.distinct)})"
            shown = value if depth.paths else NO_VALUE
            rows.append(value_row(label, shown, depth.paths, control=key != name))
    return rows


def cost_rows(summary: Summary) -> list[Row]:
    """List what the search evaluated, and how decoding and grading ended."""
    added = summary.control_evaluations
    rows = [
        value_row("evaluations without control searches", summary.evaluations),
        value_row("control: added evaluations", added, control=True),
        value_row("control: added share", f"{added / summary.evaluations:+.0%}", control=True),
        value_row("evaluations not finite", summary.not_finite),
    ]
    if summary.ungraded.hits:
        rows.append(value_row("evaluations ungraded", summary.ungraded))
    if summary.decodes:
        rows.append(value_row("evaluations truncated", summary.truncated))
        rows.append(value_row("tokens decoded per evaluation", summary.tokens))
    return rows


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
            "preference, exp(tau x score)."
        )
    if any(net.undecided for net in summary.nets.values()):
        parts.append("Undecided: preference alone nearly decides which answer is gold.")
    if summary.ungraded.hits:
        parts.append("Ungraded: the grader failed; counts neither as correct nor as wrong.")
    if summary.decodes:
        parts.append("Truncated: the token limit ended the text before the answer was complete.")
    return " ".join(parts)


def run_names(runs: Sequence[Run]) -> list[str]:
    """Name each run by the fewest last parts of its directory that tell it from the others."""
    parts = [PurePath(str(run.directory)).parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = [title("/".join(each[-count:])) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {title(str(run.directory))}" for number, run in enumerate(runs, 1)]


def change_verdict(change: Change) -> str:
    """State in a sentence whether a run reaches more beyond control than the first one."""
    way, net = next(iter(change.nets.items()), ("", None))
    if net is None or net.undecided or math.isnan(net.interval[0]):
        return "Nothing shown: too few questions differ to compare the runs beyond control."
    interval, p = format_interval(net.interval, signed=True), change.p[way]
    shown = "Shown" if is_shown(p, net.interval) else "Nothing shown"
    points = f"{format_points(net.value)} points of questions now correct, beyond control"
    return f"{shown}: {points} (95 % interval {interval}, p {format_p(p)})."


def changes_table(names: Sequence[str], changes: Sequence[Change]) -> Table:
    """List the differences of each run but the first to the first one."""
    rows = []
    for name, change in zip(names[1:], changes, strict=True):
        pairs = {"correct on some path": change.after, "on a shorter path": change.shortened}
        for label, pair in pairs.items():
            interval = format_interval(pair.interval, signed=True)
            cells = format_points(pair.value), interval, format_p(pair.p), f"{pair.n:,}"
            rows.append(Row(f"{name}: {label}", cells))
        for way, net in change.nets.items():
            value = "undecided" if net.undecided else format_points(net.value)
            interval = format_interval(net.interval, signed=True) or "too few differ"
            cells = value, interval, format_p(change.p[way]), f"{net.n:,}"
            rows.append(Row(f"{name}: {LABELS[way]}", cells))
    columns = ("", "difference", "95 % interval", "p (Holm)", "n")
    return Table(rows, f"Against {names[0]}, on the questions of both", columns)


def compared_report(
    names: Sequence[str], reports: Sequence[RunReport], changes: Sequence[Change]
) -> RunReport:
    """Join the reports of several searches into one with a column for each run."""
    every = [[report.main, *report.rest] for report in reports]
    headings = dict.fromkeys(table.heading for tables in every for table in tables)
    tables = [side_by_side(heading, names, every) for heading in headings]
    pairs = list(zip(names, reports, strict=True))
    verdicts = [f"{name}: {report.verdicts[0]}" for name, report in pairs]
    for name, change in zip(names[1:], changes, strict=True):
        verdicts.append(f"{name} against {names[0]}: {change_verdict(change)}")
    return RunReport(
        title=", ".join(dict.fromkeys(report.title for report in reports)),
        verdicts=verdicts,
        main=tables[0],
        rest=[changes_table(names, changes), *tables[1:]],
        lead=" ".join(f"{name}: {report.lead}" for name, report in pairs),
        note=" ".join(dict.fromkeys(report.note for report in reports)),
        settings=[(f"{name}: {key}", text) for name, each in pairs for key, text in each.settings],
    )


def side_by_side(heading: str, names: Sequence[str], every: Sequence[Sequence[Table]]) -> Table:
    """Put the tables of this heading beside each other, by label; a run may lack some rows."""
    rows: dict[str, Row] = {}
    for place, tables in enumerate(every):
        for row in (row for table in tables if table.heading == heading for row in table.rows):
            empty = row._replace(cells=("",) * len(names))
            cells = list(rows.setdefault(row.label, empty).cells)
            cells[place] = "\n".join(filter(None, row.cells[:2]))  # the value and its interval
            rows[row.label] = row._replace(cells=tuple(cells))
    return Table(list(rows.values()), heading, ("", *names))
