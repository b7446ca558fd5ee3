"""The tree search of one question again, in plain Python: lists, tuples, and one edit at a time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import expit

from cola_jax.layer_costs import LayerCosts
from cola_jax.path import (
    KINDS,
    Edit,
    LayerPath,
    edited,
    edits_fit,
    identity,
    lengths_fit,
    parts_fit,
)
from cola_jax.steps import layer_of
from cola_jax.strategies.outcome import NO_EDIT
from cola_jax.strategies.rules import TreeRules
from cola_jax.strategies.tree import edits_of

FINEST = 4096  # weight of the likeliest edits, where blocks have a power
f32 = np.float32

EditRow = tuple[int, ...]


class Judged(NamedTuple):
    """The verdict of a path, and its margin."""

    verdict: bool
    margin: float


class PlainTree:
    """A node is a path; the first is the identity path."""

    def __init__(
        self,
        rules: TreeRules,
        num_layers: int,
        costs: LayerCosts,
        key: np.ndarray,
        judge: Callable[[LayerPath], Judged],
        in_nats: bool,
        nodes: int,
        prior: list[EditRow],
    ):
        """Plant the root, judged; `key` are the two words of threefry2x32."""
        self.rules = rules
        self.costs = costs
        self.lengths = rules.lengths(num_layers)
        self.judge = judge
        edits = np.stack(edits_of(rules, 2 * num_layers), axis=1)
        self.table = [tuple(edit) for edit in edits.tolist()]
        self.prior = prior
        self.words = random_words(key, nodes)
        self.paths = [identity(num_layers)]
        self.edits: list[EditRow] = [NO_EDIT]
        self.parents = [-1]
        self.visits = [1]
        self.value = [f32(0)]
        self.closed = [False]
        self.tried = 0
        margin = abs(judge(self.paths[0]).margin)
        self.unit = f32(margin if not in_nats and 0 < margin < math.inf else 1)
        self.update(1)

    def children(self, node: int) -> list[int]:
        return [child for child, parent in enumerate(self.parents) if parent == node]

    def ancestors(self, node: int) -> list[int]:
        return [] if node < 0 else [node, *self.ancestors(self.parents[node])]

    def live(self, node: int) -> list[int]:
        """The children of a node that may lead to new paths."""
        return [each for each in self.children(node) if not self.closed[each] or self.live(each)]

    @property
    def dead(self) -> bool:
        return self.closed[0] and not self.live(0)

    def share(self, node: int) -> f32:
        """The cost of a path as a share of the model's."""
        return f32(self.costs.of(self.paths[node]) / self.costs.total)

    def update(self, count: int) -> None:
        """Judge the nodes that were added last."""
        for node in range(len(self.paths) - count, len(self.paths)):
            verdict, margin = self.judge(self.paths[node])
            reward = f32(verdict)
            if self.rules.reward == "margin":
                reward = np.round(expit(f32(margin) / self.unit) * 4096) / 4096
            reward -= f32(self.rules.length_penalty) * self.share(node)
            for each in self.ancestors(node):
                self.value[each] += reward

    def select(self, count: int) -> int:
        """Add up to that many nodes; return how many."""
        before = len(self.paths)
        while len(self.paths) < before + count and not self.dead:
            parent = self.descend()
            edit = self.draw(parent)
            if edit is None:
                self.closed[parent] = True
                continue
            self.paths.append(edited(self.paths[parent], edit))
            self.edits.append(edit)
            self.parents.append(parent)
            self.visits.append(0)
            self.value.append(f32(0))
            self.closed.append(False)
            for each in self.ancestors(len(self.paths) - 1):
                self.visits[each] += 1
        return len(self.paths) - before

    def descend(self) -> int:
        words = self.words[len(self.paths)]
        if self.tried < len(self.prior):
            return 0
        node = depth = 0
        while live := self.live(node):
            limit = math.ceil(self.rules.widening * self.visits[node] ** self.rules.widening_power)
            is_early = words[depth % 64] / 2**32 < self.rules.epsilon
            if not self.closed[node] and (len(self.children(node)) < limit or is_early):
                return node
            node = max(live, key=self.ucb)  # of equals the first
            depth += 1
        return node

    def ucb(self, node: int) -> f32:
        whole = self.rules.visits == "tree"
        total = self.visits[0 if whole else self.parents[node]]
        weight = f32(self.rules.exploration * math.sqrt(math.log(total)))
        visits = self.visits[node]
        cost = f32(self.rules.length_weight) * self.share(node)
        exploited = self.value[node] / f32(visits) - cost
        return exploited / weight + f32(1 / math.sqrt(visits)) if weight else exploited

    def draw(self, node: int) -> EditRow | None:
        """Draw an edit of a node's path that makes a new path."""
        words = self.words[len(self.paths)]
        while node == 0 and self.tried < len(self.prior):
            self.tried += 1
            edit = self.prior[self.tried - 1]
            if edits_fit(self.paths[0], Edit(*edit), *self.lengths) and self.is_new(0, edit):
                return (*edit, 0)[: len(NO_EDIT)]
        edits = [edit for edit in self.table if self.fits(node, edit)]
        kinds = [[edit for edit in edits if edit[0] == kind] for kind in range(len(KINDS))]
        kinds = [of_kind for of_kind in kinds if of_kind]
        for attempt in range(len(kinds)):
            of_kind = kinds.pop(choose(words[64 + attempt], len(kinds)))
            for word in words[80 + 16 * attempt : 96 + 16 * attempt]:
                edit = self.weighted(of_kind, word)
                if self.is_new(node, edit):
                    return edit
            if new := [edit for edit in of_kind if self.is_new(node, edit)]:
                return self.weighted(new, words[67 + attempt])
        return None

    def fits(self, node: int, edit: EditRow) -> bool:
        _, start, k, *_ = edit
        if self.rules.ordered and start < self.edits[node][1]:
            return False
        if node and self.rules.deep_block and k > self.rules.deep_block:
            return False
        return bool(lengths_fit(len(self.paths[node]), Edit(*edit), *self.lengths))

    def is_new(self, node: int, edit: EditRow) -> bool:
        if not parts_fit(self.paths[node], Edit(*edit)):
            return False
        path = edited(self.paths[node], edit)
        layers = list(map(layer_of, path))
        most = self.rules.max_runs or len(path)
        return path not in self.paths and max(map(layers.count, layers)) <= most

    def weighted(self, edits: list[EditRow], word: int) -> EditRow:
        """Draw an edit in proportion to whole weights; the starts of a shape come one by one."""
        weights = [self.weight(k) for _, _, k, *_ in edits]
        number = choose(word, sum(weights))
        for edit, weight in zip(edits, weights, strict=True):
            number -= weight
            if number < 0:
                return edit
        raise AssertionError("a number below the sum is in one of its parts")

    def weight(self, k: int) -> int:
        power = self.rules.block_power
        if power == 0:
            return 1
        return max(1, round(k**power * FINEST / max(k**power for _, _, k, *_ in self.table)))


def random_words(key: np.ndarray, nodes: int) -> list[list[int]]:
    """The words of nodes 0, 1, ..., `nodes` - 1."""
    typed = jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32")

    def bits(node: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(typed, node), (128,), jnp.uint32)

    return jax.vmap(bits)(jnp.arange(nodes)).tolist()


def choose(word: int, count: int) -> int:
    return word * count >> 32
