"""Several searches in one report: whether they are comparable, their names and differences."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from cola_jax.errors import InputError
from cola_jax.report.controls import Ways
from cola_jax.report.search import LABELS, search_report
from cola_jax.report.summary import Summary, check_search, ways_of
from cola_jax.report.tables import (
    Row,
    RunReport,
    Table,
    format_interval,
    format_p,
    format_points,
    is_shown,
    title,
)
from cola_jax.runs.run import Run
from cola_jax.runs.settings import asked_by_run, check_comparable
from cola_jax.scoring.preference import Net, Preference, Targets
from cola_jax.scoring.statistics import Difference, holm, number_or_none

MAX_RUNS = 6  # as many as have a colour of their own


class Change(NamedTuple):
    """How much more a run reaches than the first one, paired over the questions of both."""

    after: Difference  # correct on some path
    shortened: Difference  # correct on a path shorter than the model
    nets: dict[str, Net]  # W→C beyond control, by the ways of counting of both runs
    p: dict[str, float]  # of them, corrected for their number and that of the runs compared

    def to_json(self) -> dict[str, Any]:
        """Return the net differences as a tree of numbers."""
        kept = ("value", "interval", "p", "n", "informative")
        return number_or_none(
            {
                name: {field: getattr(net, field) for field in kept} | {"p_holm": self.p[name]}
                for name, net in self.nets.items()
            }
        )

    def verdict(self) -> str:
        """State whether the run reaches more beyond control than the first one."""
        way, net = next(iter(self.nets.items()), ("", None))
        if net is None or net.undecided or math.isnan(net.interval[0]):
            return "Nothing shown: too few questions differ to compare the runs beyond control."
        interval = format_interval(net.interval, signed=True)
        size = f"95 % interval {interval}, p {format_p(self.p[way])}"
        shown = "Shown" if is_shown(self.p[way], net.interval) else "Nothing shown"
        points = f"{format_points(net.value)} points of questions now correct, beyond control"
        return f"{shown}: {points} ({size})."

    def rows(self, name: str) -> list[Row]:
        """List the differences of the run of this name."""
        rows = []
        pairs = {"correct on some path": self.after, "on a shorter path": self.shortened}
        for label, change in pairs.items():
            interval = format_interval(change.interval, signed=True)
            cells = format_points(change.value), interval, format_p(change.p), f"{change.n:,}"
            rows.append(Row(f"{name}: {label}", cells))
        for way, net in self.nets.items():
            value = "undecided" if net.undecided else format_points(net.value)
            interval = format_interval(net.interval, signed=True) or "too few differ"
            cells = value, interval, format_p(self.p[way]), f"{net.n:,}"
            rows.append(Row(f"{name}: {LABELS[way]}", cells))
        return rows


def check_runs(runs: Sequence[Run]) -> None:
    """Raise InputError unless the runs are comparable searches of one model."""
    if len(runs) > MAX_RUNS:
        raise InputError(f"a report compares at most {MAX_RUNS} runs, not {len(runs)}: give fewer.")
    directories = [str(run.directory) for run in runs]
    if twice := next((name for name in directories if directories.count(name) > 1), None):
        raise InputError(f"{twice} is given twice: give each run once.")
    every = [run.manifest()["settings"] for run in runs]
    for run, settings in zip(runs, every, strict=True):
        check_search(run, settings)
    for directory, settings in zip(directories, every, strict=True):
        for name in ("robust", "variants"):
            value, other = (counting(each, name) for each in (every[0], settings))
            # a run without variants is compared in the paths found once
            if value != other and (name == "robust" or (value and other)):
                raise InputError(
                    f"{directories[0]} and {directory} are not comparable, they differ in "
                    f"--{name}: {value} and {other}: give searches of the same kind."
                )
    for run in runs[1:]:
        check_comparable(asked_by_run(runs[0]), asked_by_run(run))


def counting(settings: Mapping[str, Any], name: str) -> Any:
    """Return what a setting says about the answers that count as right."""
    value = settings.get(name)
    return sorted(value or ()) if name == "variants" else bool(value)


def run_names(runs: Sequence[Run]) -> list[str]:
    """Name each run by the fewest last parts of its directory that tell it from the others."""
    parts = [PurePath(str(run.directory)).parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = [title("/".join(each[-count:])) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {title(str(run.directory))}" for number, run in enumerate(runs, 1)]


def compare_runs(
    runs: Sequence[Run], num_layers: int, preference: Preference | None = None
) -> list[Change]:
    """Compare each run but the first with the first, on the questions that both have done.

    The preference is of another run of the model; by default fitted to each comparison.
    """
    if len(runs) < 2:
        return []
    first, *others = (ways_of(run) for run in runs)
    nets = [net_changes(first, other, preference) for other in others]
    p = holm([math.nan if net.undecided else net.p for each in nets for net in each.values()])
    corrected, reached, changes = iter(p), solved(first, num_layers), []
    for other, net in zip(others, nets, strict=True):
        results = solved(other, num_layers)
        common = [id for id in reached if id in results]
        pairs = np.array([[reached[id], results[id]] for id in common], bool).reshape(-1, 2, 2)
        after, shortened = (Difference.of(pairs[:, 1, k], pairs[:, 0, k]) for k in (0, 1))
        changes.append(Change(after, shortened, net, {name: next(corrected) for name in net}))
    return changes


def net_changes(first: Ways, other: Ways, preference: Preference | None) -> dict[str, Net]:
    """Compare the nets of two runs, on the targets of the questions of both."""
    return {
        name: net_change(first.targets(name), other.targets(name), preference)
        for name in first.names
        if name in other.names
    }


def net_change(
    first: tuple[list[str], Targets],
    other: tuple[list[str], Targets],
    preference: Preference | None = None,
) -> Net:
    """Test how much more a run reaches beyond control than the first one."""
    place = {name: i for i, name in enumerate(first[0])}
    common = [(place[name], i) for i, name in enumerate(other[0]) if name in place]
    before, after = np.array(common, int).reshape(-1, 2).T
    mine, others = first[1].take(before), other[1].take(after)
    width = min(mine.gaps.shape[1], others.gaps.shape[1])  # the rest is of other questions
    hits, gaps = others.hits[:, :width], others.gaps[:, :width] + 0 * mine.gaps[:, :width]
    targets = Targets(hits, gaps, others.weighted)
    return Net.of(targets, preference, before=mine.hits[:, :width])


def solved(ways: Ways, num_layers: int) -> dict[str, tuple[bool, bool]]:
    """Return for each graded question: correct on some path, and on a shorter path."""
    best = {case.id: case.searches[case.gold].best for case in ways.cases}
    return {id: (n is not None, n is not None and n < num_layers) for id, n in best.items()}


def changes_table(names: Sequence[str], changes: Sequence[Change]) -> Table:
    """List the differences of each run but the first to the first one."""
    rows = [
        row
        for name, change in zip(names[1:], changes, strict=True)
        for row in change.rows(name)
    ]  # fmt: skip
    columns = ("", "difference", "95 % interval", "p (Holm)", "n")
    return Table(rows, f"Against {names[0]}, on the questions of both", columns)


def compared_report(
    runs: Sequence[Run], summaries: Sequence[Summary], changes: Sequence[Change]
) -> RunReport:
    """Make a report with a column for each run; that of the run itself for a single one."""
    reports = [search_report(run, summary) for run, summary in zip(runs, summaries, strict=True)]
    if len(reports) == 1:
        return reports[0]
    names = run_names(runs)
    every = [[report.main, *report.rest] for report in reports]
    headings = dict.fromkeys(table.heading for tables in every for table in tables)
    tables = [side_by_side(heading, names, every) for heading in headings]
    return RunReport(
        title=", ".join(dict.fromkeys(report.title for report in reports)),
        verdicts=[
            *(f"{name}: {report.verdicts[0]}" for name, report in zip(names, reports, strict=True)),
            *(
                f"{name} against {names[0]}: {change.verdict()}"
                for name, change in zip(names[1:], changes, strict=True)
            ),
        ],
        main=tables[0],
        rest=[changes_table(names, changes), *tables[1:]],
        lead=" ".join(
            f"{name}: {report.lead}" for name, report in zip(names, reports, strict=True)
        ),
        note=" ".join(dict.fromkeys(report.note for report in reports)),
        settings=[
            (f"{name}: {setting}", value)
            for name, report in zip(names, reports, strict=True)
            for setting, value in report.settings
        ],
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
