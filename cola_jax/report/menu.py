"""What `cola menu` found: a table, and menu.json."""

import json
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cola_jax.deploy.task_menu import Choice, TaskMenu
from cola_jax.path import format_path
from cola_jax.report.effect import Effect
from cola_jax.report.statistics import Share
from cola_jax.report.table import format_mean, format_percent


def menu_rows(menu: TaskMenu) -> list[tuple[str, Choice]]:
    """Lists the pretrained model, every rule, and what needs the answer, each with its name."""
    rows = [("pretrained model", menu.plain)]
    for choice in menu.choices:
        sign = "" if choice.sign is None else {1: ", highest", -1: ", lowest"}[choice.sign]
        path = f": {format_path(menu.paths[menu.single])}" if choice.rule == "single" else ""
        rows.append((f"{choice.rule}{sign}{path}", choice))
    name = f"some path of {len(menu.paths)} is right (needs the answer)"
    return [*rows, (name, menu.some)]


def menu_table(menu: TaskMenu) -> Table:
    """Formats the rules of a menu."""
    table = Table(box=SIMPLE_HEAD, caption=menu_caption(menu), caption_justify="left")
    table.add_column("rule")
    for name in ("layers", "training", "held out", "points more", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, choice in menu_rows(menu):
        cells = Effect.of(choice.right, menu.plain.right).cells()
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
        "questions": menu.questions,
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
