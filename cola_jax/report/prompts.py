"""The report of paths that were evaluated on the same questions in several prompts."""

from collections.abc import Sequence

import numpy as np

from cola_jax.errors import InputError
from cola_jax.path import format_path, identity
from cola_jax.report.scan import COLUMNS, read_map
from cola_jax.report.tables import RunReport, effect_cells, run_settings, run_title
from cola_jax.runs.run import Run
from cola_jax.scoring.number_format import Row, Table, format_p, format_percent, format_points
from cola_jax.scoring.statistics import Crossed, Effect, holm

ON_A_LINE = 4  # differences of a row


def prompts_report(runs: Sequence[Run]) -> RunReport:
    """Compare paths with the identity path on questions crossed with prompts, a run for each.

    The identity path is one of them. Raises InputError for runs of other paths or questions.
    """
    manifest, effects = runs[0].manifest(), prompt_effects(runs)
    plain = identity(manifest["starts"][-1]["num_layers"])
    model = effects.pop(plain)
    corrected = holm([effect.difference.p for effect in effects.values()])
    correct = format_percent(model.before.value)
    rows = [Row("the model", (str(len(plain)), correct, "", ""), bold=True)]
    by_prompt = []
    for (path, effect), p in zip(effects.items(), corrected, strict=True):
        label, (correct, points, interval) = format_path(path), effect_cells(effect)
        cells = str(len(path)), correct, f"{points}\n{interval}", format_p(p)
        rows.append(Row(label, cells))
        assert isinstance(effect.difference, Crossed)
        each = [estimate.value for estimate in effect.difference.by_prompt]
        by_prompt.append(Row(label, prompt_cells(each, effect.difference.interaction_p)))
    return RunReport(
        run_title(manifest["starts"][-1]),
        [],
        Table(rows, columns=("path", "layers", "correct", "points more", "p")),
        [Table(by_prompt, columns=("path", "points more in each prompt", "p"))],
        f"{len(rows):,} paths on {model.difference.n:,} questions in {len(runs):,} prompts.",
        "Intervals: 95 %, with questions and prompts both random; p: two-sided, corrected (Holm). "
        "In each prompt, p is of the test that the prompts do not differ.",
        run_settings(manifest),
    )


def prompt_effects(runs: Sequence[Run]) -> dict[tuple[int, ...], Effect]:
    """Compare each path with the identity path, one of them, over a run for each prompt.

    Raises InputError for runs of other paths or questions.
    """
    manifest = runs[0].manifest()
    paths = [tuple(path) for path in manifest["settings"]["paths"]]
    plain = paths.index(identity(manifest["starts"][-1]["num_layers"]))
    right = read_verdicts(runs, len(paths))  # [n, K, C]
    return {path: Effect.of(right[..., c], right[..., plain]) for c, path in enumerate(paths)}


def prompt_cells(values: Sequence[float], p: float) -> tuple[str, str]:
    """Format differences in each prompt, some on a line, and the p-value that they are equal."""
    each = [format_points(value) for value in values]
    lines = (each[first : first + ON_A_LINE] for first in range(0, len(each), ON_A_LINE))
    return "\n".join(map("  ".join, lines)), format_p(p)


def read_verdicts(runs: Sequence[Run], paths: int) -> np.ndarray:
    """Read verdicts [n, K, C] of runs of the same paths and questions; InputError for others."""
    ids, columns = None, []
    for run in runs:
        found, right, _ = read_map(run.evaluations(COLUMNS), paths)
        if found != (ids or found) or run.settings()["paths"] != runs[0].settings()["paths"]:
            raise InputError(f"{run.directory} has other paths or questions than the first run.")
        ids = found
        columns.append(right)
    return np.stack(columns, axis=1)
