"""Walks: searches as generators that yield the paths of a wave and are sent their verdicts."""

import operator
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.errors import InputError
from cola_jax.path import FittingEdits, LayerPath, edited, identity, path_of_parts
from cola_jax.question import random_of
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.steps import ATTENTION, MLP, layer_of, part_of
from cola_jax.strategies.outcome import Leaf
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
from cola_jax.strategies.tree import edits_of

ROUND = 16  # paths that a walk without feedback asks for at a time
TRIES = 100  # rounds after which a walk ends
MARGIN = operator.attrgetter("margin")

# yields the leaves of a wave, and is sent their verdicts [C]; ends without new paths
Proposals = Generator[list[Leaf], Verdicts, None]


class Scored(NamedTuple):
    """A path that was evaluated."""

    path: LayerPath
    margin: float


# Yields paths, any number at a time, and is sent the results of those that are new.
Walk = Generator[Sequence[Leaf], Sequence[Scored], None]


class WalkStart(NamedTuple):
    """The start of a walk: the identity path's verdict, and the edits it may use."""

    identity: Scored
    random: np.random.Generator  # the question's own
    fitting: FittingEdits

    def child(self, path: LayerPath) -> Leaf:
        """Apply a random edit; returns the same path where none fits."""
        edit = self.fitting.draw(path, self.random)
        return Leaf(path) if edit is None else Leaf(edited(path, edit), path, edit.tolist())


def random(start: WalkStart, rules: RandomRules) -> Walk:
    """Draw paths of one to `edits` random edits, the number drawn evenly."""
    for _ in range(TRIES):
        yield [mutated(start, start.identity.path, rules.edits) for _ in range(ROUND)]


def single_edits(start: WalkStart, rules: EnumerateRules) -> Walk:
    """Try every single edit of the identity path, in random order."""
    path = start.identity.path
    fitting = start.fitting
    fits = np.sort(np.concatenate([[], *fitting.of(path).values()]).astype(int))
    edits = start.random.permutation(np.stack(fitting.table, axis=1)[fits])  # [A, 5]
    yield [Leaf(edited(path, edit), path, edit) for edit in edits.tolist()]


def stochastic_beam(start: WalkStart, rules: BeamRules) -> Walk:
    """Edit the `width` best paths so far by margin at random, `children` times each in a round."""
    best = [start.identity]
    for _ in range(TRIES):
        results = yield [start.child(each.path) for each in best for _ in range(rules.children)]
        best = sorted([*best, *results], key=MARGIN, reverse=True)[: rules.width]


def evolution(start: WalkStart, rules: EvolutionRules) -> Walk:
    """Keep the best of a parent and its mutated children by margin."""
    parent = start.identity
    for _ in range(TRIES):
        # the lesser of two draws: mostly small steps, sometimes larger ones
        counts = start.random.integers(1, rules.mutations + 1, (rules.offspring, 2)).min(axis=1)
        children = [mutated(start, parent.path, int(n), exactly=True) for n in counts]
        results = yield children
        parent = max([parent, *results], key=MARGIN)


def prefixes(start: WalkStart, rules: ExitRules) -> Walk:
    """Try every prefix of the layers, the longest first."""
    path = start.identity.path
    yield [Leaf(path[:n], path) for n in range(len(path) - 1, start.fitting.shortest - 1, -1)]


def without_least(start: WalkStart, rules: InfluenceRules) -> Walk:
    """Drop the first layer of `order`, then the first two, and so on; with parts, parts of them."""
    if not rules.order:
        raise InputError(
            "the order of the layers is not known: give `order`, the layers by their "
            "cola_jax.execute.reference.block_influence."
        )
    path = start.identity.path
    leaves = [Leaf(without(path, rules.order[:n]), path) for n in range(1, len(rules.order) + 1)]
    yield [leaf for leaf in leaves if len(leaf.path) >= start.fitting.shortest]


def without(path: LayerPath, removed: Sequence[int]) -> LayerPath:
    """Remove steps from the identity path: whole layers, attentions and MLPs."""
    attentions = {layer_of(step) for step in removed if part_of(step) != MLP}
    mlps = {layer_of(step) for step in removed if part_of(step) != ATTENTION}
    return path_of_parts({*path} - attentions, {*path} - mlps)


def mutated(start: WalkStart, path: LayerPath, most: int, *, exactly: bool = False) -> Leaf:
    """Apply one to `most` random edits, or that many; the child of one edit names it."""
    count = most if exactly else int(start.random.integers(1, most + 1))
    child = start.child(path)
    for _ in range(count - 1):
        child = Leaf(start.child(child.path).path, path)
    return child


WALKS: dict[type[Rules], Callable[[WalkStart, Any], Walk]] = {
    RandomRules: random,
    EnumerateRules: single_edits,
    BeamRules: stochastic_beam,
    EvolutionRules: evolution,
    ExitRules: prefixes,
    InfluenceRules: without_least,
}


class Walks:
    """S searches of walks; each draws from a generator of its own, of the seed and the id."""

    def __init__(
        self, settings: Settings, num_layers: int, ids: Sequence[str], roots: Sequence[Verdicts]
    ):
        """Start a walk for each id of a question; `roots` are verdicts [1] on the identity path."""
        rules = settings.preset
        root = identity(num_layers)
        edits = edits_of(rules, settings.positions(num_layers))
        fitting = FittingEdits(edits, *rules.lengths(num_layers))  # which the walks share
        self.walks = []
        for id, verdict in zip(ids, roots, strict=True):
            plain = Scored(root, float(verdict.margin[0]))
            start = WalkStart(plain, random_of(settings.seed, id), fitting)
            self.walks.append(paced(WALKS[type(rules)](start, rules), root, settings))
        self.verdicts: Sequence[Verdicts | None] = [None] * len(ids)  # None starts a generator

    def propose(self, wanted: Sequence[bool]) -> list[list[Leaf]]:
        """Return the leaves of a wave of the walks that are wanted; empty lists at their ends."""
        return [
            advance(walk, verdicts) if is_wanted else []
            for walk, verdicts, is_wanted in zip(self.walks, self.verdicts, wanted, strict=True)
        ]

    def take(self, verdicts: Sequence[Verdicts | None]) -> None:
        """Keep the verdicts of the leaves that were proposed last; None where none were."""
        self.verdicts = verdicts


def advance(walk: Proposals, verdicts: Verdicts | None) -> list[Leaf]:
    """Return the next wave of a walk; empty at its end."""
    try:
        return walk.send(verdicts)  # type: ignore[arg-type] # None starts a generator
    except StopIteration:
        return []


def paced(walk: Walk, root: LayerPath, settings: Settings) -> Proposals:
    """Yield the new paths of a walk, at most `leaves` at a time, within the budget."""
    seen = {root}
    results = None
    while len(seen) <= settings.simulations:
        try:
            leaves = walk.send(results)  # type: ignore[arg-type] # None starts a generator
        except StopIteration:
            return
        new = {leaf.path: leaf for leaf in leaves if leaf.path not in seen}
        left = list(new.values())[: settings.simulations + 1 - len(seen)]
        results = []
        seen.update(leaf.path for leaf in left)
        for first in range(0, len(left), settings.leaves):
            wave = left[first : first + settings.leaves]
            margins = (yield wave).margin.tolist()
            results += [Scored(x.path, margin) for x, margin in zip(wave, margins, strict=True)]
