"""`results.json`: the results of a run in the shape of lm-evaluation-harness's own files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from cola_jax.errors import InputError, one_line
from cola_jax.files import read_json, readable_json, write_whole
from cola_jax.identity import check_belongs
from cola_jax.path import format_path, identity
from cola_jax.report.evaluation import effects_by_path, path_results
from cola_jax.report.summary import Summary, summarise
from cola_jax.report.tables import Row, Table
from cola_jax.runs.run import Run
from cola_jax.runs.settings import deciding
from cola_jax.scoring.preference import Preference
from cola_jax.scoring.statistics import Share, number_or_none
from cola_jax.tasks.registry import TASKS

RESULTS = "results.json"
BETTER = {"acc", "acc_norm", "exact_match", "net"}  # when higher
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
    if settings.get("command") != "evaluate":
        summary = summarise(run) if summary is None else summary
        results = {task: search_metrics(task, name, summary)}
        samples, effects = summary.done, effects_of(summary)
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
        shares["robust"] = summary.again.corrected
    net = {} if math.isnan(summary.net.interval[0]) else {"net,none": summary.net.value}
    return metrics(task, shares) | net


def effects_of(summary: Summary) -> dict[str, Any]:
    """Return the effects of a search beyond its controls, with intervals and p-values.

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
    write_whole(epath.Path(run.directory) / RESULTS, content.encode())
    return results


def tasks_table(every: Sequence[Mapping[str, Any]]) -> Table:
    """List the metrics of several tasks, a row for each metric."""
    rows = []
    for results in every:
        for label, entry in results["results"].items():
            for name in entry:
                metric = name.partition(",")[0]
                error = entry.get(f"{metric}_stderr,none", "")
                if error == "" and name != "net,none":
                    continue
                questions = str(results["n-samples"][label]["effective"])
                error = error if isinstance(error, str) else f"{error:.4f}"
                cells = questions, f"{entry[name]:.4f}", error
                rows.append(Row(f"{one_line(label)}: {metric}", cells))
    return Table(rows, columns=("task: metric", "questions", "value", "standard error"))
