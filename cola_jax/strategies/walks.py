"""Walks: searches without a tree, each a generator that yields paths and is sent results."""

import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.edits import FittingEdits, edited, random_edit
from cola_jax.errors import InputError
from cola_jax.identity import random_of
from cola_jax.path import unpad_path
from cola_jax.scoring.evaluations import pad_rows
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
        edit = random_edit(len(path), self.fitting, self.random)
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
            "cola_jax.execute.influence.block_influence."
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


WALKS: Mapping[type[Rules], Callable[[Start, Any], Walk]] = {
    RandomRules: random,
    EnumerateRules: single_edits,
    BeamRules: beam,
    EvolutionRules: evolution,
    ExitRules: prefixes,
    InfluenceRules: without_least,
}


class Walks:
    """Run a generator of paths for each search, a wave at a time."""

    def __init__(self, settings: Settings, ids: Sequence[str], num_layers: int):
        """Start a walk for each of the questions with these ids."""
        rules = settings.preset
        table = table_of(rules, settings.positions(num_layers))
        fitting = FittingEdits(table, *rules.lengths(num_layers))
        self.settings, self.positions = settings, settings.positions(num_layers)
        self.walkers = [
            Walker(rules, random_of(settings.seed, id), fitting, settings.simulations) for id in ids
        ]

    def propose(self, active: np.ndarray) -> Proposals | None:
        """Return the next wave of the active searches [S]; None where all have ended."""
        wave = [
            walker.next(self.settings.leaves) if runs else []
            for walker, runs in zip(self.walkers, active.tolist(), strict=True)
        ]
        width = max(map(len, wave), default=0)
        if not width:
            return None
        shape = (len(wave), width)
        paths = pad_rows([[child.path for child in children] for children in wave], self.positions)
        node, parent = np.full(shape, NOTHING), np.full(shape, NO_PARENT)
        edits = np.zeros((*shape, 4), np.int32)
        for s, (walker, children) in enumerate(zip(self.walkers, wave, strict=True)):
            for c, child in enumerate(children):
                node[s, c] = walker.number[child.path]
                parent[s, c] = walker.number.get(child.parent, ROOT)
                edits[s, c] = 0 if child.edit is None else child.edit
        return Proposals(paths, node, parent, edits)

    def update(self, proposals: Proposals, verdicts: Verdicts) -> None:
        """Take the verdicts [S, C] of a wave; the first is that of the identity path."""
        for s, walker in enumerate(self.walkers):
            for c in np.flatnonzero(proposals.node[s] != NOTHING).tolist():
                path = unpad_path(proposals.paths[s, c])
                walker.take(Result(path, float(verdicts.margin[s, c])))


class Walker:
    """A generator of paths with what it still waits for."""

    def __init__(
        self, rules: Rules, random: np.random.Generator, fitting: FittingEdits, budget: int
    ):
        self.rules, self.random, self.fitting = rules, random, fitting
        self.walk: Walk | None = None
        self.waiting: list[Child] = []  # asked for and not yet proposed
        self.results: list[Result] = []  # since the walk was last resumed
        self.number: dict[Path | None, int] = {}  # of every path proposed
        self.budget = budget + 1  # the identity path included

    def take(self, result: Result) -> None:
        """Take the result of a path, first of all of the identity path."""
        if self.walk is None:
            self.number[result.path] = ROOT
            start = Start(result, self.random, self.fitting)
            self.walk = WALKS[type(self.rules)](start, self.rules)
            self.resume(None)
        else:
            self.results.append(result)

    def resume(self, results: list[Result] | None) -> None:
        """Resume the walk until it yields a path that is new, or ends."""
        while self.walk is not None:
            try:
                children = next(self.walk) if results is None else self.walk.send(results)
            except StopIteration:
                self.budget = 0
                return
            new = {child.path: child for child in children if child.path not in self.number}
            self.waiting = list(new.values())
            if self.waiting:
                return
            results = []

    def next(self, most: int) -> list[Child]:
        """Return the next paths to evaluate, at most a number."""
        if not self.waiting and self.results:
            results, self.results = self.results, []
            self.resume(results)
        count = max(0, min(most, self.budget - len(self.number)))
        chosen, self.waiting = self.waiting[:count], self.waiting[count:]
        for child in chosen:
            self.number[child.path] = len(self.number)
        return chosen
