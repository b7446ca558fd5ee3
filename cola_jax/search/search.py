"""`search`: grows one tree for each question, a wave of evaluations at a time."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.execute import run_paths
from cola_jax.params import Model
from cola_jax.path import STOP, identity, pad_path
from cola_jax.prompts import Prompts
from cola_jax.score import NO_ANSWER, Verdicts, score
from cola_jax.search.mcts import NOTHING, back_up_wave, select_wave
from cola_jax.search.outcome import Outcome
from cola_jax.search.presets import PRESETS, Preset
from cola_jax.search.tree import ROOT, new_tree
from cola_jax.tasks.prompt import Encoded

Progress = Callable[[int, int, int], None]


def search(
    model: Model,
    questions: Sequence[Encoded],
    *,
    preset: str | Preset = "cola",
    simulations: int = 100,
    leaves: int = 16,
    seed: int = 0,
    early_stop: bool = False,
    on_progress: Progress = lambda evaluations, fixed, shortened: None,
) -> list[Outcome]:
    """Searches paths for every question, all questions in step.

    Args:
      model: the pretrained model.
      questions: as `encode` makes them, each with its scorer.
      preset: the rules of the search, or the name of a preset.
      simulations: evaluations per question beyond the baseline; fewer where a tree runs out of
        paths.
      leaves: C, the evaluations per question and wave. More of them are chosen knowing less.
      seed: with a question's id, the random key of its tree: what a question yields depends on
        neither the other questions nor their order.
      early_stop: end a question's search once a wrong answer is right, or a right one needs fewer
        layers.
      on_progress: called with the evaluations so far, the wrong answers made right and the right
        ones that need fewer layers.

    Raises:
      ValueError: for no questions, an unknown preset, or counts below 1.
    """
    rules = check_settings(questions, preset, simulations, leaves)
    prompts = Prompts.stack([encoded.prompts for encoded in questions])
    grove = Grove(model, questions, prompts, rules, simulations, seed)
    tally = Tally(on_progress)
    grove.evaluate(np.full((len(questions), 1), ROOT), wave=0, tally=tally)
    wave = 0
    while True:
        wave += 1
        budgets = np.where(early_stop & grove.improved, 0, simulations + 1)
        grove.trees, nodes = select_wave(
            grove.trees,
            jnp.asarray(budgets, jnp.int32),
            preset=rules,
            num_layers=model.config.num_layers,
            leaves=leaves,
        )
        nodes = np.asarray(nodes)
        if (nodes != NOTHING).any():
            grove.evaluate(nodes, wave, tally)
        # a wave of nothing can still have closed nodes, so that the next one looks elsewhere
        elif grove.exhausted(budgets):
            break
    return grove.outcomes()


def check_settings(
    questions: Sequence[Encoded], preset: str | Preset, simulations: int, leaves: int
) -> Preset:
    """Checks the arguments of a search and resolves the preset."""
    if not questions:
        raise ValueError("there are no questions to search.")
    if simulations < 1 or leaves < 1:
        raise ValueError(
            f"simulations and leaves must be at least 1, they are {simulations} and {leaves}."
        )
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is not one of {', '.join(PRESETS)}.")
    return PRESETS[preset]


def question_key(seed: int, question_id: str) -> jax.Array:
    """Derives a question's random key from the seed and a stable hash of its id."""
    digest = hashlib.sha256(question_id.encode()).digest()
    key = jax.random.key(seed)
    for start in (0, 4):
        key = jax.random.fold_in(key, int.from_bytes(digest[start : start + 4], "little"))
    return key


@dataclasses.dataclass
class Tally:
    """Counts evaluations and improvements for whoever watches."""

    on_progress: Progress
    evaluations: int = 0
    fixed: int = 0
    shortened: int = 0

    def advance(self, evaluations: int) -> None:
        self.evaluations += evaluations
        self.on_progress(self.evaluations, self.fixed, self.shortened)


class Grove:
    """The trees of all questions [B, ...] and the verdict of every node."""

    def __init__(
        self,
        model: Model,
        questions: Sequence[Encoded],
        prompts: Prompts,
        rules: Preset,
        simulations: int,
        seed: int,
    ):
        self.model, self.questions, self.prompts = model, questions, prompts
        self.rules = rules
        num_layers = model.config.num_layers
        root = jnp.asarray(pad_path(identity(num_layers), rules.lengths(num_layers)[1]))
        keys = jnp.stack([question_key(seed, q.question.id) for q in questions])
        nodes = simulations + 1
        self.trees = jax.vmap(lambda key: new_tree(root, nodes, key))(keys)
        shape = (len(questions), nodes)
        self.verdicts = Verdicts(
            verdict=np.zeros(shape, bool),
            margin=np.full(shape, -np.inf, np.float32),
            answer=np.full(shape, NO_ANSWER, np.int32),
            finite=np.zeros(shape, bool),
        )
        self.wave = np.zeros(shape, np.int32)
        self.lengths = np.full(shape, num_layers)

    def evaluate(self, nodes: np.ndarray, wave: int, tally: Tally) -> None:
        """Runs the paths of nodes [B, C] (-1 for none), records verdicts and backs them up."""
        rows = np.arange(len(nodes))[:, None]
        paths = np.asarray(self.trees.paths)[rows, np.maximum(nodes, 0)]
        paths = np.where((nodes == NOTHING)[..., None], STOP, paths)
        readings = run_paths(self.model, self.prompts, paths, on_progress=tally.advance)
        rewards = np.zeros(nodes.shape, np.float32)
        for b, encoded in enumerate(self.questions):
            present = nodes[b] != NOTHING
            slots = nodes[b][present]
            row = jax.tree.map(lambda x, b=b, present=present: x[b][present], readings)
            verdicts = score(row, encoded)
            for mine, new in zip(self.verdicts, verdicts, strict=True):
                mine[b, slots] = new
            self.wave[b, slots] = wave
            self.lengths[b, slots] = lengths = (paths[b][present] != STOP).sum(axis=-1)
            penalty = self.rules.length_penalty * lengths / self.model.config.num_layers
            rewards[b, present] = verdicts.verdict - penalty
        self.trees = back_up_wave(self.trees, jnp.asarray(nodes), jnp.asarray(rewards))
        tally.fixed = int((self.improved & ~self.verdicts.verdict[:, ROOT]).sum())
        tally.shortened = int((self.improved & self.verdicts.verdict[:, ROOT]).sum())
        tally.advance(0)

    @property
    def improved(self) -> np.ndarray:
        """Questions [B] answered rightly where the model is wrong, or on fewer layers."""
        shorter = self.lengths < self.model.config.num_layers
        verdict = self.verdicts.verdict
        return np.any(verdict & (~verdict[:, [ROOT]] | shorter), axis=1)

    def exhausted(self, budgets: np.ndarray) -> bool:
        """Says whether every tree is full, or dead at the root."""
        done = np.asarray(self.trees.size) >= budgets
        return bool((done | np.asarray(self.trees.dead)[:, ROOT]).all())

    def outcomes(self) -> list[Outcome]:
        """Collects what is known of every question; the shortest correct path runs once more."""
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
                )
            )
        positions = trees.paths.shape[-1]  # that of the search, so nothing is compiled again
        return confirm(self.model, outcomes, self.prompts, positions)


def confirm(
    model: Model,
    outcomes: Sequence[Outcome],
    prompts: Prompts,
    positions: int,
) -> list[Outcome]:
    """Runs each question's shortest correct path once more in float32, and records if it holds.

    These runs are no evaluations of the search; the report counts them apart.
    """
    best = [outcome.shortest_correct for outcome in outcomes]
    paths = np.full((len(outcomes), 1, positions), STOP, np.int32)
    for b, i in enumerate(best):
        if i is not None:
            paths[b, 0] = pad_path(outcomes[b].paths[i], positions)
    # a CPU multiplies in full precision anyway, and a setting would compile everything again
    precision = None if jax.default_backend() == "cpu" else "highest"
    with jax.default_matmul_precision(precision):
        readings = run_paths(model, prompts, paths, dtype=jnp.dtype(jnp.float32))
    confirmed = []
    for b, outcome in enumerate(outcomes):
        row = jax.tree.map(lambda x, b=b: x[b], readings)
        held = None if best[b] is None else bool(score(row, outcome.encoded).verdict[0])
        confirmed.append(dataclasses.replace(outcome, confirmed=held))
    return confirmed
