"""Walks: searches without a tree, each a generator that yields paths and is sent results."""

import operator
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.errors import InputError
from cola_jax.identity import random_of
from cola_jax.path import FittingEdits, edited, pad_lists, unpad_path
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.mcts import NOTHING, table_of
from cola_jax.strategies.outcome import NO_PARENT, ROOT, Proposals
from cola_jax.strategies.rules import (
    BeamRules,
    EnumerateRules,
    EvolutionRules,
    ExitRules,
    InfluenceRules,
    RandomRules,
    Rules,
    Settings,
)

Path = tuple[int, ...]
ROUND = 16  # paths that a walk without feedback asks for at a time
TRIES = 100  # rounds after which a walk ends
MARGIN = operator.attrgetter("margin")


class Result(NamedTuple):
    """A path that was evaluated."""

    path: Path
    margin: float


class Child(NamedTuple):
    """A path that a walk wants evaluated, and the edit that made it from another, if one did."""

    path: Path
    parent: Path | None = None
    edit: np.ndarray | None = None  # [4], kind, start, k, amount


# Yields paths, any number at a time, and is sent their results, without those that had been
# evaluated before; ends where it knows no more.
Walk = Generator[Sequence[Child], Sequence[Result], None]


class Start(NamedTuple):
    """What a walk starts from: the identity path's verdict, and the edits it may use."""

    identity: Result
    random: np.random.Generator  # the question's own
    fitting: FittingEdits

    def child(self, path: Path) -> Child:
        """Apply a random edit; returns the same path where none fits."""
        edit = self.fitting.draw(len(path), self.random)
        return Child(path) if edit is None else Child(edited(path, edit), path, edit)


def random(start: Start, rules: RandomRules) -> Walk:
    """Draw paths of one to `edits` random edits, the number drawn evenly."""
    for _ in range(TRIES):
        yield [mutated(start, start.identity.path, rules.edits) for _ in range(ROUND)]


def single_edits(start: Start, rules: EnumerateRules) -> Walk:
    """Try every single edit of the identity path, in random order."""
    path, fitting = start.identity.path, start.fitting
    fits = np.sort(np.concatenate([[], *fitting[len(path)].values()]).astype(int))
    edits = start.random.permutation(np.stack(fitting.table, axis=1)[fits])  # [A, 4]
    yield [Child(edited(path, edit), path, edit) for edit in edits]


def beam(start: Start, rules: BeamRules) -> Walk:
    """Edit the `width` best paths so far by margin at random, `children` times each in a round."""
    best = [start.identity]
    for _ in range(TRIES):
        results = yield [start.child(each.path) for each in best for _ in range(rules.children)]
        best = sorted([*best, *results], key=MARGIN, reverse=True)[: rules.width]


def evolution(start: Start, rules: EvolutionRules) -> Walk:
    """Keep the best of a parent and its mutated children by margin."""
    parent = start.identity
    for _ in range(TRIES):
        # the lesser of two draws: mostly small steps, sometimes larger ones
        counts = start.random.integers(1, rules.mutations + 1, (rules.offspring, 2)).min(axis=1)
        children = [mutated(start, parent.path, int(n), exactly=True) for n in counts]
        results = yield children
        parent = max([parent, *results], key=MARGIN)


def prefixes(start: Start, rules: ExitRules) -> Walk:
    """Try every prefix of the layers, the longest first."""
    path = start.identity.path
    yield [Child(path[:n], path) for n in range(len(path) - 1, start.fitting.shortest - 1, -1)]


def without_least(start: Start, rules: InfluenceRules) -> Walk:
    """Drop the first layer of `order`, then the first two, and so on."""
    if not rules.order:
        raise InputError(
            "the order of the layers is not known: give `order`, the layers by their "
            "cola_jax.execute.reference.block_influence."
        )
    path = start.identity.path
    yield [
        Child(tuple(layer for layer in path if layer not in rules.order[:n]), path)
        for n in range(1, len(path) - start.fitting.shortest + 1)
    ]


def mutated(start: Start, path: Path, most: int, *, exactly: bool = False) -> Child:
    """Apply one to `most` random edits, or that many; names the edit where it is one."""
    count = most if exactly else int(start.random.integers(1, most + 1))
    child = start.child(path)
    for _ in range(count - 1):
        child = Child(start.child(child.path).path, path)
    return child


WALKS: dict[type[Rules], Callable[[Start, Any], Walk]] = {
    RandomRules: random,
    EnumerateRules: single_edits,
    BeamRules: beam,
    EvolutionRules: evolution,
    ExitRules: prefixes,
    InfluenceRules: without_least,
}


def paced(
    settings: Settings, random: np.random.Generator, fitting: FittingEdits
) -> Generator[list[tuple[int, int, Child]], list[Result], None]:
    """Run a walk of one question: yield new paths, at most `leaves` at a time, within the budget.

    Each has its number and that of its parent. The walk is sent the results of what was yielded
    last, and at first, for nothing, that of the identity path.
    """
    (identity,) = yield []
    walk = WALKS[type(settings.preset)](Start(identity, random, fitting), settings.preset)
    number: dict[Path | None, int] = {identity.path: ROOT}
    results: Any = None
    while len(number) <= settings.simulations:
        try:
            children = walk.send(results)
        except StopIteration:
            return
        new = {child.path: child for child in children if child.path not in number}
        left, results = list(new.values())[: settings.simulations + 1 - len(number)], []
        for first in range(0, len(left), settings.leaves):
            wave = []
            for child in left[first : first + settings.leaves]:
                number[child.path] = len(number)
                wave.append((number[child.path], number.get(child.parent, ROOT), child))
            results += yield wave


class Walks:
    """Run a generator of paths for each search, a wave at a time."""

    def __init__(self, settings: Settings, ids: Sequence[str], num_layers: int):
        """Start a walk for each of the questions with these ids."""
        rules, self.positions = settings.preset, settings.positions(num_layers)
        fitting = FittingEdits(table_of(rules, self.positions), *rules.lengths(num_layers))
        self.walks = [paced(settings, random_of(settings.seed, id), fitting) for id in ids]
        self.results: list[list[Result]] = [[] for _ in ids]  # of the last wave
        for walk in self.walks:
            next(walk)  # to where it waits for the identity path's result

    def propose(self, active: np.ndarray) -> Proposals | None:
        """Return the next wave of the active searches [S]; None where all have ended."""
        waves = [self.advance(s) if runs else [] for s, runs in enumerate(active.tolist())]
        shape = len(waves), max(map(len, waves), default=0)
        if not shape[1]:
            return None
        rows = [[child.path for _, _, child in wave] for wave in waves]
        node, parent = np.full(shape, NOTHING), np.full(shape, NO_PARENT)
        edits = np.zeros((*shape, 4), np.int32)
        for s, wave in enumerate(waves):
            for c, (number, of_parent, child) in enumerate(wave):
                node[s, c], parent[s, c] = number, of_parent
                edits[s, c] = 0 if child.edit is None else child.edit
        return Proposals(pad_lists(rows, self.positions), node, parent, edits)

    def advance(self, search: int) -> list[tuple[int, int, Child]]:
        """Return the next paths of a search; none where its walk has ended."""
        try:
            return self.walks[search].send(self.results[search])
        except StopIteration:
            return []

    def update(self, proposals: Proposals, verdicts: Verdicts) -> None:
        """Take the verdicts [S, C] of a wave; the first is that of the identity path."""
        present, margins = proposals.node != NOTHING, verdicts.margin.tolist()
        self.results = [
            [Result(unpad_path(paths[c]), margins[s][c]) for c in np.flatnonzero(present[s])]
            for s, paths in enumerate(proposals.paths)
        ]
