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
from cola_jax.runs import (
    BEFORE,
    BEYOND,
    CHANGE,
    CORRECT,
    Estimate,
    Facts,
    Run,
    deciding,
    group_of,
)
from cola_jax.scoring import LEVEL, number_or_none
from cola_jax.storage import AnyPath
from cola_jax.tasks import TASKS

LIBRARY = "cola-jax"
SCHEMA = "0.3.0"
ACCURACY = "accuracy"
ANSWERS = ["question", "node", "control", "verdict", "answer", "finite", "text", "answer_text"]
QUESTIONS = ["question", "text", "options", "gold", "prompt_hash", "metadata", "best"]
UNSAFE = re.compile(r"[^\w.-]")  # in the name of a folder
Json = Mapping[str, Any]
Metric = dict[str, Any]


def write_records(run: Run, directory: AnyPath) -> int:
    """Write a record of each path of an evaluation, or of the pretrained model in a search.

    Records lie below `directory` in the folders of Every Eval Ever's data store, each beside its
    answers, and replace those of the same run. Ungraded answers are left out, and paths without a
    graded one. Returns the number of records. Raises InputError for a run of another command, or
    without a question done.
    """
    facts = run.facts()
    count = 0
    questions = {row["question"]: row for row in run.questions(QUESTIONS).to_pylist()}
    answers = run.evaluations(ANSWERS).filter(pc.field("verdict").is_valid())
    for node, path, metrics in measured_paths(run, facts):
        rows = answers.filter(pc.field("node") == node).to_pylist()
        if not (rows := [row for row in rows if not row["control"]]):
            continue
        record = make_record(facts, path, metrics)
        ids = {"evaluation_id": record["evaluation_id"], "model_id": record["model_info"]["id"]}
        samples = [ids | make_sample(facts, row, questions[row["question"]]) for row in rows]
        content = "".join(json.dumps(each, allow_nan=False) + "\n" for each in samples).encode()
        key = hashlib.sha256(f"{run.mark} {path}".encode()).digest()
        folder = f"data/{UNSAFE.sub('_', f'{LIBRARY}-{task_of(facts)}')}/"
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


def measured_paths(run: Run, facts: Facts) -> Iterator[tuple[int, Sequence[int], list[Metric]]]:
    """Yield the node of each path in the table of evaluations, the path and its metrics."""
    if facts.command not in ("evaluate", "search"):
        command = shown(facts.command)
        raise InputError(f"{run.directory} was made by {command}, not by an evaluation or search.")
    results = run.summary()
    right = "share of questions answered correctly"
    if facts.command == "search":
        metrics = [metric(ACCURACY, right, results.find(BEFORE))]
        beyond = results.find(BEYOND)
        if beyond is not None and not math.isnan(beyond.low):
            found = "wrong answers that a search made right, beyond its control searches"
            metrics.append(metric("cola_jax.net", found, beyond, -1))
        yield 0, identity(facts.num_layers), metrics
        return
    for node, path in enumerate(facts.paths):
        group = group_of(path, facts.num_layers)
        correct = results.find(CORRECT, group)
        change = results.find(CHANGE, group)
        effect = None if change is None else change.to_json()
        yield node, path, [metric(ACCURACY, right, correct, against_identity_path=effect)]


def metric(
    name: str, description: str, result: Estimate | None, lowest: int = 0, **details: Any
) -> Metric:
    """Make the fields of a metric from `lowest` to 1, with its 95 % interval."""
    assert result is not None
    interval = {"lower": result.low, "upper": result.high, "confidence_level": LEVEL}
    config = {"evaluation_description": description, "metric_id": name, "metric_name": name}
    config |= {"metric_unit": "proportion", "lower_is_better": False}
    config |= {"score_type": "continuous", "min_score": lowest, "max_score": 1}
    uncertainty = {"confidence_interval": interval, "num_samples": result.n}
    known = details if math.isnan(result.p) else details | {"p": result.p}
    score = {"score": result.value, "uncertainty": uncertainty, "details": texts(known)}
    return {"evaluation_result_id": name, "metric_config": config, "score_details": score}


def make_record(facts: Facts, path: Sequence[int], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Make the record of a path, without the reference to its answers."""
    settings = facts.settings
    start = facts.start
    library = {"name": LIBRARY, "version": start["versions"][LIBRARY]}
    model = model_info(facts, path)
    task = task_of(facts)
    details = deciding(settings)
    limits = {
        "temperature": settings.get("temperature", 0),
        "max_tokens": details["max_new_tokens"],
    }
    details |= {"prompt_hash": (settings.get("prompt") or {}).get("hash")}  # of earlier versions
    details |= {"shots_digest": settings.get("shots_digest")}
    generation: dict[str, Any] = {"additional_details": texts(details)}
    if facts.decodes:
        generation["generation_args"] = limits
    common = {"source_data": source_data(facts), "generation_config": generation}
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


def task_of(facts: Facts) -> str:
    """Return the name of a task as the harness has it, or the last part of a local path."""
    task = str(facts.start.get("task") or "task")
    return task.replace("-", "_") if task in TASKS else PurePath(task).name


def source_data(facts: Facts) -> dict[str, Any]:
    """Return the data set of a run: that of its task on the Hub, or another."""
    settings = facts.settings
    start = facts.start
    task = TASKS.get(str(start.get("task")))
    config = start.get("task_config") or {}
    digest = settings.get("questions_digest") or settings.get("task")  # that of earlier versions
    details = {"questions": settings["questions"], "questions_digest": digest}
    data = {"dataset_name": task_of(facts), "additional_details": texts(details)}
    if task is None or not task.hub or config.get("hub"):
        return data | {"source_type": "other"}
    split = config.get("split") or task.split
    return data | {"source_type": "hf_dataset", "hf_repo": task.hub, "hf_split": split}


def model_info(facts: Facts, path: Sequence[int]) -> dict[str, Any]:
    """Name a model by its Hub id, or its local name without the folders above it, and its path."""
    start = facts.start
    origin = start.get("origin") or {}
    name = str(origin.get("name") or start.get("model"))
    revision = origin.get("revision")
    on_hub = origin.get("kind") == "hub"
    id = name if on_hub else f"local/{UNSAFE.sub('_', PurePath(name).name)}"
    details = {
        "path": format_path(path),
        "layers_run": facts.costs.layers(path),
        "layers": start["num_layers"],
    }
    details |= {"revision": revision, "digest": facts.settings.get("model")}
    details |= {"deployment_type": "self_deployed"}
    details |= {"model_availability": "open_weights" if on_hub else "unknown"}
    developer = id.rpartition("/")[0] or "huggingface"
    name = f"{id}@{revision}" if revision else id
    return {"name": name, "id": id, "developer": developer, "additional_details": texts(details)}


def make_sample(facts: Facts, row: Json, question: Json) -> dict[str, Any]:
    """Make the row of one answer, without the ids of its record."""
    settings = facts.settings
    options = question["options"]
    response = answer = options[row["answer"]] if row["answer"] in range(len(options)) else None
    if row["text"] is not None:
        response = row["text"]
        answer = row["answer_text"]
    asked = {"raw": question["text"], "reference": [options[question["gold"]]]}
    hashed = json.dumps(asked, sort_keys=True, separators=(",", ":"))
    extracted = {"turn_idx": 0, "source": "output.raw", "extracted_value": answer}
    extracted["extraction_method"] = settings.get("rule") or settings.get("scorer")
    best = question["best"] and format_path(question["best"])
    details = {"prompt_hash": question["prompt_hash"], "shortest_correct_path": best}
    details |= {each["name"]: each["value"] for each in question["metadata"] or ()}
    return {
        "schema_version": SCHEMA,
        "evaluation_name": task_of(facts),
        "evaluation_result_id": ACCURACY,
        "sample_id": row["question"],
        "sample_hash": hashlib.sha256(hashed.encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": asked | {"choices": None if facts.is_open else options},
        "output": {"raw": [] if response is None else [response]},
        "answer_attribution": [] if answer is None else [extracted | {"is_terminal": True}],
        "evaluation": {"score": float(row["verdict"]), "is_correct": row["verdict"]},
        "error": None if row["finite"] else "logits are not finite",
        "metadata": texts(details),
    }


def texts(values: Json) -> dict[str, str]:
    """Write values as texts, without those that are None."""
    known = {name: value for name, value in values.items() if value is not None}
    return {n: v if isinstance(v, str) else json.dumps(number_or_none(v)) for n, v in known.items()}
