"""Baselines: searches without a tree, each a generator that is sent what it asked for.

See `cola_jax.strategies.strategies.Walk`.
"""

import operator
from collections.abc import Sequence

from cola_jax.edits import edited
from cola_jax.strategies.strategies import Child, Path, Start, Walk

ROUND = 16  # paths that a walk without feedback asks for at a time
TRIES = 100  # rounds after which a walk ends


def random(start: Start, edits: int) -> Walk:
    """Random paths of one to `edits` edits, the number drawn evenly."""
    for _ in range(TRIES):
        yield [mutated(start, start.identity.path, edits) for _ in range(ROUND)]


def single_edits(start: Start) -> Walk:
    """Every single edit of the identity path, in random order."""
    path, edits = start.identity.path, start.edits(start.identity.path)
    yield [Child(edited(path, edit), path, edit) for edit in start.random.permutation(edits)]


def beam(start: Start, width: int, children: int) -> Walk:
    """Random edits of the `width` best paths so far by margin, `children` of each in a round."""
    best = [start.identity]
    for _ in range(TRIES):
        found = yield [start.child(one.path) for one in best for _ in range(children)]
        best = sorted([*best, *found], key=operator.attrgetter("margin"), reverse=True)[:width]


def evolution(start: Start, offspring: int, mutations: int) -> Walk:
    """Keeps the best of a parent and its mutated children by margin."""
    parent = start.identity
    for _ in range(TRIES):
        # the lesser of two draws: mostly small steps, sometimes larger ones
        counts = start.random.integers(1, mutations + 1, (offspring, 2)).min(axis=1)
        children = [mutated(start, parent.path, int(n), exactly=True) for n in counts]
        found = yield children
        parent = max([parent, *found], key=operator.attrgetter("margin"))


def prefixes(start: Start) -> Walk:
    """Every prefix of the layers, the longest first."""
    path = start.identity.path
    yield [Child(path[:n], path) for n in range(len(path) - 1, start.shortest - 1, -1)]


def without_least(start: Start, order: Sequence[int]) -> Walk:
    """The layers without the first of `order`, without the first two, and so on."""
    path = start.identity.path
    yield [
        Child(tuple(layer for layer in path if layer not in order[:n]), path)
        for n in range(1, len(path) - start.shortest + 1)
    ]


def mutated(start: Start, path: Path, most: int, *, exactly: bool = False) -> Child:
    """Applies one to `most` random edits, or that many; names the edit where it is one."""
    count = most if exactly else int(start.random.integers(1, most + 1))
    child = start.child(path)
    for _ in range(count - 1):
        child = Child(start.child(child.path).path, path)
    return child
