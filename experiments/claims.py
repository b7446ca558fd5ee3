"""The tables of claims.md, from the records of its trials.

`python -m experiments.claims FOLDER FOLDER ...` prints a row for each claim of the `verdicts.json`
that `cola verify` wrote in each folder, and for each rule of `static.json`, `menu.json` and a
router's `metrics.json`, as measured on held-out questions in several prompts.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from cola_jax.files import read_json
from cola_jax.scoring.number_format import (
    format_interval,
    format_mean,
    format_p,
    format_percent,
    format_points,
)
from experiments.paper.results import show

CLAIMS = ("claim", "layers", "correct", "points more", "95 %", "p", "prompts", "place", "verdict")
RULES = ("chosen", "layers", "correct", "points more", "95 %", "p")


@dataclasses.dataclass(frozen=True)
class Claims:
    """Print the records of trials as tables."""

    folders: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER")]
    """Outputs of `cola verify`, `static`, `menu` and `distill`."""


def claim_rows(verdicts: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each claim and task of a trial."""
    unit = "" if verdicts["measure"] == "accuracy" else ", in hundredths of a nat"
    for claim in verdicts["claims"]:
        for task, figures in claim["tasks"].items():
            each = [estimate["value"] for estimate in figures["by_prompt"]]
            place = figures["random"].get("place", "")
            yield (
                f"{claim['name']}, {task}{unit}",
                str(claim["layers"]),
                f"{format_percent(figures['before'])} → {format_percent(figures['after'])}",
                *effect(figures, figures["p_holm"]),
                f"{format_points(min(each))} to {format_points(max(each))}",
                f"{place} of {figures['random']['paths'] + 1}" if place else "",
                figures["outcome"],
            )


def rule_rows(name: str, content: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each way of a `static.json`, `menu.json` or `metrics.json`."""
    if "effects" in content:
        ways = [(way["rule"], way["layers"], way["held_out"]) for way in content["effects"][1:]]
    elif "front" in content:
        front = [way for place, way in enumerate(content["front"]) if place or way["chosen"]]
        names = (f"{way['path']}{', chosen' * way['chosen']}" for way in front)
        ways = [(n, w["layers"], w["held_out"]) for n, w in zip(names, front, strict=True)]
    else:
        ways = [("router", content["layers"], content["held_out"])]
    for label, layers, figures in ways:
        correct = f"{format_percent(figures['before'])} → {format_percent(figures['after'])}"
        effects = effect(figures, figures["p"])
        yield f"{name}: {label}", format_mean(float(layers)), correct, *effects


def effect(figures: Mapping[str, Any], p: float | None) -> tuple[str, str, str]:
    """Format a difference, its interval and p-value."""
    interval = format_interval(tuple(figures["interval"]), signed=True)
    return format_points(figures["difference"]), interval, "" if p is None else format_p(p)


def main(settings: Claims) -> None:
    claims, rules = [], []
    for folder in settings.folders:
        for file in sorted(folder.glob("*.json")):
            if file.name == "verdicts.json":
                claims += claim_rows(read_json(file))
            elif file.name in ("static.json", "menu.json", "metrics.json"):
                rules += rule_rows(folder.name, read_json(file))
    for head, rows in ((CLAIMS, claims), (RULES, rules)):
        if rows:
            show(head, rows)
            print()


if __name__ == "__main__":
    main(tyro.cli(Claims, description=__doc__))
