"""A trial: claims and their comparators, run on the same questions in several prompts."""

import dataclasses
import functools
import math
import operator
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cola_jax.deploy.agreement import agreement_session, agreements
from cola_jax.deploy.settings import Measure, TrialSettings
from cola_jax.deploy.verify.claims import Claim
from cola_jax.deploy.verify.comparators import (
    TEMPERATURE,
    PathSize,
    least_influence,
    least_influence_of_parts,
    majority_vote,
    random_controls,
)
from cola_jax.deploy.verify.earlier_tries import (
    check_unseen,
    count_tries,
    find_tries,
    record_tries,
)
from cola_jax.deploy.verify.power import Components, check_size, plan
from cola_jax.deploy.verify.protocol import (
    Comparators,
    costs_in,
    lock_protocol,
    make_protocol,
    read_protocol,
    with_date,
)
from cola_jax.deploy.verify.verdict import Judged, Verdict, decide, number_of_tests
from cola_jax.engine.evaluator import succeeded
from cola_jax.engine.work import Batch, Keep, Work
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.plan import Workload
from cola_jax.execute.worker import Worker
from cola_jax.files import inside
from cola_jax.layer_costs import LayerCosts, part_fractions
from cola_jax.metrics import Metrics
from cola_jax.path import LayerPath, format_path, identity, parse_path
from cola_jax.question import Question, distinct
from cola_jax.runs.chosen_on import NOTHING, ChosenOn
from cola_jax.runs.session import Session, evaluate_prompts, influence_of
from cola_jax.runs.trial_facts import MARGINS
from cola_jax.scoring.statistics import Crossed
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.steps import is_whole

TIMED = 16  # questions on which a path is timed
REPEATS = 3  # timings, of which the shortest counts
LEAST_RANDOM = 5  # random paths of which a median says whether a trial could have shown a loss


@dataclasses.dataclass(frozen=True, eq=False)
class PathScores:
    """A path on a task: fields [n, K] of n questions and K prompts, and the mean tokens."""

    values: np.ndarray  # of the primary measure
    right: np.ndarray  # bool; the shares of tokens that agree, where these are measured
    tokens: float  # decoded, NaN where nothing is


@dataclasses.dataclass(frozen=True, eq=False)
class TaskTrial:
    """All paths of a trial on one task."""

    task: str
    measured: dict[LayerPath, PathScores]
    samples: list[list[Verdicts]]  # of the identity path [n, 1], m in each prompt
    chance: np.ndarray  # [n], the primary measure of a guess
    asked: ChosenOn = NOTHING  # keys of its questions and wordings
    # of paths as drafts, the share of the cost, which their acceptance is compared with
    break_even: Mapping[LayerPath, float] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """The numbers of questions and prompts, n and K."""
        return next(iter(self.measured.values())).right.shape

    def effect(self, path: LayerPath, other: LayerPath) -> Crossed:
        """Return the difference between two paths within question and prompt.

        Of drafts, it is that of what they exceed their break-even by; the model's is 0.
        """
        values = self.measured[path].values - self.measured[other].values
        if self.break_even:
            values = values - (self.break_even[path] - self.break_even[other])
        return Crossed.of(values)

    def above_chance(self, plain: LayerPath) -> Crossed:
        """Return the primary measure of the identity path minus that of a guess."""
        return Crossed.of(self.measured[plain].values - self.chance[:, None])

    def blind_to_loss(
        self, path: LayerPath, plain: LayerPath, random: Sequence[LayerPath], margin: float
    ) -> str:
        """Say why a loss of the margin could not have shown on this task, "" where it could.

        A loss takes a model that has as much to lose, and a trial in which edits of this kind do
        lose it elsewhere: the median of random paths is below the margin.
        """
        low, _ = self.above_chance(plain).interval
        if not low > margin:
            return "the model itself is not above a guess by more than the margin"
        if len(random) < LEAST_RANDOM:
            return f"fewer than {LEAST_RANDOM} other paths have its edits"
        before = self.measured[plain].values
        changes = [(self.measured[other].values - before).mean() for other in random]
        if np.median(changes) > -margin:
            return "half of the random paths with its edits lose no more than the margin"
        return ""

    def against_vote(self, path: LayerPath, count: int) -> Crossed:
        """Return the accuracy of a path minus that of the majority of `count` samples."""
        voted = np.stack([majority_vote(prompt[:count]) for prompt in self.samples], axis=1)
        return Crossed.of(self.measured[path].right.astype(float) - voted)


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """The outcomes of a trial."""

    protocol: dict[str, Any]
    claims: Sequence[Claim]
    comparators: Comparators
    tasks: Sequence[TaskTrial]
    verdicts: list[list[Verdict]]  # of each claim on each task


def run_trial(
    sessions: Mapping[str, list[Session]],
    claims: Sequence[Claim],
    directory: str,
    settings: TrialSettings,
    metrics: Metrics | None = None,
    samplers: Mapping[str, list[list[Session]]] | None = None,
    components: Components | None = None,
    costs: LayerCosts | None = None,
) -> Trial:
    """Try claims on tasks, each with a session for every prompt, and decide on them.

    `directory` gets the protocol, before any outcome, and a run for each task and prompt, which
    are resumed. `samplers` are, by task, sessions in every prompt for each sample of answers, and
    `components` the variances by which the size is planned, usual ones by default. `costs` are
    those of drafts, by default the number of layers and the weights of parts. Raises
    InputError for a trial that is too small for its margin and no pilot, a measure that a task
    lacks, a claim that is judged on what chose it, and a protocol that differs from that of a trial
    that has begun.
    """
    (first, *_), *_ = sessions.values()
    config = first.model.config
    plain = identity(config.num_layers)
    drafts = settings.measure == "agreement"
    if costs is None or not drafts:
        costs = LayerCosts(config.num_layers).with_fractions(part_fractions(config))
    tests = sum(
        number_of_tests(len(prompts), shorter=is_tested_for_loss(claim.path, costs, settings))
        for prompts in sessions.values()
        for claim in claims
    )
    margin = settings.margin / 100
    asked = {task: keys_asked(prompts) for task, prompts in sessions.items()}
    for task, prompts in sessions.items():
        if not settings.pilot:
            planned = plan(margin, len(prompts), components or Components(), tests)
            size = len(distinct(prompts[0].asked.questions))
            check_size(planned, margin, size, len(prompts), MARGINS[settings.measure])
        if settings.measure == "likelihood":
            prompts[0].asked.scorer.check_log_likelihoods(f"{task}: the measure likelihood")
        if not (settings.allow_overlap or settings.pilot):
            for claim in claims:
                claim.provenance.check(claim.text, asked[task], task)
    metrics = metrics or Metrics()
    before = read_protocol(directory)
    if drafts:
        sessions = {
            task: [agreement_session(session) for session in prompts]
            for task, prompts in sessions.items()
        }
    comparators = make_comparators(first, claims, before, settings, metrics)
    rules: dict[str, Any] = dataclasses.asdict(settings) | {"num_tests": tests}
    samplers = samplers or {}
    if samplers:
        counts = {task: len(each) for task, each in samplers.items()}
        rules["self_consistency"] = {"samples": counts, "temperature": TEMPERATURE}
    all_whole = all(is_whole(step) for claim in claims for step in claim.path)
    recorded = None if all_whole and not drafts else costs
    protocol = make_protocol(dict(sessions), claims, comparators, recorded, **rules)
    keys = {task: sorted(each.questions) for task, each in asked.items()}
    if before is None:
        if not (settings.allow_overlap or settings.pilot):
            check_unseen(protocol, keys)
        protocol = with_date(protocol, find_tries(protocol, keys))
    protocol = lock_protocol(directory, protocol, before)
    record_tries(protocol, keys, first.model.source or "")
    paths = [plain, *(claim.path for claim in claims), *comparators.paths()]
    paths = list(dict.fromkeys(paths))
    metrics.total = sum(len(p) * len(p[0].asked) * len(paths) for p in sessions.values())
    evaluate = functools.partial(evaluate_prompts, metrics=metrics, protocol=protocol["hash"])
    tasks = []
    for task, prompts in sessions.items():
        folder = str(inside(directory, task))
        samples = [
            evaluate(each, str(inside(folder, f"sample-{number}")), [plain])
            for number, each in enumerate(samplers.get(task, []), start=1)
        ]
        rows = evaluate(prompts, folder, paths)
        tried = task_trial(task, prompts, paths, rows, samples, settings.measure)
        break_even = {path: costs.of(path) / costs.total for path in paths} if drafts else {}
        tasks.append(dataclasses.replace(tried, asked=asked[task], break_even=break_even))
    trial = decide_trial(protocol, claims, comparators, tasks, settings)
    record_tries(protocol, keys, first.model.source or "", outcomes_of(trial))
    return trial


def is_tested_for_loss(path: LayerPath, costs: LayerCosts, settings: TrialSettings) -> bool:
    """Whether a trial tests if a path loses little: where it has fewer layers, and is no draft."""
    return settings.measure != "agreement" and costs.layers(path) < costs.num_layers


def outcomes_of(trial: Trial) -> dict[tuple[str, str], str]:
    """Return the outcomes of a trial by the path of the claim and the task."""
    return {
        (format_path(claim.path), task.task): verdict.outcome
        for claim, verdicts in zip(trial.claims, trial.verdicts, strict=True)
        for task, verdict in zip(trial.tasks, verdicts, strict=True)
    }


def make_comparators(
    session: Session,
    claims: Sequence[Claim],
    before: Mapping[str, Any] | None,
    settings: TrialSettings,
    metrics: Metrics,
) -> Comparators:
    """Choose the paths that claims are compared with; those of ShortGPT as the protocol has them.

    `before` is the protocol of a trial that has begun. The influence of layers is measured on
    prompts alone, without answers.
    """
    config = session.model.config
    layers, known = config.num_layers, [claim.path for claim in claims]
    sizes = sorted({PathSize.of(path) for path in known if PathSize.of(path).is_below(layers)})
    stored = before["comparators"]["shortgpt"] if before else {}
    shortgpt = {x.name: parse_path(stored[x.name], layers) for x in sizes if x.name in stored}
    needed = [layer for layer in config.keys_of if layer is not None]  # others share their keys
    missing = [size for size in sizes if size.name not in shortgpt]
    if any(size.whole for size in missing):
        influence = influence_of(session, metrics)
        influence[needed] = np.inf
        whole = [size.mlps for size in missing if size.whole]
        shortgpt |= {str(n): least_influence(influence, n) for n in whole}
    if not all(size.whole for size in missing):
        influence = influence_of(session, metrics, parts=True)
        influence[needed, 0] = np.inf
        of_steps = [size for size in missing if not size.whole]
        shortgpt |= {size.name: least_influence_of_parts(influence, size) for size in of_steps}
    refused = config.missing_keys
    random = {
        path: random_controls(path, layers, settings.seed, known, refused=refused) for path in known
    }
    return Comparators(shortgpt, random)


def task_trial(
    task: str,
    prompts: Sequence[Session],
    paths: Sequence[LayerPath],
    rows: Sequence[Verdicts],
    samples: Sequence[Sequence[Verdicts]],
    measure: Measure,
) -> TaskTrial:
    """Arrange the verdicts of C paths in each prompt [n, C], and of each sample and prompt.

    Equal questions count once.
    """
    questions = prompts[0].asked.questions
    first = np.array(distinct(questions))
    pairs = zip(rows, prompts, strict=True)
    values = np.stack([measure_of(row, each, measure) for row, each in pairs], axis=1)[first]
    right = np.stack([each.verdict for each in rows], axis=1)[first]
    if measure == "agreement":
        right = values
    chance = np.array([guess_of(questions[i], measure) for i in first])
    measured = {
        path: PathScores(values[..., c], right[..., c], mean_tokens(rows, c))
        for c, path in enumerate(paths)
    }
    by_prompt = [[each.take(first) for each in part] for part in zip(*samples, strict=True)]
    return TaskTrial(task, measured, by_prompt, chance)


def keys_asked(prompts: Sequence[Session]) -> ChosenOn:
    """Return the keys of the questions of a task, which all prompts ask, and of its wordings."""
    wordings = (ChosenOn.of([], session.settings) for session in prompts)
    return functools.reduce(operator.or_, wordings, prompts[0].chosen_on())


def guess_of(question: Question, measure: Measure) -> float:
    """Return the primary measure of a guess among the options; open questions are not guessed."""
    if measure == "likelihood":
        return -math.log(len(question.options))
    if measure == "agreement":
        return 0.0
    return 0.0 if question.open else 1 / len(question.options)


def measure_of(verdicts: Verdicts, session: Session, measure: Measure) -> np.ndarray:
    """Return the primary measure [n, C] of verdicts [n, C]."""
    if measure == "accuracy":
        return verdicts.verdict.astype(float)
    if measure == "agreement":
        return agreements(verdicts)
    answers = [question.answer for question in session.asked.questions]
    # among the options: a path that likes all of them better, such as letters, knows no more
    logprob = verdicts.logprobs[np.arange(len(answers)), :, answers]
    # a path that is not finite is as bad as the worst that is
    return np.where(np.isnan(logprob), np.nanmin(logprob, initial=0), logprob)


def mean_tokens(rows: Sequence[Verdicts], c: int) -> float:
    """Return the mean number of decoded tokens of a path, NaN where nothing is decoded."""
    each = [completion for row in rows for completion in row.completion[:, c] if completion]
    return float(np.mean([len(completion.tokens) for completion in each])) if each else np.nan


def time_paths(
    sessions: Mapping[str, Sequence[Session]], trial: Trial
) -> dict[str, dict[LayerPath, float]]:
    """Return the seconds a question that each compared path takes alone, by task.

    Each is the shortest of several timings of one batch on its worker.
    """
    paths = [claim.path for claim in trial.claims]
    paths = [identity(trial.protocol["num_layers"]), *paths]
    return {task: time_alone(prompts[0], paths) for task, prompts in sessions.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PathSeconds(Work):
    """A function from a batch to the seconds a question of each path [P], alone."""

    divisible = False  # smaller batches take longer for each question
    paths: Sequence[LayerPath]

    def __call__(self, worker: Worker, batch: Batch, keep: Keep) -> np.ndarray:
        encoded = self.encode(worker, batch.questions)
        seconds = np.full(len(self.paths), np.inf)
        for repeat in range(REPEATS + 1):  # the first compiles
            for i, path in enumerate(self.paths):
                wave = pad_paths([path], len(encoded), worker.config.num_layers)
                # bound anew, as one that kept the states of earlier calls would run nothing
                with self.bind(worker, encoded) as evaluate:
                    start = time.perf_counter()
                    evaluate(wave)
                    spent = time.perf_counter() - start
                if repeat:
                    seconds[i] = min(seconds[i], spent / len(encoded))
        return seconds


def time_alone(session: Session, paths: Sequence[LayerPath]) -> dict[LayerPath, float]:
    """Return the seconds a question of paths that share nothing."""
    asked = session.asked.take(range(min(TIMED, len(session.asked))))
    work = PathSeconds(
        model=session.model,
        encoder=asked.encoder,
        workload=Workload(1, max(map(len, paths)), same=True),
        prefixes=asked.prefixes,
        paths=paths,
    )
    one = Batch(np.arange(len(asked)), asked.questions)
    ((batch, seconds, _),) = session.engine.map(work, [one])
    return dict(zip(paths, succeeded(batch, seconds).tolist(), strict=True))


def decide_trial(
    protocol: dict[str, Any],
    claims: Sequence[Claim],
    comparators: Comparators,
    tasks: Sequence[TaskTrial],
    settings: TrialSettings,
) -> Trial:
    """Compare each claim with the identity path on each task, and decide on all of them."""
    plain = identity(protocol["num_layers"])
    margin = settings.margin / 100
    costs = costs_in(protocol)
    judged = []
    for claim in claims:
        random = comparators.random[claim.path]
        tries = count_tries(protocol, claim.path)
        for task in tasks:
            blind = task.blind_to_loss(claim.path, plain, random, margin)
            shorter = is_tested_for_loss(claim.path, costs, settings)
            judged.append(Judged(task.effect(claim.path, plain), shorter, blind, tries))
    verdicts = decide(judged, margin, pilot=settings.pilot)
    rows = [verdicts[i : i + len(tasks)] for i in range(0, len(verdicts), len(tasks))]
    return Trial(protocol, claims, comparators, tasks, rows)
