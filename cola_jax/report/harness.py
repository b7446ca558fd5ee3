"""Results in the layout of lm-evaluation-harness's JSON."""

import math
from typing import Any

from cola_jax.runs.estimates import BEFORE, CHANGE, CORRECT, FOUND, MODEL, Estimate
from cola_jax.runs.results import Results
from cola_jax.runs.search_results import AFTER, NET, SHORTENED
from cola_jax.scoring.statistics import Z
from cola_jax.tasks.registry import TASKS

ACCURACY = {"exact": "exact_match", "generation": "exact_match", "options-norm": "acc_norm"}
METRICS = {  # the harness's names of other estimates
    FOUND: "corrected",
    AFTER: "found_among_paths_upper_bound",
    SHORTENED: "kept_on_fewer_layers",
    NET: "net",
    CHANGE: "difference",
}


def harness_json(results: Results) -> dict[str, Any]:
    """Arrange the results of a search or an evaluation as the harness writes them.

    `results` maps the task to metrics and their standard errors, and the task with a path to those
    of other paths.
    """
    settings = results.run["settings"]
    start = results.run["start"]
    task = str(start.get("task") or "task")
    if task in TASKS:
        task = task.replace("-", "_")  # as the harness names it
    accuracy = ACCURACY.get(str(settings.get("scorer")), "acc")
    names = METRICS | {BEFORE: accuracy, CORRECT: accuracy}
    entries: dict[str, dict[str, Any]] = {}
    for each in results:
        if each.name in names:
            label = task if each.group in ("", MODEL) else f"{task} {each.group}"
            entry = entries.setdefault(label, {"alias": label})
            entry |= metric(names[each.name], each)
    shots = len((settings.get("prompt") or {}).get("shots") or ())
    samples = {"original": settings["questions"], "effective": results.run["done"]}
    return {
        "results": entries,
        "group_subtasks": {},
        "configs": {label: {"task": task, "num_fewshot": shots} for label in entries},
        "versions": dict.fromkeys(entries, 1),
        "n-shot": dict.fromkeys(entries, shots),
        "higher_is_better": {label: {accuracy: True} for label in entries},
        "n-samples": dict.fromkeys(entries, samples),
        "config": {"model": "cola", "model_args": f"checkpoint={start.get('model')}"},
        "model_name": start.get("model"),
        "date": start.get("date"),
    }


def metric(name: str, estimate: Estimate) -> dict[str, Any]:
    """Return a value and its standard error; {} for a share of nothing.

    The error of a share is that of a sample's mean, as in the harness, and of a difference half
    the width of its interval as a normal's.
    """
    if math.isnan(estimate.value):
        return {}
    error: float | str = "N/A"
    n = estimate.n or 0
    if estimate.unit == "share" and n > 1:
        error = math.sqrt(estimate.value * (1 - estimate.value) / (n - 1))
    elif estimate.unit != "share" and not math.isnan(estimate.low):
        error = (estimate.high - estimate.low) / 2 / Z
    return {f"{name},none": estimate.value, f"{name}_stderr,none": error}
