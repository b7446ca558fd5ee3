"""The tables of claims.md, from the records of its trials.

`python -m experiments.claims FOLDER FOLDER ...` prints a row for each path, claim or rule of the
`results.json` that `cola verify`, `static`, `menu` or `distill` wrote in each folder.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from cola_jax.report.tables import markdown_table
from cola_jax.runs.estimates import (
    CHANGE,
    CHOSEN,
    CORRECT,
    LIKELIHOOD,
    MODEL,
    PLACE,
    Estimate,
    is_prompt,
    number_text,
)
from cola_jax.runs.path_results import LAYERS
from cola_jax.runs.results import RESULTS, Results, read_results

HEAD = ("", "layers", "correct", "more", "95 %", "p", "prompts", "place", "outcome")


@dataclasses.dataclass(frozen=True)
class Claims:
    """Print the records of trials as a table."""

    folders: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER")]
    """Outputs of `cola verify`, `static`, `menu` and `distill`."""


def rows_of(folder: str, results: Results) -> Iterator[tuple[str, ...]]:
    """Yield a row for each path, claim or rule."""
    groups = results.run.get("groups", {})
    for change in results:
        if change.name in (CHANGE, LIKELIHOOD):
            model = groups.get(change.group, {}).get("model", MODEL)
            beside = {each.name: each for each in results if each.group == change.group}
            before = results.find(CORRECT, model)
            assert before is not None
            yield (
                f"{folder}: {change.group}",
                beside[LAYERS].text,
                f"{before.text} → {beside[CORRECT].text}",
                change.text,
                change.interval_text,
                change.p_text,
                prompts_text(change, beside.values()),
                beside[PLACE].text if PLACE in beside else "",
                change.note or CHOSEN * (beside[CORRECT].note == CHOSEN),
            )


def prompts_text(change: Estimate, beside: Iterable[Estimate]) -> str:
    """Write the least and the most of a difference over prompts."""
    each = [other.value for other in beside if is_prompt(other.name)]
    if not each:
        return ""
    return " to ".join(number_text(value, change.unit) for value in (min(each), max(each)))


def main(settings: Claims) -> None:
    rows = []
    for folder in settings.folders:
        rows += rows_of(folder.name, read_results(folder / RESULTS))
    print("\n".join(markdown_table(HEAD, rows)))


if __name__ == "__main__":
    main(tyro.cli(Claims, description=__doc__))
