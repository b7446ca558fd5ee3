"""`results.json`: the results of a run in the shape of lm-evaluation-harness's own files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cola_jax.json_text import readable_json
from cola_jax.path import format_path, identity
from cola_jax.report.statistics import Share
from cola_jax.report.summary import Summary, path_results, summarise
from cola_jax.runs.directory import RunDirectory
from cola_jax.storage import write_whole
from cola_jax.tasks.names import NAMES

RESULTS = "results.json"
METRICS = {"exact": "exact_match", "generation": "exact_match", "options-norm": "acc_norm"}


def results_json(run: RunDirectory, summary: Summary | None = None) -> dict[str, Any]:
    """Returns the results of a search, with its summary if it is at hand, or of an evaluation.

    `results` maps the task to metrics and their standard errors: those of the pretrained model
    under lm-evaluation-harness's names, and of a search what it found. An evaluation has an entry
    for each other path, named after the task and the path. Raises ValueError as `summarise`.
    """
    manifest = run.manifest()
    settings, start = manifest["settings"], manifest["starts"][-1]
    task = str(start.get("task") or "task")
    if task in NAMES:
        task = task.replace("-", "_")  # as the harness names it
    name = METRICS.get(str(settings.get("scorer")), "acc")
    if settings.get("command") != "evaluate":
        summary = summarise(run) if summary is None else summary
        found = {
            name: summary.before,
            "found_among_paths": summary.after,
            "corrected": summary.corrected,
            "corrected_control": summary.control,
            "kept_on_fewer_layers": summary.shortened,
        }
        results, samples = {task: metrics(task, found)}, summary.done
    else:
        original = identity(start["num_layers"])
        results, samples = {}, 0
        for one in path_results(run):
            label = task if one.path == original else f"{task} {format_path(one.path)}"
            entry = metrics(label, {name: one.correct})
            results[label] = entry | {"layers,none": len(one.path)}
            samples = max(samples, one.not_finite.n)
    shots = len((settings.get("prompt") or {}).get("shots") or ())
    return {
        "results": results,
        "group_subtasks": {},
        "configs": {label: {"task": task, "num_fewshot": shots} for label in results},
        "versions": dict.fromkeys(results, 1),
        "n-shot": dict.fromkeys(results, shots),
        "higher_is_better": {
            label: {metric.partition(",")[0]: True for metric in entry if "," in metric}
            for label, entry in results.items()
        },
        "n-samples": {
            label: {"original": settings["questions"], "effective": samples} for label in results
        },
        "config": {"model": "cola", "model_args": f"checkpoint={start.get('model')}"},
        "model_name": start.get("model"),
        "cola_jax": {"settings": settings, "versions": start.get("versions")},
        "date": start.get("date"),
    }


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


def write_results(run: RunDirectory, summary: Summary | None = None) -> dict[str, Any]:
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
            names = [name for name in entry if f"{name.partition(',')[0]}_stderr,none" in entry]
            for name in names:
                metric = name.partition(",")[0]
                error = entry[f"{metric}_stderr,none"]
                table.add_row(
                    label,
                    str(results["n-samples"][label]["effective"]),
                    metric,
                    f"{entry[name]:.4f}",
                    error if isinstance(error, str) else f"{error:.4f}",
                )
    return table
