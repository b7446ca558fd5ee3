"""The figures of a page, as panels of series that its script draws without knowing their meaning.

Each row of a series is x, a value, its 95 % interval and n; each of a map is the first and the last
layer of a block, a value, its interval and p.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cola_jax.report.layers import (
    ALL,
    CONTROLS,
    CORRECTED,
    RETAINED,
    LayerUse,
    Reach,
    is_null,
    is_true,
)
from cola_jax.report.scan import KINDS, Cell, ScanSummary
from cola_jax.report.summary import Summary, index_in
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Share, Z

NEVER = np.iinfo(np.int32).max  # evaluations of a search that does not reach its target
QUESTIONS = ["question", "baseline", "baseline_answer"]  # the columns that are read
EVALUATIONS = ["question", "verdict", "node", "target", "control"]
ROW = ("x", "value", "low", "high", "n")
BLOCK = ("first layer", "last layer", "value", "low", "high", "p")
GROUPS = {RETAINED: "Correct before", CORRECTED: "Wrong before"}
ACCURACY, MARGIN = "Change in points of accuracy", "Change in nats of margin"
Rows = list[list[Any]]
NamedRun = tuple[str, Run, Summary]


def search_figures(runs: Sequence[NamedRun]) -> list[dict[str, Any]]:
    """Make the figures of one or several searches, each given with its name."""
    summary, noun = runs[0][2], runs[0][2].answer_noun
    figures = [
        figure(
            "evaluations",
            "Accuracy against evaluations",
            "The share of questions with a correct path among the first evaluations; at 0 is the "
            "pretrained model. It is an upper bound, as only the answer tells which path is "
            f"correct. The control searches for a wrong {noun}: only the lead over it is skill.",
            evaluation_panels(runs),
        ),
        figure(
            "depth",
            "Accuracy against the length of paths",
            "The share of questions that are correct on some path of at most so many positions, "
            f"beside the share of control searches that reach their wrong {noun} on as many; "
            "for questions that were correct before, the control keeps the model's own wrong "
            f"{noun}. The vertical line is the pretrained model.",
            depth_panels(runs),
        ),
        figure(
            "layers",
            "Runs of each layer",
            "The mean number of times that the shortest paths run a layer: below 1 they skip it, "
            "above 1 they repeat it. Layers that all paths tried (grey) run as often say nothing "
            f"about the model, and of {summary.num_layers} layers one or two differ by chance.",
            layer_panels(runs),
        ),
    ]
    return [each for each in figures if each["panels"]]


def figure(name: str, title: str, caption: str, panels: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Make a figure of the panels and series that have rows, with their sizes in the titles."""
    kept = []
    for panel in panels:
        filled = [series for series in panel["series"] if series["rows"]]
        searches = [series for series in filled if series["css"] in ("search", "control")]
        sizes = ", ".join(f"{series['name']} {series['rows'][0][-1]:,}" for series in searches)
        heading = {"title": f"{panel['title']}: {sizes}"} if sizes else {}
        if filled:
            kept.append({"columns": ROW, "percent": True} | panel | heading | {"series": filled})
    return {"id": name, "title": title, "caption": caption, "panels": kept}


def series(runs: Sequence[NamedRun], place: int, rows: Rows, *, control: bool) -> dict[str, Any]:
    """Make the series of a run's searches, or of its control searches."""
    kind = "control" if control else "search"
    if len(runs) == 1:
        return {"name": kind, "css": kind, "rows": rows}
    css = f"run-{place + 1}{' dashed' if control else ''}"
    return {"name": f"{runs[place][0]}, {kind}", "css": css, "rows": rows}


def rounded(values: Sequence[Any]) -> list[Any]:
    """Shorten the numbers of a row; a number that is not finite has no value in JSON."""
    return [
        (round(value, 5) if np.isfinite(value) else None) if isinstance(value, float) else value
        for value in values
    ]


def share_rows(hits: np.ndarray, n: int, first: int) -> Rows:
    """List the share of n searches at each x from `first` on where the hits [x] change."""
    changes = np.diff(hits, prepend=-1) != 0
    changes[[first, -1]] = True
    rows = []
    for x in np.flatnonzero(changes).tolist():
        share = Share(int(hits[x]), n)
        if x >= first and n:
            rows.append(rounded([x, share.value, *share.interval, n]))
    return rows


def evaluation_panels(runs: Sequence[NamedRun]) -> Iterator[dict[str, Any]]:
    """Yield the share of searches that reached their target, by evaluations made."""
    every, wrong = [], []
    for place, (_, run, _) in enumerate(runs):
        questions, rows = run.questions(QUESTIONS), run.evaluations(EVALUATIONS)
        right, first, last = first_hits(questions, rows, control=False)
        every.append(series(runs, place, cumulative(first, last), control=False))
        wrong.append(series(runs, place, cumulative(first[~right], last), control=False))
        right, first, last = first_hits(questions, rows, control=True)
        wrong.append(series(runs, place, cumulative(first[~right], last), control=True))
    for name, lines in (("Wrong before", wrong), ("All questions", every)):
        x = "evaluations per question"
        yield {"kind": "steps", "title": name, "x": x, "series": lines}


def first_hits(
    questions: pa.Table, rows: pa.Table, *, control: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Return for S searches whether their question was right before, and their first hit.

    The first hit [S] is the number of evaluations before the first path that gives the target, or
    NEVER. Also returns the evaluations of the longest search.
    """
    place = index_in(rows["question"], questions["question"])
    baseline = questions["baseline"]
    mask = (place >= 0) & ~is_null(baseline)[place] & (is_true(rows["control"]) == control)
    target = np.zeros(len(place), np.int64)
    if control:
        target = rows["target"].fill_null(-1).to_numpy() + 1
        mask &= questions["baseline_answer"].fill_null(-1).to_numpy()[place] + 1 != target
    span = int(target.max(initial=0)) + 1
    searches, search = np.unique((place * span + target)[mask], return_inverse=True)
    node, hit = rows["node"].to_numpy()[mask], is_true(rows["verdict"])[mask]
    first = np.full(len(searches), NEVER, np.int64)
    np.minimum.at(first, search[hit], node[hit])
    return is_true(baseline)[searches // span], first, int(node.max(initial=0))


def cumulative(first: np.ndarray, last: int) -> Rows:
    """List the share of searches whose first hit is at most x, for x = 0..last."""
    hits = np.cumsum(np.bincount(first[first <= last], minlength=last + 1))
    return share_rows(hits, len(first), 0)


def depth_panels(runs: Sequence[NamedRun]) -> Iterator[dict[str, Any]]:
    """Yield the share of searches that reach their target, by positions allowed."""
    layers = runs[0][2].num_layers
    for name, group in GROUPS.items():
        lines = [
            series(runs, place, reach_rows(summary.reach[label]), control=label != name)
            for place, (_, _, summary) in enumerate(runs)
            for label in (name, CONTROLS[name])
        ]
        yield {
            "kind": "steps", "title": group, "x": "positions allowed", "series": lines,
            "reference": {"x": layers, "label": f"model: {layers}"},
        }  # fmt: skip


def reach_rows(reach: Reach) -> Rows:
    """List the share of searches by depth, from just below the first target that is reached."""
    return share_rows(reach.hits, reach.searches, max(int(np.argmax(reach.hits > 0)) - 1, 0))


def layer_panels(runs: Sequence[NamedRun]) -> Iterator[dict[str, Any]]:
    """Yield the mean runs of each layer by the shortest paths, beside all paths tried."""
    for name, group in GROUPS.items():
        points = []
        for place, (_, _, summary) in enumerate(runs):
            tried = summary.layers[ALL]
            for label in (name, CONTROLS[name]) if len(runs) == 1 else (name,):
                rows = layer_rows(summary.layers[label], tried)
                points.append(series(runs, place, rows, control=label != name))
            if len(runs) == 1 and any(each["rows"] for each in points):
                rows = layer_rows(tried, tried)
                points.append({"name": "all paths tried", "css": "tried", "rows": rows})
        yield {
            "kind": "points", "title": group, "x": "layer", "percent": False,
            "reference": {"y": 1}, "series": points,
        }  # fmt: skip


def layer_rows(use: LayerUse, tried: LayerUse) -> Rows:
    """List the mean runs of each layer.

    The variance is the larger of the group's and that of all paths tried, or the interval of a few
    paths that agree would be empty.
    """
    reach = Z * np.sqrt(np.maximum(use.variance, tried.variance) / max(use.paths, 1))
    bounds = use.runs, np.maximum(use.runs - reach, 0), use.runs + reach
    columns = zip(*(bound.tolist() for bound in bounds), strict=True)
    return [rounded([i, *cells, use.paths]) for i, cells in enumerate(columns) if use.paths]


def scan_figures(summary: ScanSummary) -> list[dict[str, Any]]:
    """Make the figure of a scan: bars for single layers, else maps of blocks."""
    single = all(cell.block.stop - cell.block.start == 1 for cell in summary.cells)
    caption = (
        "Each layer skipped and repeated: the change against the pretrained model on the same "
        "questions, with 95 % intervals."
        if single
        else "Each block of layers, repeated above the diagonal and skipped below it: the change "
        "against the pretrained model on the same questions. The circle marks the best block."
    )

    def rows_of(kind: str, label: str) -> Rows:
        """List the change that each block of one kind makes."""
        return [
            rounded(scan_row(cell, label, summary.questions if single else None))
            for cell in summary.cells
            if cell.block.kind == kind
        ]

    panels = [
        {
            "kind": "bars" if single else "map", "title": label, "x": "layer", "percent": False,
            "columns": ROW if single else BLOCK, "layers": summary.num_layers,
            "best": [best.block.kind, best.block.start, best.block.stop - 1],
            "series": [{"name": k, "css": k, "rows": rows_of(k, label)} for k in KINDS],
        }
        for label, best in ((ACCURACY, summary.best), (MARGIN, summary.best_margin))
    ]  # fmt: skip
    return [figure("scan", "The change that each block makes", caption, panels)]


def scan_row(cell: Cell, measure: str, questions: int | None) -> list[Any]:
    """Make the row of a bar, with its number of questions, or of a cell of a map, without."""
    change, scale, p = cell.difference, 100, cell.p
    if measure == MARGIN:
        change, scale, p = cell.margin, 1, cell.p_margin
    values = [scale * value for value in (change.value, *change.interval)]
    if questions is not None:
        return [cell.block.start, *values, questions]
    return [cell.block.start, cell.block.stop - 1, *values, p]
