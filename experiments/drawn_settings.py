"""Verdicts of a model, a path with fewer layers, and random paths, drawn with a known truth."""

import dataclasses

import numpy as np

from experiments.drawn_trials import Truth, draw_sums

RANDOM = 39  # paths with the edits of a claim


@dataclasses.dataclass(frozen=True)
class Setting:
    """A model, a path with fewer layers, and random paths with its edits, on one task."""

    name: str
    size: tuple[int, int]
    chance: float = 0.25

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Draw verdicts [2 + RANDOM, K, n] of the model, the path, and random paths."""
        n, prompts = self.size
        return random.random((2 + RANDOM, prompts, n)) < self.chance


@dataclasses.dataclass(frozen=True)
class RandomModel(Setting):
    """Answers by preference alone, which paths share in part, where golds are random."""

    shared: float = 0.5  # correlation of the preferences of model and paths

    def draw(self, random: np.random.Generator) -> np.ndarray:
        n, prompts = self.size
        own = random.standard_normal((2 + RANDOM, 1, n, 4), dtype=np.float32)
        common = random.standard_normal((n, 4), dtype=np.float32)
        preference = np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * own
        noise = random.standard_normal((2 + RANDOM, prompts, n, 4), dtype=np.float32)
        return (preference + 0.5 * noise).argmax(-1) == random.integers(4, size=n)


@dataclasses.dataclass(frozen=True)
class Skilled(Setting):
    """A model that knows something, and random paths that lose up to `most` of it."""

    accuracy: float = 0.6
    effect: float = 0.0
    least: float = 0.10
    most: float = 0.30

    def draw(self, random: np.random.Generator) -> np.ndarray:
        model, paths, own = draw_sums(1, self.size, 1 + RANDOM, random)
        effects = [self.effect, *-random.uniform(self.least, self.most, RANDOM).round(2)]
        truths = [Truth(self.accuracy, effect, 0.02) for effect in effects]
        levels, sds = np.array([truth.path_level for truth in truths]).T[:, :, None, None]
        right = paths[0] > -(levels + sds * own[0])
        return np.concatenate([model[0] > -truths[0].level, right])


@dataclasses.dataclass(frozen=True)
class RareLoss(Skilled):
    """A path that is as good as the model, but for one prompt in eight, in which it loses."""

    def draw(self, random: np.random.Generator) -> np.ndarray:
        model, paths, _ = draw_sums(1, self.size, 1 + RANDOM, random)
        prompts = self.size[1]
        effects = -random.uniform(self.least, self.most, (1 + RANDOM, prompts, 1)).round(2)
        effects[0] = 8 * self.effect * (random.random((prompts, 1)) < 1 / 8)
        levels = np.vectorize(lambda effect: Truth(self.accuracy, effect).path_level[0])(effects)
        return np.concatenate([model[0] > -Truth(self.accuracy).level, paths[0] > -levels])
