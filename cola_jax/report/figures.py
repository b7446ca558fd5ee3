"""The figures of a page, as panels of series that its script draws without knowing their meaning.

Each row of a series is x, a value, its 95 % interval and n; each of a map is the first and the last
layer of a block, a value, its interval and p.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    is_true,
)
from cola_jax.report.scan import KINDS, Cell, ScanSummary
from cola_jax.report.summary import Summary
from cola_jax.runs.run import Run
from cola_jax.scoring.preference import Net, Preference
from cola_jax.scoring.statistics import Share, Z
from cola_jax.strategies.reached import Compared
from cola_jax.strategies.summary import LABELS

NEVER = np.iinfo(np.int32).max  # the cost of a search that does not reach its target
MOST_STEPS = 40  # of a line whose every step is a test
HITS = ["question", "verdict", "node", "target"]  # columns of evaluations
EXPECTED = "expected"  # the figure that stands above the table
STRIP = ("reached", "expected", "low", "high", "n")
ROW = ("x", "value", "low", "high", "n")
BLOCK = ("first layer", "last layer", "value", "low", "high", "p")
GROUPS = {RETAINED: "Right before", CORRECTED: "Wrong before"}
ACCURACY, MARGIN = "Change in points of accuracy", "Change in nats of margin"
Rows = list[list[Any]]
NamedRun = tuple[str, Run, Summary]


def search_figures(runs: Sequence[NamedRun]) -> list[dict[str, Any]]:
    """Make the figures of one or several searches, each given with its name."""
    summary = runs[0][2]
    noun, layers = summary.answer_noun, summary.num_layers
    drawn = "by the model's preference " * (not summary.open)
    expected = (
        f"the share expected if the correct {noun} were drawn {drawn}among those that were "
        "searched for: the mean, and a band of 95 % of such draws. Within the band, chance "
        "explains the result"
    )
    figures = [
        figure(
            EXPECTED,
            "Reached and expected",
            f"The share of wrong questions on which some path is right, beside {expected}.",
            [{"kind": "strip", "title": "", "columns": STRIP, "series": list(strips(runs))}],
        ),
        figure(
            "corrected",
            "Reached and expected, by evaluations and by layers",
            "W→C among the first evaluations of each search, and on paths of at most so many "
            f"layers, beside {expected}. The vertical line is the pretrained model.",
            corrected_panels(runs),
        ),
        figure(
            "kept",
            "Answers kept on fewer layers",
            "Questions that were right before: the share that is right on a path of at most so "
            f"many layers; beside it the model's own wrong {noun}s that it gives on as few. The "
            "vertical line is the pretrained model.",
            kept_panels(runs),
        ),
        figure(
            "layers",
            "Runs of each layer",
            "The mean number of times that the shortest paths run a layer: below 1 they skip it, "
            "above 1 they repeat it. Layers that all paths tried (grey) run as often say nothing "
            f"about the model, and of {layers} layers one or two differ by chance.",
            layer_panels(runs),
        ),
    ]
    return [each for each in figures if each["panels"]]


def figure(name: str, title: str, caption: str, panels: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Make a figure of the panels and series that have rows, with their sizes in the titles."""
    kept = []
    for panel in panels:
        filled = [series for series in panel["series"] if series["rows"]]
        if filled:
            facts = {"title": sized(panel["title"], filled), "series": filled}
            kept.append({"columns": ROW, "percent": True} | panel | facts)
    return {"id": name, "title": title, "caption": caption, "panels": kept}


def sized(title: str, filled: Sequence[Mapping[str, Any]]) -> str:
    """Add the number of questions of one run to the title of a panel, and of others that differ."""
    sizes = {
        series["name"]: f"{series['rows'][0][-1]:,}"
        for series in filled
        if series["css"] in ("search", "control")
    }
    if not sizes or not title:
        return title
    (_, n), *others = sizes.items()
    rest = [f"{name} {size}" for name, size in others if size != n]
    return f"{title} ({', '.join([f'n = {n}', *rest])})"


def series(
    runs: Sequence[NamedRun], place: int, rows: Rows, name: str, *, control: bool
) -> dict[str, Any]:
    """Make the series of a run's searches, or of what they are compared with."""
    if len(runs) == 1:
        return {"name": name, "css": "control" if control else "search", "rows": rows}
    css = f"run-{place + 1}{' dashed' if control else ''}"
    return {"name": f"{runs[place][0]}, {name}", "css": css, "rows": rows}


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


def strips(runs: Sequence[NamedRun]) -> Iterator[dict[str, Any]]:
    """Yield for each way of counting the share reached, the expected one, and its range."""
    for place, (name, _, summary) in enumerate(runs):
        for way, net in summary.nets.items():
            if not net.n or net.undecided:
                continue
            low, high = net.by_chance
            shares = [value / net.n for value in (net.reached, net.expected, low, high)]
            label = LABELS[way] if len(runs) == 1 else f"{name}: {LABELS[way]}"
            css = "search" if len(runs) == 1 else f"run-{place + 1}"
            yield {"name": label, "css": css, "rows": [rounded([*shares, net.n])]}


def corrected_panels(runs: Sequence[NamedRun]) -> Iterator[dict[str, Any]]:
    """Yield the share of wrong questions corrected and the expected one.

    By the evaluations made, and by the layers of a path.
    """
    by_size, by_length = [], []
    for place, (_, run, summary) in enumerate(runs):
        compared = run.ways().compared(summary.counted)
        first, last = first_hits(run)
        lengths = {
            (case.id, target): length
            for case in compared.cases
            for target, search in case.searches.items()
            if (length := search.best) is not None
        }
        longest = max([summary.num_layers, *lengths.values()])
        for lines, costs, start, end in (
            (by_size, first, 0, last),
            (by_length, lengths, min(lengths.values(), default=1) - 1, longest),
        ):
            reached, expected = compared_rows(compared, costs, summary.preference, start, end)
            lines.append(series(runs, place, reached, "reached", control=False))
            lines.append(series(runs, place, expected, "expected", control=True))
    layers = runs[0][2].num_layers
    yield {
        "kind": "steps", "title": "By evaluations", "x": "evaluations of a search",
        "series": by_size,
    }  # fmt: skip
    yield {
        "kind": "steps", "title": "By layers", "x": "layers allowed", "series": by_length,
        "reference": {"x": layers, "label": f"model: {layers}"},
    }  # fmt: skip


def compared_rows(
    compared: Compared,
    costs: Mapping[tuple[str, int], int],
    preference: Preference | None,
    start: int,
    end: int,
) -> tuple[Rows, Rows]:
    """List the share of questions whose search reached gold at cost x, and the expected one.

    `costs` are those of each search that reached its target, by question and target.
    """
    every = (costs.get((case.id, j), NEVER) for case in compared.cases for j in case.searches)
    values = sorted({*every} - {NEVER})
    if len(values) > MOST_STEPS:
        values = [values[i * len(values) // MOST_STEPS] for i in range(MOST_STEPS)]
    reached, expected = [], []
    for x in [start, *values, end] if compared.cases else ():
        targets = compared.reached(lambda case, j, x=x: costs.get((case.id, j), NEVER) <= x)
        net = Net.of(targets, preference, quick=True)
        low, high = net.by_chance
        shares = [value / net.n for value in (net.reached, net.expected, low, high)]
        reached.append(rounded([x, shares[0], math.nan, math.nan, net.n]))
        expected.append(rounded([x, *shares[1:], net.n]))
    return reached, expected


def first_hits(run: Run) -> tuple[dict[tuple[str, int], int], int]:
    """Return the evaluations that each search made before it reached its target.

    By question and target; searches that did not are left out. Also returns the evaluations of the
    longest search.
    """
    first: dict[tuple[str, int], int] = {}
    last = 0
    for table in run.tables("evaluations", HITS):
        nodes = table["node"].to_numpy()
        last = max(last, int(nodes.max(initial=0)))
        for row in table.filter(pa.array(is_true(table["verdict"]))).to_pylist():
            search = row["question"], row["target"]
            first[search] = min(first.get(search, NEVER), row["node"])
    return first, last


def kept_panels(runs: Sequence[NamedRun]) -> Iterator[dict[str, Any]]:
    """Yield the share of answers that are kept, by layers allowed."""
    layers = runs[0][2].num_layers
    lines = [
        series(runs, place, reach_rows(summary.reach[label]), name, control=label != RETAINED)
        for place, (_, _, summary) in enumerate(runs)
        for label, name in ((RETAINED, "right answers"), (CONTROLS[RETAINED], "own wrong answers"))
    ]
    yield {
        "kind": "steps", "title": "Kept", "x": "layers allowed", "series": lines,
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
                label = "control" if label != name else "correct answer"
                points.append(series(runs, place, rows, label, control=label == "control"))
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
