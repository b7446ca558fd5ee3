"""Table 1 of CoLa, with controls: accuracy by search space.

`python -m experiments.paper.table1 --model CHECKPOINT --out FOLDER --task.task arc_easy.jsonl`
searches every space, and asks the best paths again in other wordings. Run it again to resume.
"""

import dataclasses
from collections.abc import Iterator
from typing import get_args

import tyro
from etils import epath

from cola_jax.report.tables import group_table, markdown_table
from cola_jax.runs.estimates import BEFORE, BEYOND, REACHED, Estimate
from cola_jax.runs.results import Results
from cola_jax.runs.search_results import AFTER, ASKED_AGAIN
from cola_jax.scoring.statistics import holm
from cola_jax.strategies.loop import resolve
from cola_jax.strategies.rules import PresetName, Space
from experiments.strategies import Searches

NAMES = (
    BEFORE,
    AFTER,
    REACHED,
    BEYOND,
    "its best path right in all wordings",
    BEYOND + ASKED_AGAIN,
    "difference, equal margin",
)


@dataclasses.dataclass(frozen=True)
class Table1(Searches):
    """Search every space, and compare the results."""

    preset: PresetName = "best"
    """Rules of the search, but for the kinds of edits."""
    spaces: tuple[Space, ...] = get_args(Space)
    """Kinds of edits."""
    evaluations: int = 50
    """Evaluations of a question, beyond the baseline."""


def space_estimates(space: str, results: Results) -> Iterator[Estimate]:
    """Yield the estimates of a space that the table shows."""
    for name in NAMES:
        if (each := results.find(name)) is not None:
            yield dataclasses.replace(each, group=space)


def corrected(estimates: list[Estimate]) -> list[Estimate]:
    """Correct the p-values of the table for their number."""
    values = holm([each.p for each in estimates])
    pairs = zip(estimates, values, strict=True)
    return [dataclasses.replace(each, corrected=p) for each, p in pairs]


def main(settings: Table1) -> None:
    session = settings.prepare()
    estimates: list[Estimate] = []
    for space in settings.spaces:
        search = settings.settings(resolve(settings.preset).within(space))
        run = session.search(str(epath.Path(settings.out) / space), search)
        estimates += space_estimates(space, run.summary())
    table = group_table(corrected(estimates))
    rows = [(row.label, *row.cells) for row in table.rows]
    print("\n".join(markdown_table(table.columns, rows)))


if __name__ == "__main__":
    main(tyro.cli(Table1, description=__doc__))
