"""The report of given paths: each one, and its difference to the pretrained model."""

import dataclasses
import math

import numpy as np
import pyarrow.compute as pc

from cola_jax.errors import InputError, shown
from cola_jax.path import format_path, identity
from cola_jax.report.layers import is_null, is_true
from cola_jax.report.summary import read_evaluations
from cola_jax.report.tables import RunReport, effect_cells, in_prompts, run_settings, run_title
from cola_jax.runs.run import Run
from cola_jax.runs.summary import scorer_flag
from cola_jax.scoring.evaluation_summary import EvaluationSummary, PathShare
from cola_jax.scoring.number_format import (
    Row,
    Table,
    format_interval,
    format_mean,
    format_p,
    format_percent,
)
from cola_jax.scoring.statistics import Effect, Share, holm, mean

COLUMNS = ["question", "node", "verdict", "margin", "finite", "truncated"]
MAIN = 10  # rows before the others are folded


@dataclasses.dataclass(frozen=True)
class PathResult:
    """The results of one path over all questions."""

    path: tuple[int, ...]
    is_identity: bool
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
    original = identity(manifest["starts"][-1]["num_layers"])
    place = rows["question"].combine_chunks().dictionary_encode().indices.to_numpy()
    verdicts = np.full((place.max() + 1, len(paths)), np.nan)  # NaN where ungraded
    right, ungraded = is_true(rows["verdict"]), is_null(rows["verdict"])
    verdicts[place, rows["node"].to_numpy()] = np.where(ungraded, np.nan, right)
    before = paths.index(original) if original in paths else None
    effects = [paired_effect(verdicts, c, before) for c in range(len(paths))]
    p = holm([math.nan if effect is None else effect.difference.p for effect in effects])
    results = []
    for c, path in enumerate(paths):
        mine = rows.filter(pc.field("node") == c)
        graded = mine.filter(pc.field("verdict").is_valid())
        margin = graded.filter(pc.field("finite"))["margin"].to_numpy()
        result = PathResult(
            path,
            path == original,
            correct=Share.of(is_true(graded["verdict"])),
            margin=mean(margin[np.isfinite(margin)]),
            not_finite=Share.of(~is_true(mine["finite"])),
            truncated=Share.of(is_true(mine["truncated"].drop_null())),
            tokens=mean(mine["num_tokens"].drop_null().to_numpy()),
            effect=effects[c],
            p=p[c],
        )
        results.append(result)
    # a path without a graded evaluation has no share and comes last
    return sorted(results, key=lambda x: (-x.correct.value if x.correct.n else 1, len(x.path)))


def paired_effect(verdicts: np.ndarray, c: int, before: int | None) -> Effect | None:
    """Compare a path with the identity path `before`, on the questions that both have graded.

    None for the identity path, and for all paths if it was not evaluated.
    """
    if before is None or c == before:
        return None
    both = ~np.isnan(verdicts[:, [c, before]]).any(axis=1)
    return Effect.of(verdicts[both, c] > 0, verdicts[both, before] > 0)


def evaluation_report(run: Run) -> RunReport:
    """Make the report of an evaluation; raises as `path_results`."""
    results, manifest = path_results(run), run.manifest()
    decodes = scorer_flag(manifest, "decodes")
    compared = any(result.effect is not None for result in results)
    rows = [path_row(result, decodes, compared=compared) for result in results]
    measure = "tokens" if decodes else "margin"  # which is that of a single token there
    change = ("points more", "p") if compared else ()
    columns = ("path", "layers run", "correct", *change, measure)
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
    """State whether a path differs from the pretrained model; of one path alone, its accuracy."""
    shares = [
        PathShare(
            each.path,
            each.is_identity,
            each.correct,
            None if each.effect is None else each.effect.difference,
            each.p,
        )
        for each in results
    ]
    return EvaluationSummary(shares).sentence


def path_row(result: PathResult, decodes: bool, *, compared: bool) -> Row:
    """Make the row of a path, each interval below its value, with its change if `compared`."""
    correct = format_percent(result.correct.value), format_interval(result.correct.interval)
    more = effect_cells(result.effect)[1:] if result.effect else ()
    change = "\n".join(filter(None, more)), format_p(result.p) if result.effect else ""
    cells = (
        str(len(result.path)),
        "\n".join(filter(None, correct)),
        *(change if compared else ()),
        format_mean(result.tokens) if decodes else format_mean(result.margin, decimals=2),
    )
    label = format_path(result.path) + " (identity)" * result.is_identity
    return Row(label, cells, bold=result.is_identity)


def evaluation_lead(run: Run, results: list[PathResult]) -> str:
    """State the size of an evaluation, and what limits its results."""
    done, settings = run.questions(["question"]).num_rows, run.settings()
    evaluations = sum(result.not_finite.n for result in results)
    ungraded = evaluations - sum(result.correct.n for result in results)
    not_finite = sum(result.not_finite.hits for result in results)
    decoded = sum(result.truncated.n for result in results)
    has_identity = any(result.is_identity for result in results)
    others = len(results) - has_identity
    asked = f"{done:,} of {settings['questions']:,} questions, {in_prompts(settings)}"
    parts = [f"{evaluations:,} evaluations on {asked}."]
    if ungraded:
        parts.append(f"{ungraded:,} evaluations ungraded, counted neither as correct nor as wrong.")
    if not_finite:
        parts.append(f"{not_finite:,} evaluations not finite, which counts as wrong.")
    if decoded:
        truncated = sum(result.truncated.hits for result in results) / decoded
        tokens = sum(x.tokens * x.truncated.n for x in results if x.truncated.n) / decoded
        parts.append(
            f"Truncated by the token limit: {format_percent(truncated)}; tokens decoded per "
            f"evaluation, mean: {format_mean(tokens)}."
        )
    if not has_identity:
        parts.append(
            "The identity path was not evaluated, so no path is compared with the model: add "
            f"--paths {format_path(identity(run.manifest()['starts'][-1]['num_layers']))}."
        )
    if others > 1:
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
