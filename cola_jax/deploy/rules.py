"""Rules of a menu: which of its paths answers a question, decided without the correct answer.

One path for all questions, a vote, a confidence, or a selector, which reads the hidden state of the
prompt. A rule that is measured on the questions that it was fitted to looks better than it is: a
selector of hundreds of features learns noise by heart. `cross_fit` measures each question by rules,
and a menu, that other questions made.
"""

import dataclasses
import io
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from etils import epath
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import log_softmax

from cola_jax.deploy.prompt_states import prompt_states
from cola_jax.errors import InputError, first_line, reading
from cola_jax.files import read_bytes, read_json
from cola_jax.identity import check_belongs, digest
from cola_jax.params import Model
from cola_jax.path import parse_path_of
from cola_jax.prompts import Prompts
from cola_jax.scoring.verdicts import NO_ANSWER, Completion, Verdicts

Path = tuple[int, ...]
MENU, SELECTOR = "menu.json", "selector.npz"
REPAIR = "make the menu again with `cola menu`"

CONFIDENCE = ("logprob", "entropy", "certainty")
ALPHAS = tuple(10.0**power for power in range(-1, 6))  # penalties of the selector
ORACLE = "oracle"  # right where some path is: it needs the answer, so it is not a rule


class Signals(NamedTuple):
    """The answers of the paths of a menu; fields [n, k], confidences -inf where not finite.

    Of options, the distribution is over the options of a question; of decoded answers, over the
    vocabulary, mean over the tokens.
    """

    answer: np.ndarray  # object: an option's number, or the text of an answer; None without one
    logprob: np.ndarray  # log-probability of the answer, of a decoded one per token
    entropy: np.ndarray  # in nats
    certainty: np.ndarray  # divergence from the uniform distribution


def signals(verdicts: Verdicts) -> Signals:
    """Read the signals of verdicts [n, k] of options or of decoded answers."""
    decoded = any(isinstance(each, Completion) for each in verdicts.completion.flat)
    return of_completions(verdicts) if decoded else of_options(verdicts)


def of_options(verdicts: Verdicts) -> Signals:
    """Read the signals of options from their scores."""
    known = ~np.isnan(verdicts.scores)
    finite = verdicts.finite & known.any(axis=-1)
    scores = np.where(known & finite[..., None], verdicts.scores.astype(np.float64), -np.inf)
    logs = log_softmax(np.where(finite[..., None], scores, 0.0), axis=-1)
    logs = np.where(known, logs, -np.inf)
    count = np.maximum(known.sum(axis=-1), 1)
    negative_entropy = np.where(known, np.exp(logs) * np.where(known, logs, 0), 0).sum(axis=-1)
    divergence = -np.where(known, logs, 0).sum(axis=-1) / count - np.log(count)
    answer = verdicts.answer.astype(object)
    answer[verdicts.answer == NO_ANSWER] = None
    columns = (logs.max(axis=-1), -negative_entropy, divergence)
    return Signals(answer, *(np.where(finite, column, -np.inf) for column in columns))


def of_completions(verdicts: Verdicts) -> Signals:
    """Read the signals of decoded answers; a truncated one is no answer."""
    answer = np.full(verdicts.finite.shape, None, object)
    columns = [np.full(verdicts.finite.shape, -np.inf) for _ in CONFIDENCE]
    for index, each in np.ndenumerate(verdicts.completion):
        if each is None or not each.tokens or not verdicts.finite[index]:
            continue
        answer[index] = None if each.truncated or each.answer is None else each.answer.strip()
        values = (each.logprob / len(each.tokens), each.entropy, each.certainty)
        for column, value in zip(columns, values, strict=True):
            column[index] = value
    return Signals(answer, *columns)


def vote(answers: np.ndarray) -> np.ndarray:
    """Return the first path [n] of the answer that most paths [n, k] give.

    Of answers given equally often, that of the earlier path; the first path where none answers.
    """
    chosen = np.zeros(len(answers), int)
    for b, row in enumerate(answers.tolist()):
        counts = Counter(answer for answer in row if answer is not None)
        if counts:
            most = max(counts.values())
            chosen[b] = next(i for i, answer in enumerate(row) if counts.get(answer) == most)
    return chosen


def most_confident(values: np.ndarray, sign: int) -> np.ndarray:
    """Return the path [n] of the largest signal [n, k], or with sign -1 of the smallest."""
    return np.where(np.isfinite(values), sign * values, -np.inf).argmax(axis=1)


def fit_sign(values: np.ndarray, right: np.ndarray) -> int:
    """Return the sign with which a signal [n, k] chooses paths that are right [n, k] more often.

    A less certain path may be the better one: training questions decide.
    """
    each = np.arange(len(right))
    hits = {sign: right[each, most_confident(values, sign)].sum() for sign in (1, -1)}
    return 1 if hits[1] >= hits[-1] else -1


class Selector(NamedTuple):
    """A linear regression from features [D] to whether each of k paths is right."""

    mean: np.ndarray  # [D] of the training features
    scale: np.ndarray  # [D], their standard deviation
    weights: np.ndarray  # [D, k]
    bias: np.ndarray  # [k]

    @property
    def digest(self) -> str:
        """The digest of the arrays."""
        return digest({name: array.tolist() for name, array in self._asdict().items()})

    def choose(self, features: np.ndarray) -> np.ndarray:
        """Return the path [n] that is expected to be right, for features [n, D]."""
        return (((features - self.mean) / self.scale) @ self.weights + self.bias).argmax(axis=1)


def fit_selector(features: np.ndarray, right: np.ndarray) -> Selector:
    """Fit ridge regressions with the penalty of the least leave-one-out error.

    Args:
      features: [n, D].
      right: [n, k], whether each path was right.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    x, bias = (features - mean) / scale, right.mean(axis=0)
    y = right - bias
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    projected = u.T @ y

    def error(alpha: float) -> float:
        shrink = s**2 / (s**2 + alpha)
        residual = y - u @ (shrink[:, None] * projected)
        # the residual of a question that the fit has not seen; the mean is a parameter too
        leverage = (u**2) @ shrink + 1 / len(x)
        return float(((residual / np.maximum(1 - leverage, 1e-6)[:, None]) ** 2).mean())

    alpha = min(ALPHAS, key=error)
    weights = vt.T @ ((s / (s**2 + alpha))[:, None] * projected)
    return Selector(mean, scale, weights, bias)


class MenuResults(NamedTuple):
    """The results of k paths on n questions."""

    right: np.ndarray  # [n, k] bool
    signals: Signals  # [n, k]
    states: np.ndarray  # [n, D], features of the prompts

    def take(self, rows: np.ndarray, menu: Sequence[int]) -> "MenuResults":
        """Take the questions of a mask [n], on a menu of these paths."""
        part = np.ix_(rows, np.asarray(menu))
        columns = Signals(*(column[part] for column in self.signals))
        return MenuResults(self.right[part], columns, self.states[rows])


class FittedRules(NamedTuple):
    """Rules fitted to training questions."""

    single: int  # the path that is right most often
    signs: dict[str, int]  # of each confidence
    selector: Selector

    def choose(self, results: MenuResults) -> dict[str, np.ndarray]:
        """Return the path [n] that each rule chooses, the simplest rule first."""
        chosen = {"single": np.full(len(results.right), self.single)}
        chosen["vote"] = vote(results.signals.answer)
        for name, sign in self.signs.items():
            chosen[name] = most_confident(getattr(results.signals, name), sign)
        return chosen | {"selector": self.selector.choose(results.states)}


def fit_rules(results: MenuResults) -> FittedRules:
    """Fit all rules to training questions."""
    right, signals = results.right, results.signals
    signs = {name: fit_sign(getattr(signals, name), right) for name in CONFIDENCE}
    selector = fit_selector(results.states, right)
    return FittedRules(int(right.mean(axis=0).argmax()), signs, selector)


def right_by_rule(rules: FittedRules, results: MenuResults) -> dict[str, np.ndarray]:
    """Return whether the path that each rule, or the oracle, chooses is right [n]."""
    each = np.arange(len(results.right))
    right = {name: results.right[each, index] for name, index in rules.choose(results).items()}
    return right | {ORACLE: np.asarray(results.right.any(axis=1))}


def cross_fit(
    results: MenuResults, folds: np.ndarray, menus: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """Return whether each rule is right [n], fitted without the fold of a question.

    Args:
      results: of all paths of all menus.
      folds: [n], of the questions, at least two of them.
      menus: the paths of the menu that was made without each fold, the identity path first.
    """
    right: dict[str, np.ndarray] = {}
    for fold in np.unique(folds):
        inside, menu = folds == fold, menus[fold]
        rules = fit_rules(results.take(~inside, menu))
        for name, values in right_by_rule(rules, results.take(inside, menu)).items():
            right.setdefault(name, np.zeros(len(folds), bool))[inside] = values
    return right


class Content(BaseModel):
    """The fields of `menu.json` that are read."""

    model_config = ConfigDict(strict=True, frozen=True)

    model: str  # identity of the checkpoint
    paths: list[str] = Field(min_length=2)
    rule: Literal["single", "vote", "logprob", "entropy", "certainty", "selector"]
    sign: Literal[1, -1] | None
    single: int = Field(0, ge=0)  # the path of the rule `single`
    state_layer: int = Field(ge=0)
    selector: str | None = None  # digest of its arrays


@dataclasses.dataclass(frozen=True, eq=False)
class MenuFile:
    """Paths of a menu, the first that of the pretrained model, and its rule.

    A menu of the rule `single` is that path alone.
    """

    paths: tuple[Path, ...]
    rule: str = "single"
    sign: int = 1
    selector: Selector | None = None  # of the rule `selector` alone
    state_layer: int = 0
    digest: str = ""

    def choose(self, signals: Signals) -> np.ndarray:
        """Return the path [n] that the rule chooses by the signals [n, k] of all paths."""
        if self.rule == "vote":
            return vote(signals.answer)
        return most_confident(getattr(signals, self.rule), self.sign)

    def select(self, model: Model, prompts: Sequence[Prompts]) -> list[Path]:
        """Return the path of each prompt by the selector, before any path has run."""
        assert self.selector is not None
        states = prompt_states(model, prompts, self.state_layer)
        return [self.paths[i] for i in self.selector.choose(states)]


def load_menu(directory: str, model: str, num_layers: int) -> MenuFile:
    """Read the menu in a directory.

    Args:
      model: identity of the checkpoint that is to run it.
      num_layers: its layers, L.

    Raises:
      InputError: for a file that is missing or not a menu, a menu of another checkpoint, and a
        selector that is not the one of the menu.
    """
    file = epath.Path(directory) / MENU
    if not file.exists():
        raise InputError(f"{directory} has no {MENU}: make it with `cola menu`.")
    selector = None
    with reading(file, f"{REPAIR}."):
        content = Content.model_validate(read_json(file))
        paths = tuple(parse_path_of(file, text, num_layers) for text in content.paths)
        if content.rule == "single":
            paths = (paths[content.single],)
    check_belongs(str(file), {"model": content.model}, "this model", {"model": model}, REPAIR)
    if content.rule == "selector":
        place = file.parent / SELECTOR
        try:
            with np.load(io.BytesIO(read_bytes(place)), allow_pickle=False) as arrays:
                selector = Selector(*(arrays[name] for name in Selector._fields))
        except Exception as error:  # numpy and zipfile raise a dozen types
            raise InputError(f"{place} is damaged ({first_line(error)}): {REPAIR}.") from error
        recorded, stored = {"selector": str(content.selector)}, {"selector": selector.digest}
        check_belongs(str(file), recorded, str(place), stored, REPAIR)
    sign = 1 if content.sign is None else content.sign
    menu = digest(content.model_dump(), selector and selector.digest)
    return MenuFile(paths, content.rule, sign, selector, content.state_layer, menu)
