"""The content and tables of `static.json` and `menu.json`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from etils import epath

from cola_jax.errors import reading
from cola_jax.files import matching, read_json
from cola_jax.path import format_path
from cola_jax.report.terminal import TerminalTable
from cola_jax.scoring.number_format import (
    Row,
    Table,
    format_interval,
    format_mean,
    format_percent,
    format_points,
)
from cola_jax.scoring.statistics import Effect, Share

if TYPE_CHECKING:
    from cola_jax.deploy.menu import TaskMenu
    from cola_jax.deploy.static import TaskPath

KL_NOTE = (
    "Training and validation are the divergence (KL, nats) from the model's own next token on the "
    "prompts, which reads no answers. "
)


def static_content(static: "TaskPath", task: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `static.json`: the chosen path, its effect on a task, and the front.

    `cola export` reads `path` and, for a model card, `effect`. The front begins with the pretrained
    model; others follow by cost.
    """
    plain, chosen, costs = static.plain, static.chosen, static.costs
    others = [path for path in static.finalists if path.on_front or path is chosen]
    others.sort(key=lambda measured: costs.of(measured.path))
    front = [
        {
            "path": format_path(measured.path),
            "layers": len(measured.path),
            "milliseconds": costs.milliseconds and costs.of(measured.path),
            "chosen": measured is chosen,
            "training": float(measured.training.mean()),
            "validation": float(measured.validation.mean()),
            "held_out": Effect.of(measured.held_out, plain.held_out).to_json(),
        }
        for measured in (plain, *others)
    ]
    effect = next(entry["held_out"] for entry in front if entry["chosen"])
    return {
        "path": format_path(chosen.path),
        "layers": len(chosen.path),
        "effect": {"task": task, **effect},
        "evaluated_paths": static.evaluated,
        "training_questions": len(plain.training),
        "validation_questions": len(plain.validation),
        "front": front,
        **metadata,
    }


def static_table(content: Mapping[str, Any]) -> TerminalTable:
    """Format the content of `static.json`."""
    rows, kl = [], content.get("fitness") == "kl"
    total = content["front"][0].get("milliseconds")
    for place, entry in enumerate(content["front"]):
        values = entry["training"], entry["validation"]
        shares = (format_mean(x, decimals=3) if kl else format_percent(x) for x in values)
        layers = str(entry["layers"]), *cost_texts(entry.get("milliseconds"), total)
        cells = ("\n".join(layers), *shares, *held_out_cells(entry["held_out"], bool(place)))
        chosen = entry["chosen"]
        rows.append(Row(entry["path"] + " (chosen)" * chosen, cells, bold=chosen))
    caption = (
        f"{content['evaluated_paths']:,} paths were evaluated on all of "
        f"{content['training_questions']:,} training questions; the best on "
        f"{content['validation_questions']:,} for validation is chosen, and the Pareto front of "
        f"{'closeness to the model' if kl else 'accuracy'} and {'cost' if total else 'layers'} "
        f"there is shown. {KL_NOTE if kl else ''}What counts is the difference "
        f"{held_out_of(content['effect'])}, paired with the pretrained model."
    )
    columns = ("path", "layers", "training", "validation", "held out", "points more")
    return TerminalTable(Table(rows, columns=columns), caption)


def menu_content(menu: "TaskMenu", metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of `menu.json`: paths, the best rule in training, and all effects.

    The effects begin with the pretrained model and end with the choice by the answer.
    """
    rules = [("pretrained model", menu.plain)]
    for choice in menu.choices:
        sign = "" if choice.sign is None else {1: ", highest", -1: ", lowest"}[choice.sign]
        path = f": {format_path(menu.paths[menu.single])}" if choice.rule == "single" else ""
        rules.append((f"{choice.rule}{sign}{path}", choice))
    rules.append((f"some path of {len(menu.paths)} is right (needs the answer)", menu.oracle))
    return {
        "paths": [format_path(path) for path in menu.paths],
        "rule": menu.chosen.rule,
        "sign": menu.chosen.sign,
        "single": menu.single,
        "state_layer": menu.state_layer,
        "selector": menu.selector.digest,
        "training_questions": len(menu.plain.trained),
        "effects": [
            {
                "rule": name,
                "chosen": choice is menu.chosen,
                "layers": choice.layers,
                "cross_fitted": Share.of(choice.trained).value,
                "held_out": Effect.of(choice.right, menu.plain.right).to_json(),
            }
            for name, choice in rules
        ],
        **metadata,
    }


def menu_table(content: Mapping[str, Any]) -> TerminalTable:
    """Format the content of `menu.json`."""
    rows = []
    for place, entry in enumerate(content["effects"]):
        shares = format_mean(entry["layers"]), format_percent(entry["cross_fitted"])
        cells = (*shares, *held_out_cells(entry["held_out"], bool(place)))
        rows.append(Row(entry["rule"], cells, bold=entry["chosen"]))
    caption = (
        f"Menu: {'; '.join(content['paths'])}. Layers are run for a prompt, prefixes shared; all "
        "rules but single and the selector run every path. Chosen on "
        f"{content['training_questions']:,} training questions, each fifth answered by paths and "
        "rules made from the other four; what counts is the difference "
        f"{held_out_of(content['effects'][0]['held_out'])}, paired with the pretrained model. The "
        "rule that is best in training is in bold."
    )
    columns = ("rule", "layers", "training", "held out", "points more")
    return TerminalTable(Table(rows, columns=columns), caption)


def read_deployed(directory: epath.Path) -> tuple[dict[str, Any], TerminalTable] | None:
    """Read the result of `cola static` or `menu` in a directory and its table, None for neither."""
    files = {file.stem: file for file in matching(directory, "*.json")}
    for command, table in (("static", static_table), ("menu", menu_table)):
        if file := files.get(command):
            with reading(file, f"Run `cola {command}` again."):
                content = read_json(file)
                return content, table(content)
    return None


def held_out_cells(effect: Mapping[str, Any], compared: bool) -> tuple[str, str]:
    """Format accuracy on held-out questions and, if compared, the difference in points."""
    interval = format_interval(effect["interval"], signed=True)
    change = f"{format_points(effect['difference'])}\n{interval}" if compared else ""
    return format_percent(effect["after"]), change


def held_out_of(effect: Mapping[str, Any]) -> str:
    """Name the questions and prompts of an effect."""
    text = f"on {effect['n']:,} held-out questions"
    if effect["prompts"] == 1:
        return f"{text}, for this prompt alone"
    return f"{text} in {effect['prompts']} prompts, both counted as random"


def cost_texts(cost: float | None, total: float | None) -> list[str]:
    """Format milliseconds of layers, and their share of the model's `total`; [] where unknown."""
    if cost is None or not total:
        return []
    time = f"{cost:,.1f}" if cost >= 100 else f"{cost:.3g}"
    return [f"{time} ms", f"{100 * cost / total:.1f} %"]


def effect_cells(effect: Effect) -> list[str]:
    """Format accuracy, and the difference in points with its interval."""
    return [
        format_percent(effect.after.value),
        format_points(effect.difference.value),
        format_interval(effect.difference.interval, signed=True),
    ]
