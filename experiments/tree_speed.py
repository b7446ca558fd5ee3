"""What trees cost without a model: microseconds a leaf, and the seconds that programs compile.

`python -m experiments.tree_speed --out FILE` grows the trees of many searches together, as a search
does on its host; the verdict of a path is a hash of it. Times are CPU seconds of this process, with
all of its threads, so that other programs of the machine change them little.
"""

import csv
import dataclasses
import itertools
import time
import zlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import tyro

from cola_jax.path import LayerPath, identity
from cola_jax.scoring import Verdicts
from cola_jax.strategies.loop import resolve
from cola_jax.strategies.rules import Settings
from cola_jax.strategies.trees import Trees

COLUMNS = ["layers", "searches", "simulations", "grown", "microseconds", "compilation"]


@dataclasses.dataclass
class TreeSpeed:
    """Measure trees of several sizes."""

    out: Path
    """A table (CSV) with a row for each size."""
    preset: str = "cola"
    """The rules of the trees."""
    layers: tuple[int, ...] = (28, 80)
    """Of models."""
    searches: tuple[int, ...] = (64, 256, 1024)
    """Trees that grow together."""
    simulations: tuple[int, ...] = (50, 3200)
    """Leaves of each tree."""
    leaves: int = 16
    """Of a tree in a wave."""
    limit: float = 240.0
    """CPU seconds after which trees end, smaller than they should be."""

    def run(self) -> None:
        """Write and print the rows, those of small trees first."""
        sizes = itertools.product(self.simulations, self.layers, self.searches)
        with self.out.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            for simulations, layers, searches in sizes:
                row = self.measure(layers, searches, simulations)
                table.writerow(row)
                file.flush()
                print(*row, sep="\t", flush=True)

    def measure(self, layers: int, searches: int, simulations: int) -> list[str]:
        """Return the row of a size; the first of two equal waves compiles."""
        settings = Settings(resolve(self.preset), simulations, self.leaves, seed=0)
        first, _ = self.grow(settings, layers, searches, 1)
        second, _ = self.grow(settings, layers, searches, 1)
        watch, leaves = self.grow(settings, layers, searches, simulations)
        sizes = map(str, (layers, searches, simulations, leaves // searches))
        microseconds = 1e6 * watch.seconds / leaves
        return [*sizes, f"{microseconds:.1f}", f"{first.seconds - second.seconds:.1f}"]

    def grow(
        self, settings: Settings, layers: int, searches: int, waves: int
    ) -> tuple["Stopwatch", int]:
        """Grow trees for a number of waves at most; returns the time and the leaves of all."""
        watch = Stopwatch()
        ids = [str(s) for s in range(searches)]
        roots = [verdicts_of([identity(layers)])] * searches
        with watch:
            trees = Trees(settings, layers, ids, roots)
            jax.block_until_ready(trees.trees)
        leaves = 0
        going = [True] * searches
        while any(going) and waves and watch.seconds < self.limit:
            with watch:
                proposed = trees.propose(going)
            going = [bool(row) for row in proposed]
            leaves += sum(map(len, proposed))
            verdicts = [
                verdicts_of([leaf.path for leaf in row]) if row else None for row in proposed
            ]
            with watch:
                trees.take(verdicts)
                jax.block_until_ready(trees.trees)
            waves -= 1
        return watch, leaves


class Stopwatch:
    """CPU seconds within its context, all times of it together."""

    def __init__(self):
        self.seconds = 0.0

    def __enter__(self) -> None:
        self.seconds -= time.process_time()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.process_time()


def verdicts_of(paths: Sequence[LayerPath]) -> Verdicts:
    """Judge paths by a hash: -2 to 2 nats."""
    hashes = np.array([zlib.crc32(bytes(path)) for path in paths])
    return Verdicts.of_margins(hashes / 2**30 - 2)


if __name__ == "__main__":
    tyro.cli(TreeSpeed).run()
