"""Several runs in one report: which may stand beside each other, their names and differences."""

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cola_jax.errors import InputError
from cola_jax.report.controls import Ways
from cola_jax.report.details import title
from cola_jax.report.preference import Net, Preference, Targets
from cola_jax.report.summary import check_search, ways_of
from cola_jax.report.table import (
    LABELS,
    UNDECIDED,
    TableRow,
    format_interval,
    format_p,
    format_points,
)
from cola_jax.runs.run import Run
from cola_jax.runs.settings import asked_by_run, check_comparable
from cola_jax.scoring.statistics import Difference, holm, number_or_none

MOST = 6  # runs whose colours are told apart


class Change(NamedTuple):
    """What a run finds more often than the first one, paired over the questions of both."""

    after: Difference  # correct on some path
    shortened: Difference  # correct on fewer layers than the model has
    nets: dict[str, Net]  # W→C beyond control, by what both runs count as right
    p: dict[str, float]  # of them, corrected for their number and that of the runs compared

    def to_json(self) -> dict[str, Any]:
        """Returns the net differences as a tree of numbers."""
        kept = ("value", "interval", "p", "n", "informative")
        return number_or_none(
            {
                name: {field: getattr(net, field) for field in kept} | {"p_holm": self.p[name]}
                for name, net in self.nets.items()
            }
        )

    @property
    def rows(self) -> list[TableRow]:
        """Lists the differences of what is beyond control."""
        rows = []
        for name, net in self.nets.items():
            value = UNDECIDED if net.undecided else format_points(net.value)
            interval = format_interval(net.interval, signed=True) or "too few differ"
            p = "" if math.isnan(self.p[name]) else f"; p {format_p(self.p[name])}"
            rows.append(TableRow(LABELS[name], value, f"{interval}{p}", f"{net.n:,}"))
        return rows


def check_runs(runs: Sequence[Run]) -> None:
    """Raises ValueError unless the runs are searches of one model, asked the same alike."""
    if len(runs) > MOST:
        raise InputError(f"a report compares at most {MOST} runs, not {len(runs)}: give fewer.")
    directories = [str(run.directory) for run in runs]
    if twice := next((one for one in directories if directories.count(one) > 1), None):
        raise InputError(f"{twice} is given twice: give each run once.")
    manifests = [run.manifest() for run in runs]
    for run, manifest in zip(runs, manifests, strict=True):
        check_search(run, manifest["settings"])
    check_ways(directories, [manifest["settings"] for manifest in manifests])
    compared = asked_by_run(runs[0])
    for run in runs[1:]:
        check_comparable(compared, asked_by_run(run))


def check_ways(directories: Sequence[str], settings: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError unless what counts as right is the same in all runs.

    A run that asked in no variant is compared in what is found once.
    """
    robust = [bool(each.get("robust")) for each in settings]
    variants = [sorted(each.get("variants") or ()) for each in settings]
    for i, other in enumerate(directories):
        differ: list[tuple[str, Any, Any]] = [("--robust", robust[0], robust[i])]
        if variants[0] and variants[i]:
            differ.append(("--variants", variants[0], variants[i]))
        for name, there, here in differ:
            if there != here:
                raise InputError(
                    f"{directories[0]} and {other} do not belong together, they differ in {name}: "
                    f"{there} and {here}: give searches of the same kind."
                )


def run_names(runs: Sequence[Run]) -> list[str]:
    """Names each run by as many of the last parts of its directory as tell it from the others."""
    parts = [PurePath(str(run.directory)).parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = [title("/".join(one[-count:])) for one in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {title(str(run.directory))}" for number, run in enumerate(runs, 1)]


def compare_runs(
    runs: Sequence[Run], num_layers: int, preference: Preference | None = None
) -> list[Change]:
    """Compares each run but the first with the first, on the questions that both have done.

    The preference is of another run of the model; by default fitted to each comparison.
    """
    if len(runs) < 2:
        return []
    every = [ways_of(run) for run in runs]
    results = [question_results(ways, num_layers) for ways in every]
    nets = [net_changes(every[0], other, preference) for other in every[1:]]
    corrected = iter(holm([math.nan if n.undecided else n.p for one in nets for n in one.values()]))
    first, compared = results[0], []
    for other, net in zip(results[1:], nets, strict=True):
        common = [name for name in first if name in other]
        pairs = np.array([[first[name], other[name]] for name in common], bool)
        pairs = pairs.reshape(len(common), 2, 2)
        after, shortened = (Difference.of(pairs[:, 1, k], pairs[:, 0, k]) for k in (0, 1))
        compared.append(Change(after, shortened, net, {name: next(corrected) for name in net}))
    return compared


def changes_table(names: Sequence[str], every: Sequence[Change]) -> Table:
    """Formats what each run but the first finds more than the first one."""
    table = Table(box=SIMPLE_HEAD, title=f"against {names[0]}", title_justify="left")
    table.add_column("")
    for name in ("difference", "95 % interval; p (Holm)", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, change in zip(names[1:], every, strict=True):
        for label, one in (("on some path", change.after), ("on fewer layers", change.shortened)):
            interval = format_interval(one.interval, signed=True)
            cells = format_points(one.value), interval, f"{one.n:,}"
            table.add_row(Text(f"{name}: correct {label}"), *cells)
        for row in change.rows:
            table.add_row(Text(f"{name}: {row.label}"), row.value, row.interval, row.n)
        table.add_section()
    return table


def net_changes(first: Ways, other: Ways, preference: Preference | None) -> dict[str, Net]:
    """Compares what two runs reach beyond control, on the targets of the questions of both."""
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
    """Tests how much more a run reaches beyond control than the first one."""
    place = {name: i for i, name in enumerate(first[0])}
    common = [(place[name], i) for i, name in enumerate(other[0]) if name in place]
    before, after = np.array(common, int).reshape(-1, 2).T
    mine, others = first[1].take(before), other[1].take(after)
    width = min(mine.gaps.shape[1], others.gaps.shape[1])  # the rest is of other questions
    hits, gaps = others.hits[:, :width], others.gaps[:, :width] + 0 * mine.gaps[:, :width]
    targets = Targets(hits, gaps, others.weighted)
    return Net.of(targets, preference, before=mine.hits[:, :width])


def question_results(ways: Ways, num_layers: int) -> dict[str, tuple[bool, bool]]:
    """Says of each question whose baseline is graded: correct on some path, and on fewer layers."""
    best = {one.id: one.searches[one.gold].best for one in ways.asked}
    return {
        name: (layers is not None, layers is not None and layers < num_layers)
        for name, layers in best.items()
    }
