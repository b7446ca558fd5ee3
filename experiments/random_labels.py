"""Whether the best block of a scan stands out where there is nothing to find.

`python -m experiments.random_labels RUN` takes a scan of multiple-choice questions, gives every
question a random option as its correct one, and sums the scan up again: `--draws` times. The
evaluations are those of the run; with random labels right answers are chance, so the corrected
p-value should be below 0.05 in a twentieth of the draws, and a block should gain nothing on
questions that it was not chosen on.
"""

import dataclasses

import numpy as np
import pyarrow as pa
import tyro
from tyro.conf import Positional

from cola_jax.path import identity
from cola_jax.report.scan import ScanSummary, read_map, summarise_map
from cola_jax.report.tables import markdown_table
from cola_jax.runs.run import Run
from cola_jax.scoring.number_format import format_interval, format_percent, format_points
from cola_jax.scoring.statistics import Share
from cola_jax.scoring.verdicts import Verdicts

SIGNIFICANT = 0.05


@dataclasses.dataclass(frozen=True)
class RandomLabels:
    """Sum up a scan with random labels."""

    run: Positional[str]
    """Run directory of a scan of multiple-choice questions."""
    draws: int = 50
    """Sets of random labels."""
    seed: int = 0
    """Random seed of the labels."""


def read_scores(rows: pa.Table, paths: int) -> tuple[list[str], np.ndarray]:
    """Read the ids of n questions, and the scores [n, C, J] of their options or NaN."""
    ids, _, _ = read_map(rows, paths)
    at = {name: i for i, name in enumerate(ids)}
    lists = rows["scores"].to_pylist()
    scores = np.full((len(ids), paths, max(map(len, lists))), np.nan)
    for name, node, row in zip(
        rows["question"].to_pylist(), rows["node"].to_pylist(), lists, strict=True
    ):
        scores[at[name], node, : len(row)] = row
    return ids, scores


def relabelled(scores: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return verdicts and margins [n, C] with a random option of each question as correct."""
    options = (~np.isnan(scores)).any(axis=1).sum(axis=-1)
    label = (random.random(len(scores)) * options).astype(int)
    gold = np.repeat(label[:, None], scores.shape[1], axis=1)
    finite = np.asarray(np.isfinite(scores).any(axis=-1))
    verdicts = Verdicts.of_scores(scores, gold, finite)
    return verdicts.verdict, verdicts.margin


def main(settings: RandomLabels) -> None:
    run = Run(settings.run)
    manifest = run.manifest()
    paths = [tuple(path) for path in manifest["settings"]["paths"]]
    layers = int(manifest["starts"][-1]["num_layers"])
    assert identity(layers) in paths, "a scan evaluates the identity path"
    columns = ["question", "node", "verdict", "margin", "scores"]
    ids, scores = read_scores(run.evaluations(columns), len(paths))
    random = np.random.default_rng(settings.seed)
    drawn = [
        summarise_map(paths, ids, *relabelled(scores, random), layers)
        for _ in range(settings.draws)
    ]
    print("\n".join(markdown_table(("", "by accuracy", "by margin"), results(drawn))))


def results(drawn: list[ScanSummary]) -> list[tuple[str, ...]]:
    """Format the best blocks of all draws."""
    p = (
        np.array([[summary.best.p, summary.best_margin.p_margin] for summary in drawn])
        < SIGNIFICANT
    )
    shares = [Share.of(p[:, i]) for i in range(2)]
    gain = float(np.mean([summary.best.difference.value for summary in drawn]))
    elsewhere = float(np.mean([summary.elsewhere.value for summary in drawn]))
    margins = [np.mean([summary.best_margin.margin.value for summary in drawn])]
    margins += [np.mean([summary.elsewhere_margin.value for summary in drawn])]
    significant = [f"{format_percent(s.value)} ({format_interval(s.interval)})" for s in shares]
    return [
        (f"draws with p < {SIGNIFICANT} of {len(drawn)}", *significant),
        (
            "best block, chosen and measured on all questions",
            format_points(gain),
            f"{margins[0]:.3f}",
        ),
        ("chosen on half, measured on the rest", format_points(elsewhere), f"{margins[1]:.3f}"),
    ]


if __name__ == "__main__":
    main(tyro.cli(RandomLabels, description=__doc__))
