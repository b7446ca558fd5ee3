"""CPU time to select the leaves of a search and to back up their rewards, without a model.

`python -m experiments.selection_speed` grows trees on random margins, for numbers of simulations,
layers and questions; programs that JAX compiles, and the trees' preparation, are counted apart.
"""

import dataclasses
import itertools
import time

import numpy as np
import tyro

from cola_jax.execute.metrics import compilations
from cola_jax.identity import random_of
from cola_jax.path import identity, pad_path
from cola_jax.report.markdown import table
from cola_jax.scoring import Verdicts
from cola_jax.strategies.mcts import TreeSearch
from cola_jax.strategies.outcome import Proposals
from cola_jax.strategies.rules import PRESETS, Settings

HEAD = ("simulations", "layers", "questions", "leaves", "CPU ms a leaf", "preparation, CPU s")
HEAD += ("programs", "seconds compiling")


@dataclasses.dataclass(frozen=True)
class SelectionSpeed:
    """Time the selection of leaves."""

    preset: str = "best"
    """Rules of the trees."""
    simulations: tuple[int, ...] = (50, 200, 800, 3200)
    layers: tuple[int, ...] = (28, 80)
    questions: tuple[int, ...] = (64, 400)
    leaves: int = 16
    """Leaves of a question in a wave."""


def main(settings: SelectionSpeed) -> None:
    sizes = itertools.product(settings.simulations, settings.layers, settings.questions)
    rows = [(*map(str, size), *measure(settings, *size)) for size in sizes]
    print("\n".join(table(HEAD, rows)))


def measure(settings: SelectionSpeed, simulations: int, layers: int, questions: int) -> list[str]:
    """Grow a tree for each question; return the cells of a row after its sizes."""
    search = Settings(PRESETS[settings.preset], simulations, settings.leaves, seed=0)
    compiled, start = compilations(), time.process_time()
    trees = TreeSearch(search, [f"q{i}" for i in range(questions)], layers)
    made, leaves, spent = time.process_time() - start, 0, 0.0
    random = random_of(0)
    root = pad_path(identity(layers), search.positions(layers))
    proposals: Proposals | None = Proposals.root(root, questions)
    while proposals is not None:
        verdicts = Verdicts.of_margins(random.normal(-1, 2, proposals.node.shape))
        start = time.process_time()
        trees.update(proposals, verdicts)
        proposals = trees.propose(np.ones(questions, bool))
        spent += time.process_time() - start
        leaves += 0 if proposals is None else int((proposals.node >= 0).sum())
    compiled = compilations() - compiled
    cells = f"{leaves:,}", f"{1000 * spent / leaves:.3f}", f"{made:.2f}"
    return [*cells, str(compiled.count), f"{compiled.seconds:.1f}"]


if __name__ == "__main__":
    main(tyro.cli(SelectionSpeed, description=__doc__))
