"""The report of a trial: `verdicts.json`, and its tables for the terminal, Markdown and a page."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from cola_jax.deploy.verify.comparators import affordable_samples
from cola_jax.deploy.verify.power import Components
from cola_jax.deploy.verify.trial import TaskTrial, Trial
from cola_jax.deploy.verify.verdict import Verdict
from cola_jax.errors import count, reading
from cola_jax.files import exists, read_json
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import LayerPath, format_path, identity, parse_path
from cola_jax.report.document import Document, title
from cola_jax.report.results import cost_texts
from cola_jax.scoring.number_format import (
    NO_VALUE,
    Row,
    Table,
    format_interval,
    format_p,
    format_percent,
    format_points,
)
from cola_jax.scoring.statistics import ALPHA, number_or_none
from cola_jax.storage import path_of

VERDICTS = "verdicts.json"
ON_A_LINE = 4  # differences of a row
SETTINGS = ("hash", "model", "dtype", "measure", "margin", "seed", "tests")  # of the protocol
UNITS = {"accuracy": "points", "likelihood": "hundredths of a nat"}  # of differences
SHORT = UNITS | {"likelihood": "nats/100"}
STATED = {
    "better": "{claim} is better on {task}",
    "worse": "{claim} is worse on {task}",
    "as good on fewer layers": "{claim} is as good on {task} on fewer layers",
    "depends on the prompt": "The effect of {claim} on {task} depends on the prompt",
    "nothing shown": "Nothing shown for {claim} on {task}",
}


def verdicts_json(
    trial: Trial, seconds: Mapping[str, Mapping[LayerPath, float]], costs: LayerCosts
) -> dict[str, Any]:
    """Return the content of `verdicts.json`; shares and differences are 0 to 1.

    `seconds` are those a question that paths take alone, by task; the milliseconds of a claim are
    the costs of the model's layers and of its own.
    """
    protocol, unit, claims = trial.protocol, UNITS[trial.protocol["measure"]], []
    for claim, verdicts in zip(trial.claims, trial.verdicts, strict=True):
        tasks = {
            task.task: claim_content(trial, claim.path, task, seconds[task.task])
            | {
                "outcome": verdict.outcome,
                "p_holm": verdict.p,
                "noninferior_p_holm": verdict.noninferior_p,
                "sentence": sentence(verdict, claim.name, task_title(task.task), unit),
            }
            for task, verdict in zip(trial.tasks, verdicts, strict=True)
        }
        path, layers = format_path(claim.path), len(claim.path)
        times = [costs.total, costs.of(claim.path)] if costs.milliseconds else [None, None]
        entry = {"name": claim.name, "path": path, "layers": layers, "milliseconds": times}
        claims.append(entry | {"tasks": tasks})
    return number_or_none(
        {
            "protocol": protocol["hash"],
            **{name: protocol[name] for name in ("model", "num_layers", "measure", "margin")},
            "claims": claims,
        }
    )


def sentence(verdict: Verdict, claim: str, task: str, unit: str = "points") -> str:
    """State a verdict, whose effect is in hundredths of the unit's whole."""
    effect = verdict.effect
    low, high = map(format_points, effect.interval)
    alone = ", for this prompt alone" if effect.prompts == 1 else ""
    return (
        f"{STATED[verdict.outcome].format(claim=claim, task=task)}{alone}: "
        f"{format_points(effect.value)} {unit} ({low} to {high}, {p_value(verdict.p)})"
        f"{stated_loss(verdict, unit)}{stated_prompts(verdict)}{stated_power(verdict, unit)}."
    )


def stated_loss(verdict: Verdict, unit: str) -> str:
    """Compare a loss with the margin, if it decided."""
    margin = f"{100 * verdict.margin:g} {unit}"
    if verdict.outcome == "as good on fewer layers":
        return f"; a loss of {margin} is excluded ({p_value(verdict.noninferior_p)})"
    if verdict.outcome == "worse" and verdict.noninferior_p <= ALPHA:
        return f"; the loss lies within the margin of {margin}"
    return ""


def stated_prompts(verdict: Verdict) -> str:
    """State how far prompts differ, if they do."""
    effect = verdict.effect
    if not effect.interaction_p <= ALPHA:
        return ""
    values = [estimate.value for estimate in effect.by_prompt]
    size = "" if verdict.outcome == "depends on the prompt" else "the size depends on the prompt, "
    spread = f"{format_points(min(values))} to {format_points(max(values))}"
    p = p_value(effect.interaction_p)
    return f"; {size}{spread} over {len(values)} prompts (interaction {p})"


def stated_power(verdict: Verdict, unit: str) -> str:
    """State the difference that a trial which shows nothing would have shown."""
    if verdict.outcome != "nothing shown":
        return ""
    size = 100 * verdict.effect.detectable(alpha=ALPHA / verdict.tests)
    return f"; a difference of {size:.1f} {unit} would have been shown four times in five"


def p_value(p: float) -> str:
    """Format a p-value in a sentence."""
    return "p < 0.001" if p < 0.001 else f"p = {format_p(p)}"


def claim_content(
    trial: Trial, path: LayerPath, task: TaskTrial, seconds: Mapping[LayerPath, float]
) -> dict[str, Any]:
    """Return a claim's figures on a task: against the identity path and every comparator."""
    plain = identity(trial.protocol["num_layers"])
    before, after, effect = task.measured[plain], task.measured[path], task.effect(path, plain)
    controls = [task.effect(other, plain).value for other in trial.comparators.random[path]]
    shortgpt = trial.comparators.shortgpt.get(len(path))
    return {
        "before": float(before.right.mean()),
        "after": float(after.right.mean()),
        **effect.to_json(),
        "components": dataclasses.asdict(Components.of(effect)) if effect.prompts > 1 else None,
        "layers": [len(plain), len(path)],
        "tokens": [before.tokens, after.tokens],
        "seconds": [seconds.get(plain, math.nan), seconds.get(path, math.nan)],
        "random": placed(effect.value, controls),
        "self_consistency": voted(task, path, len(plain)),
        "shortgpt": None
        if shortgpt is None
        else {"path": format_path(shortgpt), **task.effect(path, shortgpt).to_json()},
    }


def earlier_figures(directory: str, protocol: str | None = None) -> list[dict[str, Any]]:
    """Read the figures of all claims and tasks of an earlier trial; [] where there is none.

    `protocol` is the hash of the trial's, any by default.
    """
    file = path_of(directory) / VERDICTS
    if not exists(file):
        return []
    with reading(file):
        content = read_json(file)
        if protocol not in (None, content["protocol"]):
            return []
        return [
            {"path": claim["path"], "task": task, **figures}
            for claim in content["claims"]
            for task, figures in claim["tasks"].items()
        ]


def earlier_components(directory: str) -> Components | None:
    """Read the largest components of variance of an earlier trial; None where there is none."""
    every = [figures["components"] for figures in earlier_figures(directory)]
    if not (known := [components for components in every if components]):
        return None
    names = [field.name for field in dataclasses.fields(Components)]
    return Components(*(max(float(each[name]) for each in known) for name in names))


def earlier_seconds(directory: str, trial: Trial) -> dict[str, dict[LayerPath, float]] | None:
    """Read the timings of the same trial, by task, if it was shown before; otherwise None."""
    layers, seconds = trial.protocol["num_layers"], {task.task: {} for task in trial.tasks}
    for figures in earlier_figures(directory, trial.protocol["hash"]):
        before, after = figures["seconds"]
        if before is None:
            return None
        seconds[figures["task"]] |= {
            identity(layers): before,
            parse_path(figures["path"], layers): after,
        }
    return seconds if all(seconds.values()) else None


def voted(task: TaskTrial, path: LayerPath, num_layers: int) -> dict[str, Any] | None:
    """Return a path's accuracy minus that of a vote at its cost; None where it pays for one."""
    samples = affordable_samples(path, num_layers)
    if samples < 2 or not task.samples:
        return None
    return {"samples": samples, **task.against_vote(path, samples).to_json()}


def placed(value: float, controls: Sequence[float]) -> dict[str, Any]:
    """Return the place of a difference among those of random paths, 1 for the best."""
    if not controls:
        return {"paths": 0}
    return {
        "paths": len(controls),
        "place": 1 + sum(other > value for other in controls),
        "median": float(np.median(controls)),
        "best": max(controls),
    }


def trial_report(trial: Trial, content: dict[str, Any]) -> Document:
    """Make the report of a trial from the content of `verdicts.json`."""
    rows, by_prompt, others = [], [], []
    several = len(trial.tasks) > 1
    for task in trial.tasks:
        suffix = f", {task_title(task.task)}" if several else ""
        rows.append(identity_row(task, trial.protocol["num_layers"], suffix))
        for claim in content["claims"]:
            figures = claim["tasks"][task.task]
            rows.append(claim_row(claim, figures, suffix))
            by_prompt.append(prompt_row(claim, figures, suffix))
            others.append(comparator_row(claim, figures, suffix))
    unit = SHORT[trial.protocol["measure"]]
    rest = [
        Table(by_prompt, columns=("claim", f"{unit} more in each prompt", "p")),
        Table(others, columns=("claim", "random", "place", "ShortGPT", "vote", "cost")),
    ]
    sentences = [
        figures["sentence"] for claim in content["claims"] for figures in claim["tasks"].values()
    ]
    main = Table(rows, columns=("claim", "layers", "correct", f"{unit} more", "p", "verdict"))
    return Document(
        f"{count(len(content['claims']), 'claim')} on trial",
        sentences,
        trial_lead(trial),
        [main, *rest],
        trial_note(trial),
        [(name, str(trial.protocol[name])) for name in SETTINGS],
    )


def identity_row(task: TaskTrial, num_layers: int, suffix: str) -> Row:
    """Make the row of the pretrained model."""
    correct = format_percent(float(task.measured[identity(num_layers)].right.mean()))
    return Row(f"the model{suffix}", (str(num_layers), correct, "", "", ""), bold=True)


def claim_row(claim: dict[str, Any], figures: dict[str, Any], suffix: str) -> Row:
    """Make the row of a claim, the interval below its difference."""
    interval = format_interval(tuple(figures["interval"]), signed=True)
    change = f"{format_points(figures['difference'])}\n{interval}"
    total, cost = claim["milliseconds"]
    cells = (
        "\n".join([str(claim["layers"]), *cost_texts(cost, total)]),
        format_percent(figures["after"]),
        change,
        format_p(figures["p_holm"]),
        figures["outcome"].replace(" on fewer", "\non fewer").replace(" the p", "\nthe p"),
    )
    return Row(claim["name"] + suffix, cells)


def prompt_row(claim: dict[str, Any], figures: dict[str, Any], suffix: str) -> Row:
    """Make the row of a claim's difference in each prompt, and the test that they are one."""
    p = figures["interaction_p"]
    values = [estimate["value"] for estimate in figures["by_prompt"]]
    return Row(claim["name"] + suffix, prompt_cells(values, math.nan if p is None else p))


def comparator_row(claim: dict[str, Any], figures: dict[str, Any], suffix: str) -> Row:
    """Make the row of a claim beside random paths and ShortGPT's, and of its cost."""
    random = figures["random"]
    median = place = NO_VALUE
    if random["paths"]:
        median = f"median {format_points(random['median'])}\nbest {format_points(random['best'])}"
        place = f"{random['place']} of {random['paths'] + 1}"
    against = []
    for other in (figures["shortgpt"], figures["self_consistency"]):
        against.append("")
        if other is not None:
            interval = format_interval(tuple(other["interval"]), signed=True)
            against[-1] = f"{format_points(other['difference'])}\n{interval}"
    return Row(claim["name"] + suffix, (median, place, *against, cost(figures)))


def cost(figures: dict[str, Any]) -> str:
    """Format the layers, tokens and seconds of a claim as shares of the model's."""
    parts = []
    for name in ("layers", "tokens", "seconds"):
        before, after = figures[name]
        if before and after:
            parts.append(f"{name} x{after / before:.2f}")
    return "\n".join(parts)


def trial_lead(trial: Trial) -> str:
    """State the size of a trial."""
    parts = []
    for task in trial.tasks:
        questions, prompts = task.size
        parts.append(
            f"{task_title(task.task)}: {len(task.measured):,} paths on {questions:,} questions "
            f"{'for this prompt alone' if prompts == 1 else f'in {prompts:,} prompts'}."
        )
    return " ".join([*parts, f"Protocol {trial.protocol['hash'][:12]}."])


def trial_note(trial: Trial) -> str:
    """Explain the tables."""
    unit = SHORT[trial.protocol["measure"]]
    _, prompts = trial.tasks[0].size
    random = "questions" if prompts == 1 else "questions and prompts both"
    return (
        f"Intervals: 95 %, with {random} random. p: two-sided, corrected (Holm) for all claims and "
        "tasks. Place: that of the claim among random paths with the same "
        "edits, which is not a test. ShortGPT: the claim minus the path of as many layers of the "
        "largest influence; vote: minus the majority of samples of the model at the cost of the "
        f"claim. As good: a loss above {trial.protocol['margin']:g} {unit} is excluded."
    )


def task_title(task: str) -> str:
    """Return the name of a task, or of its file."""
    return title(PurePath(task).name)


def prompt_cells(values: Sequence[float], p: float) -> tuple[str, str]:
    """Format differences in each prompt, some on a line, and the p-value that they are equal."""
    each = [format_points(value) for value in values]
    lines = (each[first : first + ON_A_LINE] for first in range(0, len(each), ON_A_LINE))
    return "\n".join(map("  ".join, lines)), format_p(p)
