"""Strategies of search against each other, at equal numbers of evaluations.

`python -m experiments.strategies --model CHECKPOINT --out FOLDER --task.task arithmetic` searches
the questions of a task with every strategy, asks what was found again in the task's variants, and
prints what each finds beyond its control searches after 25, 50, 100, ... evaluations. Run it again
to resume.
"""

import dataclasses
import json
from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import tyro
from etils import epath

from cola_jax.commands.flags import TaskFlags
from cola_jax.report.statistics import Net
from cola_jax.runs.directory import RunDirectory
from cola_jax.search.again import budgets
from cola_jax.search.loop import resolve
from cola_jax.search.presets import Control, Rules, Settings
from cola_jax.tasks.task import TaskConfig
from experiments.paper.results import layers as layers_of
from experiments.paper.results import points, show

HEAD = (
    "strategy", "evaluations", "W→C", "net, points", "robust, net", "layers saved on C→C, net",
    "robust, net", "first hit", "run in all", "layers run", "sharing",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Strategies:
    """Search with several strategies, and compare them."""

    model: str
    """Checkpoint directory."""
    out: str
    """Folder for a run directory of each strategy and seed."""
    task: TaskConfig
    strategies: tuple[str, ...] = ("random", "enumerate", "cola", "beam", "evolution", "best")
    """Presets to compare, with other values of their fields if need be: `cola`, or
    `best:block_power=0,epsilon=0.1`."""
    evaluations: int = 100
    """Evaluations of a question, beyond the baseline."""
    leaves: int = 16
    """Evaluations of a question in a wave."""
    seeds: tuple[int, ...] = (0,)
    """Random seeds, a run for each."""
    control: Control = "one"
    """Wrong answers that are searched for as well."""
    decoys: str | None = None
    """Run with the model's answers on other paths, of which open questions get their decoys."""


class Search(NamedTuple):
    """The search of a question for one target."""

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
    rows: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    columns = ["question", "target", "node", "verdict", "length"]
    for row in run.evaluations(columns).to_pylist():
        if row["verdict"]:
            rows[row["question"], row["target"]][row["node"]] = row["length"]

    def search(name: str, target: int, one: dict[str, Any], baseline: bool) -> Search:
        hits, again = rows[name, target], one["again"] or []
        held = {a["node"]: len(a["path"]) for a in again if all(a["holds"]) and a["node"] in hits}
        return Search(hits, held, [baseline, *(again[0]["holds"] if again else [])])

    return {
        row["question"]: [
            search(row["question"], row["gold"], row, bool(row["baseline"])),
            *(search(row["question"], c["target"], c, False) for c in row["controls"] or []),
        ]
        for row in run.questions().to_pylist()
    }


def effect(found: list[list[Search]], size: int, *, robust: bool) -> Net:
    """W→C beyond control within the first evaluations, over questions wrong (in all variants)."""
    gold, hits, targets = [], [], []
    for own, *controls in found:
        plain = own.plain if robust else own.plain[:1]
        fair = [c for c in controls if not (robust and any(c.plain))]
        if any(plain) or not fair:
            continue
        reached = [
            min(one.robust if robust else one.hits, default=size) < size for one in (own, *fair)
        ]
        gold.append(reached[0])
        hits.append(sum(reached[1:]))
        targets.append(len(fair))
    return Net.of_hits(np.array(gold, bool), np.array(hits), np.array(targets))


def saved(found: list[list[Search]], size: int, layers: int, *, robust: bool) -> Net:
    """Layers saved on questions right before (in all variants), beyond control."""

    def best(one: Search) -> int:
        lengths = one.robust if robust else one.hits
        return max(0, layers - min((n for i, n in lengths.items() if i < size), default=layers))

    kept = [
        (own, controls)
        for own, *controls in found
        if all(own.plain if robust else own.plain[:1]) and controls
    ]
    gold = np.array([best(own) for own, _ in kept])
    return Net.of(gold, np.array([np.mean([best(c) for c in controls]) for _, controls in kept]))


def first_hit(found: list[list[Search]], size: int) -> float:
    """Evaluations to the first correct path of questions wrong before, mean; `size` for none."""
    numbers = [min(own.hits, default=size) for own, *_ in found if not own.plain[0]]
    return float(np.mean(numbers)) if numbers else float("nan")


def main(settings: Strategies) -> None:
    rows = []
    results = []
    session = TaskFlags(settings.model, settings.task, settings.out).prepare(settings.decoys)
    layers = session.num_layers
    for name in settings.strategies:
        found: list[list[Search]] = []
        metrics: list[dict[str, Any]] = []
        for seed in settings.seeds:
            search = Settings(
                rules_of(name),
                settings.evaluations,
                settings.leaves,
                seed,
                control=settings.control,
            )
            run = session.search(str(epath.Path(settings.out) / f"{name}-{seed}"), search)
            found += searches(run).values()
            metrics += [start["metrics"] for start in run.starts() if "metrics" in start]
        wrong = [own for own, *_ in found if not own.plain[0]]
        for size in (*budgets(settings.evaluations + 1), settings.evaluations + 1):
            once, again = (effect(found, size, robust=robust) for robust in (False, True))
            less, still = (saved(found, size, layers, robust=robust) for robust in (False, True))
            reached = float(np.mean([min(own.hits, default=size) < size for own in wrong]))
            results.append(
                {"strategy": name, "evaluations": size - 1, "corrected": reached,
                 "net": once, "robust": again, "saved": less, "saved_robust": still}
            )  # fmt: skip
            cost = [""] * 3
            if size - 1 == settings.evaluations:  # of the whole search, control searches included
                cost = [
                    f"{sum(one['evaluations'] for one in metrics):,}",
                    f"{sum(one['layer_evaluations'] for one in metrics):,}",
                    f"{np.mean([one['prefix_sharing'] for one in metrics]):.2f}x",
                ]
            rows.append(
                [f"`{name}`", str(size - 1), f"{100 * reached:.0f} %", points(once), points(again),
                 layers_of(less), layers_of(still), f"{first_hit(found, size):.1f}", *cost]
            )  # fmt: skip
    show(HEAD, rows)
    file = epath.Path(settings.out) / "strategies.json"
    file.write_text(json.dumps(results, default=dataclasses.asdict, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Strategies, description=__doc__))
