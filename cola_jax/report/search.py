"""The report of one or several searches: verdicts, the ten rows that matter, and all other rows."""

import math
from collections.abc import Sequence
from pathlib import PurePath

from cola_jax.report.controls import Change
from cola_jax.report.layers import CONTROLS, CORRECTED, RETAINED
from cola_jax.report.summary import Summary
from cola_jax.report.tables import RunReport, cost_texts, in_prompts, run_settings, run_title, title
from cola_jax.runs.run import Run
from cola_jax.scoring.number_format import (
    NO_VALUE,
    Row,
    Table,
    format_interval,
    format_mean,
    format_p,
    format_points,
    format_signed,
    is_shown,
    value_row,
)
from cola_jax.strategies.reached import ONCE
from cola_jax.strategies.summary import LABELS

GROUPS = {RETAINED: "right before (C→C)", CORRECTED: "wrong before (W→C)"}


def search_report(run: Run, summary: Summary) -> RunReport:
    """Make the report of a search from its summary."""
    manifest = run.manifest()
    tables = [
        Table(answer_rows(summary), "Answers"),
        Table(net_rows(summary), "Beyond the expected number"),
        Table(again_rows(summary), "Asked again in other wordings"),
        Table(kept_rows(summary), "Layers saved while the model keeps its answer"),
        Table(depth_rows(summary), "Layers run by a path (distinct layers)"),
        Table(cost_rows(summary), "Cost"),
    ]
    return RunReport(
        run_title(manifest["starts"][-1]),
        [summary.sentence],
        Table(main_rows(summary)),
        [table for table in tables if table.rows],
        search_lead(summary, in_prompts(manifest["settings"])),
        search_note(summary),
        [*run_settings(manifest), ("run directory", summary.directory)],
    )


def search_lead(summary: Summary, prompts: str) -> str:
    """State the size of a search, and that its paths are chosen by the answer."""
    unfinished = "" if summary.done == summary.planned else " (unfinished)"
    parts = {"control searches": summary.control_evaluations}
    parts["other wordings"] = summary.again_evaluations
    added = " and ".join(f"{number:,} by {name}" for name, number in parts.items() if number)
    shared = f" ({added})" if added else ""
    return (
        f"{summary.evaluations:,} evaluations{shared} on {summary.done:,} of {summary.planned:,} "
        f"questions{unfinished}, {prompts}; {summary.num_layers} layers. Only the "
        "correct answer tells which path is right, so a search by itself answers no question."
    )


def main_rows(summary: Summary) -> list[Row]:
    """List the at most ten rows that a reader looks for first."""
    noun, cost = summary.answer_noun, cost_texts(summary.cost, summary.model_cost)
    rows = [
        value_row("right before (pretrained model)", summary.before),
        *summary.rows(),
        value_row("C→C: right before, also on fewer layers", summary.shortened),
        value_row(f"own wrong {noun}s, also on fewer layers", summary.own_kept, control=True),
        Row(
            f"mean layers of the best paths, of {summary.num_layers}",
            (
                format_mean(summary.length),
                ", ".join(cost),
                "",
            ),
        ),
        value_row("evaluations per question", summary.evaluations / summary.done),
    ]
    if not summary.own_kept.n:
        rows = [row for row in rows if not row.label.startswith("own wrong")]
    if summary.dtype != "float32":  # nothing else was computed
        action = "decodes the same" if summary.decodes else "is right"
        rows.append(value_row(f"best path {action} in float32", summary.confirmed))
    return rows


def answer_rows(summary: Summary) -> list[Row]:
    """List what became of all questions, and of all paths that were tried."""
    noun = summary.answer_noun
    counts = {
        "wrong before, without a control": summary.without_control * bool(summary.control.n),
        "without finite scores, not compared": summary.unscored,
        "questions excluded, ungraded before": summary.excluded,
    }
    return [
        value_row("right on some path that was tried", summary.after),
        value_row("right before, on no path with fewer layers", summary.unchanged),
        value_row("W→W: right on no path that was tried", summary.unsolved),
        value_row(f"wrong {noun}s that searches reached", summary.control, control=True),
        value_row("paths tried, right before: wrong (C→W)", summary.broken),
        value_row("paths tried, wrong before: right (W→C)", summary.fixed),
        *(value_row(label, count) for label, count in counts.items() if count),
    ]


def net_rows(summary: Summary) -> list[Row]:
    """List W→C in the other ways of counting, and what the expected number rests on."""
    rows, net = [], summary.net
    for name, other in summary.nets.items():
        if other.n and name != summary.counted:
            rows += summary.rows(name)
    if summary.preference is not None:
        value = f"{summary.preference.tau:.2f} ± {summary.preference.error:.2f}"
        rows.append(value_row("the model's preference for gold, tau", value))
    if not math.isnan(net.interval[0]):
        label = f"gold minus a wrong {summary.answer_noun} as preferred"
        interval = format_interval(net.interval, signed=True)
        rows.append(Row(label, (f"{format_points(net.value)} points", interval, f"{net.n:,}")))
    return rows


def p_row(label: str, summary: Summary, name: str) -> Row:
    """Make the row of a p-value, with its correction."""
    p, corrected = summary.p_values[name]
    return Row(label, (format_p(p), "" if math.isnan(p) else f"Holm: {format_p(corrected)}", ""))


def again_rows(summary: Summary) -> list[Row]:
    """List the results of asking the questions in other wordings."""
    again = summary.again
    if again is None:
        return []
    return [
        value_row("model's answer in a wording: the same", again.agreement),
        value_row("right in all wordings before", again.before),
        value_row("wrong in all before, best path right in all", again.held),
        value_row("control: best path, likewise", again.held_control, control=True),
        value_row("right in some before, best path right in all", again.mixed),
        value_row("right in all before, also on a shorter path", again.shortened),
    ]


def kept_rows(summary: Summary) -> list[Row]:
    """List the layers saved where the model's answer is kept, whether right or wrong."""
    rows = []
    for name, kept in summary.kept.items():
        if not kept.n_wrong:  # no search for such an answer
            continue
        suffix, n = "" if name == ONCE else ", all wordings", kept.n_right + kept.n_wrong
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
    rows = [
        value_row("evaluations, each path and prompt once", summary.evaluations),
        value_row("of them by the searches for gold", summary.gold_evaluations),
        value_row("added by control searches", summary.control_evaluations, control=True),
    ]
    if summary.again_evaluations:
        rows.append(value_row("added by other wordings", summary.again_evaluations))
    rows.append(value_row("evaluations for gold, not finite", summary.not_finite))
    if summary.ungraded.hits:
        rows.append(value_row("evaluations for gold, ungraded", summary.ungraded))
    if summary.decodes:
        rows.append(value_row("evaluations for gold, truncated", summary.truncated))
        rows.append(value_row("tokens decoded per evaluation", summary.tokens))
    return rows


def search_note(summary: Summary) -> str:
    """Explain what the comparison assumes."""
    noun = summary.answer_noun
    parts = [
        "Intervals: 95 %; all tests are two-sided. W→C counts questions that have a control: the "
        f"same search for {'an' if noun[0] in 'ao' else 'a'} {noun} that is neither correct nor "
        "the model's own."
    ]
    if summary.preference is None:
        parts.append(f"Expected: any {noun} that was searched for may be the correct one.")
    else:
        parts.append(
            f"Expected: the correct {noun} is drawn among those searched for by the model's "
            "preference, exp(tau x score)."
        )
    parts.append("The interval beside it holds 95 % of such draws.")
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
    """State in a sentence whether a run reaches more beyond the expected number than the first."""
    way, net = next(iter(change.nets.items()), ("", None))
    if net is None or net.undecided or math.isnan(net.interval[0]):
        return "Nothing shown: too few questions differ to compare the runs beyond expectation."
    interval, p = format_interval(net.difference_interval, signed=True), change.p[way]
    shown = "Shown" if is_shown(p, net.interval) else "Nothing shown"
    points = f"{format_points(net.difference)} points of the wrong questions, beyond expectation"
    return f"{shown}: {points} (95 % interval {interval}, p {format_p(p)})."


def changes_table(names: Sequence[str], changes: Sequence[Change]) -> Table:
    """List the differences of each run but the first to the first one."""
    rows = []
    for name, change in zip(names[1:], changes, strict=True):
        for way, net in change.nets.items():
            value = "undecided" if net.undecided else format_points(net.difference)
            interval = format_interval(net.difference_interval, signed=True) or "too few differ"
            cells = value, interval, format_p(change.p[way]), f"{net.n:,}"
            rows.append(Row(f"{name}: {LABELS[way]}, beyond the expected", cells))
        pairs = {"right on some path that was tried": change.after}
        pairs["the same, on a shorter path"] = change.shortened
        for label, pair in pairs.items():
            interval = format_interval(pair.interval, signed=True)
            cells = format_points(pair.value), interval, format_p(pair.p), f"{pair.n:,}"
            rows.append(Row(f"{name}: {label}", cells))
    columns = ("", "points", "95 % interval", "p (Holm)", "n")
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
