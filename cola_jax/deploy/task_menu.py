"""`find_menu`: from finished runs to a menu, and what its rules make of held-out questions."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from etils import epath

from cola_jax.deploy.menu import Path, greedy_cover, prefix_layers
from cola_jax.deploy.prompt_state import prompt_states
from cola_jax.deploy.rules import CONFIDENCE, Signals, fit_sign, most_confident, signals, vote
from cola_jax.deploy.selector import Selector, fit_selector
from cola_jax.deploy.settings import MenuSettings
from cola_jax.execute.metrics import Metrics
from cola_jax.path import identity
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.labels import Labels, read_labels
from cola_jax.runs.reuse import stored_verdicts

if TYPE_CHECKING:
    from cola_jax.runs.session import Session

NAMED = 5  # questions named in a message


@dataclasses.dataclass(frozen=True, eq=False)
class Choice:
    """What a rule chose on held-out questions."""

    rule: str
    sign: int | None  # of a confidence, fitted on training questions
    trained: np.ndarray  # [m] bool, right on training questions, on which it was fitted
    right: np.ndarray  # [n] bool, on held-out questions
    layers: float  # run for a prompt, mean


@dataclasses.dataclass(frozen=True, eq=False)
class TaskMenu:
    """A menu, and whether its paths and rules answered the held-out questions."""

    paths: tuple[Path, ...]
    training: np.ndarray  # [m, k] bool
    held_out: np.ndarray  # [n, k]
    choices: tuple[Choice, ...]
    selector: Selector
    state_layer: int

    @property
    def chosen(self) -> Choice:
        """The rule that is right most often on training questions."""
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
    held_out, layers = session.held_out, session.num_layers
    settings.check(layers)
    if session.scorer.open and not session.scorer.decodes:
        raise ValueError(
            f"the scorer {session.scorer.name!r} does not tell what a path answered, which a menu "
            "chooses by: use `generation`."
        )
    labels = [label for run in runs for label in labels_for(run, session)]
    paths = candidates(labels, layers, settings)
    folder = epath.Path(out)
    tried = screen.evaluate(str(folder / "candidates"), paths, metrics)
    right = stored_verdicts(tried, screen.encoded, screen.scorer, len(paths)).verdict
    menu = [paths[i] for i in greedy_cover(right, list(map(len, paths)), settings.size)]
    both = [
        stored_verdicts(
            one.evaluate(str(folder / name), menu, metrics), one.encoded, one.scorer, len(menu)
        )
        for one, name in ((session, "training"), (held_out, "held-out"))
    ]
    depth = layers // 2 if settings.state_layer is None else settings.state_layer
    states = [
        prompt_states(session.model, [each.prompts for each in one.encoded], depth)
        for one in (session, held_out)
    ]
    selector = fit_selector(states[0], both[0].verdict)
    choices = (
        *confidence_choices(menu, [signals(one) for one in both], [one.verdict for one in both]),
        selector_choice(menu, selector, states, [one.verdict for one in both], depth),
    )
    return TaskMenu(tuple(menu), both[0].verdict, both[1].verdict, choices, selector, depth)


def labels_for(directory: str, session: "Session") -> list[Labels]:
    """Reads the labels of a run; ValueError where they cannot serve a session."""
    run = RunDirectory(directory)
    run.check_model(session.settings["model"])
    labels, held = read_labels(run), {one.question.id for one in session.others}
    both = [label.question for label in labels if label.question in held]
    if both:
        named = ", ".join(both[:NAMED]) + (", ..." if len(both) > NAMED else "")
        raise ValueError(
            f"{directory} has {len(both)} of the held-out questions ({named}): give runs of "
            "training questions (the same --limit, --held-out and --held-out-seed)."
        )
    return labels


def candidates(labels: Sequence[Labels], num_layers: int, settings: MenuSettings) -> list[Path]:
    """Returns the identity path, and the paths that were right on most questions of the runs.

    Where questions were asked in several variants, right is what held in all. Of equals the shorter
    is first. Raises ValueError where no other path was right anywhere.
    """
    longest = 2 * num_layers if settings.max_layers is None else settings.max_layers
    counts = Counter(path for label in labels for path in label.held if len(path) <= longest)
    plain = identity(num_layers)
    counts.pop(plain, None)
    if not counts:
        raise ValueError(
            f"the runs have no correct path of at most {longest} layers but the identity: search "
            "more questions, or allow more layers."
        )
    best = sorted(counts, key=lambda path: (-counts[path], len(path), path))
    return [plain, *best[: settings.candidates]]


def confidence_choices(
    menu: Sequence[Path], told: Sequence[Signals], right: Sequence[np.ndarray]
) -> list[Choice]:
    """Applies the majority vote, and each confidence with the sign that suits training questions.

    All paths of the menu run for them, and share the states of common prefixes.
    """
    cost = prefix_layers(menu)
    choices = [Choice("vote", None, *picked(right, [vote(one.answer) for one in told]), cost)]
    for name in CONFIDENCE:
        values = [getattr(one, name) for one in told]
        sign = fit_sign(values[0], right[0])
        index = [most_confident(each, sign) for each in values]
        choices.append(Choice(name, sign, *picked(right, index), cost))
    return choices


def selector_choice(
    menu: Sequence[Path],
    selector: Selector,
    states: Sequence[np.ndarray],
    right: Sequence[np.ndarray],
    depth: int,
) -> Choice:
    """Applies the selector; one path runs, from where it leaves the layers of the state."""
    index = [selector.choose(one) for one in states]
    start = tuple(range(depth))
    costs = np.array([prefix_layers([start, path]) for path in menu])
    return Choice("selector", None, *picked(right, index), float(costs[index[1]].mean()))


def picked(
    right: Sequence[np.ndarray], index: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Takes for each question whether the chosen path is right, on training and held-out ones."""
    first, second = (
        each[np.arange(len(each)), chosen] for each, chosen in zip(right, index, strict=True)
    )
    return first, second
