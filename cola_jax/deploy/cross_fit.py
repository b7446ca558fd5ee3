"""Rules of a menu, fitted on some questions and measured on others.

A rule that is measured on the questions that it was fitted to looks better than it is: a selector
of hundreds of features learns noise by heart. `cross_fit` measures each question by rules, and a
menu, that other questions made.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cola_jax.deploy.rules import (
    CONFIDENCE,
    Selector,
    Signals,
    fit_selector,
    fit_sign,
    most_confident,
    vote,
)
from cola_jax.deploy.static import ranked

FOLDS = 5
SOME = "some path"  # the rule that knows the answer, which is none


class Known(NamedTuple):
    """The paths of a menu on n questions."""

    right: np.ndarray  # [n, k] bool
    told: Signals  # [n, k]
    states: np.ndarray  # [n, D], features of the prompts

    def take(self, rows: np.ndarray, menu: Sequence[int]) -> "Known":
        """Returns some questions (a mask [n]), on a menu of some of the paths."""
        some = np.ix_(rows, np.asarray(menu))
        return Known(self.right[some], Signals(*(x[some] for x in self.told)), self.states[rows])


class FittedRules(NamedTuple):
    """Fitted rules."""

    single: int  # the path that is right most often
    signs: dict[str, int]  # of each confidence
    selector: Selector

    def choose(self, known: Known) -> dict[str, np.ndarray]:
        """Returns the path [n] that each rule chooses, the simplest rule first."""
        chosen = {"single": np.full(len(known.right), self.single), "vote": vote(known.told.answer)}
        for name, sign in self.signs.items():
            chosen[name] = most_confident(getattr(known.told, name), sign)
        return chosen | {"selector": self.selector.choose(known.states)}


def fit_rules(known: Known) -> FittedRules:
    """Fits all rules to training questions."""
    return FittedRules(
        single=int(known.right.mean(axis=0).argmax()),
        signs={name: fit_sign(getattr(known.told, name), known.right) for name in CONFIDENCE},
        selector=fit_selector(known.states, known.right),
    )


def right_by_rule(rules: FittedRules, known: Known) -> dict[str, np.ndarray]:
    """Returns whether the path that each rule chooses is right [n]; and whether some path is."""
    each = np.arange(len(known.right))
    right = {name: known.right[each, index] for name, index in rules.choose(known).items()}
    return right | {SOME: np.asarray(known.right.any(axis=1))}


def folds_of(ids: Sequence[str]) -> np.ndarray:
    """Divides questions into folds [n] of equal size by a hash of their ids."""
    folds = np.zeros(len(ids), int)
    folds[ranked(ids)] = np.arange(len(ids)) % FOLDS
    return folds


def cross_fit(
    known: Known, folds: np.ndarray, menus: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """Returns whether each rule is right [n], fitted without the fold of a question.

    Args:
      known: of all paths of all menus.
      folds: [n], of the questions; 2 or more have some.
      menus: the paths of the menu that was made without each fold, the identity path first.
    """
    right: dict[str, np.ndarray] = {}
    for fold in np.unique(folds):
        held, menu = folds == fold, menus[fold]
        rules = fit_rules(known.take(~held, menu))
        for name, values in right_by_rule(rules, known.take(held, menu)).items():
            right.setdefault(name, np.zeros(len(folds), bool))[held] = values
    return right
