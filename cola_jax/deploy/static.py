"""One path for a task: a (1 + λ) evolution with selection in steps, over training questions.

EvoPress (arXiv 2410.14649) prunes layers so: each generation mutates the best path into λ others,
which are compared on few questions, the better of them on more, and the last with the best path.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from cola_jax.deploy.mutation import Path, mutate
from cola_jax.deploy.settings import Fitness, StaticSettings
from cola_jax.errors import InputError
from cola_jax.path import identity
from cola_jax.scoring.verdicts import Verdicts

# paths and the questions [n] to evaluate them on -> fields [n, C]
EvaluateOn = Callable[[Sequence[Path], np.ndarray], Verdicts]
ATTEMPTS = 20  # mutations that may give a path that is already known, for each offspring


class Candidate(NamedTuple):
    """A path that was evaluated on all training questions."""

    path: Path
    fitness: tuple[float, ...]


def score(verdicts: Verdicts, golds: np.ndarray, fitness: Fitness) -> list[tuple[float, ...]]:
    """Returns the fitness of each of C paths from verdicts [n, C] of questions with these golds."""
    margin = np.where(verdicts.finite, expit(verdicts.margin), 0).mean(axis=0)
    if fitness == "margin":
        return [(float(x),) for x in margin]
    if fitness == "accuracy":
        accuracy = verdicts.verdict.mean(axis=0)
        return [(float(a), float(m)) for a, m in zip(accuracy, margin, strict=True)]
    index = np.broadcast_to(golds[:, None, None], (*verdicts.finite.shape, 1))
    logprob = np.take_along_axis(verdicts.scores, index, axis=-1)[..., 0]
    # a path that is not finite is worse than any that is
    return [(float(x),) for x in np.where(np.isfinite(logprob), logprob, -1e4).mean(axis=0)]


def step_sizes(settings: StaticSettings, questions: int) -> list[tuple[int, int]]:
    """Returns the questions and the survivors of each selection step."""
    steps, size, left = [], min(settings.first, questions), settings.offspring
    while size < questions and left > 1:
        left = max(1, left // 4)
        steps.append((size, left))
        size *= 4
    return steps


def most_evaluations(settings: StaticSettings, questions: int) -> int:
    """Returns the evaluations of a search that finds no path twice."""
    left, each = settings.offspring, 0
    for size, survivors in step_sizes(settings, questions):
        each, left = each + left * size, survivors
    return questions + settings.generations * (each + left * questions)


def evolve(
    evaluate: EvaluateOn, golds: np.ndarray, num_layers: int, settings: StaticSettings
) -> list[Candidate]:
    """Searches one path for all questions.

    Args:
      evaluate: a function from paths and indices of questions to verdicts.
      golds: [n], the right option of every training question.
      num_layers: L.

    Returns:
      The paths that were evaluated on all questions, best first. The identity path is the first
      parent where its length is allowed. Ends early where a generation finds no path that is new.
    """
    lengths, everything = settings.lengths(num_layers), np.arange(len(golds))
    random = np.random.default_rng(settings.seed)
    found: dict[Path, Candidate] = {}
    tried: set[Path] = set()

    def complete(paths: Sequence[Path]) -> None:
        fitness = score(evaluate(paths, everything), golds, settings.fitness)
        found.update((p, Candidate(p, f)) for p, f in zip(paths, fitness, strict=True))

    parent = identity(num_layers)
    if lengths.shortest <= num_layers <= lengths.longest:
        complete([parent])
        tried.add(parent)
    for _ in range(settings.generations):
        best = max(found.values(), key=rank, default=None)
        base = parent if best is None else best.path
        paths = offspring(base, num_layers, settings, tried, random)
        if not paths:
            break  # nor would another generation find what is new
        tried.update(paths)
        for size, survivors in step_sizes(settings, len(golds)):
            some = np.sort(random.permutation(len(golds))[:size])
            fitness = score(evaluate(paths, some), golds[some], settings.fitness)
            kept = sorted(range(len(paths)), key=lambda i: fitness[i], reverse=True)
            paths = [paths[i] for i in kept[:survivors]]
        complete(paths)
    return sorted(found.values(), key=rank, reverse=True)


def offspring(
    parent: Path,
    num_layers: int,
    settings: StaticSettings,
    tried: set[Path],
    random: np.random.Generator,
) -> list[Path]:
    """Mutates a path into others that were not tried yet; fewer where such are hard to find."""
    lengths, new = settings.lengths(num_layers), dict[Path, None]()
    for _ in range(ATTEMPTS * settings.offspring):
        path = mutate(parent, num_layers, lengths, random)
        if path not in tried:
            new[path] = None
        if len(new) == settings.offspring:
            break
    return list(new)


def rank(candidate: Candidate) -> tuple[tuple[float, ...], int]:
    """Orders candidates: the fitter, and of equally fit ones the shorter, is greater."""
    return candidate.fitness, -len(candidate.path)


def finalists(candidates: Sequence[Candidate], most: int) -> list[Path]:
    """Returns the best path of each length and the best of all, up to `most`, best first."""
    by_length: dict[int, Candidate] = {}
    for candidate in candidates:  # best first
        by_length.setdefault(len(candidate.path), candidate)
    first = sorted(by_length.values(), key=rank, reverse=True)
    rest = [candidate for candidate in candidates if candidate not in first]
    return [candidate.path for candidate in [*first, *rest][:most]]


def pareto_front(paths: Sequence[Path], fitness: Sequence[tuple[float, ...]]) -> list[int]:
    """Returns the indices of paths that are better than all that are no longer, shortest first."""
    order = sorted(range(len(paths)), key=lambda i: (len(paths[i]), tuple(-x for x in fitness[i])))
    front: list[int] = []
    for i in order:
        if not front or fitness[i] > fitness[front[-1]]:
            front.append(i)
    return front


def ranked(ids: Sequence[str]) -> list[int]:
    """Orders questions by a hash of their ids."""
    return sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())


def training_and_validation(ids: Sequence[str], share: float) -> tuple[np.ndarray, np.ndarray]:
    """Splits questions by a hash of their ids; returns the indices of both parts, in order.

    Raises ValueError for a share of validation outside 0..1, or one that leaves a part empty.
    """
    count = round(len(ids) * share) if 0 < share < 1 else 0
    if not 0 < count < len(ids):
        raise InputError(
            f"a validation share of {share} of {len(ids)} questions leaves one part empty: give a "
            "share between 0 and 1, and more questions."
        )
    order = np.array(ranked(ids))
    return np.sort(order[count:]), np.sort(order[:count])
