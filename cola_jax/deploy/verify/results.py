"""Estimates of a trial, which `results.json` holds, and what later commands read of them."""

import math
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from cola_jax.deploy.agreement import ACCEPTANCE, BREAK_EVEN, acceptance_estimate, best_draft
from cola_jax.deploy.provenance import Provenance
from cola_jax.deploy.verify.comparators import PathSize, affordable_samples
from cola_jax.deploy.verify.earlier_tries import tries_estimate
from cola_jax.deploy.verify.power import Components
from cola_jax.deploy.verify.protocol import costs_in
from cola_jax.deploy.verify.rows import ROWS
from cola_jax.deploy.verify.trial import TaskTrial, Trial
from cola_jax.deploy.verify.verdict import UNITS, Verdict
from cola_jax.errors import InputError, reading
from cola_jax.files import exists
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import LayerPath, format_path, identity, parse_path
from cola_jax.progress import log
from cola_jax.runs.blinding import EARLIER
from cola_jax.runs.estimates import (
    ABOVE_CHANCE,
    HIGHEST,
    MEDIAN,
    MODEL,
    PLACE,
    PROMPT_SD,
    QUESTION_SD,
    RATIOS,
    RESIDUAL_SD,
    SECONDS,
    SHORTGPT,
    VOTE,
    Estimate,
)
from cola_jax.runs.path_results import LAYERS, TOKENS, length_estimate, time_estimates
from cola_jax.runs.prompt_results import correct_estimate
from cola_jax.runs.results import RESULTS, EditedError, Results, read_results
from cola_jax.storage import path_of

DATED = ("date", "version")  # facts of the protocol that earlier versions did not record
FACTS = ("hash", "model", "dtype", "measure", "margin", "pilot", "seed", "num_tests", "tests")


class Tried(NamedTuple):
    """A claim on a task of a trial."""

    group: str
    path: LayerPath
    trial: Trial
    task: TaskTrial
    verdict: Verdict
    seconds: Mapping[LayerPath, float]  # a question, of paths alone
    provenance: Provenance  # of the claim

    @property
    def plain(self) -> LayerPath:
        """The path of the pretrained model."""
        return identity(self.trial.protocol["num_layers"])

    @property
    def unit(self) -> str:
        """The unit of differences."""
        return UNITS[self.trial.protocol["measure"]]

    def estimates(self, costs: LayerCosts) -> Iterator[Estimate]:
        """Yield all estimates of the claim."""
        yield length_estimate(self.group, self.path, costs_in(self.trial.protocol))
        yield from time_estimates(self.group, self.path, costs)
        yield from result_estimates(self.group, self.path, self.task)
        yield from self.verdict.estimates(self.group, self.trial.protocol["measure"])
        yield self.provenance.estimate(self.task.asked, self.group)
        yield tries_estimate(self.trial.protocol, self.path, self.group)
        yield from self.beside_random()
        yield from self.beside_others()
        yield from self.ratios()

    def beside_random(self) -> Iterator[Estimate]:
        """Yield the place of the effect among those of random paths, and theirs."""
        random = self.trial.comparators.random[self.path]
        if random:
            others = [self.task.effect(other, self.plain).value for other in random]
            place = 1 + sum(other > self.verdict.effect.value for other in others)
            yield Estimate(PLACE, self.group, place, "place", n=1 + len(others))
            yield Estimate(MEDIAN, self.group, float(np.median(others)), self.unit)
            yield Estimate(HIGHEST, self.group, max(others), self.unit)

    def beside_others(self) -> Iterator[Estimate]:
        """Yield the claim minus ShortGPT's path of its size, and minus a vote at its cost.

        They are no tests, which would take their share of the error budget.
        """
        shortgpt = self.trial.comparators.shortgpt.get(PathSize.of(self.path).name)
        if shortgpt is not None:
            effect = self.task.effect(self.path, shortgpt)
            yield Estimate(SHORTGPT, self.group, effect.value, self.unit, n=effect.n)
        layers = costs_in(self.trial.protocol).layers(self.path)
        samples = affordable_samples(layers, len(self.plain))
        if samples > 1 and self.task.samples:
            against = self.task.against_vote(self.path, samples)
            note = f"of {samples}"
            yield Estimate(VOTE, self.group, against.value, "points", n=against.n, note=note)

    def ratios(self) -> Iterator[Estimate]:
        """Yield the costs of the claim, and each as a multiple of the model's."""
        yield from cost_estimates(self.group, self.path, self.task, self.seconds)
        of_layers = costs_in(self.trial.protocol)
        costs = zip(
            cost_of(self.plain, self.task, self.seconds, of_layers).items(),
            cost_of(self.path, self.task, self.seconds, of_layers).values(),
            strict=True,
        )
        for (name, before), after in costs:
            if before > 0 and after > 0:
                yield Estimate(RATIOS.format(name), self.group, after / before, "times")


def result_estimates(group: str, path: LayerPath, task: TaskTrial) -> Iterator[Estimate]:
    """Yield the accuracy of a path, or as a draft its acceptance, break-even and best length."""
    right = task.measured[path].right
    if not task.break_even:
        yield correct_estimate(right, group)
        return
    acceptance = acceptance_estimate(ACCEPTANCE, right, group)
    break_even = task.break_even[path]
    length, speed = best_draft(acceptance.value, break_even)
    yield acceptance
    yield Estimate(BREAK_EVEN, group, break_even)
    yield Estimate("best draft", group, length, "tokens")
    yield Estimate("its speed", group, speed, "times")


def cost_of(
    path: LayerPath, task: TaskTrial, seconds: Mapping[LayerPath, float], costs: LayerCosts
) -> dict[str, float]:
    """Return the layers, the tokens and the seconds of a path; NaN for what it does not have."""
    tokens = task.measured[path].tokens
    return {LAYERS: costs.layers(path), TOKENS: tokens, "seconds": seconds.get(path, math.nan)}


def cost_estimates(
    group: str, path: LayerPath, task: TaskTrial, seconds: Mapping[LayerPath, float]
) -> Iterator[Estimate]:
    """Yield the tokens and the seconds of a path, where it has them."""
    tokens = task.measured[path].tokens
    if not math.isnan(tokens):
        yield Estimate(TOKENS, group, tokens, "tokens")
    if path in seconds:
        yield Estimate(SECONDS, group, seconds[path], "seconds")


def trial_results(
    trial: Trial,
    seconds: Mapping[str, Mapping[LayerPath, float]],
    costs: LayerCosts,
    start: Mapping[str, Any],
    rows: str,
) -> Results:
    """Return the results of a trial; groups are claims, on their task where there are several.

    `seconds` are those a question that paths take alone, by task, `start` is the record of the
    command, and `rows` is the digest of the trial's rows.
    """
    plain = identity(trial.protocol["num_layers"])
    names = [claim.name for claim in trial.claims]
    if len({*names}) < len(names):  # of files of one name
        names = [claim.text for claim in trial.claims]
    several = len(trial.tasks) > 1
    evaluated = [each.right.size for task in trial.tasks for each in task.measured.values()]
    estimates = [Estimate.count("evaluations", sum(evaluated))]
    groups: dict[str, Any] = {}  # facts that their names may not say
    for task, verdicts in zip(trial.tasks, zip(*trial.verdicts, strict=True), strict=True):
        on = f" on {PurePath(task.task).name}" if several else ""
        alone = seconds[task.task]
        model = MODEL + on
        estimates.append(Estimate.count(LAYERS, len(plain), group=model))
        estimates += time_estimates(model, plain, costs)
        estimates += result_estimates(model, plain, task)
        if not task.break_even:
            unit = UNITS[trial.protocol["measure"]]
            above = task.above_chance(plain)
            estimates.append(Estimate.of(ABOVE_CHANCE, above, unit, group=model, p=math.nan))
        estimates += cost_estimates(model, plain, task, alone)
        for claim, name, verdict in zip(trial.claims, names, verdicts, strict=True):
            facts = trial, task, verdict, alone, claim.provenance
            tried = Tried(name + on, claim.path, *facts)
            estimates += tried.estimates(costs)
            shortgpt = trial.comparators.shortgpt.get(PathSize.of(claim.path).name)
            groups[tried.group] = {
                "path": format_path(claim.path),
                "task": task.task,
                "model": model,
                "prompts": task.size[1],
                "shortgpt": shortgpt and format_path(shortgpt),
            }
    questions, prompts = trial.tasks[0].size
    settings = {"command": "verify", "questions": questions}
    settings |= {name: trial.protocol[name] for name in FACTS}
    settings |= {f"protocol_{name}": trial.protocol.get(name) for name in DATED}
    run = {"settings": settings, "start": dict(start), "groups": groups, ROWS: rows}
    if several:
        run["sizes"] = {PurePath(task.task).name: task.size for task in trial.tasks}
    return Results(estimates, run | {"done": questions, "prompts": prompts})


def earlier_components(directory: str) -> Components:
    """Read the largest components of variance of an earlier trial or pilot.

    Raises InputError where there are none, and for the results of an earlier version.
    """
    folder = path_of(directory)
    if not exists(folder / RESULTS) and exists(folder / EARLIER):
        raise InputError(
            f"{folder / EARLIER} is of an earlier version: run the `cola verify` that made it "
            "again; it evaluates nothing twice."
        )
    results = read_results(folder / RESULTS)
    largest = []
    for name in (PROMPT_SD, QUESTION_SD, RESIDUAL_SD):
        values = [each.value for each in results if each.name == name]
        if not values:
            raise InputError(
                f"{folder / RESULTS} has no {name}: give --variances the directory of a trial or "
                "pilot in two prompts or more."
            )
        largest.append(max(values))
    return Components(*largest)


def earlier_seconds(directory: str, trial: Trial) -> dict[str, dict[LayerPath, float]] | None:
    """Read the timings of the same trial, by task, if it was shown before; otherwise None."""
    file = path_of(directory) / RESULTS
    if not exists(file):
        return None
    try:
        results = read_results(file)
    except EditedError as error:
        log.warning("%s It is written anew, with new timings.", error)
        return None
    num_layers = trial.protocol["num_layers"]
    seconds: dict[str, dict[LayerPath, float]] = {task.task: {} for task in trial.tasks}
    with reading(file):
        if results.run["settings"].get("hash") != trial.protocol["hash"]:
            return None
        for group, facts in results.run["groups"].items():
            of_task = seconds[facts["task"]]
            of_task[identity(num_layers)] = results.value(SECONDS, facts["model"])
            of_task[parse_path(facts["path"], num_layers)] = results.value(SECONDS, group)
    return seconds
