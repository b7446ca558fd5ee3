"""Finished searches of cells, and what the page says of each."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cola_jax.report.document import model_name
from cola_jax.runs.comparison import net_change
from cola_jax.runs.estimates import BEYOND, Estimate, number_text
from cola_jax.runs.layer_use import CONTROLS, CORRECTED, RETAINED, Depth
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.runs.search_results import ASKED_AGAIN
from cola_jax.scoring.statistics import holm
from cola_jax.strategies.reached import ONCE
from experiments.paper.cells import JOINT, Cell

GROUPS = (RETAINED, CONTROLS[RETAINED], CORRECTED, CONTROLS[CORRECTED])
TESTED = (BEYOND, BEYOND + ASKED_AGAIN, "difference, equal margin")
MORE = "net of {} minus that of {}"  # of two spaces


@dataclasses.dataclass(frozen=True)
class Result:
    """A search of a cell, whole or as far as it is."""

    cell: Cell
    run: Run
    results: Results
    num_layers: int
    model: str

    @property
    def name(self) -> str:
        """The model, the data set, the setting and the space."""
        cell = self.cell
        return f"{self.model}, {cell.data.name}, {cell.preset}, {cell.space}"

    @property
    def rows(self) -> int:
        """The finished questions."""
        return self.results.run["done"]

    def find(self, name: str) -> Estimate:
        """Return an estimate of the search; one without a value where it has none."""
        found = self.results.find(name)
        return Estimate(name) if found is None else found

    def hours(self) -> float:
        """Return the hours that all starts took."""
        every = [start.get("metrics") or {} for start in self.run.read_starts()[1]]
        return sum(each.get("seconds", 0) for each in every) / 3600


class Change(NamedTuple):
    """How much more one space reaches beyond its control than another, on the same questions."""

    first: Result
    other: Result
    estimate: Estimate


def read(runs: Iterable[tuple[Cell, Run]]) -> list[Result]:
    """Read the searches of cells; p-values are corrected over all of them (Holm)."""
    results = []
    for cell, run in runs:
        facts = run.facts()
        name = model_name(facts.start)
        results.append(Result(cell, run, run.summary(), facts.num_layers, name))
    return corrected(results)


def corrected(results: Sequence[Result]) -> list[Result]:
    """Correct the p-values of what is tested over all searches of the page."""
    tested = [
        (i, each.name)
        for i, result in enumerate(results)
        for each in result.results
        if each.name in TESTED and not math.isnan(each.p) and not each.note
    ]
    values = [results[i].find(name).p for i, name in tested]
    by_key = dict(zip(tested, holm(values), strict=True))
    out = []
    for i, result in enumerate(results):
        estimates = [
            dataclasses.replace(each, corrected=by_key[i, each.name])
            if (i, each.name) in by_key
            else each
            for each in result.results
        ]
        kept = Results(estimates, result.results.run)
        out.append(dataclasses.replace(result, results=kept))
    return out


def changes(results: Sequence[Result]) -> list[Change]:
    """Compare the joint space with each other space of its data set and setting.

    The p-values are corrected over all comparisons of the page (Holm).
    """
    found = list(joint_changes(results))
    values = holm([each.estimate.p for each in found])
    return [
        each._replace(estimate=dataclasses.replace(each.estimate, corrected=p))
        for each, p in zip(found, values, strict=True)
    ]


def joint_changes(results: Sequence[Result]) -> Iterator[Change]:
    """Yield the joint space against each other space, without a correction."""
    for result in results:
        cell = result.cell
        joint = dataclasses.replace(cell, space=JOINT)
        first = next((each for each in results if each.cell == joint), None)
        if first is None or first is result:
            continue
        net = net_change(result.run.ways().targets(ONCE), first.run.ways().targets(ONCE))
        low, high = net.difference_interval
        name = MORE.format(JOINT, cell.space)
        value = math.nan if net.undecided else net.difference
        estimate = Estimate(name, value=value, unit="points", low=low, high=high, p=net.p, n=net.n)
        yield Change(first, result, estimate)


def depth(paths: Depth) -> str:
    """Format the mean layers of paths, and of them the different ones."""
    return f"{number_text(paths.layers, 'layers')} ({number_text(paths.distinct, 'layers')})"


def with_interval(estimate: Estimate) -> str:
    """Format a value, its interval on a line of its own, and its p-value."""
    p = f"p {estimate.p_text}" if estimate.p_text else ""
    return "\n".join(filter(None, [estimate.size_text, estimate.interval_text, p]))
