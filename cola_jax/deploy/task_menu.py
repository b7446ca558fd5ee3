"""`find_menu`: from finished runs to a menu, and what its rules make of held-out questions."""

import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from cola_jax.deploy.cross_fit import (
    FOLDS,
    SOME,
    Known,
    cross_fit,
    fit_rules,
    folds_of,
    right_by_rule,
)
from cola_jax.deploy.menu_file import Path
from cola_jax.deploy.prompt_states import prompt_states
from cola_jax.deploy.rules import Selector, signals
from cola_jax.deploy.settings import MenuSettings
from cola_jax.errors import InputError
from cola_jax.execute.metrics import Metrics
from cola_jax.identity import question_digest, set_digest
from cola_jax.path import identity
from cola_jax.question import Question
from cola_jax.runs.run import Run
from cola_jax.runs.settings import ANY_SCORER, asked_by_run, asked_here, check_comparable
from cola_jax.runs.stored import Labels, read_labels, stored_verdicts

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

log = logging.getLogger(__name__)
NAMED = 5  # questions named in a message


@dataclasses.dataclass(frozen=True, eq=False)
class MenuChoice:
    """What a rule chose on held-out questions."""

    rule: str
    sign: int | None  # of a confidence, fitted on training questions
    trained: np.ndarray  # [m] bool, right on training questions, each by a fit without its fold
    right: np.ndarray  # [n] bool, on held-out questions
    layers: float  # run for a prompt, mean


@dataclasses.dataclass(frozen=True, eq=False)
class TaskMenu:
    """A menu, and whether its paths and rules answered the held-out questions."""

    paths: tuple[Path, ...]
    plain: MenuChoice  # the pretrained model
    choices: tuple[MenuChoice, ...]  # the simplest rule first
    some: MenuChoice  # some path of the menu, which needs the answer
    single: int  # the path of the rule `single`
    selector: Selector
    state_layer: int
    questions: str  # digest of the training questions, each without the order of its options

    @property
    def chosen(self) -> MenuChoice:
        """The rule that is right most often on training questions; of equals the simplest."""
        return max(self.choices, key=lambda choice: choice.trained.mean())


def find_menu(
    session: "Session",
    screen: "Session",
    out: str,
    runs: Sequence[str],
    settings: MenuSettings,
    metrics: Metrics | None = None,
) -> TaskMenu:
    """Chooses a menu on the training questions, fits its rules there, and measures them elsewhere.

    A rule is chosen by cross-fitting: for each fold of the training questions the candidates, the
    menu and the rules are made from the other folds.

    Args:
      session: with held-out questions, and a scorer that tells what a path answered.
      screen: over the same training questions, with the scorer that candidates are tried with; it
        may be the same session.
      out: directory of the runs `candidates`, `training` and `held-out`, which are resumed.
      runs: directories of searches or evaluations of training questions.

    Raises:
      ValueError: for runs of another checkpoint or with held-out questions, and for a scorer that
        does not tell what a path answered.
    """
    assert session.held_out, "it raises where there are none"
    layers = session.num_layers
    settings.check(layers)
    if session.scorer.open and not session.scorer.decodes:
        raise InputError(
            f"the scorer {session.scorer.name!r} does not tell what a path answered, which a menu "
            "chooses by: use `generation`."
        )
    labels = [label for run in runs for label in labels_for(run, session)]
    best = candidates(labels, layers, settings)
    if len(best) == 1:
        raise InputError(
            f"the runs have no correct path of at most {settings.longest(layers)} layers but the "
            "identity: search more questions, or allow more layers."
        )
    ids = [one.question.id for one in session.encoded]
    if len(ids) < 2:
        raise InputError("a menu needs 2 or more training questions, there is 1: raise --limit.")
    folds = folds_of(ids)
    fold = dict(zip(ids, folds.tolist(), strict=True))
    # what is chosen for each fold, by the questions that are not in it
    parts = [[one for one in labels if fold.get(one.question) != f] for f in range(FOLDS)]
    lists = [best, *(candidates(part, layers, settings) for part in parts)]
    rows = [np.full(len(ids), True), *(folds != f for f in range(FOLDS))]
    folder = epath.Path(out)
    paths = list(dict.fromkeys(itertools.chain(*lists)))
    tried = screen.evaluate(str(folder / "candidates"), paths, metrics)
    right = stored_verdicts(tried, screen.encoded, len(paths)).verdict
    menus = [
        cover(right[some], paths, own, settings.size) for some, own in zip(rows, lists, strict=True)
    ]
    used = list(dict.fromkeys(itertools.chain(*menus)))
    menu = menus[0]
    depth = layers // 2 if settings.state_layer is None else settings.state_layer
    training, held = (
        known(session, str(folder / name), asked, depth, metrics, held_out=name == "held-out")
        for name, asked in (("training", used), ("held-out", menu))
    )
    rules = fit_rules(training.take(rows[0], range(len(menu))))
    trained = cross_fit(training, folds, [[used.index(p) for p in one] for one in menus[1:]])
    measured, chosen = right_by_rule(rules, held), rules.choose(held)

    def choice(rule: str, cost: float, sign: int | None = None) -> MenuChoice:
        return MenuChoice(rule, sign, trained[rule], measured[rule], cost)

    start, every = tuple(range(depth)), float(prefix_layers(menu))
    after = np.array([prefix_layers([start, path]) for path in menu])  # layers with the state's
    return TaskMenu(
        paths=tuple(menu),
        plain=MenuChoice("", None, training.right[:, 0], held.right[:, 0], float(layers)),
        choices=(
            choice("single", float(len(menu[rules.single]))),
            choice("vote", every),
            *(choice(name, every, sign) for name, sign in rules.signs.items()),
            choice("selector", float(after[chosen["selector"]].mean())),
        ),
        some=choice(SOME, every),
        single=rules.single,
        selector=rules.selector,
        state_layer=depth,
        questions=set_digest(of_content(asked.question) for asked in session.encoded),
    )


def cover(right: np.ndarray, paths: Sequence[Path], own: Sequence[Path], size: int) -> list[Path]:
    """Chooses a menu among candidates `own`, where right [n, C] is of all paths."""
    columns = right[:, [paths.index(path) for path in own]]
    return [own[i] for i in greedy_cover(columns, list(map(len, own)), size)]


def known(
    session: "Session",
    out: str,
    paths: Sequence[Path],
    depth: int,
    metrics: Metrics | None,
    held_out: bool,
) -> Known:
    """Evaluates paths on questions of a session, and reads the states of their prompts."""
    encoded = session.held_out if held_out else session.encoded
    run = session.evaluate(out, paths, metrics, held_out=held_out)
    verdicts = stored_verdicts(run, encoded, len(paths))
    states = prompt_states(session.model, [one.prompts for one in encoded], depth)
    return Known(verdicts.verdict, signals(verdicts), states)


def labels_for(directory: str, session: "Session") -> list[Labels]:
    """Reads the labels of a run; ValueError where they cannot serve a session.

    Its paths are tried again, so another dtype, scorer or prompt is only told.
    """
    run = Run(directory)
    here = asked_here(session.settings, session.encoded)
    allowed = (*ANY_SCORER, *(["options"] if session.scorer.open else []))  # decoys
    if told := check_comparable(asked_by_run(run), here, allowed):
        log.info("the paths of %s are tried under other settings: %s", directory, "; ".join(told))
    labels = read_labels(run)
    held = {of_content(asked.question) for asked in session.others}
    ids = {asked.question.id for asked in session.others}
    both = [
        label.question
        for label in labels
        if label.question in ids or of_content(asked_by(label, session.scorer.open)) in held
    ]
    if both:
        named = ", ".join(both[:NAMED]) + (", ..." if len(both) > NAMED else "")
        raise InputError(
            f"{directory} has {len(both)} of the held-out questions ({named}): give runs of "
            "training questions (the same --limit, --held-out and --held-out-seed)."
        )
    return labels


def asked_by(label: Labels, open: bool) -> Question:
    """Returns the question that labels are of."""
    return Question(label.question, label.text, label.options, label.gold or 0, open)


def of_content(question: Question) -> str:
    """Returns a digest that questions share which are the same under other ids or in other orders.

    The options of an open question are decoys, which do not count.
    """
    question = dataclasses.replace(question, options=()) if question.open else question
    return question_digest(question, ordered=False)


def candidates(labels: Sequence[Labels], num_layers: int, settings: MenuSettings) -> list[Path]:
    """Returns the identity path, and the paths that were right on most questions of the runs.

    Where questions were asked in several variants, right is what held in all. Of equals the shorter
    is first.
    """
    longest = settings.longest(num_layers)
    counts = Counter(path for label in labels for path in label.held if len(path) <= longest)
    plain = identity(num_layers)
    counts.pop(plain, None)
    best = sorted(counts, key=lambda path: (-counts[path], len(path), path))
    return [plain, *best[: settings.candidates]]


def greedy_cover(right: np.ndarray, lengths: Sequence[int], size: int) -> list[int]:
    """Chooses paths that answer as many questions as possible between them.

    Each step adds the path that is right on most questions on which no chosen path is; of equal
    ones that which is right on more questions, then the shorter. Paths that add nothing are left
    out.

    Args:
      right: [n, C], whether a path answers a question; the first path, the identity, is chosen.
      lengths: of the paths, in layers.
      size: the most paths to choose.

    Returns:
      The indices of the chosen paths, in order.
    """
    chosen, covered = [0], right[:, 0].copy()
    while len(chosen) < size:
        gain = (right & ~covered[:, None]).sum(axis=0)
        best = max(
            (i for i in range(right.shape[1]) if i not in chosen),
            key=lambda i: (gain[i], right[:, i].sum(), -lengths[i]),
            default=None,
        )
        if best is None or not gain[best]:
            break
        chosen.append(best)
        covered |= right[:, best]
    return chosen


def prefix_layers(paths: Sequence[Path]) -> int:
    """Returns the layers that run when paths share the states of their common prefixes."""
    return len({path[: n + 1] for path in paths for n in range(len(path))})
