"""A menu: a few paths that serve a task, and how well each rule chooses between them."""

import dataclasses
import functools
import itertools
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cola_jax.deploy.rules import (
    ORACLE,
    FittedRules,
    MenuResults,
    Selector,
    cross_fit,
    fit_rules,
    right_by_rule,
    signals,
)
from cola_jax.deploy.settings import MenuSettings
from cola_jax.deploy.static import evaluate_on
from cola_jax.engine.evaluator import succeeded
from cola_jax.engine.question_set import QuestionSet
from cola_jax.engine.work import Batch, Keep, Work
from cola_jax.errors import InputError
from cola_jax.execute.prompt_states import prompt_states
from cola_jax.execute.worker import Worker
from cola_jax.files import inside
from cola_jax.layer_costs import LayerCosts, part_fractions
from cola_jax.metrics import Metrics
from cola_jax.path import LayerPath, format_path, identity, unpad_path
from cola_jax.question import Question, content, distinct, split
from cola_jax.runs.chosen_on import ChosenOn
from cola_jax.runs.compare import ANY_SCORER, asked_here, check_comparable
from cola_jax.runs.estimates import MODEL, Estimate
from cola_jax.runs.path_results import LAYERS
from cola_jax.runs.prompt_results import measured_estimates
from cola_jax.runs.recommendation import Measurement, Recommendation
from cola_jax.runs.run import Run
from cola_jax.runs.session import check_whole_share, held_out_of, prompt_folders, settings_of
from cola_jax.runs.stored import Labels, read_labels, stored_verdicts
from cola_jax.runs.tries import Try
from cola_jax.scoring.evaluations import Evaluations
from cola_jax.scoring.statistics import Share
from cola_jax.scoring.verdicts import Verdicts

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

FOLDS = 5
NO_FOLD = -1
LEFT_OUT = (NO_FOLD, *range(FOLDS))  # the fold without which a menu is made


class Questions(NamedTuple):
    """Questions in one prompt, as a menu sees them."""

    evaluations: Evaluations
    features: Callable[[], np.ndarray]  # the states [n, D] of the prompts, for the selector


@dataclasses.dataclass(frozen=True, eq=False)
class MenuChoice:
    """The results of a rule."""

    rule: str
    sign: int | None  # of the log-probability, fitted on training questions
    trained: np.ndarray  # [m] bool, right on training questions, each by a fit without its fold
    right: np.ndarray  # [n, K] bool, on held-out questions in each of K prompts
    layers: float  # run for a prompt, mean


@dataclasses.dataclass(frozen=True, eq=False)
class TaskMenu:
    """A menu, and whether its paths and rules answered the held-out questions."""

    paths: tuple[LayerPath, ...]
    plain: MenuChoice  # the pretrained model
    choices: tuple[MenuChoice, ...]  # the simplest rule first
    oracle: MenuChoice  # right where some path is, which needs the answer
    single: int  # the path of the rule `single`
    selector: Selector
    state_layer: int
    earlier: tuple[Try, ...] = ()  # results on some of the held-out questions

    @property
    def chosen(self) -> MenuChoice:
        """The rule that is right most often on training questions; of equals the simplest."""
        return max(self.choices, key=lambda choice: choice.trained.mean())

    @functools.cached_property
    def rules(self) -> dict[str, MenuChoice]:
        """The rules by their groups."""
        rules = {}
        for choice in self.choices:
            name = choice.rule + {None: "", 1: ", highest", -1: ", lowest"}[choice.sign]
            if choice.rule == "single":
                name += f": {format_path(self.paths[self.single])}"
            rules[name] = choice
        return rules

    @functools.cached_property
    def recommendation(self) -> Recommendation:
        """What to use, by the held-out questions, on which all rules were measured."""
        (found,) = (group for group, choice in self.rules.items() if choice is self.chosen)
        right = {group: choice.right for group, choice in self.rules.items()}
        return Recommendation(right, self.plain.right, found, self.earlier)

    def to_json(self) -> dict[str, Any]:
        """Return what `menu.json` has of the menu: its paths, its rule, and what is recommended.

        The rule is the chosen one, unless another is recommended.
        """
        recommended = self.rules.get(self.recommendation.recommended)
        used = recommended or self.chosen
        return {
            "paths": [format_path(path) for path in self.paths],
            "recommended": MODEL if recommended is None else recommended.rule,
            "rule": used.rule,
            "sign": used.sign,
            "single": self.single,
            "state_layer": self.state_layer,
            "selector": self.selector.digest,
        }


def menu_estimates(menu: TaskMenu) -> list[Estimate]:
    """Compare the rules of a menu, and the choice by the answer, with the pretrained model."""
    needs_answer = f"some path of {len(menu.paths)} is right (needs the answer)"
    measured = measured_estimates({needs_answer: menu.oracle.right}, menu.plain.right)
    recommendation = menu.recommendation
    for group in (MODEL, *menu.rules):
        measured[group] = recommendation.of_group(group)
    estimates = []
    for group, choice in {MODEL: menu.plain, **menu.rules, needs_answer: menu.oracle}.items():
        estimates.append(Estimate(LAYERS, group, choice.layers, unit="layers"))
        estimates.append(Estimate.of("training", Share.of(choice.trained), group=group))
        estimates += measured[group]
    estimates += recommendation.estimates()
    estimates.append(Estimate.count("training questions", len(menu.plain.trained)))
    return estimates


def find_menu(
    session: "Session",
    screen: "Session",
    out: str,
    runs: Sequence[str],
    settings: MenuSettings,
    metrics: Metrics | None = None,
    prompts: Sequence["Session"] = (),
) -> TaskMenu:
    """Choose a menu on the training questions of a session, and measure it on held-out ones.

    Args:
      session: with held-out questions, and a scorer that tells which answer a path gave.
      screen: over the same training questions, with the scorer that candidates are tried with.
      out: directory of the runs `candidates`, `training` and `held-out`, which are resumed.
      runs: directories of searches or evaluations, of which the training questions are used.
      prompts: sessions of the prompts in which the menu is measured, the session's own by default.

    Raises InputError for a session without held-out questions, runs of another checkpoint, and a
    scorer that does not tell which answer a path gave.
    """
    config = session.model.config
    settings.check(config.num_layers)
    check_whole_share(session)
    scorer = session.asked.scorer
    if scorer.open and not scorer.decodes:
        raise InputError(
            f"the scorer {scorer.name!r} does not tell which answer a path gave, by which "
            "a menu chooses: use `generation`."
        )
    labels = [label for run in runs for label in training_labels(run, session)]
    prompts, held_out = prompts or [session], str(inside(out, "held-out"))

    def part(session: "Session", folder: str, *, held_out: bool = False) -> Questions:
        """Evaluate the same paths of all questions through a run, which is resumed."""
        asked = held_out_of(session) if held_out else session.asked

        def evaluate(wave: np.ndarray) -> Verdicts:
            paths = [unpad_path(path) for path in wave[0]]
            run = session.evaluate(folder, paths, metrics, held_out=held_out)
            return stored_verdicts(run, asked.questions, asked.scorer, len(paths))

        def features() -> np.ndarray:
            depth = settings.depth(session.model.config.num_layers)
            return states_of(session, asked, depth)

        return Questions(Evaluations(evaluate, asked.questions), features)

    folders = zip(prompts, prompt_folders(held_out, len(prompts)), strict=True)
    settings_here = (
        dataclasses.asdict(settings),
        [each.question for each in labels],
        screen.settings,
    )
    questions = held_out_of(prompts[0]).questions
    measurement = Measurement.of(session, prompts, questions, "menu", *settings_here)
    menu = choose_menu(
        part(screen, str(inside(out, "candidates"))).evaluations,
        part(session, str(inside(out, "training"))),
        [part(each, folder, held_out=True) for each, folder in folders],
        labels,
        LayerCosts(config.num_layers).with_fractions(part_fractions(config)),
        settings,
    )
    menu = dataclasses.replace(menu, earlier=tuple(measurement.earlier()))
    plain = identity(session.model.config.num_layers)
    beside = [format_path(path) for path in menu.paths if path != plain]
    measurement.record(f"menu of {len(menu.paths)} paths", menu.recommendation, beside)
    return menu


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptStates(Work):
    """A function from a batch to the states [B, D] of the last tokens of its prompts."""

    layers: int  # after which they are read

    def __call__(self, worker: Worker, batch: Batch, keep: Keep) -> np.ndarray:
        encoded = self.encode(worker, batch.questions)
        return prompt_states(worker.model, [each.prompts for each in encoded], self.layers)


def states_of(session: "Session", asked: QuestionSet, layers: int) -> np.ndarray:
    """Return the states [n, D] of the prompts of questions after the first layers."""
    work = PromptStates(model=session.model, encoder=asked.encoder, layers=layers)
    out = np.zeros((len(asked), session.model.config.width), np.float32)
    batches = asked.batches(range(len(asked)), session.engine.capacity(session.model, len(asked)))
    for batch, states, _ in session.engine.map(work, batches):
        out[batch.indices] = succeeded(batch, states)
    return out


def choose_menu(
    screen: Evaluations,
    training: Questions,
    held_out: Sequence[Questions],
    labels: Sequence[Labels],
    costs: LayerCosts,
    settings: MenuSettings,
) -> TaskMenu:
    """Choose a menu on training questions, fit its rules there, and measure them on held-out ones.

    A rule is chosen by cross-fitting: for each fold of the training questions the candidates, the
    menu and the rules are made from the other folds.

    Args:
      screen: evaluates all candidates on the training questions, `training` those of menus.
      held_out: the same questions in each prompt.
      labels: the paths that are known to be right for some training questions.
      costs: of layers and of their parts, by which paths with parts are measured in layers.

    Raises InputError for one training question, and where no path but the identity is right.
    """
    asked = training.evaluations.questions
    if len(distinct(asked)) < 2:
        raise InputError("a menu needs 2 or more training questions, there is 1: raise --limit.")
    ids = [question.id for question in asked]
    folds = folds_of(asked)
    fold_of = dict(zip(ids, folds.tolist(), strict=True))
    lists = [
        candidates(
            [label for label in labels if fold_of.get(label.question) != fold], costs, settings
        )
        for fold in LEFT_OUT
    ]
    if len(lists[0]) == 1:
        longest = settings.longest(costs.num_layers)
        raise InputError(
            f"the runs have no correct path of at most {longest} layers for the training questions "
            "but the identity: search more questions, or allow more layers."
        )
    paths = list(dict.fromkeys(itertools.chain(*lists)))
    right = evaluate_on(screen, paths).verdict
    menu, *menus = (
        cover(right[folds != fold], paths, chosen, settings.size, costs)
        for fold, chosen in zip(LEFT_OUT, lists, strict=True)
    )
    used = list(dict.fromkeys(itertools.chain(menu, *menus)))
    known = results_of(training, used)
    trained = cross_fit(known, folds, [[used.index(path) for path in each] for each in menus])
    rules = fit_rules(known.take(folds != NO_FOLD, range(len(menu))))
    once = np.array(distinct(held_out[0].evaluations.questions))
    measured = [results_of(part, menu).take(once, range(len(menu))) for part in held_out]
    return measure(menu, rules, trained, measured, known.right[:, 0], costs, settings)


def measure(
    menu: Sequence[LayerPath],
    rules: FittedRules,
    trained: Mapping[str, np.ndarray],
    held_out: Sequence[MenuResults],
    plain: np.ndarray,
    costs: LayerCosts,
    settings: MenuSettings,
) -> TaskMenu:
    """Measure the rules of a menu on held-out questions in each prompt.

    `trained` has the results of cross-fitting, and `plain` [m] those of the pretrained model on the
    training questions.
    """
    depth = settings.depth(costs.num_layers)
    every = prefix_layers(menu, costs)
    state = tuple(range(depth))  # run by the selector before it chooses
    after = np.array([prefix_layers([state, path], costs) for path in menu])
    selected = [after[rules.choose(part)["selector"]] for part in held_out]
    layers = {"single": costs.layers(menu[rules.single]), "selector": np.mean(selected)}
    every_prompt = [right_by_rule(rules, part) for part in held_out]
    right = {rule: np.stack([part[rule] for part in every_prompt], 1) for rule in every_prompt[0]}
    before = np.stack([part.right[:, 0] for part in held_out], axis=1)
    choices = {
        rule: MenuChoice(
            rule,
            rules.sign if rule == "logprob" else None,
            trained[rule],
            right[rule],
            float(layers.get(rule, every)),
        )
        for rule in right
    }
    oracle = choices.pop(ORACLE)
    return TaskMenu(
        paths=tuple(menu),
        plain=MenuChoice("", None, plain, before, float(costs.num_layers)),
        choices=tuple(choices.values()),
        oracle=oracle,
        single=rules.single,
        selector=rules.selector,
        state_layer=depth,
    )


def results_of(questions: Questions, paths: Sequence[LayerPath]) -> MenuResults:
    """Evaluate paths on all questions."""
    verdicts = evaluate_on(questions.evaluations, paths)
    return MenuResults(verdicts.verdict, signals(verdicts), questions.features())


def training_labels(directory: str, session: "Session") -> list[Labels]:
    """Read the labels of a run for the training questions of a session.

    Its paths are tried again, so another dtype, scorer or prompt is only logged. InputError for a
    run of another model or with other texts of the same questions.
    """
    run = Run(directory)
    ours = asked_here(settings_of(session), session.asked.questions, session.asked.sample)
    allowed = (*ANY_SCORER, "options")  # other decoys, or another order in a prompt
    check_comparable(run.asked(), ours, allowed)
    ids = {question.id for question in session.asked.questions}
    return [label for label in read_labels(run) if label.question in ids]


def menu_chosen_on(sessions: Sequence["Session"], runs: Sequence[str]) -> ChosenOn:
    """Return what chose a menu: its training questions, and those of the runs that it was given.

    `sessions` ask the training questions; those that they hold out measure the menu.
    """
    every = [session.chosen_on() for session in sessions]
    every += [Run(directory).chosen_on() for directory in runs]
    return functools.reduce(operator.or_, every).without(held_out_of(sessions[0]).questions)


def folds_of(questions: Sequence[Question]) -> np.ndarray:
    """Divide questions into folds [n] of equal size by a hash of their ids.

    Equal questions share a fold, and count as one in its size.
    """
    once = distinct(questions)
    order = split([questions[place].id for place in once], "")
    fold = {content(questions[once[at]]): rank % FOLDS for rank, at in enumerate(order)}
    return np.array([fold[content(question)] for question in questions])


def candidates(
    labels: Sequence[Labels], costs: LayerCosts, settings: MenuSettings
) -> list[LayerPath]:
    """Return the identity path, and the paths that were right on most questions of the runs.

    Of equals the shorter is first.
    """
    longest = settings.longest(costs.num_layers)
    correct = (path for label in labels for path in label.correct)
    counts = Counter(path for path in correct if costs.layers(path) <= longest)
    plain = identity(costs.num_layers)
    counts.pop(plain, None)
    best = sorted(counts, key=lambda path: (-counts[path], costs.layers(path), path))
    return [plain, *best[: settings.candidates]]


def cover(
    right: np.ndarray,
    paths: Sequence[LayerPath],
    candidates: Sequence[LayerPath],
    size: int,
    costs: LayerCosts,
) -> list[LayerPath]:
    """Choose a menu that answers as many questions as possible between its paths.

    The first candidate, the identity, is chosen. Each step adds the path that is right on most
    questions on which no chosen path is; of equal ones that which is right on more questions, then
    the shorter. Paths that add nothing are left out. `right` [n, C] is whether each of `paths`,
    among them the candidates, answers a question; `size` is the most paths to choose.
    """
    right = right[:, [paths.index(path) for path in candidates]]
    chosen, covered = [0], right[:, 0].copy()
    while len(chosen) < size:
        gain = (right & ~covered[:, None]).sum(axis=0)
        best = max(
            (i for i in range(len(candidates)) if i not in chosen),
            key=lambda i: (gain[i], right[:, i].sum(), -costs.layers(candidates[i])),
            default=None,
        )
        if best is None or not gain[best]:
            break
        chosen.append(best)
        covered |= right[:, best]
    return [candidates[i] for i in chosen]


def prefix_layers(paths: Sequence[LayerPath], costs: LayerCosts) -> float:
    """Return the layers that run when paths share the states of their common prefixes."""
    prefixes = {path[: n + 1] for path in paths for n in range(len(path))}
    return costs.layers(prefix[-1] for prefix in prefixes)
