"""Table 1 of CoLa, with controls: accuracy by search space.

`python -m experiments.paper.table1 --model CHECKPOINT --out FOLDER --task.task arc_easy.jsonl
--task.variants chat` searches every space, asks what was found again in the variants, and with
`--robust` also searches for paths that are right in all of them. Run it again to resume.
"""

import dataclasses
from typing import get_args

import tyro
from etils import epath

from cola_jax.report.controls import ONCE, ROBUST
from cola_jax.report.summary import Summary
from cola_jax.report.table import format_percent
from cola_jax.search.loop import resolve
from cola_jax.search.presets import PresetName, Space
from experiments.paper.results import Result, layers, points, read, show
from experiments.searches import Searches

HEAD = (
    "space", "correct before", "after", "W→C", "net", "asked again: robust W→C", "net",
    "layers kept, right minus wrong", "searched for: robust W→C", "net", "layers kept",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Table1(Searches):
    """Search every space, and compare what they find."""

    preset: PresetName = "best"
    """Rules of the search, but for the kinds of edits."""
    spaces: tuple[Space, ...] = get_args(Space)
    """Kinds of edits."""
    evaluations: int = 50
    """Evaluations of a question, beyond the baseline."""
    robust: bool = True
    """Also search for paths that are right in all variants."""


def row(space: str, once: Result, robust: Result | None) -> list[str]:
    """Formats the row of a space."""
    one = once.summary
    cells = [
        space, format_percent(one.before.value), format_percent(one.after.value),
        format_percent(one.corrected.value), points(one.net),
    ]  # fmt: skip
    return cells + robust_cells(one, ONCE) + robust_cells(robust and robust.summary, ROBUST)


def robust_cells(summary: Summary | None, kept: str) -> list[str]:
    """Formats what is right in all variants, and layers kept; dashes for what was not asked."""
    if summary is None or summary.again is None:
        return ["–"] * 3
    layers_kept = layers(summary.kept[kept]) if kept in summary.kept else "–"
    return [
        format_percent(summary.again.corrected.value),
        points(summary.nets[ROBUST]),
        layers_kept,
    ]


def main(settings: Table1) -> None:
    session = settings.prepare()
    rows = []
    for space in settings.spaces:
        search = settings.settings(resolve(settings.preset).within(space))
        folder = epath.Path(settings.out)
        runs = [session.search(str(folder / space), search)]
        if settings.robust and settings.task.variants:
            runs.append(session.search(str(folder / f"{space}-robust"), search, robust=True))
        once, *robust = read(str(run.directory) for run in runs)
        rows.append(row(space, once, robust[0] if robust else None))
    show(HEAD, rows)


if __name__ == "__main__":
    main(tyro.cli(Table1, description=__doc__))
