"""What `cola evaluate` measured: each path, its difference to the pretrained model, and a page."""

import dataclasses
import math
from typing import Any

import numpy as np
from etils import epath
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cola_jax.errors import InputError, count, shown
from cola_jax.files import write_whole
from cola_jax.path import format_path, identity
from cola_jax.report.chunks import script_json
from cola_jax.report.columns import is_null, is_true
from cola_jax.report.details import model_name, run_details, task_name
from cola_jax.report.page import render
from cola_jax.report.summary import read_evaluations, scorer_flag
from cola_jax.report.table import (
    effect_cells,
    format_interval,
    format_mean,
    format_p,
    format_percent,
)
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Effect, Share, holm, mean

COLUMNS = ["question", "node", "verdict", "margin", "finite", "truncated"]


@dataclasses.dataclass(frozen=True)
class PathResult:
    """The results of one path over all questions."""

    path: tuple[int, ...]
    correct: Share  # of the graded evaluations
    margin: float  # mean over the finite graded evaluations, NaN where there are none
    not_finite: Share  # of all evaluations
    truncated: Share  # ended by the token limit; 0 of 0 where nothing is decoded
    tokens: float  # decoded, mean; NaN where nothing is decoded
    effect: Effect | None  # on what both paths have graded; None of the identity or without it
    p: float  # of the difference, corrected for the number of paths; NaN without it


def path_results(run: Run) -> list[PathResult]:
    """Measures each path of an evaluation run, best first and ties by length.

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
    at = question.indices.to_numpy(), node

    def by_path(values: np.ndarray) -> np.ndarray:
        """Arranges a column of the evaluations as [n, C]; 0 where there is none."""
        out = np.zeros((len(question.dictionary), len(paths)), values.dtype)
        out[at] = values
        return out

    graded, right = by_path(~is_null(rows["verdict"])), by_path(is_true(rows["verdict"]))
    margin, tokens = by_path(rows["margin"].to_numpy()), rows["num_tokens"]
    margin_known = graded & by_path(is_true(rows["finite"])) & np.isfinite(margin)
    decoded, length = by_path(~is_null(tokens)), by_path(tokens.fill_null(0).to_numpy())
    present, not_finite = by_path(np.ones(len(node), bool)), by_path(~is_true(rows["finite"]))
    ended, truncated = by_path(~is_null(rows["truncated"])), by_path(is_true(rows["truncated"]))
    plain = identity(manifest["starts"][-1]["num_layers"])
    before = paths.index(plain) if plain in paths else None

    def effect(c: int) -> Effect | None:
        if before is None or c == before:
            return None
        both = graded[:, c] & graded[:, before]
        return Effect.of(right[both, c], right[both, before])

    effects = [effect(c) for c in range(len(paths))]
    p = holm([math.nan if one is None else one.difference.p for one in effects])
    results = [
        PathResult(
            path,
            correct=Share.of(right[graded[:, c], c]),
            margin=mean(margin[margin_known[:, c], c]),
            not_finite=Share.of(not_finite[present[:, c], c]),
            truncated=Share.of(truncated[ended[:, c], c]),
            tokens=mean(length[decoded[:, c], c]),
            effect=effects[c],
            p=p[c],
        )
        for c, path in enumerate(paths)
    ]
    # a path without a graded evaluation has no share and comes last
    return sorted(results, key=lambda x: (-x.correct.value if x.correct.n else 1, len(x.path)))


def paths_head(decodes: bool) -> tuple[str, ...]:
    """Names the columns; tokens replace the margin, which is that of a single token there."""
    return ("path", "layers", "correct", "points more", "p", "tokens" if decodes else "margin")


def path_row(result: PathResult, plain: tuple[int, ...], decodes: bool) -> tuple[str, ...]:
    """Formats the columns of a path, each interval below what it is of."""
    more = ""
    if result.effect is not None:
        more = "\n".join(effect_cells(result.effect)[1:])
    last = format_mean(result.tokens) if decodes else format_mean(result.margin, decimals=2)
    return (
        format_path(result.path) + (" (identity)" if result.path == plain else ""),
        str(len(result.path)),
        f"{format_percent(result.correct.value)}\n{format_interval(result.correct.interval)}",
        more,
        "" if result.effect is None else format_p(result.p),
        last,
    )


def paths_table(run: Run) -> Table:
    """Formats an evaluation run as a table that fits 80 columns, one row for each path."""
    results, manifest = path_results(run), run.manifest()
    plain, decodes = (
        identity(manifest["starts"][-1]["num_layers"]),
        scorer_flag(manifest, "decodes"),
    )
    caption = paths_caption(run, results)
    table = Table(box=SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("path", overflow="fold", min_width=14)
    for name in paths_head(decodes)[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for result in results:
        cells = map(Text, path_row(result, plain, decodes))
        table.add_row(*cells, style="bold" if result.path == plain else None)
    return table


def paths_caption(run: Run, results: list[PathResult]) -> str:
    """Explains what the table of paths is based on."""
    manifest = run.manifest()
    done, planned = run.questions(["question"]).num_rows, manifest["settings"]["questions"]
    evaluations = sum(result.not_finite.n for result in results)
    ungraded = evaluations - sum(result.correct.n for result in results)
    not_finite = sum(result.not_finite.hits for result in results)
    decoded = [result for result in results if result.truncated.n]
    compared = [result for result in results if result.effect is not None]
    parts = [f"{evaluations:,} evaluations on {done:,} of {planned:,} questions."]
    if ungraded:
        parts.append(
            f"{ungraded:,} of them ungraded, as the grader failed: they count neither as correct "
            "nor as wrong."
        )
    if not_finite:
        parts.append(f"{not_finite:,} of them not finite, which counts as wrong.")
    if decoded:
        n = sum(result.truncated.n for result in decoded)
        truncated = sum(result.truncated.hits for result in decoded) / n
        tokens = sum(result.tokens * result.truncated.n for result in decoded) / n
        parts.append(
            f"Truncated by the token limit: {format_percent(truncated)}; tokens decoded per "
            f"evaluation, mean: {format_mean(tokens)}."
        )
    parts.append("Intervals: 95 %.")
    if compared:
        parts.append(
            "Points more: the difference to the identity path, paired over questions; p: exact, "
            "two-sided"
            + f", corrected (Holm) for {len(compared)} paths" * (len(compared) > 1)
            + "."
        )
    elif len(results) > 1 or len(results[0].path) != manifest["starts"][-1]["num_layers"]:
        plain = format_path(identity(manifest["starts"][-1]["num_layers"]))
        parts.append(
            f"The identity path was not evaluated, so no path is compared with the model: add "
            f"--paths {plain}."
        )
    if len(results) > 2 or (len(results) == 2 and not compared):
        parts.append(
            "The best of these paths is selected on these same questions, so its share is biased "
            "upwards: measure it on others."
        )
    return " ".join(parts)


def write_paths_page(run: Run, file: epath.PathLike) -> None:
    """Writes the page of an evaluation; OSError where the file cannot be written."""
    manifest = run.manifest()
    settings, start = manifest["settings"], manifest["starts"][-1]
    results, plain = path_results(run), identity(start["num_layers"])
    decodes = scorer_flag(manifest, "decodes")
    content = render(
        "paths.html",
        (),
        data=script_json({}),
        model=model_name(start),
        task=task_name(start),
        lead=f"{count(len(results), 'path')} · {start['num_layers']} layers",
        head=paths_head(decodes),
        rows=[path_row(result, plain, decodes) for result in results],
        caption=paths_caption(run, results),
        details=run_details(settings, start, len(manifest["starts"])),
    )
    target = epath.Path(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_whole(target, content)


def effects_by_path(results: list[PathResult]) -> dict[str, Any]:
    """Returns the effect of each path as numbers, by its text form."""
    return {
        format_path(result.path): result.effect.to_json() | {"p_holm": result.p}
        for result in results
        if result.effect is not None
    }
