"""The command that tries the best block of a scan on other questions, in other prompts."""

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from cola_jax.deploy.verify.power import plan
from cola_jax.deploy.verify.verdict import number_of_tests
from cola_jax.path import LayerPath, format_path
from cola_jax.runs.run import Run
from cola_jax.tasks.registry import ARITHMETIC
from cola_jax.tasks.task import TaskConfig

# of a trial that a few hundred questions are enough for, by usual variances
PROMPTS = 16
MARGIN = 6  # points
NAMES = {"shots": "num-fewshot"}  # flags that are not named after their fields
# fields of a task that a trial has otherwise
OTHER = ("task", "limit", "choose_prompts", "prompts", "part")


def next_trial(run: Run, path: LayerPath) -> tuple[str, str]:
    """Return what to do next with the best path of a scan, and the command; "" where none is.

    The questions and the prompts of a trial are others than those of the scan.
    """
    facts = run.facts()
    task = facts.start.get("task_config")
    if not task:  # as in scans of earlier versions
        return (
            "A block is tried on other questions, in other prompts, with `cola verify --chosen-on "
            f"{run.directory}`.",
            "",
        )
    shorter = facts.costs.layers(path) < facts.num_layers
    fresh = other_questions(task, facts.settings["questions"], shorter=shorter)
    if not fresh:
        return (
            "A block is tried on other questions, in other prompts. This scan asked all questions "
            "of the task: hold some out with --held-out, or scan fewer with --limit.",
            "",
        )
    if not (facts.settings.get("choose_prompts") or task["shots"]):
        return (
            "A block is tried on other questions, in other prompts. This task has one prompt, or "
            "few: for more, scan with examples (--num-fewshot 2, of a file with --shots-file), or "
            "with listed options (--scorer letter).",
            "",
        )
    words = ["cola", "verify", format_path(path), "--model", str(facts.start["model"])]
    words += ["--task", task["task"], *task_flags(task), *fresh]
    words += ["--prompts", str(PROMPTS), "--margin", str(MARGIN)]
    words += ["--chosen-on", str(run.directory), "--output", f"{run.directory}-trial"]
    return "Try the best block on other questions, in other prompts:", shlex.join(words)


def other_questions(task: Mapping[str, Any], asked: int, *, shorter: bool) -> list[str]:
    """Return the flags of questions that a scan of `asked` did not ask; [] where all were asked.

    Beyond a limit, there are as many as the trial of a path needs, which may be shorter than the
    model's, where the task has them.
    """
    limit = task["limit"]
    if task["held_out"] or task["held_out_from"]:
        return ["--part", "held-out", *([] if limit is None else ["--limit", str(limit)])]
    if limit is None and task["task"] != ARITHMETIC:
        return []
    tests = number_of_tests(PROMPTS, shorter=shorter)
    needed = plan(MARGIN / 100, PROMPTS, tests=tests).questions
    more = asked if needed is None else needed
    return ["--limit", str(asked + more), "--other-questions"]


def task_flags(task: Mapping[str, Any]) -> Iterator[str]:
    """Yield the flags of a task, as a scan recorded them, that are not the default."""
    for field in dataclasses.fields(TaskConfig):
        value = task.get(field.name, field.default)
        if field.name in OTHER or value in (None, field.default):
            continue
        name = NAMES.get(field.name) or field.name.replace("_", "-")
        yield f"--{name}"
        if value is not True:
            yield str(value)
