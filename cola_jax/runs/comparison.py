"""Estimates of several searches of one model: how much more each reaches than the first."""

import math
from collections.abc import Sequence

import numpy as np

from cola_jax.errors import InputError, shown
from cola_jax.runs.compare import check_comparable
from cola_jax.runs.estimates import BEYOND, Estimate
from cola_jax.runs.run import Run
from cola_jax.runs.search_results import AFTER, ASKED_AGAIN, limit_of
from cola_jax.runs.settings import again_digest
from cola_jax.scoring.net import Net
from cola_jax.scoring.preference import Preference, Targets
from cola_jax.scoring.statistics import ALPHA, Difference, holm
from cola_jax.strategies.reached import AGAIN

MAX_RUNS = 6  # as many as have a colour of their own


def compare_runs(
    runs: Sequence[Run], names: Sequence[str], preference: Preference | None = None
) -> list[Estimate]:
    """Compare each run but the first with the first, on the questions that both have done.

    Args:
      runs: searches of one model.
      names: of the runs, which are the groups of the estimates.
      preference: of another run of the model; by default fitted to each comparison.

    Raises InputError unless the runs are comparable searches.
    """
    check_runs(runs)
    num_layers = runs[0].facts().num_layers
    every = [run.ways() for run in runs]
    first = every[0]
    compared = [(name, way) for name in names[1:] for way in first.names]
    alpha = ALPHA / max(1, len(compared))
    nets: dict[tuple[str, str], Net] = {}  # by run and way of counting
    notes: dict[tuple[str, str], str] = {}  # what limits them
    for name, other in zip(names[1:], every[1:], strict=True):
        for way in first.names:
            if way in other.names:
                net = net_change(first.targets(way), other.targets(way), preference, alpha)
                nets[name, way] = net
                known = first.weighted and other.weighted
                notes[name, way] = limit_of(net, weighted=known)
    corrected = holm([math.nan if notes[key] else net.p for key, net in nets.items()])
    estimates = []
    for ((name, way), net), p in zip(nets.items(), corrected, strict=True):
        estimates.append(change_estimate(name, way, net, p, notes[name, way]))
    solved = first.solved(num_layers)
    for name, other in zip(names[1:], every[1:], strict=True):
        results = other.solved(num_layers)
        common = [id for id in solved if id in results]
        pairs = np.array([[solved[id], results[id]] for id in common], bool).reshape(-1, 2, 2)
        for k, label in enumerate((AFTER, f"{AFTER}, a shorter one")):
            difference = Difference.of(pairs[:, 1, k], pairs[:, 0, k])
            estimates.append(Estimate.of(label, difference, group=name))
    return estimates


def change_estimate(name: str, way: str, net: Net, corrected: float, note: str) -> Estimate:
    """Return how much more of the wrong questions a run corrects, beyond what is expected.

    The note says what limits it.
    """
    suffix = ASKED_AGAIN if way == AGAIN else ""
    low, high = net.difference_interval
    return Estimate(
        BEYOND + suffix,
        name,
        value=math.nan if net.undecided else net.difference,
        unit="points",
        low=low,
        high=high,
        p=math.nan if net.undecided else net.p,
        corrected=corrected,
        n=net.n,
        note=note,
    )


def net_change(
    first: tuple[list[str], Targets],
    other: tuple[list[str], Targets],
    preference: Preference | None = None,
    alpha: float = ALPHA,
) -> Net:
    """Test how much more a run reaches beyond control than the first one.

    The interval misses that with the probability `alpha`.
    """
    place = {name: i for i, name in enumerate(first[0])}
    common = [(place[name], i) for i, name in enumerate(other[0]) if name in place]
    before, after = np.array(common, int).reshape(-1, 2).T
    mine = first[1].take(before)
    others = other[1].take(after)
    width = min(mine.gaps.shape[1], others.gaps.shape[1])  # the rest is of other questions
    gaps = others.gaps[:, :width] + 0 * mine.gaps[:, :width]
    weighted = mine.weighted and others.weighted
    if not weighted:
        gaps = np.where(np.isnan(gaps), np.nan, 0.0)
    targets = Targets(others.hits[:, :width], gaps, others.lengths[:, :width], weighted)
    return Net.of(targets, preference, before=mine.hits[:, :width], alpha=alpha)


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
    # a run without other wordings is compared in the paths found once
    again = {again_digest(run.settings()) for run in runs} - {None}
    if len(again) > 1:
        raise InputError(
            "the runs asked again in different wordings: give searches with the same --prompts and "
            "--shots-seed."
        )
    for run in runs[1:]:
        check_comparable(runs[0].asked(), run.asked())
