"""Results of `cola static`, `menu` and `distill`: tables, static.json and menu.json."""

import json
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cola_jax.deploy.menu import MenuChoice, TaskMenu
from cola_jax.deploy.static import Measured, TaskPath
from cola_jax.path import format_path
from cola_jax.report.table import effect_cells, format_mean, format_percent
from cola_jax.scoring.statistics import Effect, Share

if TYPE_CHECKING:
    from cola_jax.deploy.distill import Distilled


def static_table(found: TaskPath) -> Table:
    """Formats the pretrained model, the chosen path and the Pareto front, shortest first."""
    table = Table(box=SIMPLE_HEAD, caption=static_caption(found), caption_justify="left")
    table.add_column("path", overflow="fold", min_width=14)
    for name in ("layers", "training", "validation", "held out", "points more"):
        table.add_column(name, justify="right", no_wrap=True)
    for measured in shown_paths(found):
        chosen = measured is found.chosen
        name = format_path(measured.path) + (" (chosen)" if chosen else "")
        table.add_row(Text(name), *row(found, measured), style="bold" if chosen else None)
    return table


def shown_paths(found: TaskPath) -> list[Measured]:
    """Lists the pretrained model, then the front and the chosen path, shortest first."""
    others = [one for one in found.finalists if one.on_front or one is found.chosen]
    return [found.plain, *sorted(others, key=lambda one: len(one.path))]


def row(found: TaskPath, measured: Measured) -> list[str]:
    """Formats the columns of one path."""
    shares = [Share.of(right) for right in (measured.training, measured.validation)]
    effect = effect_of(found, measured)
    after, more, interval = effect_cells(effect)
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
            for one in shown_paths(found)
        ],
        **metadata,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def menu_rows(menu: TaskMenu) -> list[tuple[str, MenuChoice]]:
    """Lists the pretrained model, every rule, and what needs the answer, each with its name."""
    rows = [("pretrained model", menu.plain)]
    for choice in menu.choices:
        sign = "" if choice.sign is None else {1: ", highest", -1: ", lowest"}[choice.sign]
        path = f": {format_path(menu.paths[menu.single])}" if choice.rule == "single" else ""
        rows.append((f"{choice.rule}{sign}{path}", choice))
    name = f"some path of {len(menu.paths)} is right (needs the answer)"
    return [*rows, (name, menu.oracle)]


def menu_table(menu: TaskMenu) -> Table:
    """Formats the rules of a menu."""
    table = Table(box=SIMPLE_HEAD, caption=menu_caption(menu), caption_justify="left")
    table.add_column("rule")
    for name in ("layers", "training", "held out", "points more", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, choice in menu_rows(menu):
        cells = effect_cells(Effect.of(choice.right, menu.plain.right))
        cells = [cells[0], "", ""] if choice is menu.plain else cells
        trained = format_percent(Share.of(choice.trained).value)
        style = "bold" if choice is menu.chosen else None
        table.add_row(name, format_mean(choice.layers), trained, *cells, style=style)
    return table


def menu_caption(menu: TaskMenu) -> str:
    """Explains the columns, and lists the paths."""
    paths = "; ".join(format_path(path) for path in menu.paths)
    return (
        f"Menu: {paths}. Layers are run for a prompt, prefixes shared; all rules but single and "
        f"the selector run every path. Chosen on {len(menu.plain.trained):,} training questions, "
        "each fifth answered by paths and rules made from the other four; what counts is the "
        f"difference on {len(menu.plain.right):,} held-out ones, paired with the pretrained model. "
        "The rule that is best in training is in bold."
    )


def menu_json(menu: TaskMenu, metadata: dict[str, Any]) -> str:
    """Writes the paths, the rule that is best in training, and the effect of every rule."""
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
            for name, choice in menu_rows(menu)
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
        f"layers {format_mean(distilled.layers)}, and {distilled.router.early_layers} over the "
        "prompt to name a path",
        f"{len(paths)} distinct paths; the identity path for "
        f"{format_percent(distilled.identity_share)} of the questions",
    ]
    return lines if distilled.warning is None else [*lines, distilled.warning]
