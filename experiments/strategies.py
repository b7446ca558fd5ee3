"""Strategies of search against each other, at equal numbers of evaluations.

`python -m experiments.strategies --model CHECKPOINT --out FOLDER --task.task arithmetic` searches
the questions of a task with every strategy, asks what was found again in the task's variants, and
prints what each finds beyond its control searches after 25, 50, 100, ... evaluations. Run it again
to resume.
"""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tyro
from etils import epath

from cola_jax.report.statistics import Net, mean
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.session import Session
from cola_jax.search.again import budgets
from cola_jax.search.loop import resolve
from cola_jax.search.presets import Rules
from experiments.paper.results import layers as layers_of
from experiments.paper.results import points, show
from experiments.searches import Searches

HEAD = (
    "strategy", "evaluations", "W→C", "net, points", "robust, net", "layers saved on C→C, net",
    "robust, net", "first hit", "layers a question", "run in all", "layers run", "sharing",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Strategies(Searches):
    """Search with several strategies, and compare them."""

    strategies: tuple[str, ...] = ("random", "enumerate", "cola", "beam", "evolution", "best")
    """Presets to compare, with other values of their fields if need be: `cola`, or
    `best:block_power=0,epsilon=0.1`."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds, a run for each."""
    reuse: tuple[str, ...] = ()
    """Run directories whose evaluations are not run again, and so not counted as run."""


class Search(NamedTuple):
    """The search of a question for one target, with one seed."""

    paths: list[tuple[int, ...]]
    hits: dict[int, int]  # layers of each path that gives the target, by number of the evaluation
    robust: dict[int, int]  # of those that give it in all variants
    plain: list[bool]  # whether the pretrained model gives it, in each variant


def rules_of(text: str) -> Rules:
    """Reads a preset with changed fields, as `cola:epsilon=0.1`."""
    name, _, changes = text.partition(":")
    rules = resolve(name)
    values = dict(change.split("=") for change in changes.split(",") if change)
    return dataclasses.replace(rules, **{key: json.loads(one) for key, one in values.items()})


def searches(run: RunDirectory) -> dict[str, list[Search]]:
    """Reads the searches of every question, that for gold first."""
    paths: dict[tuple[str, int], dict[int, tuple[int, ...]]] = defaultdict(dict)
    right: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    columns = ["question", "target", "node", "verdict", "path"]
    for row in run.evaluations(columns).to_pylist():
        key = row["question"], row["target"]
        paths[key][row["node"]] = tuple(row["path"])
        if row["verdict"]:
            right[key][row["node"]] = len(row["path"])

    def search(name: str, target: int, one: dict[str, Any], baseline: bool) -> Search:
        hits, again = right[name, target], one["again"] or []
        held = {a["node"]: len(a["path"]) for a in again if all(a["holds"]) and a["node"] in hits}
        ordered = [path for _, path in sorted(paths[name, target].items())]
        return Search(ordered, hits, held, [baseline, *(again[0]["holds"] if again else [])])

    return {
        row["question"]: [
            search(row["question"], row["gold"], row, bool(row["baseline"])),
            *(search(row["question"], c["target"], c, False) for c in row["controls"] or []),
        ]
        for row in run.questions().to_pylist()
    }


# The searches of a question with one seed, that for gold first; and with each seed
Seeds = Sequence[list[Search]]


def effect(found: Iterable[Seeds], size: int, *, robust: bool) -> Net:
    """W→C beyond control within the first evaluations, over questions wrong (in all variants).

    Several seeds of a question are averaged first: intervals are over questions.
    """
    reached = [
        [[min(one.robust if robust else one.hits, default=size) < size for one in each]
         for each in fair]
        for seeds in found
        if (fair := [wrong_before(each, robust=robust) for each in seeds]) and all(fair)
    ]  # fmt: skip
    if any(len(seeds) > 1 for seeds in reached):
        gold = [np.mean([own for own, *_ in seeds]) for seeds in reached]
        controls = [np.mean([np.mean(rest) for _, *rest in seeds]) for seeds in reached]
        return Net.of(np.array(gold), np.array(controls))
    single = [each for (each,) in reached]
    return Net.of_hits(
        np.array([own for own, *_ in single], bool),
        np.array([sum(rest) for _, *rest in single]),
        np.array([len(rest) for _, *rest in single]),
    )


def wrong_before(each: list[Search], *, robust: bool) -> list[Search]:
    """Returns the searches whose target the model does not give, or none to compare."""
    own, *controls = each
    fair = [one for one in controls if not (robust and any(one.plain))]
    right = any(own.plain) if robust else own.plain[0]
    return [] if right or not fair else [own, *fair]


def saved(found: Iterable[Seeds], size: int, layers: int, *, robust: bool) -> Net:
    """Layers saved on questions right before (in all variants), beyond control."""

    def best(one: Search) -> int:
        lengths = one.robust if robust else one.hits
        return max(0, layers - min((n for i, n in lengths.items() if i < size), default=layers))

    gold, controls = [], []
    for seeds in found:
        kept = [
            [best(one) for one in (own, *rest)]
            for own, *rest in seeds
            if all(own.plain if robust else own.plain[:1]) and rest
        ]
        if kept:
            gold.append(np.mean([own for own, *_ in kept]))
            controls.append(np.mean([np.mean(rest) for _, *rest in kept]))
    return Net.of(np.array(gold), np.array(controls))


def layers_run(searches: Iterable[Search], size: int) -> float:
    """Layers that the first evaluations of a search for gold need, mean: each prefix runs once."""
    prefixes = [
        {path[:n] for path in one.paths[:size] for n in range(1, len(path) + 1)} for one in searches
    ]
    return mean(np.array([len(every) for every in prefixes]))


def compare(
    settings: Strategies, session: Session, name: str
) -> tuple[list[list[str]], list[dict[str, Any]]]:
    """Searches with one strategy, and returns the rows of the table and their values."""
    found: dict[str, list[list[Search]]] = defaultdict(list)
    metrics: list[dict[str, Any]] = []
    for seed in settings.seeds:
        directory = str(epath.Path(settings.out) / f"{name}-{seed}")
        reuse = [one for one in settings.reuse if one != directory]
        run = session.search(directory, settings.settings(rules_of(name), seed), reuse=reuse)
        for question, each in searches(run).items():
            found[question].append(each)
        metrics += [start["metrics"] for start in run.starts() if "metrics" in start]
    groups = list(found.values())
    own = [one for seeds in groups for one, *_ in seeds]
    wrong = [one for one in own if not one.plain[0]]
    rows, values = [], []
    for size in (*budgets(settings.evaluations + 1), settings.evaluations + 1):
        once, again = (effect(groups, size, robust=robust) for robust in (False, True))
        less, still = (
            saved(groups, size, session.num_layers, robust=robust) for robust in (False, True)
        )
        first = np.array([min(one.hits, default=size) for one in wrong])
        reached = mean(first < size)
        run_layers = layers_run(own, size)
        cost = [""] * 3
        if size - 1 == settings.evaluations:  # of the whole search, control searches included
            cost = [
                f"{sum(one['evaluations'] for one in metrics):,}",
                f"{sum(one['layer_evaluations'] for one in metrics):,}",
                f"{np.mean([one['prefix_sharing'] for one in metrics]):.2f}x",
            ]
        rows.append(
            [f"`{name}`", str(size - 1), f"{100 * reached:.0f} %", points(once), points(again),
             layers_of(less), layers_of(still), f"{mean(first):.1f}", f"{run_layers:,.0f}", *cost]
        )  # fmt: skip
        values.append(
            {"strategy": name, "evaluations": size - 1, "layers": run_layers, "corrected": reached,
             "net": once, "robust": again, "saved": less, "saved_robust": still}
        )  # fmt: skip
    return rows, values


def main(settings: Strategies) -> None:
    session = settings.prepare()
    compared = [compare(settings, session, name) for name in settings.strategies]
    show(HEAD, [row for rows, _ in compared for row in rows])
    values = [value for _, values in compared for value in values]
    file = epath.Path(settings.out) / "strategies.json"
    file.write_text(json.dumps(values, default=dataclasses.asdict, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Strategies, description=__doc__))
