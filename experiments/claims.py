"""The tables of claims.md, from the records of its trials.

`python -m experiments.claims FOLDER FOLDER ...` prints a row for each path, claim or rule of the
`results.json` that `cola verify`, `static`, `menu` or `distill` wrote in each folder. Trials of
earlier versions are decided again by today's rules, from the variances that they recorded.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from cola_jax.deploy.verify.verdict import Judged, Verdict, decide
from cola_jax.report.tables import markdown_table
from cola_jax.runs.estimates import (
    CHANGE,
    CHOSEN,
    CORRECT,
    LIKELIHOOD,
    MEDIAN,
    MODEL,
    PLACE,
    PROMPT_SD,
    QUESTION_SD,
    RESIDUAL_SD,
    Estimate,
    is_prompt,
    number_text,
)
from cola_jax.runs.path_results import LAYERS
from cola_jax.runs.results import RESULTS, Results, read_results
from cola_jax.scoring.statistics import Crossed, MeanSquares

HEAD = ("", "layers", "correct", "more", "95 %", "p", "prompts", "place", "outcome")
TESTS = "num_tests"  # a setting of trials of this version


@dataclasses.dataclass(frozen=True)
class Claims:
    """Print the records of trials as a table."""

    folders: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER")]
    """Outputs of `cola verify`, `static`, `menu` and `distill`."""


def beside(results: Results, group: str) -> dict[str, Estimate]:
    """Return the estimates of a group by their names."""
    return {each.name: each for each in results if each.group == group}


def recorded_effect(change: Estimate, others: dict[str, Estimate]) -> Crossed:
    """Return the effect of a claim with the variances that its trial recorded.

    A component that was estimated as 0 may have been below: then the error is too large, if
    anything.
    """
    assert change.n is not None
    each = [other.value for name, other in others.items() if is_prompt(name)]
    prompts = len(each)
    residual = others[RESIDUAL_SD].value ** 2
    squares = MeanSquares(
        questions=prompts * others[QUESTION_SD].value ** 2 + residual,
        prompts=change.n * others[PROMPT_SD].value ** 2 + residual,
        residual=residual,
    )
    added = math.sqrt(2) / (change.n + 2)
    return Crossed(change.value, change.n, prompts, squares, added)


def decided_again(results: Results) -> dict[str, Verdict]:
    """Decide the claims of a trial of an earlier version by today's rules, by group."""
    groups = results.run["groups"]
    margin = results.run["settings"]["margin"] / 100
    every: dict[str, Judged] = {}
    for group, facts in groups.items():
        others = beside(results, group)
        model = beside(results, facts.get("model", MODEL))
        shorter = others[LAYERS].value < model[LAYERS].value
        blind = "" if others[MEDIAN].value < -margin else "the median random path loses little"
        every[group] = Judged(recorded_effect(others[CHANGE], others), shorter, blind)
    return dict(zip(every, decide([*every.values()], margin), strict=True))


def rows_of(folder: str, results: Results) -> Iterator[tuple[str, ...]]:
    """Yield a row for each path, claim or rule."""
    groups = results.run.get("groups", {})
    settings = results.run["settings"]
    again: dict[str, Verdict] = {}
    if settings["command"] == "verify" and TESTS not in settings:
        again = decided_again(results)
    for change in results:
        if change.name in (CHANGE, LIKELIHOOD):
            model = groups.get(change.group, {}).get("model", MODEL)
            others = beside(results, change.group)
            before = results.find(CORRECT, model)
            assert before is not None
            if change.group in again:
                change = next(again[change.group].estimates(change.group, "accuracy"))
            yield (
                f"{folder}: {change.group}",
                others[LAYERS].text,
                f"{before.text} → {others[CORRECT].text}",
                change.text,
                change.interval_text,
                change.p_text,
                prompts_text(change, others.values()),
                others[PLACE].text if PLACE in others else "",
                change.note or CHOSEN * (others[CORRECT].note == CHOSEN),
            )


def prompts_text(change: Estimate, others: Iterable[Estimate]) -> str:
    """Write the least and the most of a difference over prompts."""
    each = [other.value for other in others if is_prompt(other.name)]
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
