"""Strategies of search against each other, at equal numbers of evaluations.

`python -m experiments.strategies --model CHECKPOINT --out FOLDER --task.task arithmetic` searches
the questions of a task with every strategy, asks the best paths again in other wordings, and prints
effects beyond control searches after 25, 50, 100, ... evaluations, or with `--same-layers` after as
many layers run as the first strategy runs for these. Run it again to resume.
"""

import bisect
import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tyro
from etils import epath

from cola_jax.cli.flags import DtypeChoice, RunFlags, TaskFlags
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import LayerPath
from cola_jax.runs.comparison import net_change
from cola_jax.runs.estimates import number_text
from cola_jax.runs.run import MANIFEST, Run
from cola_jax.runs.session import Session
from cola_jax.scoring.net import Net
from cola_jax.scoring.preference import Targets
from cola_jax.scoring.saved_layers import SavedLayers
from cola_jax.scoring.statistics import holm, mean, number_or_none
from cola_jax.strategies.loop import resolve
from cola_jax.strategies.reached import AGAIN, ONCE, Reached, Ways
from cola_jax.strategies.rules import Control, Rules, Settings
from cola_jax.tasks.task import TaskConfig
from experiments.tables import layers as layers_of
from experiments.tables import p_of, points, show

HEAD = (
    "strategy", "evaluations", "W→C", "samples", "net, points", "best path again, net",
    "layers kept, right minus wrong", "first hit of gold, of controls",
    "layers a question", "run in all", "layers run", "sharing",
)  # fmt: skip
KEPT = "kept"
CHANGES = ("strategy", "evaluations", "net, points", "best path again, net")
FIRST = 25  # evaluations of the first budget


@dataclasses.dataclass(frozen=True)
class Searches:
    """The flags of an experiment that runs several searches of one task."""

    model: str
    """Checkpoint directory."""
    out: str
    """Folder for the run directories."""
    task: TaskConfig
    evaluations: int = 100
    """Evaluations of a question, beyond the baseline."""
    leaves: int = 16
    """Evaluations of a question in a wave."""
    control: Control = "all"
    """Wrong answers that are searched for as well."""
    decoys: str | None = None
    """Run with the model's answers on other paths, which are the decoys of open questions."""
    dtype: DtypeChoice | None = None
    """Dtype of weights and activations; float32 on a CPU by default, else the checkpoint's own."""

    def prepare(self) -> Session:
        """Open the session of the searches, which ask again as those that are there do."""
        run = RunFlags(dtype=self.dtype)
        folder = epath.Path(self.out)
        there = sorted(file.parent for file in folder.glob(f"*/{MANIFEST}"))
        first = str(there[0] if there else folder / "run")
        return TaskFlags(self.model, self.task, first, run).prepare_search(self.decoys)

    def settings(self, rules: Rules, seed: int = 0) -> Settings:
        """Return the settings of a search with these rules."""
        return Settings(rules, self.evaluations, self.leaves, seed, control=self.control)


@dataclasses.dataclass(frozen=True)
class Strategies(Searches):
    """Search with several strategies, and compare them."""

    strategies: tuple[str, ...] = (
        "random",
        "enumerate",
        "cola",
        "stochastic-beam",
        "evolution",
        "best",
    )
    """Presets to compare, with other values of their fields if need be: `cola`, or
    `best:block_power=0,epsilon=0.1`."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds, a run for each."""
    reuse: tuple[str, ...] = ()
    """Run directories whose evaluations are not run again, and so not counted as run."""
    same_layers: bool = False
    """Compare after as many layers run as those of the first strategy, not evaluations: the
    attention and the MLP of a layer cost their shares of its weights."""


class Hits(NamedTuple):
    """The search of a question for one target, with one seed."""

    layers: list[float]  # run by its first evaluations 1, 2, ...; each prefix runs once
    hits: dict[int, tuple[float, float]]  # layers and -margin of paths that give the target by node
    holds: dict[int, bool]  # whether each that was asked again gives it in all wordings


class Budget(NamedTuple):
    """What a search may cost, the baseline included."""

    evaluations: int
    layers: float = float("inf")

    def of(self, search: Hits) -> int:
        """Return the evaluations of a search that are within the budget."""
        return min(self.evaluations, bisect.bisect_right(search.layers, self.layers))


def rules_of(text: str) -> Rules:
    """Read a preset with changed fields, as `cola:epsilon=0.1`."""
    name, _, changes = text.partition(":")
    rules = resolve(name)
    values = dict(change.split("=") for change in changes.split(",") if change)
    return dataclasses.replace(rules, **{key: json.loads(text) for key, text in values.items()})


def searches(run: Run) -> dict[tuple[str, int], Hits]:
    """Read the searches of every question, by its id and their target."""
    paths: dict[tuple[str, int], list[LayerPath]] = defaultdict(list)
    hits: dict[tuple[str, int], dict[int, tuple[float, float]]] = defaultdict(dict)
    holds: dict[tuple[str, int], dict[int, bool]] = defaultdict(dict)
    costs = run.facts().costs
    rows = run.evaluations(["question", "target", "node", "verdict", "margin", "path"])
    for row in sorted(rows.to_pylist(), key=lambda row: row["node"]):
        key = row["question"], row["target"]
        path = tuple(row["path"])
        paths[key].append(path)
        if row["verdict"]:
            hits[key][row["node"]] = costs.layers(path), -row["margin"]
    for row in run.questions(["question", "gold", "again", "controls"]).to_pylist():
        for each in (row, *(row["controls"] or ())):
            key = row["question"], each.get("target", row["gold"])
            holds[key] |= {path["node"]: all(path["holds"]) for path in each["again"] or ()}
    return {
        key: Hits(layers_after(each, costs), hits[key], holds[key]) for key, each in paths.items()
    }


def layers_after(paths: Sequence[LayerPath], costs: LayerCosts) -> list[float]:
    """Return the layers run by the first 1, 2, ... of paths, of which each prefix runs once."""
    known: set[LayerPath] = set()
    totals = []
    total = 0.0
    for path in paths:
        prefixes = {path[:n] for n in range(1, len(path) + 1)}
        total += costs.layers([prefix[-1] for prefix in prefixes - known])
        known |= prefixes
        totals.append(total)
    return totals


class Seed(NamedTuple):
    """The searches of a strategy with one seed."""

    ways: Ways
    hits: dict[tuple[str, int], Hits]

    def within(self, budget: Budget) -> Ways:
        """Count the first evaluations of each search, within a budget."""

        def cut(search: Hits) -> Reached:
            size = budget.of(search)
            hits = {node: hit for node, hit in search.hits.items() if node < size}
            best = min(hits, key=lambda node: hits[node], default=None)
            held = None if best is None else search.holds.get(best)
            return Reached(None if best is None else hits[best][0], held)

        cases = [
            case._replace(searches={j: cut(self.hits[case.id, j]) for j in case.searches})
            for case in self.ways.cases
        ]
        # of fewer evaluations, the best paths were not asked again
        is_whole = all(len(search.layers) <= budget.of(search) for search in self.hits.values())
        return self.ways._replace(cases=cases, names=self.ways.names if is_whole else (ONCE,))


class Measured(NamedTuple):
    """Hits of a strategy within a number of evaluations, averaged over seeds."""

    targets: dict[str, tuple[list[str], Targets]]  # ids, and hits [n, J] as shares of the seeds
    kept: SavedLayers


def measure(seeds: Sequence[Seed], budget: Budget, num_layers: int) -> Measured:
    """Measure a strategy; hits of seeds are averaged, layers kept are those of the first."""
    every = [seed.within(budget) for seed in seeds]
    targets = {}
    for name in every[0].names:
        each = [ways.targets(name) for ways in every]
        (ids, first), hits = each[0], np.mean([targets.hits for _, targets in each], axis=0)
        targets[name] = ids, first._replace(hits=hits if len(each) > 1 else first.hits)
    return Measured(targets, every[0].kept(ONCE, num_layers))


class FirstHits(NamedTuple):
    """The searches of wrong questions for gold, or for controls."""

    evaluations: list[int]  # to the first hit, or all within the budget
    found: list[bool]

    def add(self, search: Hits, budget: Budget) -> None:
        """Add a search."""
        size = budget.of(search)
        first = min(search.hits, default=size)
        self.evaluations.append(min(first, size))
        self.found.append(first < size)


def first_hits(seeds: Sequence[Seed], budget: Budget) -> tuple[FirstHits, FirstHits]:
    """Return the searches of wrong questions for gold, and for controls."""
    gold, controls = FirstHits([], []), FirstHits([], [])
    for seed in seeds:
        for case in (each.first() for each in seed.ways.cases):
            if case.before == "wrong":
                for target in case.searches:
                    if target not in case.answers:
                        kind = gold if target == case.gold else controls
                        kind.add(seed.hits[case.id, target], budget)
    return gold, controls


def layers_run(seeds: Sequence[Seed], budget: Budget) -> float:
    """Return the mean layers run by the searches for gold within a budget."""
    own = [seed.hits[case.id, case.gold] for seed in seeds for case in seed.ways.cases]
    return mean(np.array([search.layers[budget.of(search) - 1] for search in own]))


class Row(NamedTuple):
    """A strategy at a number of evaluations."""

    strategy: str
    evaluations: int
    measured: Measured
    nets: dict[str, Net]
    cells: tuple[str, ...]  # W→C, that of as many samples of the model, and its cost

    @classmethod
    def of(
        cls, name: str, budget: Budget, seeds: Sequence[Seed], num_layers: int, cost: Sequence[str]
    ) -> "Row":
        """Measure a strategy within a budget."""
        size = budget.evaluations
        measured = measure(seeds, budget, num_layers)
        nets = {way: Net.of(targets) for way, (_, targets) in measured.targets.items()}
        gold, controls = first_hits(seeds, budget)
        each = (mean(np.array(kind.evaluations)) for kind in (gold, controls))
        first = ", ".join(f"{evaluations:.1f}" for evaluations in each)
        run = f"{layers_run(seeds, budget):,.0f}"
        corrected = number_text(mean(np.array(gold.found)), "share")
        asked = (case.first() for case in seeds[0].ways.cases)
        samples = [case.sampled(size) for case in asked if case.before == "wrong"]
        sampled = number_text(mean(np.array(samples)), "share")
        return cls(name, size - 1, measured, nets, (corrected, sampled, first, run, *cost))

    def line(self, p: Mapping[tuple[str, int, str], float]) -> list[str]:
        """Format the row, with p-values as corrected for the table."""
        nets = [
            points(self.nets[way], p[self.strategy, self.evaluations, way])
            if way in self.nets else "–"
            for way in (ONCE, AGAIN)
        ]  # fmt: skip
        corrected, sampled, *cost = self.cells
        kept = layers_of(self.measured.kept, p[self.strategy, self.evaluations, KEPT])
        return [f"`{self.strategy}`", str(self.evaluations), corrected, sampled, *nets, kept, *cost]


class Compared(NamedTuple):
    """A strategy, and the layers run by its first evaluations, by their number."""

    rows: list[Row]
    layers: dict[int, float]


def compare(
    settings: Strategies, session: Session, name: str, layers: Mapping[int, float]
) -> Compared:
    """Search with a strategy, and measure it at each number of evaluations.

    Or after the `layers` that belong to each number, where these are given.
    """
    seeds, metrics = [], []
    for seed in settings.seeds:
        directory = str(epath.Path(settings.out) / f"{name}-{seed}")
        reuse = [run for run in settings.reuse if run != directory]
        run = session.search(directory, settings.settings(rules_of(name), seed), reuse=reuse)
        seeds.append(Seed(run.ways(), searches(run)))
        every = [start.get("metrics") for start in run.read_starts()[1]]
        metrics += [each for each in every if each and each["evaluations"]]
    rows = []
    run_by = {}
    for size in budgets(settings.evaluations + 1):
        cost = [""] * 3
        if size - 1 == settings.evaluations:  # of the whole search, control searches included
            cost = [
                f"{sum(start['evaluations'] for start in metrics):,}",
                f"{sum(start['layer_evaluations'] for start in metrics):,}",
                f"{mean(np.array([start['prefix_sharing'] for start in metrics])):.2f}x",
            ]
        run_by[size] = layers_run(seeds, Budget(size))
        budget = Budget(size, layers.get(size, math.inf))
        rows.append(Row.of(name, budget, seeds, session.model.config.num_layers, cost))
    return Compared(rows, run_by)


def budgets(evaluations: int) -> list[int]:
    """Return 26, 51, 101, ... up to the number of evaluations, the baseline included."""
    sizes = [1 + FIRST * 2**n for n in range(evaluations.bit_length())]
    return [*(size for size in sizes if size < evaluations), evaluations]


def changes(rows: Sequence[Row]) -> list[list[str]]:
    """Compare every strategy with the first one at equal numbers of evaluations."""
    first, lines = rows[0].strategy, []
    nets: dict[tuple[str, int, str], Net] = {}
    before = {row.evaluations: row.measured for row in rows if row.strategy == first}
    others = [row for row in rows if row.strategy != first]
    for row in others:
        for way, targets in row.measured.targets.items():
            known = before[row.evaluations].targets[way]
            nets[row.strategy, row.evaluations, way] = net_change(known, targets)
    p = corrected(nets)
    for row in others:
        keys = [(row.strategy, row.evaluations, way) for way in (ONCE, AGAIN)]
        cells = [points(nets[key], p[key], counts=False) if key in nets else "–" for key in keys]
        lines.append([f"`{row.strategy}` minus `{first}`", str(row.evaluations), *cells])
    return lines


def corrected(
    nets: Mapping[tuple[str, int, str], Net | SavedLayers],
) -> dict[tuple[str, int, str], float]:
    """Correct the p-values of a table by Holm's method."""
    return dict(zip(nets, holm(list(map(p_of, nets.values()))), strict=True))


def main(settings: Strategies) -> None:
    session = settings.prepare()
    rows: list[Row] = []
    layers: dict[int, float] = {}
    for name in settings.strategies:
        compared = compare(settings, session, name, layers)
        rows += compared.rows
        if settings.same_layers and not layers:
            layers = compared.layers
    p = corrected(
        {
            (row.strategy, row.evaluations, way): figure
            for row in rows
            for way, figure in (row.nets | {KEPT: row.measured.kept}).items()
        }
    )
    show(HEAD, [row.line(p) for row in rows])
    if len(settings.strategies) > 1:
        print()
        show(CHANGES, changes(rows))
    values = [
        {
            "strategy": row.strategy,
            "evaluations": row.evaluations,
            "net": {way: net._asdict() for way, net in row.nets.items()},
            "kept": row.measured.kept._asdict(),
        }
        for row in rows
    ]
    file = epath.Path(settings.out) / "strategies.json"
    file.write_text(json.dumps(number_or_none(values), indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Strategies, description=__doc__))
