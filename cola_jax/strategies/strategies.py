"""Strategies: what proposes the next paths of a search. One instance serves a batch of searches.

A strategy proposes C new paths for each search and takes their verdicts. What it keeps of a search
depends on that search alone.
"""

import abc
import hashlib
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from cola_jax.edits import FittingEdits, edited, random_edit
from cola_jax.execute.memory import capacity
from cola_jax.path import STOP, identity, pad_path, unpad_path
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.mcts import NOTHING, back_up_wave, select_wave, table_of
from cola_jax.strategies.outcome import NO_PARENT, Proposals
from cola_jax.strategies.presets import Rules, Settings, TreeRules
from cola_jax.strategies.tree import ROOT, new_tree

Path = tuple[int, ...]


class Strategy(abc.ABC):
    """Proposes paths for S searches, and takes their verdicts."""

    @abc.abstractmethod
    def propose(self, active: np.ndarray) -> Proposals | None:
        """Returns the next wave of the active searches [S]; None where all have ended."""

    @abc.abstractmethod
    def update(self, proposals: Proposals, verdicts: Verdicts) -> None:
        """Takes the verdicts [S, C] of a wave; the first is that of the identity path."""


class TreeSearch(Strategy):
    """Monte Carlo tree search: trees [S, ...] that live on the host, whatever runs the model."""

    def __init__(self, rules: TreeRules, ids: Sequence[str], num_layers: int, settings: Settings):
        self.rules, self.num_layers, self.settings = rules, num_layers, settings
        self.count = len(ids)
        # padding trees round the batch up, so that few sizes compile
        self.capacity = capacity(len(ids))
        padded = [*ids, *[""] * (self.capacity - len(ids))]
        with on_host():
            root = jnp.asarray(pad_path(identity(num_layers), settings.positions(num_layers)))
            keys = jnp.stack([question_key(settings.seed, i) for i in padded])
            nodes = settings.simulations + 1
            self.trees = jax.vmap(lambda key: new_tree(root, nodes, key))(keys)
        # by running them on nothing: compiled later, they would keep the model's devices waiting
        self.select(np.zeros(self.count))
        self.back_up(np.zeros((self.count, 0)), np.zeros((self.count, 0)))

    def propose(self, active: np.ndarray) -> Proposals | None:
        """Selects the leaves of the next wave of the active searches [S]; None for none."""
        budgets = np.where(active, self.settings.simulations + 1, 0)
        while True:
            nodes = self.select(budgets)
            if (nodes != NOTHING).any():
                return self.proposals(nodes)
            # a wave of nothing may still have closed nodes, so the next one looks elsewhere
            if self.exhausted(budgets):
                return None

    def select(self, budgets: np.ndarray) -> np.ndarray:
        """Adds leaves to trees of fewer nodes than their budgets [S]; returns them [S, C]."""
        with on_host():
            self.trees, nodes = select_wave(
                self.trees,
                jnp.asarray(self.pad(budgets, 0), jnp.int32),
                rules=self.rules,
                num_layers=self.num_layers,
                leaves=self.settings.leaves,
            )
        return np.asarray(nodes)[: self.count]

    def proposals(self, nodes: np.ndarray) -> Proposals:
        """Returns the paths of leaves [S, C], NOTHING for none."""
        trees, missing = self.trees, nodes == NOTHING
        index = np.arange(self.count)[:, None], np.maximum(nodes, 0)
        paths, parents, edits = (
            np.asarray(x)[index] for x in (trees.paths, trees.parents, trees.edits)
        )
        return Proposals(np.where(missing[..., None], STOP, paths), nodes, parents, edits)

    def update(self, proposals: Proposals, verdicts: Verdicts) -> None:
        """Backs up the rewards of evaluated leaves."""
        lengths = (proposals.paths != STOP).sum(axis=-1)
        penalty = self.rules.length_penalty * lengths / self.num_layers
        margin = self.rules.reward == "margin"
        reward = expit(verdicts.margin) if margin else verdicts.verdict
        present = proposals.node != NOTHING
        self.back_up(proposals.node, np.where(present, reward - penalty, 0))

    def back_up(self, nodes: np.ndarray, rewards: np.ndarray) -> None:
        """Adds rewards [S, C] to nodes and those above them; C may be any number up to a wave's."""
        width = ((0, 0), (0, max(0, self.settings.leaves - nodes.shape[1])))
        nodes, rewards = np.pad(nodes, width, constant_values=NOTHING), np.pad(rewards, width)
        with on_host():
            self.trees = back_up_wave(
                self.trees,
                jnp.asarray(self.pad(nodes, NOTHING), jnp.int32),
                jnp.asarray(self.pad(rewards, 0), jnp.float32),
            )

    def exhausted(self, budgets: np.ndarray) -> bool:
        """Says whether every tree is full, or dead at the root."""
        done = np.asarray(self.trees.size)[: self.count] >= budgets
        return bool((done | np.asarray(self.trees.dead)[: self.count, ROOT]).all())

    def pad(self, values: np.ndarray, fill: int) -> np.ndarray:
        """Adds rows for the padding trees."""
        more = self.capacity - len(values)
        return np.pad(values, ((0, more), *((0, 0),) * (values.ndim - 1)), constant_values=fill)


class Found(NamedTuple):
    """A path that was evaluated."""

    path: Path
    verdict: bool
    margin: float


class Child(NamedTuple):
    """A path that a walk wants evaluated, and the edit that made it from another, if one did."""

    path: Path
    parent: Path | None = None
    edit: np.ndarray | None = None  # [4], kind, start, k, amount


# Yields paths, any number at a time, and is sent what they were found to be, without those that
# had been evaluated before; ends where it knows no more.
Walk = Generator[Sequence[Child], Sequence[Found], None]


class Start(NamedTuple):
    """What a walk starts from: the identity path's verdict, and the edits it may use."""

    identity: Found
    random: np.random.Generator  # the question's own
    fitting: FittingEdits

    @property
    def shortest(self) -> int:
        """The layers of the shortest path allowed."""
        return self.fitting.shortest

    def edits(self, path: Path) -> np.ndarray:
        """Returns every edit [A, 4] that fits a path."""
        fits = np.sort(np.concatenate([[], *self.fitting[len(path)].values()]).astype(int))
        return np.stack(self.fitting.table, axis=1)[fits]

    def child(self, path: Path) -> Child:
        """Applies a random edit; returns the same path where none fits."""
        edit = random_edit(len(path), self.fitting, self.random)
        return Child(path) if edit is None else Child(edited(path, edit), path, edit)


class Walks(Strategy):
    """Runs a generator of paths for each search, a wave at a time."""

    def __init__(
        self,
        walk: Callable[[Start], Walk],
        rules: Rules,
        ids: Sequence[str],
        num_layers: int,
        settings: Settings,
    ):
        table = table_of(rules, settings.positions(num_layers))
        fitting = FittingEdits(table, *rules.lengths(num_layers))
        self.settings, self.positions = settings, settings.positions(num_layers)
        self.walkers = [
            Walker(walk, question_random(settings.seed, i), fitting, settings.simulations)
            for i in ids
        ]

    def propose(self, active: np.ndarray) -> Proposals | None:
        wave = [
            walker.next(self.settings.leaves) if runs else []
            for walker, runs in zip(self.walkers, active.tolist(), strict=True)
        ]
        width = max(map(len, wave), default=0)
        if not width:
            return None
        shape = (len(wave), width)
        paths = np.full((*shape, self.positions), STOP, np.int32)
        node, parent = np.full(shape, NOTHING), np.full(shape, NO_PARENT)
        edits = np.zeros((*shape, 4), np.int32)
        for s, (walker, children) in enumerate(zip(self.walkers, wave, strict=True)):
            for c, child in enumerate(children):
                paths[s, c, : len(child.path)] = child.path
                node[s, c] = walker.number[child.path]
                parent[s, c] = walker.number.get(child.parent, ROOT)
                edits[s, c] = 0 if child.edit is None else child.edit
        return Proposals(paths, node, parent, edits)

    def update(self, proposals: Proposals, verdicts: Verdicts) -> None:
        for s, walker in enumerate(self.walkers):
            for c in np.flatnonzero(proposals.node[s] != NOTHING).tolist():
                path = unpad_path(proposals.paths[s, c])
                right, margin = verdicts.verdict[s, c], verdicts.margin[s, c]
                walker.take(Found(path, bool(right), float(margin)))


class Walker:
    """A generator of paths with what it still waits for."""

    def __init__(
        self,
        walk: Callable[[Start], Walk],
        random: np.random.Generator,
        fitting: FittingEdits,
        budget: int,
    ):
        self.make, self.random, self.fitting = walk, random, fitting
        self.walk: Walk | None = None
        self.waiting: list[Child] = []  # asked for and not yet proposed
        self.found: list[Found] = []  # since the walk was last resumed
        self.number: dict[Path | None, int] = {}  # of every path proposed
        self.budget = budget + 1  # the identity path included

    def take(self, found: Found) -> None:
        """Takes what a path was found to be, first of all the identity path."""
        if self.walk is None:
            self.number[found.path] = ROOT
            self.walk = self.make(Start(found, self.random, self.fitting))
            self.ask(None)
        else:
            self.found.append(found)

    def ask(self, found: list[Found] | None) -> None:
        """Resumes the walk until it asks for a path that is new, or ends."""
        while self.walk is not None:
            try:
                asked = next(self.walk) if found is None else self.walk.send(found)
            except StopIteration:
                self.budget = 0
                return
            new = {child.path: child for child in asked if child.path not in self.number}
            self.waiting = list(new.values())
            if self.waiting:
                return
            found = []

    def next(self, most: int) -> list[Child]:
        """Returns the next paths to evaluate, at most a number."""
        if not self.waiting and self.found:
            found, self.found = self.found, []
            self.ask(found)
        count = min(most, self.budget - len(self.number))
        chosen, self.waiting = self.waiting[: max(count, 0)], self.waiting[max(count, 0) :]
        for child in chosen:
            self.number[child.path] = len(self.number)
        return chosen


def question_key(seed: int, question_id: str) -> jax.Array:
    """Derives a question's random key from the seed and a stable hash of its id."""
    digest = hashlib.sha256(question_id.encode()).digest()
    key = jax.random.key(seed)
    for start in (0, 4):
        key = jax.random.fold_in(key, int.from_bytes(digest[start : start + 4], "little"))
    return key


def question_random(seed: int, question_id: str) -> np.random.Generator:
    """Derives a question's random generator on the host likewise."""
    digest = hashlib.sha256(question_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])


def on_host():
    """Runs what is small on the host, where it does not wait for the model's programs."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to use other platforms only
        return jax.default_device(None)
