"""Runs in the format of Every Eval Ever: a record of each path, and the answers that it scores.

Follows schema 0.3.0 of https://github.com/evaleval/every_eval_ever.
"""

import hashlib
import json
import math
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import pyarrow.compute as pc

from cola_jax.errors import InputError, shown
from cola_jax.files import inside, readable_json, write_whole
from cola_jax.path import format_path, identity
from cola_jax.report import path_results, summarise
from cola_jax.runs import Run, deciding, scorer_flag
from cola_jax.scoring import LEVEL, Net, Share, number_or_none
from cola_jax.storage import AnyPath
from cola_jax.tasks import TASKS

LIBRARY, SCHEMA, ACCURACY = "cola-jax", "0.3.0", "accuracy"
ANSWERS = ["question", "node", "control", "verdict", "answer", "finite", "text", "answer_text"]
QUESTIONS = ["question", "text", "options", "gold", "prompt_hash", "metadata", "best"]
UNSAFE = re.compile(r"[^\w.-]")  # in the name of a folder
Fields = Mapping[str, Any]
Metric = dict[str, Any]


def write_records(run: Run, directory: AnyPath) -> int:
    """Write a record of each path of an evaluation, or of the pretrained model in a search.

    Records lie below `directory` in the folders of Every Eval Ever's data store, each beside its
    answers, and replace those of the same run. Ungraded answers are left out, and paths without a
    graded one. Returns the number of records. Raises InputError for a run of another command, or
    without a question done.
    """
    manifest, count = run.manifest(), 0
    questions = {row["question"]: row for row in run.questions(QUESTIONS).to_pylist()}
    answers = run.evaluations(ANSWERS).filter(pc.field("verdict").is_valid())
    for node, path, metrics in measured_paths(run, manifest):
        rows = answers.filter(pc.field("node") == node).to_pylist()
        if not (rows := [row for row in rows if not row["control"]]):
            continue
        record = make_record(manifest, path, metrics)
        ids = {"evaluation_id": record["evaluation_id"], "model_id": record["model_info"]["id"]}
        samples = [ids | make_sample(manifest, row, questions[row["question"]]) for row in rows]
        content = "".join(json.dumps(each, allow_nan=False) + "\n" for each in samples).encode()
        key = hashlib.sha256(f"{run.mark} {path}".encode()).digest()
        folder = f"data/{UNSAFE.sub('_', f'{LIBRARY}-{task_of(manifest)}')}/"
        folder += record["model_info"]["developer"] + "/" + PurePath(ids["model_id"]).name
        name = f"{folder}/{uuid.UUID(bytes=key[:16], version=4)}"
        reference = {"format": "jsonl", "file_path": f"{name}_samples.jsonl"}
        reference |= {"hash_algorithm": "sha256", "checksum": hashlib.sha256(content).hexdigest()}
        record["detailed_evaluation_results"] = reference | {"total_rows": len(samples)}
        target = inside(directory, *PurePath(name).parts)
        write_whole(f"{target}_samples.jsonl", content)
        write_whole(f"{target}.json", readable_json(record, allow_nan=False).encode())
        count += 1
    return count


def measured_paths(run: Run, manifest: Fields) -> Iterator[tuple[int, Sequence[int], list[Metric]]]:
    """Yield the node of each path in the table of evaluations, the path and its metrics."""
    settings, right = manifest["settings"], "share of questions answered correctly"
    if settings.get("command") == "evaluate":
        for result in path_results(run):
            effect = result.effect and result.effect.to_json() | {"p_holm": result.p}
            metrics = [metric(ACCURACY, right, result.correct, against_identity_path=effect)]
            yield settings["paths"].index(list(result.path)), result.path, metrics
        return
    if settings.get("command") != "search":
        command = shown(settings.get("command"))
        raise InputError(f"{run.directory} was made by {command}, not by an evaluation or search.")
    summary = summarise(run)
    right += ", in all wordings" * ("robust" in settings)
    metrics = [metric(ACCURACY, right, summary.before)]
    if not math.isnan(summary.net.interval[0]):
        beyond = "wrong answers that a search made right, beyond its control searches"
        metrics.append(metric("cola_jax.net", beyond, summary.net, -1, p=summary.net.p))
    yield 0, identity(summary.num_layers), metrics


def metric(
    name: str, description: str, result: Share | Net, lowest: int = 0, **facts: Any
) -> Metric:
    """Make the fields of a metric from `lowest` to 1, with its 95 % interval."""
    low, high = result.interval
    interval = {"lower": low, "upper": high, "confidence_level": LEVEL}
    config = {"evaluation_description": description, "metric_id": name, "metric_name": name}
    config |= {"metric_unit": "proportion", "lower_is_better": False}
    config |= {"score_type": "continuous", "min_score": lowest, "max_score": 1}
    uncertainty = {"confidence_interval": interval, "num_samples": result.n}
    score = {"score": result.value, "uncertainty": uncertainty, "details": texts(facts)}
    return {"evaluation_result_id": name, "metric_config": config, "score_details": score}


def make_record(manifest: Fields, path: Sequence[int], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Make the record of a path, without the reference to its answers."""
    settings, start = manifest["settings"], manifest["starts"][-1]
    library = {"name": LIBRARY, "version": start["versions"][LIBRARY]}
    model, task, facts = model_info(manifest, path), task_of(manifest), deciding(settings)
    limits = {"temperature": settings.get("temperature", 0), "max_tokens": facts["max_new_tokens"]}
    facts |= {"prompt_hash": (settings.get("prompt") or {}).get("hash")}  # of earlier versions
    facts |= {"shots_digest": settings.get("shots_digest")}
    generation: dict[str, Any] = {"additional_details": texts(facts)}
    if scorer_flag(manifest, "decodes"):
        generation["generation_args"] = limits
    common = {"source_data": source_data(manifest), "generation_config": generation}
    source = {"source_name": LIBRARY, "source_type": "evaluation_run"}
    source |= {"source_organization_name": "unknown", "evaluator_relationship": "other"}
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{task}/{model['id']}/{format_path(path)}/{start['date']}",
        "evaluation_timestamp": start["date"],
        "retrieved_timestamp": str(int(time.time())),
        "source_metadata": source,
        "eval_library": library | {"additional_details": texts({"commit": start.get("commit")})},
        "model_info": model | {"inference_engine": library},
        "evaluation_results": [{"evaluation_name": task} | common | each for each in metrics],
    }


def task_of(manifest: Fields) -> str:
    """Return the name of a task as the harness has it, or the last part of a local path."""
    task = str(manifest["starts"][-1].get("task") or "task")
    return task.replace("-", "_") if task in TASKS else PurePath(task).name


def source_data(manifest: Fields) -> dict[str, Any]:
    """Return the data set of a run: that of its task on the Hub, or another."""
    settings, start = manifest["settings"], manifest["starts"][-1]
    task, config = TASKS.get(str(start.get("task"))), start.get("task_config") or {}
    digest = settings.get("questions_digest") or settings.get("task")  # that of earlier versions
    facts = {"questions": settings["questions"], "questions_digest": digest}
    data = {"dataset_name": task_of(manifest), "additional_details": texts(facts)}
    if task is None or not task.hub or config.get("hub"):
        return data | {"source_type": "other"}
    split = config.get("split") or task.split
    return data | {"source_type": "hf_dataset", "hf_repo": task.hub, "hf_split": split}


def model_info(manifest: Fields, path: Sequence[int]) -> dict[str, Any]:
    """Name a model by its Hub id, or its local name without the folders above it, and its path."""
    start = manifest["starts"][-1]
    origin = start.get("origin") or {}
    name, revision = str(origin.get("name") or start.get("model")), origin.get("revision")
    on_hub = origin.get("kind") == "hub"
    id = name if on_hub else f"local/{UNSAFE.sub('_', PurePath(name).name)}"
    facts = {"path": format_path(path), "layers_run": len(path), "layers": start["num_layers"]}
    facts |= {"revision": revision, "digest": manifest["settings"].get("model")}
    facts |= {"deployment_type": "self_deployed"}
    facts |= {"model_availability": "open_weights" if on_hub else "unknown"}
    developer = id.rpartition("/")[0] or "huggingface"
    name = f"{id}@{revision}" if revision else id
    return {"name": name, "id": id, "developer": developer, "additional_details": texts(facts)}


def make_sample(manifest: Fields, row: Fields, question: Fields) -> dict[str, Any]:
    """Make the row of one answer, without the ids of its record."""
    settings, options = manifest["settings"], question["options"]
    response = answer = options[row["answer"]] if row["answer"] in range(len(options)) else None
    if row["text"] is not None:
        response, answer = row["text"], row["answer_text"]
    asked = {"raw": question["text"], "reference": [options[question["gold"]]]}
    hashed = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    extracted = {"turn_idx": 0, "source": "output.raw", "extracted_value": answer}
    extracted["extraction_method"] = settings.get("rule") or settings.get("scorer")
    best = question["best"] and format_path(question["best"])
    facts = {"prompt_hash": question["prompt_hash"], "shortest_correct_path": best}
    facts |= {each["name"]: each["value"] for each in question["metadata"] or ()}
    return {
        "schema_version": SCHEMA,
        "evaluation_name": task_of(manifest),
        "evaluation_result_id": ACCURACY,
        "sample_id": row["question"],
        "sample_hash": hashlib.sha256(hashed.encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": asked | {"choices": None if scorer_flag(manifest, "open") else options},
        "output": {"raw": [] if response is None else [response]},
        "answer_attribution": [] if answer is None else [extracted | {"is_terminal": True}],
        "evaluation": {"score": float(row["verdict"]), "is_correct": row["verdict"]},
        "error": None if row["finite"] else "logits are not finite",
        "metadata": texts(facts),
    }


def texts(values: Fields) -> dict[str, str]:
    """Write values as texts, without those that are None."""
    known = {name: value for name, value in values.items() if value is not None}
    return {n: v if isinstance(v, str) else json.dumps(number_or_none(v)) for n, v in known.items()}
