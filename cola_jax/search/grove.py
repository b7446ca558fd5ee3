"""A grove: the trees of a group of questions, searched in step, and the verdict of every node."""

import hashlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.execute.memory import capacity
from cola_jax.execute.pipeline import Flight
from cola_jax.path import STOP, identity, pad_path
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.judge import Judge
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.search.mcts import NOTHING, back_up_wave, select_wave
from cola_jax.search.outcome import Outcome
from cola_jax.search.presets import Settings
from cola_jax.search.tree import ROOT, new_tree

Gained = Callable[[int, int, int], None]  # evaluations, wrong made right, right on fewer layers


class Grove:
    """Trees [B, ...] that live on the host, whatever device runs the model."""

    def __init__(self, questions: Sequence[Encoded], num_layers: int, settings: Settings):
        self.questions, self.num_layers, self.settings = questions, num_layers, settings
        shape = (len(questions), settings.simulations + 1)
        # trees of no question fill up, so that few numbers compile
        self.trees_for = capacity(len(questions))
        ids = [q.question.id for q in questions]
        ids += [""] * (self.trees_for - len(ids))
        with on_host():
            positions = settings.preset.lengths(num_layers)[1]
            root = jnp.asarray(pad_path(identity(num_layers), positions))
            keys = jnp.stack([question_key(settings.seed, i) for i in ids])
            self.trees = jax.vmap(lambda key: new_tree(root, shape[1], key))(keys)
        self.verdicts = Verdicts.none(shape)
        self.wave = np.zeros(shape, np.int32)
        self.lengths = np.full(shape, num_layers)
        self.waves = 0

    def grow(self, judge: Judge, on_progress: Gained) -> Flight[list[Outcome]]:
        """Searches to the end: a wave is selected, judged, and backed up."""
        nodes = np.full((len(self.questions), 1), ROOT)
        while nodes is not None:
            paths = self.paths(nodes)
            verdicts = yield from judge.judge(paths, lambda n: on_progress(n, 0, 0))
            on_progress(0, *self.record(nodes, paths, verdicts))
            nodes = self.select()
        best = [outcome.shortest_correct for outcome in self.outcomes()]
        held = yield from judge.confirm(*self.best(best))
        judge.close()
        return self.outcomes(held)

    def paths(self, nodes: np.ndarray) -> np.ndarray:
        """Returns the paths [B, C, P] of nodes [B, C], STOP for none."""
        rows = np.arange(len(nodes))[:, None]
        paths = np.asarray(self.trees.paths)[rows, np.maximum(nodes, 0)]
        return np.where((nodes == NOTHING)[..., None], STOP, paths)

    def select(self) -> np.ndarray | None:
        """Selects the nodes [B, C] of the next wave; None where there is none left."""
        settings = self.settings
        budgets = np.where(settings.early_stop & self.improved, 0, settings.simulations + 1)
        room = self.pad(budgets, 0)
        self.waves += 1
        while True:
            with on_host():
                self.trees, nodes = select_wave(
                    self.trees,
                    jnp.asarray(room, jnp.int32),
                    preset=settings.preset,
                    num_layers=self.num_layers,
                    leaves=settings.leaves,
                )
            nodes = np.asarray(nodes)[: len(budgets)]
            if (nodes != NOTHING).any():
                return nodes
            # a wave of nothing can still have closed nodes, so that the next one looks elsewhere
            if self.exhausted(budgets):
                return None
            self.waves += 1

    def record(self, nodes: np.ndarray, paths: np.ndarray, verdicts: Verdicts) -> tuple[int, int]:
        """Records the verdicts of a wave and backs them up.

        Returns how many more questions are now right that were wrong, and right on fewer layers.
        """
        before = self.gains()
        rewards = np.zeros(nodes.shape, np.float32)
        for b in range(len(self.questions)):
            present = nodes[b] != NOTHING
            slots = nodes[b][present]
            for mine, new in zip(self.verdicts, verdicts, strict=True):
                mine[b, slots] = new[b][present]
            self.wave[b, slots] = self.waves
            self.lengths[b, slots] = lengths = (paths[b][present] != STOP).sum(axis=-1)
            penalty = self.settings.preset.length_penalty * lengths / self.num_layers
            rewards[b, present] = verdicts.verdict[b][present] - penalty
        with on_host():
            self.trees = back_up_wave(
                self.trees,
                jnp.asarray(self.pad(nodes, NOTHING)),
                jnp.asarray(self.pad(rewards, 0)),
            )
        after = self.gains()
        return after[0] - before[0], after[1] - before[1]

    def gains(self) -> tuple[int, int]:
        """Counts the questions right that were wrong, and those right on fewer layers."""
        right = self.verdicts.verdict[:, ROOT]
        return int((self.improved & ~right).sum()), int((self.improved & right).sum())

    @property
    def improved(self) -> np.ndarray:
        """Questions [B] answered rightly where the model is wrong, or on fewer layers.

        None of those where the grader failed on the model's own answer, which may be either.
        """
        shorter = self.lengths < self.num_layers
        verdict, root = self.verdicts.verdict, self.verdicts.verdict[:, [ROOT]]
        known = self.verdicts.graded[:, ROOT]
        return known & np.any(verdict & (~root | shorter), axis=1)

    def exhausted(self, budgets: np.ndarray) -> bool:
        """Says whether every tree is full, or dead at the root."""
        count = len(budgets)
        done = np.asarray(self.trees.size)[:count] >= budgets
        return bool((done | np.asarray(self.trees.dead)[:count, ROOT]).all())

    def pad(self, values: np.ndarray, fill: int) -> np.ndarray:
        """Adds rows for the trees of no question."""
        more = self.trees_for - len(values)
        return np.pad(values, ((0, more), *((0, 0),) * (values.ndim - 1)), constant_values=fill)

    def best(self, nodes: Sequence[int | None]) -> tuple[np.ndarray, Verdicts]:
        """Returns the paths [B, P] of one node a question, STOP for None, and their verdicts."""
        rows = np.arange(len(nodes))
        some = np.array([ROOT if node is None else node for node in nodes])
        paths = np.asarray(self.trees.paths)[rows, some]
        paths = np.where(np.array([node is None for node in nodes])[:, None], STOP, paths)
        return paths, Verdicts(*(column[rows, some] for column in self.verdicts))

    def outcomes(self, held: Sequence[bool | None] | None = None) -> list[Outcome]:
        """Collects what is known of every question.

        `held` says whether its shortest correct path was right when run once more in float32,
        which is no evaluation of the search; the report counts it apart.
        """
        trees = jax.device_get(self.trees.replace(key=None))
        outcomes = []
        for b, encoded in enumerate(self.questions):
            size = int(trees.size[b])
            outcomes.append(
                Outcome(
                    encoded=encoded,
                    paths=[tuple(p[p != STOP].tolist()) for p in trees.paths[b, :size]],
                    verdicts=Verdicts(*(column[b, :size] for column in self.verdicts)),
                    wave=self.wave[b, :size],
                    parent=trees.parents[b, :size],
                    edits=trees.edits[b, :size],
                    confirmed=None if held is None else held[b],
                )
            )
        return outcomes


def question_key(seed: int, question_id: str) -> jax.Array:
    """Derives a question's random key from the seed and a stable hash of its id."""
    digest = hashlib.sha256(question_id.encode()).digest()
    key = jax.random.key(seed)
    for start in (0, 4):
        key = jax.random.fold_in(key, int.from_bytes(digest[start : start + 4], "little"))
    return key


def on_host():
    """Runs what is small on the host, where it does not queue behind the model's programs."""
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX was told to use other platforms only
        return jax.default_device(None)
