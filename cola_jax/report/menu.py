"""What `cola menu` found: a table, and menu.json."""

import json
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from cola_jax.deploy.menu import prefix_layers
from cola_jax.deploy.task_menu import TaskMenu
from cola_jax.path import format_path
from cola_jax.report.effect import Effect
from cola_jax.report.statistics import Share
from cola_jax.report.table import format_mean, format_percent


def menu_rows(menu: TaskMenu) -> list[tuple[str, float, Any, Any]]:
    """Lists name, layers a prompt, and right answers on training and held-out questions."""
    plain = len(menu.paths[0])
    rows: list[tuple[str, float, Any, Any]] = [
        ("pretrained model", float(plain), menu.training[:, 0], menu.held_out[:, 0])
    ]
    best = int(menu.training.mean(axis=0).argmax())
    rows.append(
        (
            "the path that is best in training",
            float(len(menu.paths[best])),
            menu.training[:, best],
            menu.held_out[:, best],
        )
    )
    for choice in menu.choices:
        sign = "" if choice.sign is None else {1: ", highest", -1: ", lowest"}[choice.sign]
        rows.append((f"{choice.rule}{sign}", choice.layers, choice.trained, choice.right))
    every = float(prefix_layers(menu.paths))
    name = f"some path of {len(menu.paths)} is right (needs the answer)"
    rows.append((name, every, menu.training.any(axis=1), menu.held_out.any(axis=1)))
    return rows


def menu_table(menu: TaskMenu) -> Table:
    """Formats the rules of a menu."""
    table = Table(box=SIMPLE_HEAD, caption=menu_caption(menu), caption_justify="left")
    table.add_column("rule")
    for name in ("layers", "training", "held out", "points more", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    before = menu.held_out[:, 0]
    for name, layers, trained, right in menu_rows(menu):
        cells = Effect.of(right, before).cells()
        cells = [cells[0], "", ""] if right is before else cells
        chosen = name.startswith(menu.chosen.rule)
        trained_share = format_percent(Share.of(trained).value)
        style = "bold" if chosen else None
        table.add_row(name, format_mean(layers), trained_share, *cells, style=style)
    return table


def menu_caption(menu: TaskMenu) -> str:
    """Explains the columns, and lists the paths."""
    paths = "; ".join(format_path(path) for path in menu.paths)
    return (
        f"Menu: {paths}. Layers are run for a prompt, prefixes shared; all rules but the selector "
        f"run every path. Chosen and fitted on {len(menu.training):,} training questions; what "
        f"counts is the difference on {len(menu.held_out):,} held-out ones, paired with the "
        "pretrained model. The rule that is best in training is in bold."
    )


def menu_json(menu: TaskMenu, metadata: dict[str, Any]) -> str:
    """Writes the paths, the rule that is best in training, and the effect of every rule."""
    before = menu.held_out[:, 0]
    content = {
        "paths": [format_path(path) for path in menu.paths],
        "rule": menu.chosen.rule,
        "sign": menu.chosen.sign,
        "state_layer": menu.state_layer,
        "effects": [
            {"rule": name, "layers": layers, "held_out": Effect.of(right, before).to_json()}
            for name, layers, _, right in menu_rows(menu)
        ],
        **metadata,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
