"""Table 1 of CoLa, with controls: accuracy by search space.

`python -m experiments.paper.table1 --model CHECKPOINT --out FOLDER --task.task arc_easy.jsonl`
searches every space, and asks the best paths again in other wordings. Run it again to resume.
"""

import dataclasses
from collections.abc import Sequence
from typing import get_args

import tyro
from cola_jax.report.summary import Summary
from etils import epath

from cola_jax.scoring.number_format import format_percent
from cola_jax.scoring.preference import Kept, Net
from cola_jax.scoring.statistics import holm
from cola_jax.strategies.loop import resolve
from cola_jax.strategies.reached import AGAIN, ONCE
from cola_jax.strategies.rules import PresetName, Space
from experiments.paper.results import Result, layers, p_of, points, read, show
from experiments.strategies import Searches

HEAD = (
    "space", "correct before", "after", "W→C", "net", "best path right when asked again",
    "net", "layers kept, right minus wrong",
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


def table_rows(searched: Sequence[tuple[str, Result]]) -> list[list[str]]:
    """Format a row for each space."""
    every = [figures(result.summary) for _, result in searched]
    p = iter(holm([p_of(figure) for figures in every for figure in figures]))
    rows = []
    for (space, result), row in zip(searched, every, strict=True):
        net, again, kept = (figure_cell(figure, next(p)) for figure in row)
        summary = result.summary
        shares = [summary.before, summary.after, summary.corrected]
        held = "–" if summary.again is None else format_percent(summary.again.held.value)
        cells = [format_percent(share.value) for share in shares]
        rows.append([space, *cells, net, held, again, kept])
    return rows


def figures(summary: Summary) -> list[Net | Kept | None]:
    """List the figures of a space that have a p-value."""
    return [summary.net, summary.nets.get(AGAIN), summary.kept.get(ONCE)]


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
        run = session.search(str(epath.Path(settings.out) / space), search)
        (result,) = read([str(run.directory)])
        searched.append((space, result))
    show(HEAD, table_rows(searched))


if __name__ == "__main__":
    main(tyro.cli(Table1, description=__doc__))
