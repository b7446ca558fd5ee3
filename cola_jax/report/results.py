"""`results.json`, as lm-evaluation-harness has it; `static.json` and `menu.json` with tables."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from cola_jax.errors import InputError, check_belongs, one_line, reading
from cola_jax.files import matching, read_json, readable_json, write_whole
from cola_jax.path import format_path
from cola_jax.report.evaluation import evaluation_verdict, path_results
from cola_jax.report.summary import Summary, summarise
from cola_jax.report.tables import cost_texts
from cola_jax.report.terminal import TerminalTable
from cola_jax.runs.compare import deciding
from cola_jax.runs.run import Run
from cola_jax.scoring.number_format import (
    Row,
    Table,
    format_interval,
    format_mean,
    format_percent,
    format_points,
)
from cola_jax.scoring.preference import Net, Preference
from cola_jax.scoring.statistics import Crossed, Difference, Effect, Share, Z, number_or_none
from cola_jax.strategies.reached import AGAIN, ONCE
from cola_jax.tasks.registry import TASKS

if TYPE_CHECKING:
    from cola_jax.deploy.menu import TaskMenu
    from cola_jax.deploy.static import TaskPath

RESULTS = "results.json"
NETS = {ONCE: "net", AGAIN: "net_asked_again"}  # metrics of a search
BETTER = ("acc", "acc_norm", "exact_match", "difference", *NETS.values())  # when higher
KL_NOTE = (
    "Training and validation are the divergence (KL, nats) from the model's own next token on the "
    "prompts, which reads no answers. "
)
METRICS = {"exact": "exact_match", "generation": "exact_match", "options-norm": "acc_norm"}


def results_json(run: Run, summary: Summary | None = None) -> dict[str, Any]:
    """Return the results of a search, with its summary if it is at hand, or of an evaluation.

    `results` maps the task to metrics and their standard errors: those of the pretrained model
    under lm-evaluation-harness's names, and those of a search. An evaluation has an entry for each
    other path, named after the task and the path. Raises InputError as `summarise`.
    """
    manifest = run.manifest()
    settings, start = manifest["settings"], manifest["starts"][-1]
    task = str(start.get("task") or "task")
    if task in TASKS:
        task = task.replace("-", "_")  # as the harness names it
    name = METRICS.get(str(settings.get("scorer")), "acc")
    results: dict[str, dict[str, Any]] = {}
    if settings.get("command") != "evaluate":
        summary = summarise(run) if summary is None else summary
        results[task] = search_metrics(task, name, summary)
        samples, effects = summary.done, search_effects(summary)
    else:
        measured = path_results(run)
        samples = max(result.not_finite.n for result in measured)
        effects = {"sentence": evaluation_verdict(measured), "paths": {}}
        for result in measured:
            label = task if result.is_identity else f"{task} {format_path(result.path)}"
            entry = metrics(label, {name: result.correct})
            results[label] = entry | {"layers,none": len(result.path)}
            if result.effect is not None:
                results[label] |= estimate("difference", result.effect.difference)
                effect = result.effect.to_json() | {"p_holm": result.p}
                effects["paths"][format_path(result.path)] = effect
    shots = len((settings.get("prompt") or {}).get("shots") or ())
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {label: {"task": task, "num_fewshot": shots} for label in results},
        "versions": dict.fromkeys(results, 1),
        "n-shot": dict.fromkeys(results, shots),
        "higher_is_better": {
            label: {metric: True for metric in BETTER if f"{metric},none" in entry}
            for label, entry in results.items()
        },
        "n-samples": {
            label: {"original": settings["questions"], "effective": samples} for label in results
        },
        "config": {"model": "cola", "model_args": f"checkpoint={start.get('model')}"},
        "model_name": start.get("model"),
        "cola_jax": {
            "settings": settings,
            "versions": start.get("versions"),
            "effects": number_or_none(effects),
        },
        "date": start.get("date"),
    }


def search_metrics(task: str, name: str, summary: Summary) -> dict[str, Any]:
    """Return the metrics of a search, of which `name` is that of the pretrained model."""
    shares = {
        name: summary.before,
        "found_among_paths_upper_bound": summary.after,
        "corrected": summary.corrected,
        "corrected_control": summary.control,
        "kept_on_fewer_layers": summary.shortened,
    }
    if summary.again is not None:
        shares["held_when_asked_again"] = summary.again.held
    entry = metrics(task, shares)
    for way, net in summary.nets.items():
        entry |= estimate(NETS[way], net)
    return entry


def estimate(name: str, result: Net | Difference | Crossed) -> dict[str, Any]:
    """Return a value and its standard error, half the width of its interval as a normal's.

    {} where there is no interval.
    """
    low, high = result.interval
    if math.isnan(low):
        return {}
    return {f"{name},none": result.value, f"{name}_stderr,none": (high - low) / 2 / Z}


def search_effects(summary: Summary) -> dict[str, Any]:
    """Return the effects of a search beyond its controls, with intervals and p-values.

    `p_holm` is corrected for the number of p-values here; shares and effects are 0 to 1.
    """
    p = summary.p_values
    return {
        "sentence": summary.sentence,
        "preference": summary.preference and summary.preference._asdict(),
        "evaluations": {
            "total": summary.evaluations,
            "gold": summary.gold_evaluations,
            "control": summary.control_evaluations,
            "again": summary.again_evaluations,
        },
        "net": {name: net.to_json() | {"p_holm": p[name][1]} for name, net in summary.nets.items()},
        "layers_kept": {
            name: kept._asdict() | {"p_holm": p[f"kept {name}"][1]}
            for name, kept in summary.kept.items()
        },
    }


def metrics(alias: str, shares: Mapping[str, Share]) -> dict[str, Any]:
    """Return shares and their standard errors by name and filter; those of nothing are left out.

    The error is that of a sample's mean, as in lm-evaluation-harness.
    """
    entry: dict[str, Any] = {"alias": alias}
    for name, share in shares.items():
        if not share.n:
            continue
        p = share.value
        error = math.sqrt(p * (1 - p) / (share.n - 1)) if share.n > 1 else "N/A"
        entry |= {f"{name},none": p, f"{name}_stderr,none": error}
    return entry


def write_results(run: Run, summary: Summary | None = None) -> dict[str, Any]:
    """Write `results.json` into the run directory, and return its content."""
    results = results_json(run, summary)
    content = readable_json(results, default=str, allow_nan=False) + "\n"
    write_whole(run.directory / RESULTS, content.encode())
    return results


def read_preference(file: epath.PathLike, settings: Mapping[str, Any]) -> Preference:
    """Read the model's preference for gold from the results of another run.

    Raises InputError for a file without a preference, or of a run with a different model or
    prompts than these settings, and OSError for a file that cannot be read.
    """
    results = read_json(file)
    try:
        theirs = dict(results["cola_jax"]["settings"])
        stored = results["cola_jax"]["effects"]["preference"]
        preference = Preference(float(stored["tau"]), float(stored["error"]))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{file} has no preference: give the results.json of a search whose questions offer "
            "options."
        ) from None
    action = "give the results of a run with the same model and prompts"
    check_belongs(str(file), deciding(theirs), "this run", deciding(settings), action)
    return preference


def tasks_table(every: Sequence[Mapping[str, Any]]) -> Table:
    """List the metrics of several tasks, a row for each metric."""
    rows = []
    for results in every:
        for label, entry in results["results"].items():
            for name in entry:
                metric = name.partition(",")[0]
                error = entry.get(f"{metric}_stderr,none", "")
                if error == "":
                    continue
                questions = str(results["n-samples"][label]["effective"])
                error = error if isinstance(error, str) else f"{error:.4f}"
                cells = questions, f"{entry[name]:.4f}", error
                rows.append(Row(f"{one_line(label)}: {metric}", cells))
    return Table(rows, columns=("task: metric", "questions", "value", "standard error"))


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
