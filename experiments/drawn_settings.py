"""Verdicts of a model, a path with fewer layers, and random paths, drawn with a known truth."""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from cola_jax.deploy.verify.comparators import RANDOM
from cola_jax.deploy.verify.trial import LEAST_RANDOM
from experiments.drawn_trials import ANSWER, SPREAD, Truth, draw_sums

MARGIN = 0.03


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """Guessers: a model, a path with fewer layers, and random paths with its edits, on one task."""

    name: str
    truth: str = "says nothing"  # of "as good on fewer layers"
    size: tuple[int, int] = (400, 8)  # questions and prompts
    chance: float = 0.25
    margins: tuple[float, ...] = (MARGIN,)
    random: int = LEAST_RANDOM  # paths with the edits of the claim, which guessers are not asked

    def draw(self, random: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield verdicts [K, n] of the model, the path, and each of the random paths."""
        n, prompts = self.size
        for _ in range(2 + self.random):
            yield random.random((prompts, n), np.float32) < self.chance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Floor(Setting):
    """A model that is hardly ever right, on open questions, and paths that never are."""

    chance: float = 0.0
    accuracy: float = 0.005

    def draw(self, random: np.random.Generator) -> Iterator[np.ndarray]:
        n, prompts = self.size
        yield random.random((prompts, n)) < self.accuracy
        for _ in range(1 + self.random):
            yield np.zeros((prompts, n), bool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomModel(Setting):
    """Answers by preference alone, which paths share in part, where golds are random."""

    shared: float = 0.5  # correlation of the preferences of model and paths

    def draw(self, random: np.random.Generator) -> Iterator[np.ndarray]:
        n, prompts = self.size
        gold = random.integers(4, size=n)
        common = math.sqrt(self.shared) * random.standard_normal((n, 4), np.float32)
        for _ in range(2 + self.random):
            own = math.sqrt(1 - self.shared) * random.standard_normal((n, 4), np.float32)
            noise = 0.5 * random.standard_normal((prompts, n, 4), np.float32)
            yield (common + own + noise).argmax(-1) == gold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skilled(Setting):
    """A model that knows something, and random paths that lose from `least` to `most` of it."""

    accuracy: float = 0.6
    effect: float = 0.0
    prompt_sd: float = 0.02  # of the effect of a path
    random: int = RANDOM
    least: float = 0.10
    most: float = 0.30

    def draw(self, random: np.random.Generator) -> Iterator[np.ndarray]:
        model, paths, own = draw_sums(1, self.size, 1, random)
        yield model[0, 0] > -Truth(self.accuracy).level
        yield paths[0, 0] > -self.levels(own[0, 0], random)
        wider = math.hypot(SPREAD, ANSWER) / SPREAD
        for effect in random.uniform(self.least, self.most, self.random).round(2):
            # other answers to the same questions
            other = paths[0, 0] + ANSWER * random.standard_normal(paths.shape[2:], np.float32)
            yield other > -wider * Truth(self.accuracy, -effect).path_level[0]

    def levels(self, own: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the levels [K, 1] of the path's sums, by its standard effects with prompts."""
        level, sd = Truth(self.accuracy, self.effect, self.prompt_sd).path_level
        return level + sd * own


@dataclasses.dataclass(frozen=True, kw_only=True)
class RareLoss(Skilled):
    """A path that is as good as the model, but for one prompt in eight, in which it loses."""

    def levels(self, own: np.ndarray, random: np.random.Generator) -> np.ndarray:
        lost = Truth(self.accuracy, 8 * self.effect).path_level[0]
        return np.where(random.random(own.shape) < 1 / 8, lost, Truth(self.accuracy).level)


SETTINGS = (
    Setting(name="two guessers"),
    RandomModel(name="a random model on random labels, of which 2 of 12 layers are kept"),
    Floor(name="0.5 % right, the path 0 %", size=(200, 8)),
    Skilled(
        name="98 %, equal; random paths lose nothing",
        truth="says nothing", accuracy=0.98, prompt_sd=0.005, least=0.0, most=0.0,
    ),
    Skilled(
        name="60 %, equal; random paths lose 0 to 4 points",
        truth="says nothing", least=0.0, most=0.04,
    ),
    Skilled(
        name="98 %, loses the margin; random paths 10 to 30",
        truth="false", accuracy=0.98, effect=-MARGIN, prompt_sd=0.01,
    ),
    Skilled(name="60 %, loses the margin; random paths 10 to 30", truth="false", effect=-MARGIN),
    RareLoss(
        name="60 %, loses 24 points in one wording of eight; random paths 10 to 30",
        truth="false", effect=-MARGIN,
    ),
    Skilled(
        name="98 %, equal; random paths lose 10 to 30", truth="true", accuracy=0.98,
        prompt_sd=0.005,
    ),
    Skilled(
        name="60 %, equal; random paths lose 10 to 30", truth="true", margins=(MARGIN, 0.04, 0.05),
    ),
)  # fmt: skip
