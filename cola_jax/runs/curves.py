"""Curves of a search: what it reached by evaluations and by layers, and how often layers run.

A curve is a list of rows: x, a value, the bounds of its 95 % interval, and n.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from cola_jax.runs.layer_use import (
    ALL,
    LayerUse,
    Reach,
    group_searches,
    is_true,
    layer_use,
    reaches,
)
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.runs.search_results import COLUMNS
from cola_jax.scoring.net import Net
from cola_jax.scoring.preference import Preference
from cola_jax.scoring.statistics import Share, Z
from cola_jax.strategies.reached import Compared

NEVER = np.iinfo(np.int32).max  # the cost of a search that does not reach its target
MOST_STEPS = 40  # of a curve whose every step is a test
HITS = ["question", "verdict", "node", "target"]  # columns of evaluations
Curve = list[list[Any]]
Costs = Mapping[tuple[str, int], float]  # of searches that reached their target


def corrected_curves(run: Run, results: Results) -> dict[str, tuple[Curve, Curve]]:
    """Return the share of wrong questions corrected and the expected one.

    By the `evaluations` of a search, and by the `layers` of a path.
    """
    ways = run.ways()
    compared = ways.compared(ways.names[0])
    preference = results.preference()
    first, last = first_hits(run)
    lengths = {
        (case.id, target): search.best
        for case in compared.cases
        for target, search in case.searches.items()
        if search.best is not None
    }
    longest = max([run.facts().num_layers, *lengths.values()])
    shortest = max(0, min(lengths.values(), default=1) - 1)
    return {
        "evaluations": compared_curves(compared, first, preference, 0, last),
        "layers": compared_curves(compared, lengths, preference, shortest, longest),
    }


def compared_curves(
    compared: Compared, costs: Costs, preference: Preference | None, start: float, end: float
) -> tuple[Curve, Curve]:
    """Return the share of questions whose search reached gold at cost x, and the expected one."""
    every = (costs.get((case.id, j), NEVER) for case in compared.cases for j in case.searches)
    values = sorted({*every} - {NEVER})
    if len(values) > MOST_STEPS:
        values = [values[i * len(values) // MOST_STEPS] for i in range(MOST_STEPS)]
    reached: Curve = []
    expected: Curve = []
    for x in [start, *values, end] if compared.cases else ():
        targets = compared.reached(lambda case, j, x=x: costs.get((case.id, j), NEVER) <= x)
        net = Net.of(targets, preference, quick=True)
        low, high = net.by_chance
        reached.append(rounded([x, net.reached / net.n, math.nan, math.nan, net.n]))
        bounds = [net.expected / net.n, low / net.n, high / net.n]
        expected.append(rounded([x, *bounds, net.n]))
    return reached, expected


def first_hits(run: Run) -> tuple[Costs, int]:
    """Return the evaluations that each search made before it reached its target.

    By question and target; searches that did not are left out. Also returns the evaluations of the
    longest search.
    """
    first: dict[tuple[str, int], int] = {}
    last = 0
    for table in run.tables("evaluations", HITS):
        nodes = table["node"].to_numpy()
        last = max(last, int(nodes.max(initial=0)))
        for row in table.filter(pa.array(is_true(table["verdict"]))).to_pylist():
            search = row["question"], row["target"]
            first[search] = min(first.get(search, NEVER), row["node"])
    return first, last


def kept_curves(run: Run) -> dict[str, Curve]:
    """Return the share of searches of each group that reach their target, by layers allowed."""
    searches = group_searches(run.questions(COLUMNS))
    facts = run.facts()
    every = reaches(searches, facts.num_layers, facts.costs)
    return {name: reach_curve(reach) for name, reach in every.items()}


def reach_curve(reach: Reach) -> Curve:
    """List the share of searches by depth, from just below the first target that is reached."""
    first = max(int(np.argmax(reach.hits > 0)) - 1, 0)
    changes = np.diff(reach.hits, prepend=-1) != 0
    changes[[first, -1]] = True
    rows = []
    for x in np.flatnonzero(changes).tolist():
        share = Share(int(reach.hits[x]), reach.searches)
        if x >= first and share.n:
            rows.append(rounded([x, share.value, *share.interval, share.n]))
    return rows


def layer_curves(run: Run) -> dict[str, Curve]:
    """Return the mean runs of each layer by the shortest paths of each group, and by all paths."""
    num_layers = run.facts().num_layers
    rows = run.evaluations(["path", "control"])
    tried = layer_use(rows.filter(pa.array(~is_true(rows["control"])))["path"], num_layers)
    groups = group_searches(run.questions(COLUMNS))
    uses = {name: layer_use(paths.drop_null(), num_layers) for name, paths in groups.items()}
    return {name: layer_curve(use, tried) for name, use in (uses | {ALL: tried}).items()}


def layer_curve(use: LayerUse, tried: LayerUse) -> Curve:
    """List the mean runs of each layer.

    The variance is the larger of the group's and that of all paths tried, or the interval of a few
    paths that agree would be empty.
    """
    if not use.paths:
        return []
    reach = Z * np.sqrt(np.maximum(use.variance, tried.variance) / use.paths)
    low = np.maximum(use.runs - reach, 0)
    high = use.runs + reach
    columns = np.stack([use.runs, low, high], axis=1).tolist()
    return [rounded([layer, *cells, use.paths]) for layer, cells in enumerate(columns)]


def rounded(values: list[Any]) -> list[Any]:
    """Shorten the numbers of a row; a number that is not finite has no value in JSON."""
    return [
        (round(value, 5) if np.isfinite(value) else None) if isinstance(value, float) else value
        for value in values
    ]
