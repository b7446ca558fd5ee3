"""What `cola static` found: a table, and static.json."""

import json
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cola_jax.deploy.task_path import Measured, TaskPath
from cola_jax.path import format_path
from cola_jax.report.effect import Effect
from cola_jax.report.statistics import Share
from cola_jax.report.table import format_percent


def static_table(found: TaskPath) -> Table:
    """Formats the pretrained model, the chosen path and the Pareto front, shortest first."""
    table = Table(box=SIMPLE_HEAD, caption=static_caption(found), caption_justify="left")
    table.add_column("path", overflow="fold", min_width=14)
    for name in ("layers", "training", "validation", "held out", "points more"):
        table.add_column(name, justify="right", no_wrap=True)
    for measured in shown(found):
        chosen = measured is found.chosen
        name = format_path(measured.path) + (" (chosen)" if chosen else "")
        table.add_row(Text(name), *row(found, measured), style="bold" if chosen else None)
    return table


def shown(found: TaskPath) -> list[Measured]:
    """Lists the pretrained model, then the front and the chosen path, shortest first."""
    others = [one for one in found.finalists if one.on_front or one is found.chosen]
    return [found.plain, *sorted(others, key=lambda one: len(one.path))]


def row(found: TaskPath, measured: Measured) -> list[str]:
    """Formats the columns of one path."""
    shares = [Share.of(right) for right in (measured.training, measured.validation)]
    effect = effect_of(found, measured)
    after, more, interval = effect.cells()
    change = "" if measured is found.plain else f"{more}\n{interval}"
    layers, parts = str(len(measured.path)), [format_percent(share.value) for share in shares]
    return [layers, *parts, after, change]


def effect_of(found: TaskPath, measured: Measured) -> Effect:
    """Compares a path with the pretrained model on held-out questions."""
    return Effect.of(measured.held_out, found.plain.held_out)


def static_caption(found: TaskPath) -> str:
    """Explains the columns."""
    plain = found.plain
    return (
        f"{found.tried:,} paths were evaluated on all of {len(plain.training):,} training "
        f"questions; the best on {len(plain.validation):,} for validation is chosen, and the "
        "Pareto front of accuracy and layers there is shown. What counts is the difference on "
        f"{len(plain.held_out):,} held-out questions, paired with the pretrained model."
    )


def static_json(found: TaskPath, task: str, metadata: dict[str, Any]) -> str:
    """Writes the chosen path, its effect on a task, and the front.

    `cola export` reads `path` and, for a model card, `effect`.
    """
    content = {
        "path": format_path(found.chosen.path),
        "layers": len(found.chosen.path),
        "effect": {"task": task, **effect_of(found, found.chosen).to_json()},
        "front": [
            {
                "path": format_path(one.path),
                "layers": len(one.path),
                "training": Share.of(one.training).value,
                "validation": Share.of(one.validation).value,
                "held_out": effect_of(found, one).to_json(),
            }
            for one in shown(found)
        ],
        **metadata,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
