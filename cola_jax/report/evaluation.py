"""The report of given paths: each one, and its difference to the pretrained model."""

import dataclasses
import math
from typing import Any

import numpy as np

from cola_jax.errors import InputError, shown
from cola_jax.path import format_path, identity
from cola_jax.report.layers import is_null, is_true
from cola_jax.report.summary import read_evaluations, scorer_flag
from cola_jax.report.tables import (
    Row,
    RunReport,
    Table,
    effect_cells,
    format_interval,
    format_mean,
    format_p,
    format_percent,
    is_shown,
    run_settings,
    run_title,
)
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Effect, Share, holm, mean

COLUMNS = ["question", "node", "verdict", "margin", "finite", "truncated"]
MAIN = 10  # rows before the others are folded


@dataclasses.dataclass(frozen=True)
class PathResult:
    """The results of one path over all questions."""

    path: tuple[int, ...]
    correct: Share  # of the graded evaluations
    margin: float  # mean over the finite graded evaluations, NaN where there are none
    not_finite: Share  # of all evaluations
    truncated: Share  # ended by the token limit; 0 of 0 where nothing is decoded
    tokens: float  # decoded, mean; NaN where nothing is decoded
    effect: Effect | None  # on the questions that both paths have graded; None of the identity
    p: float  # of the difference, corrected for the number of paths; NaN without it


def path_results(run: Run) -> list[PathResult]:
    """Measure each path of an evaluation run, best first and ties by length.

    Raises InputError for a run that is not of `evaluate` or has no question done yet.
    """
    manifest = run.manifest()
    settings = manifest["settings"]
    if (command := settings.get("command")) != "evaluate":
        raise InputError(
            f"{run.directory} was made by {shown(command)}, not by an evaluation of given paths: "
            "use summarise for a search."
        )
    rows = read_evaluations(run, COLUMNS)
    if not rows.num_rows:
        raise InputError(f"{run.directory} has no question done yet: let the evaluation run first.")
    paths = [tuple(path) for path in settings["paths"]]
    node, question = rows["node"].to_numpy(), rows["question"].combine_chunks().dictionary_encode()
    graded, right, finite = (
        ~is_null(rows["verdict"]),
        is_true(rows["verdict"]),
        is_true(rows["finite"]),
    )
    margin, tokens = rows["margin"].to_numpy(), rows["num_tokens"]
    decoded, length = ~is_null(tokens), tokens.fill_null(0).to_numpy()
    ended, truncated = ~is_null(rows["truncated"]), is_true(rows["truncated"])
    original = identity(manifest["starts"][-1]["num_layers"])
    effects = paired_effects(paths, original, (question.indices.to_numpy(), node), graded, right)
    p = holm([math.nan if effect is None else effect.difference.p for effect in effects])
    results = []
    for c, path in enumerate(paths):
        mine = node == c
        result = PathResult(
            path,
            correct=Share.of(right[mine & graded]),
            margin=mean(margin[mine & graded & finite & np.isfinite(margin)]),
            not_finite=Share.of(~finite[mine]),
            truncated=Share.of(truncated[mine & ended]),
            tokens=mean(length[mine & decoded]),
            effect=effects[c],
            p=p[c],
        )
        results.append(result)
    # a path without a graded evaluation has no share and comes last
    return sorted(results, key=lambda x: (-x.correct.value if x.correct.n else 1, len(x.path)))


def paired_effects(
    paths: list[tuple[int, ...]],
    original: tuple[int, ...],
    place: tuple[np.ndarray, np.ndarray],
    graded: np.ndarray,
    right: np.ndarray,
) -> list[Effect | None]:
    """Compare each path with the identity path, on the questions on which both are graded.

    `place` is the question and the path of each evaluation. None for the identity path, and for all
    paths if it was not evaluated.
    """
    known, correct = (np.zeros((place[0].max() + 1, len(paths)), bool) for _ in range(2))
    known[place], correct[place] = graded, right
    before = paths.index(original) if original in paths else None
    effects: list[Effect | None] = [None] * len(paths)
    for c in range(len(paths)):
        if before is not None and c != before:
            both = known[:, c] & known[:, before]
            effects[c] = Effect.of(correct[both, c], correct[both, before])
    return effects


def evaluation_report(run: Run) -> RunReport:
    """Make the report of an evaluation; raises as `path_results`."""
    results, manifest = path_results(run), run.manifest()
    original = identity(manifest["starts"][-1]["num_layers"])
    decodes = scorer_flag(manifest, "decodes")
    rows = [path_row(result, original, decodes) for result in results]
    measure = "tokens" if decodes else "margin"  # which is that of a single token there
    columns = ("path", "positions", "correct", "points more", "p", measure)
    rest = [Table(rows[MAIN:], "Other paths", columns)] if rows[MAIN:] else []
    return RunReport(
        run_title(manifest["starts"][-1]),
        [evaluation_verdict(results)],
        Table(rows[:MAIN], columns=columns),
        rest,
        evaluation_lead(run, results),
        evaluation_note(results),
        run_settings(manifest),
    )


def evaluation_verdict(results: list[PathResult]) -> str:
    """State in a sentence whether a path differs from the pretrained model."""
    compared = [(result, result.effect) for result in results if result.effect is not None]
    if not compared:
        return "Nothing shown: no path is compared with the pretrained model."
    different = [pair for pair in compared if is_shown(pair[0].p, pair[1].difference.interval)]
    better = [pair for pair in different if pair[1].difference.value > 0]
    result, effect = (better or different or compared)[0]
    _, points, interval = effect_cells(effect)
    size = f"{points} points, 95 % interval {interval}, p {format_p(result.p)}"
    path = format_path(result.path)
    if better:
        return f"Shown: path {path} answers more questions correctly than the model ({size})."
    if different:
        return f"Shown: path {path} answers fewer questions correctly than the model ({size})."
    return f"Nothing shown: no path differs from the model beyond chance; {path} is best ({size})."


def path_row(result: PathResult, original: tuple[int, ...], decodes: bool) -> Row:
    """Make the row of a path, each interval below its value."""
    correct = format_percent(result.correct.value), format_interval(result.correct.interval)
    more = effect_cells(result.effect)[1:] if result.effect else ()
    is_original = result.path == original
    cells = (
        str(len(result.path)),
        "\n".join(filter(None, correct)),
        "\n".join(filter(None, more)),
        format_p(result.p) if result.effect else "",
        format_mean(result.tokens) if decodes else format_mean(result.margin, decimals=2),
    )
    return Row(format_path(result.path) + " (identity)" * is_original, cells, bold=is_original)


def evaluation_lead(run: Run, results: list[PathResult]) -> str:
    """State the size of an evaluation, and what limits its results."""
    done, planned = run.questions(["question"]).num_rows, run.manifest()["settings"]["questions"]
    evaluations = sum(result.not_finite.n for result in results)
    ungraded = evaluations - sum(result.correct.n for result in results)
    not_finite = sum(result.not_finite.hits for result in results)
    decoded = sum(result.truncated.n for result in results)
    compared = sum(result.effect is not None for result in results)
    parts = [f"{evaluations:,} evaluations on {done:,} of {planned:,} questions."]
    if ungraded:
        parts.append(
            f"{ungraded:,} evaluations ungraded, as the grader failed: they count neither as "
            "correct nor as wrong."
        )
    if not_finite:
        parts.append(f"{not_finite:,} evaluations not finite, which counts as wrong.")
    if decoded:
        truncated = sum(result.truncated.hits for result in results) / decoded
        tokens = sum(x.tokens * x.truncated.n for x in results if x.truncated.n) / decoded
        parts.append(
            f"Truncated by the token limit: {format_percent(truncated)}; tokens decoded per "
            f"evaluation, mean: {format_mean(tokens)}."
        )
    original = identity(run.manifest()["starts"][-1]["num_layers"])
    if not compared and any(result.path != original for result in results):
        parts.append(
            "The identity path was not evaluated, so no path is compared with the model: add "
            f"--paths {format_path(original)}."
        )
    if len(results) > 2 or (len(results) == 2 and not compared):
        parts.append(
            "The best of these paths is selected on these same questions, so its share is biased "
            "upwards: measure it on others."
        )
    return " ".join(parts)


def evaluation_note(results: list[PathResult]) -> str:
    """Explain the columns."""
    compared = sum(result.effect is not None for result in results)
    if not compared:
        return "Intervals: 95 %."
    correction = f", corrected (Holm) for {compared} paths" * (compared > 1)
    return (
        "Intervals: 95 %. Points more: the difference to the identity path, paired over questions; "
        f"p: exact, two-sided{correction}."
    )


def effects_by_path(results: list[PathResult]) -> dict[str, Any]:
    """Return the effect of each path as numbers, by its text form."""
    return {
        format_path(result.path): result.effect.to_json() | {"p_holm": result.p}
        for result in results
        if result.effect is not None
    }
