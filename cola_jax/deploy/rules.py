"""Rules of a menu: which of its paths answers a question, decided without the correct answer.

One path for all questions, a vote, the log-probability of an answer, or a selector, which reads the
hidden state of the prompt. A rule that is measured on the questions that it was fitted to looks
better than it is: a selector of hundreds of features learns noise by heart. `cross_fit` measures
each question by rules, and a menu, that other questions made.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import Literal, NamedTuple

import numpy as np
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field

from cola_jax.errors import InputError, check_belongs, reading
from cola_jax.execute.prompt_states import prompt_states
from cola_jax.files import exists, inside, read_bytes, read_json
from cola_jax.params import Model
from cola_jax.path import LayerPath, parse_path_of
from cola_jax.progress import log
from cola_jax.prompts import Prompts
from cola_jax.question import digest
from cola_jax.runs.estimates import MODEL
from cola_jax.scoring.verdicts import NO_ANSWER, Verdicts

Rule = Literal["single", "vote", "logprob", "selector"]  # the simplest first
MENU, SELECTOR = "menu.json", "selector.safetensors"
REPAIR = "make the menu again with `cola menu`"
ALPHAS = tuple(10.0**power for power in range(-1, 6))  # penalties of the selector
ORACLE = "oracle"  # right where some path is: it needs the answer, so it is not a rule


class Signals(NamedTuple):
    """The answers of the k paths of a menu to n questions; fields [n, k]."""

    answer: np.ndarray  # object: an option's number, or the text of an answer; None without one
    # of the answer among the options, of a decoded one per token; -inf where there is none
    logprob: np.ndarray


def signals(verdicts: Verdicts) -> Signals:
    """Read the signals of verdicts [n, k] of options or of decoded answers.

    A truncated answer is none.
    """
    if any(verdicts.completion.flat):
        return of_completions(verdicts)
    logprob = verdicts.logprobs.max(axis=-1)
    answer = verdicts.answer.astype(object)
    answer[verdicts.answer == NO_ANSWER] = None
    return Signals(answer, np.where(np.isnan(logprob), -np.inf, logprob))


def of_completions(verdicts: Verdicts) -> Signals:
    """Read the signals of decoded answers."""
    answer = np.full(verdicts.finite.shape, None, object)
    logprob = np.full(verdicts.finite.shape, -np.inf)
    for index, each in np.ndenumerate(verdicts.completion):
        if each is not None and each.tokens and verdicts.finite[index]:
            answer[index] = None if each.truncated or each.answer is None else each.answer.strip()
            logprob[index] = each.logprob / len(each.tokens)
    return Signals(answer, logprob)


def vote(answers: np.ndarray) -> np.ndarray:
    """Return the first path [n] of the answer that most paths [n, k] give.

    Of answers given equally often, that of the earlier path; the first path where none answers.
    """
    chosen = np.zeros(len(answers), int)
    for b, row in enumerate(answers.tolist()):
        counts = Counter(answer for answer in row if answer is not None)
        if counts:
            chosen[b] = row.index(counts.most_common(1)[0][0])
    return chosen


def most_confident(logprob: np.ndarray, sign: int) -> np.ndarray:
    """Return the path [n] of the largest of [n, k], or with sign -1 of the smallest finite one."""
    return np.where(np.isfinite(logprob), sign * logprob, -np.inf).argmax(axis=1)


def fit_sign(logprob: np.ndarray, right: np.ndarray) -> int | None:
    """Return the sign with which `most_confident` chooses paths that are right [n, k] more often.

    A less certain path may be the better one. None where there are no log-probabilities.
    """
    if not np.isfinite(logprob).any():
        return None
    each = np.arange(len(right))
    return max(1, -1, key=lambda sign: right[each, most_confident(logprob, sign)].sum())


class Selector(NamedTuple):
    """A linear regression from features [D] to whether each of k paths is right."""

    mean: np.ndarray  # [D] of the training features
    scale: np.ndarray  # [D], their standard deviation
    weights: np.ndarray  # [D, k]
    bias: np.ndarray  # [k]

    @property
    def content(self) -> bytes:
        """The content of the selector's file."""
        arrays = {name: np.ascontiguousarray(x) for name, x in self._asdict().items()}
        return safetensors.numpy.save(arrays)

    @property
    def digest(self) -> str:
        """The SHA-256 of the file."""
        return sha256(self.content).hexdigest()

    def choose(self, features: np.ndarray) -> np.ndarray:
        """Return the path [n] that is expected to be right, for features [n, D]."""
        return (((features - self.mean) / self.scale) @ self.weights + self.bias).argmax(axis=1)


def fit_selector(features: np.ndarray, right: np.ndarray) -> Selector:
    """Fit ridge regressions with the penalty of the least leave-one-out error.

    Features are [n, D], and `right` [n, k] is whether each path was right.
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
        """Take the questions of a mask [n], or of indices, on a menu of these paths."""
        part = np.ix_(rows, np.asarray(menu))
        columns = Signals(*(column[part] for column in self.signals))
        return MenuResults(self.right[part], columns, self.states[rows])


class FittedRules(NamedTuple):
    """Rules fitted to training questions."""

    single: int  # the path that is right most often
    sign: int | None  # of the log-probability; None where scores are not log-likelihoods
    selector: Selector

    def choose(self, results: MenuResults) -> dict[Rule, np.ndarray]:
        """Return the path [n] that each rule chooses."""
        chosen: dict[Rule, np.ndarray] = {
            "single": np.full(len(results.right), self.single),
            "vote": vote(results.signals.answer),
        }
        if self.sign is not None:
            chosen["logprob"] = most_confident(results.signals.logprob, self.sign)
        chosen["selector"] = self.selector.choose(results.states)
        return chosen


def fit_rules(results: MenuResults) -> FittedRules:
    """Fit all rules to training questions."""
    right = results.right
    sign, selector = fit_sign(results.signals.logprob, right), fit_selector(results.states, right)
    return FittedRules(int(right.mean(axis=0).argmax()), sign, selector)


def right_by_rule(rules: FittedRules, results: MenuResults) -> dict[str, np.ndarray]:
    """Return whether the path that each rule, or the oracle, chooses is right [n]."""
    each = np.arange(len(results.right))
    right = {name: results.right[each, index] for name, index in rules.choose(results).items()}
    return {**right, ORACLE: np.asarray(results.right.any(axis=1))}


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
    recommended: str = ""  # a rule, or the model; "" of earlier versions
    rule: Rule
    sign: Literal[1, -1] | None  # of the rule `logprob`
    single: int = Field(0, ge=0)  # the path of the rule `single`
    state_layer: int = Field(ge=0)
    selector: str | None = None  # digest of its file


@dataclasses.dataclass(frozen=True, eq=False)
class MenuFile:
    """Paths of a menu, the first that of the pretrained model, and its rule.

    A menu of the rule `single` is that path alone.
    """

    paths: tuple[LayerPath, ...]
    rule: Rule = "single"
    sign: int = 1
    selector: Selector | None = None  # of the rule `selector` alone
    state_layer: int = 0
    digest: str = ""

    def choose(self, signals: Signals) -> np.ndarray:
        """Return the path [n] that the rule chooses by the signals [n, k] of all paths."""
        if self.rule == "vote":
            return vote(signals.answer)
        return most_confident(signals.logprob, self.sign)

    def select(self, model: Model, prompts: Sequence[Prompts]) -> list[LayerPath]:
        """Return the path of each prompt by the selector, before any path has run."""
        assert self.selector is not None
        states = prompt_states(model, prompts, self.state_layer)
        return [self.paths[i] for i in self.selector.choose(states)]


def load_menu(directory: str, model: str, num_layers: int) -> MenuFile:
    """Read the menu in a directory, for a checkpoint of this identity with L layers.

    Raises InputError for a file that is missing or not a menu, a menu of another checkpoint, and a
    selector that is not that of the menu.
    """
    file = inside(directory, MENU)
    if not exists(file):
        raise InputError(f"{directory} has no {MENU}: make it with `cola menu`.")
    selector = None
    with reading(file, f"{REPAIR}."):
        content = Content.model_validate(read_json(file))
        paths = tuple(parse_path_of(file, text, num_layers) for text in content.paths)
        if content.rule == "single":
            paths = (paths[content.single],)
    check_belongs(str(file), {"model": content.model}, "this model", {"model": model}, REPAIR)
    if content.rule == "selector":
        place = inside(directory, SELECTOR)
        stored = read_bytes(place)
        theirs, ours = {"selector": str(content.selector)}, {"selector": sha256(stored).hexdigest()}
        check_belongs(str(file), theirs, str(place), ours, REPAIR)
        selector = Selector(**safetensors.numpy.load(stored))
    if content.recommended == MODEL:
        log.warning(
            "%s recommends the model as it is: no rule was shown to be better on other questions",
            file,
        )
    sign = 1 if content.sign is None else content.sign
    menu = digest(content.model_dump(exclude={"recommended"}))
    return MenuFile(paths, content.rule, sign, selector, content.state_layer, menu)
