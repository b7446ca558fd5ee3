"""One path for a task: a (1 + λ) evolution with selection in steps, over training questions.

EvoPress (arXiv 2410.14649) prunes layers so: each generation mutates the best path into λ others,
which are compared on few questions, the better of them on more, and the last with the best path.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit

from cola_jax.deploy.agreement import (
    acceptance_estimate,
    agreement_session,
    agreements,
    break_even_estimate,
)
from cola_jax.deploy.settings import LABEL_FREE, Fitness, StaticSettings
from cola_jax.engine.question_set import QuestionSet
from cola_jax.errors import InputError
from cola_jax.files import inside
from cola_jax.layer_costs import LayerCosts, part_fractions
from cola_jax.metrics import Metrics
from cola_jax.path import (
    STOP,
    FittingEdits,
    LayerPath,
    edit_table,
    edited,
    format_path,
    identity,
    pad_path,
)
from cola_jax.question import Question, distinct, split
from cola_jax.runs.estimates import Estimate
from cola_jax.runs.path_results import group_of, length_estimate, time_estimates
from cola_jax.runs.recommendation import Measurement, Recommendation
from cola_jax.runs.session import evaluate_prompts, held_out_of, recording
from cola_jax.runs.tries import Try
from cola_jax.scoring.divergence import divergences, label_free_encoder
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.statistics import Share
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step, layer_of, part_of, share_of

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

Score = tuple[float, ...]  # a fitness, the greater the better
HELD_OUT = "held-out"  # folder of the run of the held-out questions
ATTEMPTS = 20  # mutations that may give a path that is already known, for each offspring
MOST_EDITS = 3  # of a mutation
BOTH = (ATTENTION, MLP)
# layers of the largest block of an edit: skips of one layer make those of blocks, repeats do not
SKIP_BLOCK, REPEAT_BLOCK = 1, 4


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A path, and whether it answered the questions of each part; held-out ones in K prompts.

    With the fitness kl, training and validation have divergences in nats instead, and with
    agreement the share of tokens that agree.
    """

    path: LayerPath
    training: np.ndarray  # [n] bool or float
    validation: np.ndarray
    on_front: bool  # of accuracy and cost on validation questions
    held_out: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 1), bool))


@dataclasses.dataclass(frozen=True, eq=False)
class TaskPath:
    """The path that was chosen for a task, the pretrained model's, and the other finalists."""

    measured: tuple[Measured, ...]  # the pretrained model's first
    best: int  # index of the chosen one
    evaluated: int  # paths, on all training questions
    costs: LayerCosts
    limit: str = ""  # of layers or costs, where the pretrained model's path is not allowed
    earlier: tuple[Try, ...] = ()  # results on some of the held-out questions

    @property
    def plain(self) -> Measured:
        """The path of the pretrained model."""
        return self.measured[0]

    @property
    def chosen(self) -> Measured:
        """The path that is best on validation questions."""
        return self.measured[self.best]

    @property
    def finalists(self) -> tuple[Measured, ...]:
        """The paths found by the search."""
        return self.measured[1:]

    @property
    def paths(self) -> list[LayerPath]:
        """All paths, the pretrained model's first."""
        return [each.path for each in self.measured]

    @functools.cached_property
    def shown(self) -> dict[str, Measured]:
        """The model, the chosen path and the front by their groups, the cheapest first."""
        others = [path for path in self.finalists if path.on_front or path is self.chosen]
        ordered = [self.plain, *sorted(others, key=lambda each: self.costs.of(each.path))]
        return {group_of(each.path, self.costs.num_layers): each for each in ordered}

    @functools.cached_property
    def recommendation(self) -> Recommendation:
        """What to use, by the held-out questions, on which all that is shown was measured."""
        return Recommendation(
            {group: each.held_out for group, each in self.shown.items()},
            self.plain.held_out,
            group_of(self.chosen.path, self.costs.num_layers),
            self.earlier,
            self.limit,
        )

    @property
    def recommended(self) -> LayerPath:
        """The path to use, which is the pretrained model's unless another is shown to be better."""
        return self.shown[self.recommendation.recommended].path


def find_path(
    session: "Session",
    out: str,
    settings: StaticSettings,
    metrics: Metrics | None = None,
    prompts: Sequence["Session"] = (),
    costs: LayerCosts | None = None,
) -> TaskPath:
    """Search one path on the training questions of a session, and measure it on held-out ones.

    `out` is the run directory, in which an interrupted search is resumed, and `prompts` are the
    sessions of the prompts in which the path is measured, the session's own by default. Layers
    cost the same without `costs`. Raises InputError for a session without held-out questions,
    settings that allow no path, and a run of other settings.
    """
    prompts, metrics = prompts or [session], Metrics() if metrics is None else metrics
    training, validation = training_and_validation(session.asked.questions, settings.validation)
    costs = costs or LayerCosts(session.model.config.num_layers)
    if settings.parts and costs.parts is None:
        config = session.model.config
        costs = costs.with_fractions(part_fractions(config))
    settings.lengths(costs)  # raises before anything runs
    if settings.fitness == "likelihood":
        session.asked.scorer.check_log_likelihoods("the fitness likelihood")
    metrics.total = most_evaluations(settings, len(training)) + settings.finalists * (
        len(validation) + len(prompts) * len(held_out_of(prompts[0]))
    )
    recorded = {"command": "static", **settings.record()}
    recorded["layer_costs"] = costs.milliseconds
    if settings.has_steps:
        recorded["part_costs"] = costs.parts
    searched = session
    if settings.fitness == "kl":
        searched = label_free(session)
    elif settings.fitness == "agreement":
        searched = agreement_session(session)
    with recording(searched, out, recorded, metrics) as evaluations:
        best = search_path(evaluations, costs, settings)
    questions = held_out_of(prompts[0]).questions
    measurement = Measurement.of(session, prompts, questions, recorded)
    folder = str(inside(out, HELD_OUT))
    rows = evaluate_prompts(prompts, folder, best.paths, metrics, held_out=True)
    right = np.stack([row.verdict for row in rows], axis=1)  # [n, K, C]
    once = distinct(questions)
    measured = zip(best.measured, np.moveaxis(right[once], 2, 0), strict=True)
    found = dataclasses.replace(
        best,
        measured=tuple(dataclasses.replace(path, held_out=part) for path, part in measured),
        earlier=tuple(measurement.earlier()),
    )
    beside = [format_path(each.path) for each in found.finalists]
    measurement.record(format_path(found.chosen.path), found.recommendation, beside)
    return found


def static_estimates(found: TaskPath, fitness: Fitness) -> list[Estimate]:
    """Compare the chosen path, and the others of the front, with the pretrained model.

    The model is first, and paths follow by their cost.
    """
    costs = found.costs
    estimates = []
    for group, each in found.shown.items():
        estimates.append(length_estimate(group, each.path, costs))
        estimates += time_estimates(group, each.path, costs)
        for name, part in (("training", each.training), ("validation", each.validation)):
            if fitness == "kl":
                divergence = float(part.mean())
                n = len(part)
                estimates.append(Estimate(name, group, divergence, "nats of divergence", n=n))
            elif fitness == "agreement":
                estimates.append(acceptance_estimate(name, part[:, None], group))
            else:
                estimates.append(Estimate.of(name, Share.of(part), group=group))
        if fitness == "agreement":
            estimates.append(break_even_estimate(each.path, costs, group))
        estimates += found.recommendation.of_group(group)
    estimates += found.recommendation.estimates()
    estimates.append(Estimate.count("paths tried on all training questions", found.evaluated))
    estimates.append(Estimate.count("training questions", len(found.plain.training)))
    estimates.append(Estimate.count("validation questions", len(found.plain.validation)))
    return estimates


def label_free(session: "Session") -> "Session":
    """Return a session of the same prompts that scores their divergence from the model's own."""
    asked, model = session.asked, session.model
    encoder = label_free_encoder(asked.encoder, asked.questions, model.directory)
    settings = session.settings | {"scorer": encoder.scorer.name}
    asked = QuestionSet.of(asked.questions, encoder, model)
    return dataclasses.replace(session, asked=asked, settings=settings)


def search_path(evaluations: Evaluations, costs: LayerCosts, settings: StaticSettings) -> TaskPath:
    """Search one path for all questions, and choose it on those that the search did not see.

    Raises InputError for settings that allow no path, and for too few questions.
    """
    questions, plain = evaluations.questions, identity(costs.num_layers)
    training, validation = training_and_validation(questions, settings.validation)
    candidates = evolve(evaluations, training, costs, settings)
    best = finalists(list(candidates), costs, settings.finalists)
    paths, longest = list(dict.fromkeys([plain, *best])), settings.lengths(costs)[-1]
    highest, cost = settings.highest_cost(costs), [costs.of(path) for path in paths]
    layers = [costs.layers(path) for path in paths]
    verdicts = evaluate_on(evaluations, paths, positions=max(longest, len(plain)))
    unseen = [questions[i] for i in validation]
    fitness = score(verdicts.take(validation), unseen, settings.fitness)
    allowed = [i for i in range(len(paths)) if layers[i] <= longest and cost[i] <= highest]
    front = pareto_front([cost[i] for i in allowed], [fitness[i] for i in allowed])
    on_front = {allowed[i] for i in front}
    values = verdicts.verdict
    if settings.fitness in LABEL_FREE:
        values = label_free_values(verdicts, settings.fitness)
    measured = tuple(
        Measured(path, column[training], column[validation], i in on_front)
        for i, (path, column) in enumerate(zip(paths, values.T, strict=True))
    )
    chosen = max(allowed, key=lambda i: (fitness[i], -cost[i]))
    return TaskPath(measured, chosen, len(candidates), costs, settings.limit(costs))


def training_and_validation(
    questions: Sequence[Question], share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Split questions, of equal ones the first, by a hash of their ids; return both parts' indices.

    Raises InputError for a share of validation outside 0..1, or one that leaves a part empty.
    """
    once = distinct(questions)
    count = round(len(once) * share) if 0 < share < 1 else 0
    if not 0 < count < len(once):
        raise InputError(
            f"a validation share of {share} of {len(once)} questions leaves one part empty: give a "
            "share between 0 and 1, and more questions."
        )
    order = np.array(once)[split([questions[place].id for place in once], "")]
    return np.sort(order[count:]), np.sort(order[:count])


def evaluate_on(
    evaluations: Evaluations,
    paths: Sequence[LayerPath],
    questions: np.ndarray | slice = slice(None),
    positions: int | None = None,
) -> Verdicts:
    """Evaluate the same paths on the questions of these indices [n]; return fields [n, C].

    `positions` is P, by default as many as the longest path needs.
    """
    positions = positions or max(map(len, paths))
    wave = np.full((len(evaluations.questions), len(paths), positions), STOP, np.int32)
    wave[questions] = [pad_path(path, positions) for path in paths]
    return evaluations(wave).take(questions)


def score(verdicts: Verdicts, questions: Sequence[Question], fitness: Fitness) -> list[Score]:
    """Return the fitness of each of C paths from verdicts [n, C] of these questions."""
    if fitness in LABEL_FREE:
        sign = -1 if fitness == "kl" else 1
        return [(x,) for x in (sign * label_free_values(verdicts, fitness)).mean(axis=0).tolist()]
    margin = np.where(verdicts.finite, expit(verdicts.margin), 0).mean(axis=0).tolist()
    if fitness == "margin":
        return [(m,) for m in margin]
    if fitness == "accuracy":
        return list(zip(verdicts.verdict.mean(axis=0).tolist(), margin, strict=True))
    logprob = verdicts.scores[np.arange(len(questions)), :, [q.answer for q in questions]]
    # a path that is not finite is worse than any that is
    return [(x,) for x in np.where(np.isfinite(logprob), logprob, -1e4).mean(axis=0).tolist()]


def label_free_values(verdicts: Verdicts, fitness: Fitness) -> np.ndarray:
    """Return divergences in nats, or shares of tokens that agree, of verdicts of those scorers."""
    return divergences(verdicts) if fitness == "kl" else agreements(verdicts)


def evolve(
    evaluations: Evaluations,
    indices: np.ndarray,
    costs: LayerCosts,
    settings: StaticSettings,
    start: Sequence[LayerPath] = (),
) -> dict[LayerPath, Score]:
    """Search one path for the questions of these indices [n].

    The identity path is the first parent, and a candidate where it is allowed, as are those of
    `start`, of which the best is the parent. Ends early where a generation finds no new path.
    Returns the fitness of each path that was evaluated on all of the questions, best first.
    """
    mutations = Mutations.of(settings, costs)
    questions, parent = evaluations.questions, identity(costs.num_layers)
    positions = mutations.positions
    random = np.random.default_rng(settings.seed)
    fitness: dict[LayerPath, Score] = {}
    known = {parent, *start}

    def measure(paths: Sequence[LayerPath], part: np.ndarray) -> list[Score]:
        verdicts = evaluate_on(evaluations, paths, part, positions)
        return score(verdicts, [questions[i] for i in part], settings.fitness)

    def rank(path: LayerPath) -> tuple[Score, float]:
        return fitness[path], -costs.of(path)  # of equally fit paths the cheaper is better

    first = [path for path in (parent, *start) if not mutations.is_too_large(path)]
    if first:
        fitness.update(zip(first, measure(first, indices), strict=True))
    for _ in range(settings.generations):
        parent = max(fitness, key=rank, default=parent)
        mutants = (mutations.mutate(parent, random) for _ in itertools.count())
        paths = offspring(mutants, settings.offspring, known)
        if not paths:
            break  # nor would another generation find a new one
        known.update(paths)
        for size, survivors in step_sizes(settings, len(indices)):
            scores = measure(paths, indices[np.sort(random.permutation(len(indices))[:size])])
            order = sorted(range(len(paths)), key=lambda i: scores[i], reverse=True)
            paths = [paths[i] for i in order[:survivors]]
        fitness.update(zip(paths, measure(paths, indices), strict=True))
    return {path: fitness[path] for path in sorted(fitness, key=rank, reverse=True)}


def step_sizes(settings: StaticSettings, questions: int) -> list[tuple[int, int]]:
    """Return the questions and the survivors of each selection step."""
    steps, size, left = [], min(settings.first, questions), settings.offspring
    while size < questions and left > 1:
        left = max(1, left // 4)
        steps.append((size, left))
        size *= 4
    return steps


def most_evaluations(settings: StaticSettings, questions: int) -> int:
    """Return the evaluations of a search that never meets a path twice."""
    left, each = settings.offspring, 0
    for size, survivors in step_sizes(settings, questions):
        each, left = each + left * size, survivors
    return questions + settings.generations * (each + left * questions)


def offspring(mutants: Iterator[LayerPath], count: int, known: set[LayerPath]) -> list[LayerPath]:
    """Draw paths that are not known yet; fewer where such are hard to find."""
    new = dict[LayerPath, None]()
    for path in itertools.islice(mutants, ATTEMPTS * count):
        if path not in known:
            new[path] = None
        if len(new) == count:
            break
    return list(new)


@dataclasses.dataclass(frozen=True, eq=False)
class Mutations:
    """Random edits of whole layers, of paths within lengths and a cost."""

    costs: LayerCosts
    lengths: range  # in layers
    highest: float  # cost
    fitting: FittingEdits

    @classmethod
    def of(cls, settings: StaticSettings, costs: LayerCosts) -> "Mutations":
        """Make the mutations that settings allow; InputError where they allow no path."""
        lengths = settings.lengths(costs)
        positions = max(lengths[-1], costs.num_layers)
        table = edit_table(
            positions,
            SKIP_BLOCK,
            REPEAT_BLOCK,
            times=1,
            parts=settings.parts,
            shares=settings.shares,
        )
        highest = settings.highest_cost(costs)
        if settings.has_steps:
            fitting = FittingEdits(table, lengths[0], positions)
            parts = BOTH if settings.parts else (WHOLE,)
            return StepMutations(costs, lengths, highest, fitting, parts)
        return cls(costs, lengths, highest, FittingEdits(table, lengths[0], lengths[-1]))

    @property
    def positions(self) -> int:
        """P, the most steps of a path or of the model."""
        return max(self.lengths[-1], self.costs.num_layers)

    def mutate(self, parent: LayerPath, random: np.random.Generator) -> LayerPath:
        """Apply one to three random edits, few likelier than many; a third of them restore a layer.

        A path that is then too long or costs too much skips steps; the parent is returned where the
        shortest allowed still costs too much.
        """
        path = parent
        for restores in random.random(min(int(random.geometric(0.5)), MOST_EDITS)) < 1 / 3:
            path = self.restore(path, random) if restores else self.edit(path, random)
        while self.is_too_large(path):
            if self.costs.layers(path) <= self.lengths[0]:
                return parent
            path = self.skip(path, random)
        return path if self.costs.layers(path) >= self.lengths[0] else parent

    def is_too_large(self, path: LayerPath) -> bool:
        """Whether a path is too long or costs too much."""
        return self.costs.layers(path) > self.lengths[-1] or self.costs.of(path) > self.highest

    def edit(self, path: LayerPath, random: np.random.Generator) -> LayerPath:
        """Skip a layer, or repeat a block of layers."""
        drawn = self.fitting.draw(path, random)
        return path if drawn is None else edited(path, drawn)

    def skip(self, path: LayerPath, random: np.random.Generator) -> LayerPath:
        """Skip a layer."""
        skipped = int(random.integers(len(path)))
        return (*path[:skipped], *path[skipped + 1 :])

    def restore(self, path: LayerPath, random: np.random.Generator) -> LayerPath:
        """Bring back a layer that a path skips, in front of the first later one."""
        missing = sorted(set(range(self.costs.num_layers)) - set(path))
        return insert_step(path, int(random.choice(missing))) if missing else path


@dataclasses.dataclass(frozen=True, eq=False)
class StepMutations(Mutations):
    """Random edits of attention and MLP, and of shares, beside those of whole layers.

    Lengths count a part by its share of the cost of its layer; a path has at most as many steps as
    one of whole layers.
    """

    parts: tuple[int, ...]  # of layers, that are skipped and restored: both, or layers whole

    def is_too_large(self, path: LayerPath) -> bool:
        """Whether a path has too many steps, is too long or costs too much."""
        return len(path) > self.positions or super().is_too_large(path)

    def parts_of(self, step: int) -> tuple[int, ...]:
        """Return the parts that a step runs, attention first."""
        part = part_of(step)
        return self.parts if part == WHOLE else (part,)

    def skip(self, path: LayerPath, random: np.random.Generator) -> LayerPath:
        """Skip an attention or an MLP, each as likely as any other, or a layer."""
        runs = [(place, part) for place, step in enumerate(path) for part in self.parts_of(step)]
        place, skipped = runs[int(random.integers(len(runs)))]
        step = Step.of(path[place])
        left = [part for part in self.parts_of(path[place]) if part != skipped]
        kept = [step._replace(part=part).id for part in left]
        return (*path[:place], *kept, *path[place + 1 :])

    def restore(self, path: LayerPath, random: np.random.Generator) -> LayerPath:
        """Bring back a part or a layer that a path skips, or all of the update of a step.

        Where the path runs the other part of the layer, the first such step becomes the whole
        layer; else the part is put in front of the first later layer.
        """
        present = {(layer_of(step), part) for step in path for part in self.parts_of(step)}
        every = itertools.product(range(self.costs.num_layers), self.parts)
        missing = [Step(layer, part) for layer, part in every if (layer, part) not in present]
        damped = [place for place, step in enumerate(path) if share_of(step) != 1]
        if not missing and not damped:
            return path
        drawn = int(random.integers(len(missing) + len(damped)))
        if drawn >= len(missing):
            place = damped[drawn - len(missing)]
            return replaced(path, place, Step.of(path[place])._replace(share=1))
        for place, step in enumerate(path):
            if layer_of(step) == missing[drawn].layer:
                return replaced(path, place, Step.of(step)._replace(part=WHOLE))
        return insert_step(path, missing[drawn].id)


def replaced(path: LayerPath, place: int, step: Step) -> LayerPath:
    """Put a step in place of another."""
    return (*path[:place], step.id, *path[place + 1 :])


def insert_step(path: LayerPath, step: int) -> LayerPath:
    """Insert a step in front of the first one of a later layer."""
    layer = layer_of(step)
    start = next((i for i, other in enumerate(path) if layer_of(other) > layer), len(path))
    return (*path[:start], step, *path[start:])


def finalists(paths: Sequence[LayerPath], costs: LayerCosts, most: int) -> list[LayerPath]:
    """Return the first path of each length and then the others, up to `most`, of paths in order.

    A length is the cost in average layers, rounded.
    """
    lengths = [round(costs.of(path) / costs.total * costs.num_layers) for path in paths]
    first = [path for i, path in enumerate(paths) if lengths[i] not in lengths[:i]]
    return [*first, *(path for path in paths if path not in first)][:most]


def pareto_front(costs: Sequence[float], fitness: Sequence[Score]) -> list[int]:
    """Return the indices of paths that are better than all that cost no more, cheapest first."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], tuple(-x for x in fitness[i])))
    front: list[int] = []
    for i in order:
        if not front or fitness[i] > fitness[front[-1]]:
            front.append(i)
    return front
