"""Results of `cola static`, `menu` and `distill`: tables, static.json and menu.json."""

import json
from typing import TYPE_CHECKING, Any

from rich.table import Table as TerminalTable

from cola_jax.deploy.menu import MenuChoice, TaskMenu
from cola_jax.deploy.static import Measured, TaskPath
from cola_jax.path import format_path
from cola_jax.report.tables import (
    Row,
    Table,
    effect_cells,
    format_mean,
    format_percent,
    terminal_table,
)
from cola_jax.scoring.statistics import Effect, Share

if TYPE_CHECKING:
    from cola_jax.deploy.distill import Distilled


def static_table(static: TaskPath) -> TerminalTable:
    """Format the pretrained model, the chosen path and the Pareto front, shortest first."""
    columns = ("path", "layers", "training", "validation", "held out", "points more")
    rows = [static_row(static, measured) for measured in shown_paths(static)]
    return terminal_table(Table(rows, columns=columns), static_caption(static))


def shown_paths(static: TaskPath) -> list[Measured]:
    """List the pretrained model, then the front and the chosen path, shortest first."""
    others = [path for path in static.finalists if path.on_front or path is static.chosen]
    return [static.plain, *sorted(others, key=lambda measured: len(measured.path))]


def static_row(static: TaskPath, measured: Measured) -> Row:
    """Make the row of one path."""
    chosen = measured is static.chosen
    shares = [Share.of(right) for right in (measured.training, measured.validation)]
    after, *change = effect_cells(effect_of(static, measured))
    cells = (
        str(len(measured.path)),
        *(format_percent(share.value) for share in shares),
        after,
        "" if measured is static.plain else "\n".join(change),
    )
    return Row(format_path(measured.path) + " (chosen)" * chosen, cells, bold=chosen)


def effect_of(static: TaskPath, measured: Measured) -> Effect:
    """Compare a path with the pretrained model on held-out questions."""
    return Effect.of(measured.held_out, static.plain.held_out)


def static_caption(static: TaskPath) -> str:
    """Explain the columns."""
    plain = static.plain
    return (
        f"{static.evaluated:,} paths were evaluated on all of {len(plain.training):,} training "
        f"questions; the best on {len(plain.validation):,} for validation is chosen, and the "
        "Pareto front of accuracy and layers there is shown. What counts is the difference on "
        f"{len(plain.held_out):,} held-out questions, paired with the pretrained model."
    )


def static_json(static: TaskPath, task: str, metadata: dict[str, Any]) -> str:
    """Write the chosen path, its effect on a task, and the front.

    `cola export` reads `path` and, for a model card, `effect`.
    """
    content = {
        "path": format_path(static.chosen.path),
        "layers": len(static.chosen.path),
        "effect": {"task": task, **effect_of(static, static.chosen).to_json()},
        "front": [
            {
                "path": format_path(measured.path),
                "layers": len(measured.path),
                "training": Share.of(measured.training).value,
                "validation": Share.of(measured.validation).value,
                "held_out": effect_of(static, measured).to_json(),
            }
            for measured in shown_paths(static)
        ],
        **metadata,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def menu_rules(menu: TaskMenu) -> list[tuple[str, MenuChoice]]:
    """List the pretrained model, every rule, and the choice by the answer, each with its name."""
    rules = [("pretrained model", menu.plain)]
    for choice in menu.choices:
        sign = "" if choice.sign is None else {1: ", highest", -1: ", lowest"}[choice.sign]
        path = f": {format_path(menu.paths[menu.single])}" if choice.rule == "single" else ""
        rules.append((f"{choice.rule}{sign}{path}", choice))
    name = f"some path of {len(menu.paths)} is right (needs the answer)"
    return [*rules, (name, menu.oracle)]


def menu_table(menu: TaskMenu) -> TerminalTable:
    """Format the rules of a menu."""
    rows = []
    for name, choice in menu_rules(menu):
        after, *change = effect_cells(Effect.of(choice.right, menu.plain.right))
        cells = (
            format_mean(choice.layers),
            format_percent(Share.of(choice.trained).value),
            after,
            "" if choice is menu.plain else "\n".join(change),
        )
        rows.append(Row(name, cells, bold=choice is menu.chosen))
    columns = ("rule", "layers", "training", "held out", "points more")
    return terminal_table(Table(rows, columns=columns), menu_caption(menu))


def menu_caption(menu: TaskMenu) -> str:
    """Explain the columns, and list the paths."""
    paths = "; ".join(format_path(path) for path in menu.paths)
    return (
        f"Menu: {paths}. Layers are run for a prompt, prefixes shared; all rules but single and "
        f"the selector run every path. Chosen on {len(menu.plain.trained):,} training questions, "
        "each fifth answered by paths and rules made from the other four; what counts is the "
        f"difference on {len(menu.plain.right):,} held-out ones, paired with the pretrained model. "
        "The rule that is best in training is in bold."
    )


def menu_json(menu: TaskMenu, metadata: dict[str, Any]) -> str:
    """Write the paths, the rule that is best in training, and the effect of every rule."""
    content = {
        "paths": [format_path(path) for path in menu.paths],
        "rule": menu.chosen.rule,
        "sign": menu.chosen.sign,
        "single": menu.single,
        "state_layer": menu.state_layer,
        "selector": menu.selector.digest,
        "effects": [
            {
                "rule": name,
                "layers": choice.layers,
                "cross_fitted": Share.of(choice.trained).value,
                "held_out": Effect.of(choice.right, menu.plain.right).to_json(),
            }
            for name, choice in menu_rules(menu)
        ],
        **metadata,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def router_lines(distilled: "Distilled") -> list[str]:
    """Format the examples of a router and its effect on held-out questions, a fact on each line."""
    examples, effect, paths = distilled.examples, distilled.effect, distilled.paths
    left_out = ", ".join(f"{n} {reason}" for reason, n in examples.left_out.items() if n)
    after, points, interval = effect_cells(effect)
    lines = [
        f"trained on {len(examples.targets)} paths; left out: {left_out or 'none'}",
        f"final loss {distilled.losses[-1]:.4f}",
        f"accuracy on {paths.total()} held-out questions: {format_percent(effect.before.value)} of "
        f"the pretrained model, {after} with the router; {points} points ({interval})",
        f"layers: {format_mean(distilled.layers)}, after {distilled.router.early_layers} over the "
        "prompt to name a path",
        f"distinct paths: {len(paths)}; the identity path for "
        f"{format_percent(distilled.identity_share)} of the questions",
    ]
    return lines if distilled.warning is None else [*lines, distilled.warning]
