"""Monte Carlo tree search: choosing the leaves of a wave by UCB, virtual visits and widening."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.special import expit

from cola_jax.execute.memory import capacity
from cola_jax.identity import stable_hash
from cola_jax.path import SKIP, STOP, Edit, apply_edit, edit_table, edits_fit, identity, pad_path
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.outcome import Proposals
from cola_jax.strategies.rules import Rules, Settings, TreeRules
from cola_jax.strategies.tree import (
    ROOT,
    Tree,
    add_node,
    back_up,
    close,
    lengths,
    live_children,
    new_tree,
    path_hash,
)

NOTHING = -1  # the slot of a leaf that could not be selected
MAX_VISITS = 1 << 16
WEIGHT = 1 << 10  # of an edit of one layer, where weights differ
EARLY = 0  # number of the random key that ends descents early


class TreeSearch:
    """Monte Carlo tree search: trees [S, ...] that live on the host, whatever runs the model."""

    def __init__(self, settings: Settings, ids: Sequence[str], num_layers: int):
        """Plant a tree for each of the questions with these ids."""
        assert isinstance(settings.preset, TreeRules)
        self.rules, self.num_layers, self.settings = settings.preset, num_layers, settings
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
        """Select the leaves of the next wave of the active searches [S]; None for none."""
        budgets = np.where(active, self.settings.simulations + 1, 0)
        nodes = self.select(budgets)
        while (nodes == NOTHING).all():
            full = np.asarray(self.trees.size)[: self.count] >= budgets
            if (full | np.asarray(self.trees.dead)[: self.count, ROOT]).all():
                return None
            # a wave of nothing may still have closed nodes, so the next one looks elsewhere
            nodes = self.select(budgets)
        index = np.arange(self.count)[:, None], np.maximum(nodes, 0)
        paths, parents, edits = (
            np.asarray(x)[index] for x in (self.trees.paths, self.trees.parents, self.trees.edits)
        )
        missing = (nodes == NOTHING)[..., None]
        return Proposals(np.where(missing, STOP, paths), nodes, parents, edits)

    def select(self, budgets: np.ndarray) -> np.ndarray:
        """Add leaves to trees of fewer nodes than their budgets [S]; return them [S, C]."""
        with on_host():
            self.trees, nodes = select_wave(
                self.trees,
                jnp.asarray(self.pad(budgets, 0), jnp.int32),
                rules=self.rules,
                num_layers=self.num_layers,
                leaves=self.settings.leaves,
            )
        return np.asarray(nodes)[: self.count]

    def update(self, proposals: Proposals, verdicts: Verdicts) -> None:
        """Back up the rewards of evaluated leaves."""
        lengths = (proposals.paths != STOP).sum(axis=-1)
        penalty = self.rules.length_penalty * lengths / self.num_layers
        margin = self.rules.reward == "margin"
        reward = expit(verdicts.margin) if margin else verdicts.verdict
        present = proposals.node != NOTHING
        self.back_up(proposals.node, np.where(present, reward - penalty, 0))

    def back_up(self, nodes: np.ndarray, rewards: np.ndarray) -> None:
        """Add rewards [S, C] to nodes and those above them; C may be any number up to a wave's."""
        width = ((0, 0), (0, max(0, self.settings.leaves - nodes.shape[1])))
        nodes, rewards = np.pad(nodes, width, constant_values=NOTHING), np.pad(rewards, width)
        with on_host():
            self.trees = back_up_wave(
                self.trees,
                jnp.asarray(self.pad(nodes, NOTHING), jnp.int32),
                jnp.asarray(self.pad(rewards, 0), jnp.float32),
            )

    def pad(self, values: np.ndarray, fill: int) -> np.ndarray:
        """Add rows for the padding trees."""
        more = self.capacity - len(values)
        return np.pad(values, ((0, more), *((0, 0),) * (values.ndim - 1)), constant_values=fill)


def question_key(seed: int, question_id: str) -> jax.Array:
    """Derive a question's random key from the seed and a stable hash of its id."""
    high, low = divmod(stable_hash(question_id), 1 << 32)
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), low), high)


def on_host():
    """Run what is small on the host, where it does not wait for the model's programs."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to use other platforms only
        return jax.default_device(None)


@functools.cache
def logarithms() -> np.ndarray:
    """ln n for n = 0, 1, 2, ..., from the host.

    A device's own logarithm may round differently in another vector position, so that the size
    of the batch would decide a tie; the rest of UCB is exactly rounded arithmetic.
    """
    return np.log(np.maximum(np.arange(MAX_VISITS), 1)).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("rules", "num_layers", "leaves"))
def select_wave(
    trees: Tree, budgets: Int[Array, " B"], *, rules: TreeRules, num_layers: int, leaves: int
) -> tuple[Tree, Int[Array, "B C"]]:
    """Select up to `leaves` new nodes in each tree, and add them as pending.

    Returns the trees and the nodes' slots, -1 where a tree found no new path or has as many nodes
    as its budget.
    """

    def of_tree(tree: Tree, budget: Int[Array, ""]) -> tuple[Tree, Int[Array, " C"]]:
        def step(tree, _):
            return select_leaf(tree, budget, rules, num_layers)

        return jax.lax.scan(step, tree, length=leaves)

    return jax.vmap(of_tree)(trees, budgets)


@jax.jit
def back_up_wave(trees: Tree, nodes: Int[Array, "B C"], rewards: Float[Array, "B C"]) -> Tree:
    """Back up the rewards of a wave; the visits were counted when its leaves were selected."""
    return jax.vmap(back_up)(trees, nodes, rewards)


def select_leaf(
    tree: Tree, budget: Int[Array, ""], rules: TreeRules, num_layers: int
) -> tuple[Tree, Int[Array, ""]]:
    """Descend from the root to the node to expand, and add one child of it."""
    key = jax.random.fold_in(tree.key, tree.size)
    node = descend(tree, key, rules, num_layers)
    path, edit, exists = draw_child(tree, node, key, rules, num_layers)
    has_room = tree.size < budget
    # the tree only grows, so a node without a new path now never has one again
    outcomes = (add_node(tree, node, path, edit), close(tree, node), tree)
    chosen = jnp.where(has_room, jnp.where(exists, 0, 1), 2)
    tree = jax.tree.map(lambda *leaves: jax.lax.select_n(chosen, *leaves), *outcomes)
    return tree, jnp.where(has_room & exists, tree.size - 1, NOTHING)


def descend(tree: Tree, key: Array, rules: TreeRules, num_layers: int) -> Int[Array, ""]:
    """Follow the best child until a node may have one more."""
    scores = ucb(tree, rules, num_layers)
    grown = tree.visits.astype(jnp.float32)
    # an exactly rounded root: see `logarithms`
    grown = jnp.sqrt(grown) if rules.widening_power == 0.5 else grown**rules.widening_power
    limits = jnp.ceil(rules.widening * grown)
    if rules.epsilon:
        drawn = jax.random.uniform(jax.random.fold_in(key, EARLY), tree.visits.shape)
        limits = jnp.where(drawn < rules.epsilon, jnp.inf, limits)

    def goes_on(node):
        may_expand = ~tree.closed[node] & (tree.children[node] < limits[node])
        return ~may_expand & live_children(tree, node).any()

    def step(node):
        return jnp.argmax(jnp.where(live_children(tree, node), scores, -jnp.inf)).astype(jnp.int32)

    return jax.lax.while_loop(goes_on, step, jnp.int32(ROOT))


def ucb(tree: Tree, rules: TreeRules, num_layers: int) -> Float[Array, " M"]:
    """Q/v + c sqrt(ln V / v) - lambda |P|/L of every node (CoLa, section 3)."""
    visits = jnp.maximum(tree.visits, 1).astype(jnp.float32)
    counted = ROOT if rules.visits == "tree" else jnp.maximum(tree.parents, ROOT)
    log_total = jnp.asarray(logarithms())[jnp.minimum(tree.visits[counted], MAX_VISITS - 1)]
    return (
        tree.value / visits
        + rules.exploration * jnp.sqrt(log_total / visits)
        - rules.length_weight * lengths(tree).astype(jnp.float32) / num_layers
    )


def draw_child(
    tree: Tree, node: Int[Array, ""], key: Array, rules: TreeRules, num_layers: int
) -> tuple[Int[Array, " P"], Edit, Bool[Array, ""]]:
    """Draw an edit of a node's path that makes a path the tree does not have.

    The kind is drawn first and evenly, then the edit among those of its kind: there are four times
    as many repeats as skips, and drawing from all would hardly try a skip. An edit is drawn in
    proportion to its k to the rules' `block_power`. At the root the rules' early exits come before
    all other edits. Returns the path, the edit, and whether there was one.
    """
    path = tree.paths[node]
    table = table_of(rules, path.shape[0])
    length, (shortest, longest) = lengths(tree)[node], rules.lengths(num_layers)
    allowed = edits_fit(length, table, shortest, longest)
    if rules.deep_block is not None:
        allowed &= (node == ROOT) | (table.k <= rules.deep_block)
    if rules.ordered:
        allowed &= table.start >= tree.edits[node, 1]
    exits = (table.kind == SKIP) & (table.k <= rules.exits)
    if rules.exits:
        exits &= (node == ROOT) & (table.start + table.k == length)
        allowed &= exits | (table.kind != SKIP) | (table.k <= rules.max_skip)
    paths = jax.vmap(apply_edit, (None, 0))(path, table)
    known = (path_hash(paths)[:, None] == tree.hashes) & (jnp.arange(len(tree.hashes)) < tree.size)
    allowed &= ~known.any(axis=1)
    if rules.max_runs is not None:
        most = min(rules.max_runs, path.shape[0])  # a larger one may exceed 32 bits
        allowed &= most_runs(paths, num_layers) <= most

    kind_key, edit_key = jax.random.split(key)
    kinds = np.unique(table.kind)
    left = jnp.stack([(allowed & (table.kind == kind)).any() for kind in kinds])
    kind = draw(kind_key, left.astype(jnp.int32))
    of_kind = allowed & (table.kind == jnp.asarray(kinds)[kind])
    chosen = draw(edit_key, of_kind * edit_weights(table, rules.block_power))
    if rules.exits:
        untried = allowed & exits
        chosen = jnp.where(untried.any(), jnp.argmax(untried), chosen)  # the smallest skip is first
    edit = Edit(*(jnp.asarray(column)[chosen] for column in table))
    return paths[chosen], edit, left.any()


def edit_weights(table: Edit, power: float) -> np.ndarray:
    """Return how often to draw each edit [A]: in proportion to k to the power given, rounded.

    Integers, since the sums of fractions depend on how a device adds them up.
    """
    if not power:
        return np.ones(len(table.k), np.int32)
    return np.maximum(np.round(WEIGHT * np.asarray(table.k, float) ** power), 1).astype(np.int32)


def table_of(rules: Rules, positions: int) -> Edit:
    """List the edits of a search, as `edit_table`."""
    return edit_table(
        positions,
        rules.largest_skip,
        rules.max_repeat,
        rules.max_times,
        rules.max_move,
        rules.max_move_block,
    )


def most_runs(paths: Int[Array, "A P"], num_layers: int) -> Int[Array, " A"]:
    """Count how often each path runs the layer that it runs most often."""
    runs = jax.vmap(lambda path: jnp.zeros(num_layers, jnp.int32).at[path].add(path != STOP))
    return runs(paths).max(axis=1)


def draw(key: Array, weights: Int[Array, " A"]) -> Int[Array, ""]:
    """Draw an entry in proportion to its weight; any entry where all weigh nothing."""
    rank = jax.random.randint(key, (), 0, jnp.maximum(weights.sum(), 1))
    return jnp.searchsorted(jnp.cumsum(weights), rank, side="right").astype(jnp.int32)
