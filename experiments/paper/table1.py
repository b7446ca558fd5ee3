"""Table 1 of CoLa, with controls: accuracy by search space.

`python -m experiments.paper.table1 --model CHECKPOINT --out FOLDER --task.task arc_easy.jsonl
--task.variants chat` searches every space, asks the found paths again in the variants, and with
`--robust` also searches for paths that are right in all of them. Run it again to resume.
"""

import dataclasses
from collections.abc import Sequence
from typing import get_args

import tyro
from etils import epath

from cola_jax.report.summary import Summary
from cola_jax.scoring.number_format import format_percent
from cola_jax.scoring.preference import Kept, Net
from cola_jax.scoring.statistics import holm
from cola_jax.strategies.loop import resolve
from cola_jax.strategies.reached import ONCE, ROBUST
from cola_jax.strategies.rules import PresetName, Space
from experiments.paper.results import Result, layers, p_of, points, read, show
from experiments.strategies import Searches

HEAD = (
    "space", "correct before", "after", "W→C", "net", "asked again: robust W→C", "net",
    "layers kept, right minus wrong", "searched for: robust W→C", "net", "layers kept",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table1(Searches):
    """Search every space, and compare the results."""

    preset: PresetName = "best"
    """Rules of the search, but for the kinds of edits."""
    spaces: tuple[Space, ...] = get_args(Space)
    """Kinds of edits."""
    evaluations: int = 50
    """Evaluations of a question, beyond the baseline."""
    robust: bool = True
    """Also search for paths that are right in all variants."""


def table_rows(searched: Sequence[tuple[str, Result, Result | None]]) -> list[list[str]]:
    """Format a row for each space: paths asked again, and robust searches."""
    every = [figures(once.summary, robust and robust.summary) for _, once, robust in searched]
    p = iter(holm([p_of(figure) for figures in every for figure in figures]))
    rows = []
    for (space, once, robust), row in zip(searched, every, strict=True):
        net, again, kept, net_robust, kept_robust = (figure_cell(figure, next(p)) for figure in row)
        summary = once.summary
        shares = [summary.before, summary.after, summary.corrected]
        held = [
            "–" if run is None or run.summary.again is None
            else format_percent(run.summary.again.corrected.value)
            for run in (once, robust)
        ]  # fmt: skip
        rows.append(
            [space, *(format_percent(share.value) for share in shares), net, held[0], again, kept,
             held[1], net_robust, kept_robust]
        )  # fmt: skip
    return rows


def figures(once: Summary, robust: Summary | None) -> list[Net | Kept | None]:
    """List the figures of a space that have a p-value."""
    return [
        once.net, once.nets.get(ROBUST), once.kept.get(ONCE),
        robust and robust.nets.get(ROBUST), robust and robust.kept.get(ROBUST),
    ]  # fmt: skip


def figure_cell(figure: Net | Kept | None, corrected: float) -> str:
    """Format a figure, a dash for none."""
    if figure is None:
        return "–"
    return layers(figure, corrected) if isinstance(figure, Kept) else points(figure, corrected)


def main(settings: Table1) -> None:
    session = settings.prepare()
    searched = []
    for space in settings.spaces:
        search = settings.settings(resolve(settings.preset).within(space))
        folder = epath.Path(settings.out)
        runs = [session.search(str(folder / space), search)]
        if settings.robust and settings.task.variants:
            runs.append(session.search(str(folder / f"{space}-robust"), search, robust=True))
        once, *robust = read(str(run.directory) for run in runs)
        searched.append((space, once, robust[0] if robust else None))
    show(HEAD, table_rows(searched))


if __name__ == "__main__":
    main(tyro.cli(Table1, description=__doc__))
