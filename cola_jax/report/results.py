"""`results.json`: the results of a run in the shape of lm-evaluation-harness's own files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cola_jax.errors import InputError, one_line
from cola_jax.files import read_json, readable_json, write_whole
from cola_jax.identity import check_belongs
from cola_jax.path import format_path, identity
from cola_jax.report.paths import effects_by_path, path_results
from cola_jax.report.preference import Preference
from cola_jax.report.summary import Summary, summarise
from cola_jax.runs.run import Run
from cola_jax.runs.settings import deciding
from cola_jax.scoring.statistics import Share, number_or_none
from cola_jax.tasks.registry import TASKS

RESULTS = "results.json"
BETTER = {"acc", "acc_norm", "exact_match", "net"}  # when higher
METRICS = {"exact": "exact_match", "generation": "exact_match", "options-norm": "acc_norm"}


def results_json(run: Run, summary: Summary | None = None) -> dict[str, Any]:
    """Returns the results of a search, with its summary if it is at hand, or of an evaluation.

    `results` maps the task to metrics and their standard errors: those of the pretrained model
    under lm-evaluation-harness's names, and of a search what it found. An evaluation has an entry
    for each other path, named after the task and the path. Raises ValueError as `summarise`.
    """
    manifest = run.manifest()
    settings, start = manifest["settings"], manifest["starts"][-1]
    task = str(start.get("task") or "task")
    if task in TASKS:
        task = task.replace("-", "_")  # as the harness names it
    name = METRICS.get(str(settings.get("scorer")), "acc")
    if settings.get("command") != "evaluate":
        summary = summarise(run) if summary is None else summary
        found = {
            name: summary.before,
            "found_among_paths_upper_bound": summary.after,
            "corrected": summary.corrected,
            "corrected_control": summary.control,
            "kept_on_fewer_layers": summary.shortened,
        }
        if summary.again is not None:
            found["robust"] = summary.again.corrected
        results, samples = {task: metrics(task, found)}, summary.done
        if not math.isnan(summary.net.interval[0]):
            results[task]["net,none"] = summary.net.value
        effects = effects_of(summary)
    else:
        original = identity(start["num_layers"])
        results, samples, measured = {}, 0, path_results(run)
        for result in measured:
            label = task if result.path == original else f"{task} {format_path(result.path)}"
            entry = metrics(label, {name: result.correct})
            results[label] = entry | {"layers,none": len(result.path)}
            samples = max(samples, result.not_finite.n)
        effects = {"paths": effects_by_path(measured)}
    shots = len((settings.get("prompt") or {}).get("shots") or ())
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {label: {"task": task, "num_fewshot": shots} for label in results},
        "versions": dict.fromkeys(results, 1),
        "n-shot": dict.fromkeys(results, shots),
        "higher_is_better": {
            label: {
                metric: True
                for metric in dict.fromkeys(key.partition(",")[0] for key in entry if "," in key)
                if metric in BETTER
            }
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


def effects_of(summary: Summary) -> dict[str, Any]:
    """Returns what a search reached beyond its controls and kept, with intervals and p-values.

    `p_holm` is corrected for the number of p-values here; shares and effects are 0 to 1.
    """
    p = summary.p_values
    return {
        "preference": summary.preference and summary.preference._asdict(),
        "net": {
            name: net._asdict() | {"undecided": net.undecided, "p_holm": p[name][1]}
            for name, net in summary.nets.items()
        },
        "by_distance": {name: curve._asdict() for name, curve in summary.curves.items()},
        "layers_kept": {
            name: kept._asdict() | {"p_holm": p[f"kept {name}"][1]}
            for name, kept in summary.kept.items()
        },
    }


def read_preference(file: epath.PathLike, settings: Mapping[str, Any]) -> Preference:
    """Reads the model's preference for gold from the results of another run.

    Raises ValueError for a file that has none, or that of a run that was asked otherwise than one
    of these settings, and OSError for a file that cannot be read.
    """
    results = read_json(file)
    try:
        there = dict(results["cola_jax"]["settings"])
        found = results["cola_jax"]["effects"]["preference"]
        preference = Preference(float(found["tau"]), float(found["error"]))
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{file} has no preference: give the results.json of a search whose questions offer "
            "options."
        ) from None
    action = "give the results of a run that asks the same model alike"
    check_belongs(str(file), deciding(there), "this run", deciding(settings), action)
    return preference


def metrics(alias: str, shares: Mapping[str, Share]) -> dict[str, Any]:
    """Returns shares and their standard errors by name and filter; those of nothing are left out.

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
    """Writes `results.json` into the run directory, and returns what it holds."""
    results = results_json(run, summary)
    content = readable_json(results, default=str, allow_nan=False) + "\n"
    write_whole(epath.Path(run.directory) / RESULTS, content.encode())
    return results


def tasks_table(every: Sequence[Mapping[str, Any]]) -> Table:
    """Formats the results of several tasks as one table: a row for each metric."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("task", "questions", "metric", "value", "standard error"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for results in every:
        for label, entry in results["results"].items():
            errors = {name: f"{name.partition(',')[0]}_stderr,none" for name in entry}
            names = [name for name in entry if errors[name] in entry or name == "net,none"]
            for name in names:
                metric = name.partition(",")[0]
                error = entry.get(errors[name], "")
                table.add_row(
                    one_line(label),
                    str(results["n-samples"][label]["effective"]),
                    metric,
                    f"{entry[name]:.4f}",
                    error if isinstance(error, str) else f"{error:.4f}",
                )
    return table
