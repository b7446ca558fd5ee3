"""The figures of a page, as panels of series that its script draws without knowing their meaning.

Each row of a series is x, a value, its 95 % interval and n; each of a map is the first and the last
layer of a block, a value, its interval and p.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cola_jax.deploy.scan import EDITS, KEPT, Block, Kind
from cola_jax.runs.curves import Curve, corrected_curves, kept_curves, layer_curves, rounded
from cola_jax.runs.estimates import (
    BEYOND,
    CHANGE,
    EXPECTED,
    REACHED,
    UNDECIDED,
    UNITS,
    Estimate,
)
from cola_jax.runs.layer_use import ALL, CONTROLS, CORRECTED, RETAINED
from cola_jax.runs.path_results import MARGIN
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.runs.search_results import ASKED_AGAIN

REACHED_AND_EXPECTED = "expected"  # the figure that stands above the table
STRIP = ("reached", "expected", "low", "high", "n")
ROW = ("x", "value", "low", "high", "n")
BLOCK = ("first layer", "last layer", "value", "low", "high", "p")
GROUPS = {RETAINED: "Right before", CORRECTED: "Wrong before"}


def search_figures(runs: Mapping[str, Run], every: Mapping[str, Results]) -> list[dict[str, Any]]:
    """Make the figures of one or several searches, by their names."""
    layers = next(iter(runs.values())).facts().num_layers
    expected = (
        "the share expected if the correct answer were drawn, by the model's preference where it "
        "scores the answers, among those that were searched for: the mean, and a band of 95 % of "
        "such draws. Within the band, chance explains the result"
    )
    figures = [
        figure(
            REACHED_AND_EXPECTED,
            "Reached and expected",
            f"The share of wrong questions on which some path is right, beside {expected}.",
            [{"kind": "strip", "title": "", "columns": STRIP, "series": list(strips(every))}],
        ),
        figure(
            "corrected",
            "Reached and expected, by evaluations and by layers",
            "W→C among the first evaluations of each search, and on paths of at most so many "
            f"layers, beside {expected}. The vertical line is the pretrained model.",
            corrected_panels(runs, every, layers),
        ),
        figure(
            "kept",
            "Answers kept on fewer layers",
            "Questions that were right before: the share that is right on a path of at most so "
            "many layers; beside it the model's own wrong answers that it gives on as few. The "
            "vertical line is the pretrained model.",
            kept_panels(runs, layers),
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
    runs: Mapping[str, Run], run: str, rows: Curve, name: str, *, control: bool
) -> dict[str, Any]:
    """Make the series of a run's searches, or of what they are compared with."""
    if len(runs) == 1:
        return {"name": name, "css": "control" if control else "search", "rows": rows}
    css = f"run-{[*runs].index(run) + 1}{' dashed' if control else ''}"
    return {"name": f"{run}, {name}", "css": css, "rows": rows}


def strips(every: Mapping[str, Results]) -> Iterator[dict[str, Any]]:
    """Yield for each way of counting the share reached, the expected one, and its range."""
    for place, (name, results) in enumerate(every.items()):
        for way in ("", ASKED_AGAIN):
            reached = results.find(REACHED + way)
            expected = results.find(EXPECTED + way)
            beyond = results.find(BEYOND + way)
            if reached is None or expected is None or beyond is None or beyond.note == UNDECIDED:
                continue
            shares = [reached.value, expected.value, expected.low, expected.high]
            label = REACHED + way if len(every) == 1 else f"{name}: {REACHED}{way}"
            css = "search" if len(every) == 1 else f"run-{place + 1}"
            yield {"name": label, "css": css, "rows": [rounded([*shares, reached.n])]}


def corrected_panels(
    runs: Mapping[str, Run], every: Mapping[str, Results], layers: int
) -> Iterator[dict[str, Any]]:
    """Yield the share of wrong questions corrected and the expected one."""
    lines: dict[str, list[dict[str, Any]]] = {"evaluations": [], "layers": []}
    for name, run in runs.items():
        for by, (reached, expected) in corrected_curves(run, every[name]).items():
            lines[by].append(series(runs, name, reached, "reached", control=False))
            lines[by].append(series(runs, name, expected, "expected", control=True))
    yield {
        "kind": "steps", "title": "By evaluations", "x": "evaluations of a search",
        "series": lines["evaluations"],
    }  # fmt: skip
    yield {
        "kind": "steps", "title": "By layers", "x": "layers allowed", "series": lines["layers"],
        "reference": {"x": layers, "label": f"model: {layers}"},
    }  # fmt: skip


def kept_panels(runs: Mapping[str, Run], layers: int) -> Iterator[dict[str, Any]]:
    """Yield the share of answers that are kept, by layers allowed."""
    lines = []
    for name, run in runs.items():
        curves = kept_curves(run)
        right = curves[RETAINED]
        wrong = curves[CONTROLS[RETAINED]]
        lines.append(series(runs, name, right, "right answers", control=False))
        lines.append(series(runs, name, wrong, "own wrong answers", control=True))
    yield {
        "kind": "steps", "title": "Kept", "x": "layers allowed", "series": lines,
        "reference": {"x": layers, "label": f"model: {layers}"},
    }  # fmt: skip


def layer_panels(runs: Mapping[str, Run]) -> Iterator[dict[str, Any]]:
    """Yield the mean runs of each layer by the shortest paths, beside all paths tried."""
    every = {name: layer_curves(run) for name, run in runs.items()}
    for group, title in GROUPS.items():
        points = []
        for name, curves in every.items():
            points.append(series(runs, name, curves[group], "correct answer", control=False))
            if len(runs) == 1:
                control = curves[CONTROLS[group]]
                points.append(series(runs, name, control, "control", control=True))
                if any(each["rows"] for each in points):
                    tried = {"name": "all paths tried", "css": "tried", "rows": curves[ALL]}
                    points.append(tried)
        yield {
            "kind": "points", "title": title, "x": "layer", "percent": False,
            "reference": {"y": 1}, "series": points,
        }  # fmt: skip


def scan_figures(results: Results) -> list[dict[str, Any]]:
    """Make the figure of a scan: bars for single layers, else maps of blocks; bars for parts."""
    measured = {
        "points of accuracy": [each for each in results if each.name == CHANGE],
        "the margin": [each for each in results if each.name == MARGIN],
    }
    changes = measured["points of accuracy"]
    kinds = {Block.parse(each.group).kind for each in changes}
    captions, panels = [], []
    if kinds & {*EDITS}:
        blocks = [Block.parse(each.group) for each in changes]
        single = all(block.stop - block.start == 1 for block in blocks)
        captions.append(
            "Each layer skipped and repeated: the change against the pretrained model on the same "
            "questions, with 95 % intervals that hold for all at once."
            if single
            else "Each block of layers, repeated above the diagonal and skipped below it: the "
            "change against the pretrained model on the same questions. The circle marks the "
            "highest."
        )
        panels += scan_panels(results, measured, EDITS, "bars" if single else "map")
    if kinds & {*KEPT}:
        captions.append("The attention and the MLP of each layer skipped, with such intervals.")
        panels += scan_panels(results, measured, tuple(KEPT), "bars")
    title = "The change that each block makes"
    return [figure("scan", title, " ".join(captions), panels)]


def scan_panels(
    results: Results,
    measured: Mapping[str, Sequence[Estimate]],
    kinds: Sequence[Kind],
    panel: str,
) -> Iterator[dict[str, Any]]:
    """Yield a panel of the blocks of these kinds for each measure: a map, or bars of layers."""
    for name, estimates in measured.items():
        shown = [each for each in estimates if Block.parse(each.group).kind in kinds]
        best = Block.parse(max(shown, key=lambda each: each.value).group)
        title = f"Change in {name}" if name == "points of accuracy" else f"Change of {name}"
        yield {
            "kind": panel,
            "title": title if kinds == EDITS else f"{title}, parts skipped",
            "x": "layer",
            "percent": False,
            "columns": ROW if panel == "bars" else BLOCK,
            "layers": results.run["start"]["num_layers"],
            "best": [best.kind, best.start, best.stop - 1],
            "series": [
                {
                    "name": kind,
                    "css": EDITS[place],
                    "rows": block_rows(results, estimates, kind, single=panel == "bars"),
                }
                for place, kind in enumerate(kinds)
            ],
        }


def block_rows(
    results: Results, estimates: Sequence[Estimate], kind: Kind, *, single: bool
) -> Curve:
    """List the changes that the blocks of one kind make: of bars with n, of a map with p."""
    blocks = [(Block.parse(each.group), each) for each in estimates]
    rows = []
    for block, each in sorted(blocks, key=lambda pair: (pair[0].stop - pair[0].start, pair[0])):
        if block.kind == kind:
            scale = UNITS[each.unit].scale
            values = [scale * value for value in (each.value, *each.interval)]
            if single:
                rows.append(rounded([block.start, *values, results.run["done"]]))
            else:
                rows.append(rounded([block.start, block.stop - 1, *values, each.corrected]))
    return rows
