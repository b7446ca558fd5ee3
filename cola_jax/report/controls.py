"""What the searches of a run reached, and how much more those of another run did."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.errors import InputError, shown
from cola_jax.runs.compare import check_comparable
from cola_jax.runs.run import Run
from cola_jax.runs.settings import again_digest
from cola_jax.scoring.preference import Net, Preference, Targets
from cola_jax.scoring.statistics import Difference, holm, number_or_none

MAX_RUNS = 6  # as many as have a colour of their own


class Change(NamedTuple):
    """How much more a run reaches than the first one, paired over the questions of both."""

    after: Difference  # correct on some path
    shortened: Difference  # correct on a path shorter than the model
    nets: dict[str, Net]  # W→C beyond the expected number, by the ways of counting of both runs
    p: dict[str, float]  # of them, corrected for their number and that of the runs compared

    def to_json(self) -> dict[str, Any]:
        """Return the net differences as a tree of numbers."""
        nets = {name: net.to_json() | {"p_holm": self.p[name]} for name, net in self.nets.items()}
        return number_or_none(nets)


def compare_runs(
    runs: Sequence[Run], num_layers: int, preference: Preference | None = None
) -> list[Change]:
    """Compare each run but the first with the first, on the questions that both have done.

    The preference is of another run of the model; by default fitted to each comparison.
    """
    first, *others = (run.ways() for run in runs)
    nets = [
        {
            name: net_change(first.targets(name), other.targets(name), preference)
            for name in first.names
            if name in other.names
        }
        for other in others
    ]
    p = iter(holm([math.nan if net.undecided else net.p for each in nets for net in each.values()]))
    reached, changes = first.solved(num_layers), []
    for other, net in zip(others, nets, strict=True):
        results = other.solved(num_layers)
        common = [id for id in reached if id in results]
        pairs = np.array([[reached[id], results[id]] for id in common], bool).reshape(-1, 2, 2)
        after, shortened = (Difference.of(pairs[:, 1, k], pairs[:, 0, k]) for k in (0, 1))
        changes.append(Change(after, shortened, net, {name: next(p) for name in net}))
    return changes


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


def check_search(run: Run) -> None:
    """Raise InputError for a run that is not a search."""
    command = run.settings().get("command")
    if command != "search":
        raise InputError(
            f"{run.directory} was made by {shown(command)}, not by a search: give a directory that "
            "`cola search` made."
        )


def check_runs(runs: Sequence[Run]) -> None:
    """Raise InputError unless the runs are comparable searches of one model."""
    if len(runs) > MAX_RUNS:
        raise InputError(f"a report compares at most {MAX_RUNS} runs, not {len(runs)}: give fewer.")
    for run in runs:
        check_search(run)
    every = [run.settings() for run in runs]
    # a run without other wordings is compared in the paths found once
    again = {again_digest(settings) for settings in every} - {None}
    if len(again) > 1:
        raise InputError(
            "the runs asked again in different wordings: give searches with the same --prompts and "
            "--shots-seed."
        )
    for run in runs[1:]:
        check_comparable(runs[0].asked(), run.asked())
