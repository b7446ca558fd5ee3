"""The page: claims, tables and plots of the paper beside ours, as HTML, Markdown and results."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from etils import epath

from cola_jax.files import inside, write_whole
from cola_jax.report.document import Document, markdown_report
from cola_jax.report.page import Picture, write_page
from cola_jax.report.tables import Row, Table
from cola_jax.runs.estimates import BEYOND, Estimate
from cola_jax.runs.results import Results, write_results
from experiments.paper.ceiling import read_ceiling
from experiments.paper.cells import (
    CEILING,
    CELLS,
    LATENCY,
    Place,
    Speeds,
    runs_there,
)
from experiments.paper.claims import Parts, claims_table, published_table, search_table
from experiments.paper.figures import FIGURES
from experiments.paper.latency import read_times
from experiments.paper.plots import write_plots
from experiments.paper.results import Result, changes, read

PAGE = "paper.html"
MARKDOWN = "paper.md"
PLOTS = "paper_files"
MISSING = "Not run here, or not to the end"
NOTE = (
    "W→C: wrong before, right on some path. Expected: the same if the searches did not favour the "
    "correct answer, by the model's preference among what was searched for, its length and rank; "
    "net: W→C beyond that, in points of the wrong questions that have a control, with a 95 % "
    "interval (of what is tested in one search simultaneously) and p corrected by Holm's method "
    "over all searches of this page, or over all comparisons of spaces. Samples at equal cost: one "
    "of as many samples of the model as paths were evaluated is right. Hours are predicted by the "
    "evaluations a second of the same data set, or of the slowest one that ran, on the machine of "
    "these runs. The paper's numbers "
    "are of arXiv 2507.07996v1, which has no control, interval or seed; cola-appendix is the "
    "setting of its appendix (lambda = 5, epsilon = 0.1, 200 simulations, c not given), cola that "
    "of its summary (c = 2, lambda = 0.1, 50 to 100 simulations)."
)


class Written(NamedTuple):
    """The page that was written, and what it is of."""

    file: epath.Path
    results: Sequence[Result]


def write_paper(place: Place) -> Written:
    """Write the page of all cells that have results, as HTML, Markdown and results.json."""
    there = list(runs_there(place))
    results = read(there)
    main = place.folder(CELLS[0]).parent
    parts = Parts(
        results,
        changes(results),
        read_ceiling(main / f"{CEILING}.json"),
        read_times(main / f"{LATENCY}.json"),
    )
    out = epath.Path(place.out)
    plots = list(write_plots(results, parts.ceiling, inside(out, PLOTS)))
    missing = missing_table(place, parts, Speeds(there))
    of_figures = [
        Table([Row(row[0], tuple(row[1:])) for row in rows], name, tuple(head), texts=True)
        for name, figure in FIGURES.items()
        for head, rows in [figure(results)]
    ]
    tables = [claims_table(parts), search_table(results), missing, published_table(), *of_figures]
    document = Document(
        title="CoLa's tables, figures and claims, with controls",
        sentences=sentences(results),
        lead=lead(results),
        tables=tables,
        shown=3,
        note=NOTE,
        settings=settings_of(results),
        next=("", f"# needs hours: --data and --rows as in README\n{place.command()}"),
    )
    pictures = [Picture(f"{PLOTS}/{each.name}", each.title, each.caption) for each in plots]
    write_page(document, out / PAGE, pictures=pictures)
    markdown = markdown_report(document, whole=True)
    shown = "".join(
        f"\n## {p.title}\n\n![{p.title}]({p.address})\n\n{p.caption}\n" for p in pictures
    )
    head, rest = markdown.split(f"\n## {MISSING}\n", 1)
    write_whole(out / MARKDOWN, f"{head}{shown}\n## {MISSING}\n{rest}".encode())
    write_results(Results(estimates_of(results)), out / "results.json")
    return Written(out / PAGE, results)


TERMS = (
    "A search is named by its data, the preset of its setting and its space of edits. W→C: wrong "
    "answers of the model that become right on some path; C→C: right ones that stay right on a "
    "shorter path. Expected: the share of W→C of a search that does not favour the correct answer, "
    "given how often wrong answers to the same questions are reached, and how the model scores "
    "each; net is the difference. Samples: one of as many samples of the unedited model is right. "
    "Best path again: the shortest correct path gives its target in four other wordings too."
)


def sentences(results: Sequence[Result]) -> list[str]:
    """State how many of the searches show something."""
    nets = [each.find(BEYOND) for each in results]
    tested = [each for each in nets if not math.isnan(each.value) and not each.note]
    shown = [each for each in tested if each.is_shown and each.low > 0]
    if not tested:
        return ["Nothing to compare yet: no search has a control."]
    return [
        f"Searches that reach the correct answer more often than expected by luck and by the "
        f"model's own preference: {len(shown)} of {len(tested)}."
    ]


def lead(results: Sequence[Result]) -> str:
    """State the size of what was measured."""
    rows = sum(each.rows for each in results)
    hours = sum(each.hours() for each in results)
    searches = f"{len(results)} {'search' if len(results) == 1 else 'searches'}"
    return f"{searches}, {rows:,} questions, {hours:.1f} hours of finished commands. {TERMS}"


def settings_of(results: Sequence[Result]) -> list[tuple[str, str]]:
    """List model, versions and machine of each search."""
    out = []
    for each in results:
        settings, start = each.results.run["settings"], each.results.run["start"]
        versions = ", ".join(f"{name} {x}" for name, x in (start.get("versions") or {}).items())
        text = f"{each.rows} questions, {settings['simulations']} simulations, {settings['scorer']}"
        text += f", {settings['dtype']}, {start.get('device')}, {start.get('date', '')[:10]}"
        out.append((each.cell.name, f"{text}; {versions}"))
    return out


def missing_table(place: Place, parts: Parts, speeds: Speeds) -> Table:
    """List the cells that were not run here, or not to their end, with command and hours."""
    done = {each.cell.name: each.rows for each in parts.results}
    rows = []
    for cell in CELLS:
        left = cell.rows - done.get(cell.name, 0)
        if left > 0:
            state = (
                f"{done[cell.name]} of {cell.rows} rows" if cell.name in done else "not run here"
            )
            hours = speeds.hours(cell, left)
            predicted = "–" if math.isnan(hours) else f"{hours:.1f}"
            rows.append(Row(cell.name, (state, predicted, place.command(cell.name))))
    for name, measured in ((CEILING, parts.ceiling), (LATENCY, parts.latency)):
        if not measured:
            rows.append(Row(name, ("not run here", "0.2", place.command(name))))
    columns = ("cell", "", "predicted hours", "command")
    return Table(rows, MISSING, columns, texts=True)


def estimates_of(results: Sequence[Result]) -> list[Estimate]:
    """Return all estimates of the searches, grouped by cell."""
    return [
        dataclasses.replace(each, group=result.cell.name)
        for result in results
        for each in result.results
    ]
