"""Strategies: what proposes the next paths of a search. One instance serves a batch of questions.

A strategy proposes C new paths for each question and takes their verdicts. What it keeps of a
question depends on that question alone.
"""

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.execute.memory import capacity
from cola_jax.path import STOP, identity, pad_path
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.search.mcts import NOTHING, back_up_wave, select_wave
from cola_jax.search.outcome import Proposals
from cola_jax.search.presets import Settings
from cola_jax.search.tree import ROOT, new_tree


class TreeSearch:
    """Monte Carlo tree search: trees [B, ...] that live on the host, whatever runs the model."""

    def __init__(self, ids: Sequence[str], num_layers: int, settings: Settings):
        self.num_layers, self.settings, self.count = num_layers, settings, len(ids)
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
        """Selects the leaves of the next wave of the active questions [B]; None for none."""
        budgets = np.where(active, self.settings.simulations + 1, 0)
        while True:
            nodes = self.select(budgets)
            if (nodes != NOTHING).any():
                return self.proposals(nodes)
            # a wave of nothing may still have closed nodes, so the next one looks elsewhere
            if self.exhausted(budgets):
                return None

    def select(self, budgets: np.ndarray) -> np.ndarray:
        """Adds leaves to trees of fewer nodes than their budgets [B]; returns them [B, C]."""
        with on_host():
            self.trees, nodes = select_wave(
                self.trees,
                jnp.asarray(self.pad(budgets, 0), jnp.int32),
                preset=self.settings.preset,
                num_layers=self.num_layers,
                leaves=self.settings.leaves,
            )
        return np.asarray(nodes)[: self.count]

    def proposals(self, nodes: np.ndarray) -> Proposals:
        """Returns the paths of leaves [B, C], NOTHING for none."""
        trees, missing = self.trees, nodes == NOTHING
        index = np.arange(self.count)[:, None], np.maximum(nodes, 0)
        paths, parents, edits = (
            np.asarray(x)[index] for x in (trees.paths, trees.parents, trees.edits)
        )
        return Proposals(np.where(missing[..., None], STOP, paths), nodes, parents, edits)

    def update(self, proposals: Proposals, verdicts: Verdicts) -> None:
        """Backs up the rewards of evaluated leaves."""
        lengths = (proposals.paths != STOP).sum(axis=-1)
        penalty = self.settings.preset.length_penalty * lengths / self.num_layers
        present = proposals.node != NOTHING
        self.back_up(proposals.node, np.where(present, verdicts.verdict - penalty, 0))

    def back_up(self, nodes: np.ndarray, rewards: np.ndarray) -> None:
        """Adds rewards [B, C] to nodes and those above them; C may be any number up to a wave's."""
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


def question_key(seed: int, question_id: str) -> jax.Array:
    """Derives a question's random key from the seed and a stable hash of its id."""
    digest = hashlib.sha256(question_id.encode()).digest()
    key = jax.random.key(seed)
    for start in (0, 4):
        key = jax.random.fold_in(key, int.from_bytes(digest[start : start + 4], "little"))
    return key


def on_host():
    """Runs what is small on the host, where it does not wait for the model's programs."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to use other platforms only
        return jax.default_device(None)
