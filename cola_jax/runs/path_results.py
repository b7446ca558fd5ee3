"""Estimates of given paths, each compared with the identity path on the same questions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cola_jax.layer_costs import LayerCosts
from cola_jax.path import LayerPath, format_path, identity
from cola_jax.runs.estimates import CHANGE, CORRECT, MODEL, Estimate
from cola_jax.runs.facts import Facts
from cola_jax.runs.layer_use import is_null, is_true
from cola_jax.scoring.statistics import ALPHA, Crossed, Difference, Share, holm, mean

EVALUATED = ["question", "node", "verdict", "margin", "finite", "truncated", "tokens"]
LAYERS, MARGIN, TOKENS = "layers", "margin", "tokens"
TIME = "time"  # of the layers of a path
Differences = Mapping[str, Difference | Crossed]  # from the identity path, by group


def group_of(path: Sequence[int], num_layers: int) -> str:
    """Return the group of the estimates of a path: its text, or that of the model."""
    return MODEL if tuple(path) == identity(num_layers) else format_path(path)


def path_estimates(
    right: Mapping[LayerPath, Mapping[Any, bool]], costs: LayerCosts
) -> list[Estimate]:
    """Compare paths by whether each is right, by question, on those that it was graded on."""
    num_layers = costs.num_layers
    plain = right.get(identity(num_layers))
    differences = {}
    for path, verdicts in right.items():
        if plain is not None and path != identity(num_layers):
            differences[group_of(path, num_layers)] = paired(verdicts, plain)
    changes = change_estimates(differences)
    estimates = []
    for path, verdicts in right.items():
        group = group_of(path, num_layers)
        share = Share.of(np.array(list(verdicts.values()), bool))
        estimates.append(length_estimate(group, path, costs))
        estimates.append(Estimate.of(CORRECT, share, group=group))
        if group in changes:
            estimates.append(changes[group])
    return estimates


def length_estimate(group: str, path: Sequence[int], costs: LayerCosts) -> Estimate:
    """Return the length of a path in layers, which parts make a fraction."""
    layers = costs.layers(path)
    return Estimate(LAYERS, group, layers, unit="count" if isinstance(layers, int) else "layers")


def time_estimates(group: str, path: Sequence[int], costs: LayerCosts) -> list[Estimate]:
    """Return the measured time of the layers of a path, none where it is not known."""
    if costs.milliseconds is None:
        return []
    time = costs.of(path)
    return [
        Estimate(TIME, group, time, unit="ms"),
        Estimate("share of the model's", group, time / costs.total),
    ]


def change_estimates(differences: Differences) -> dict[str, Estimate]:
    """Return the differences of paths from the model, corrected for their number, by group.

    Their intervals are simultaneous, so that none that excludes 0 stands beside a p-value that the
    correction has raised above 0.05.
    """
    corrected = holm([each.p for each in differences.values()])
    estimates = {}
    for (group, each), p in zip(differences.items(), corrected, strict=True):
        low, high = each.interval_at(ALPHA / len(differences))
        estimates[group] = Estimate.of(CHANGE, each, group=group, corrected=p, low=low, high=high)
    return estimates


def paired(first: Mapping[Any, bool], second: Mapping[Any, bool]) -> Difference:
    """Compare correct answers on the questions that both have."""
    both = [name for name in first if name in second]
    mine, others = (np.array([each[name] for name in both], bool) for each in (first, second))
    return Difference.of(mine, others)


def run_estimates(rows: pa.Table, facts: Facts) -> list[Estimate]:
    """Return all estimates of a run of given paths, the best path first and ties by length.

    `rows` are its evaluations, with `EVALUATED`. A path without a graded evaluation has no share
    and comes last.
    """
    paths = facts.paths
    num_layers = facts.num_layers
    right: dict[LayerPath, dict[str, bool]] = {path: {} for path in paths}
    columns = rows.select(["question", "node", "verdict"]).to_pydict()
    for question, node, verdict in zip(*columns.values(), strict=True):
        if verdict is not None:  # ungraded
            right[paths[node]][question] = verdict
    nodes = {path: node for node, path in enumerate(paths)}
    layers = facts.costs.layers
    best = sorted(right, key=lambda path: (-share_right(right[path]), layers(path)))
    compared = path_estimates({path: right[path] for path in best}, facts.costs)
    estimates = []
    for path in best:
        group = group_of(path, num_layers)
        estimates += [each for each in compared if each.group == group]
        mine = rows.filter(pc.field("node") == nodes[path])
        if facts.decodes:
            tokens = mean(mine["num_tokens"].drop_null().to_numpy())
            estimates.append(Estimate(TOKENS, group, tokens, unit="tokens"))
        else:
            graded = mine.filter(pc.field("verdict").is_valid() & pc.field("finite"))
            margin = graded["margin"].to_numpy()
            margin = mean(margin[np.isfinite(margin)])
            estimates.append(Estimate(MARGIN, group, margin, unit=facts.unit_of_margins))
    return estimates + cost_estimates(rows, decodes=facts.decodes)


def share_right(verdicts: Mapping[str, bool]) -> float:
    """Return the share of right answers, -1 for none."""
    return sum(verdicts.values()) / len(verdicts) if verdicts else -1.0


def cost_estimates(rows: pa.Table, *, decodes: bool) -> list[Estimate]:
    """Return the number of evaluations, and how decoding and grading ended."""
    estimates = [
        Estimate.count("evaluations", rows.num_rows),
        Estimate.of("evaluations, not finite", Share.of(~is_true(rows["finite"]))),
        Estimate.of("evaluations, ungraded", Share.of(is_null(rows["verdict"]))),
    ]
    if decodes:
        truncated = Share.of(is_true(rows["truncated"].drop_null()))
        tokens = mean(rows["num_tokens"].drop_null().to_numpy())
        estimates.append(Estimate.of("evaluations, truncated", truncated))
        estimates.append(Estimate("tokens decoded per evaluation", value=tokens, unit="tokens"))
    return estimates
