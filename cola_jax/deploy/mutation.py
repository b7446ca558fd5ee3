"""Mutations of a path: layers skipped, run again, or brought back, within a length budget."""

from collections.abc import Callable

import numpy as np

from cola_jax.deploy.settings import Lengths

Path = tuple[int, ...]
LONGEST_BLOCK = 4
MOST = 3  # mutations at a time


def mutate(path: Path, num_layers: int, lengths: Lengths, random: np.random.Generator) -> Path:
    """Applies one to three random mutations to a path, then as many as its length needs.

    Few mutations are likelier than many. A path that is too long skips layers, one at a time, and
    one that is too short gets some back.
    """
    count = min(int(random.geometric(0.5)), MOST)
    for kind in random.integers(len(KINDS), size=count):
        path = KINDS[kind](path, num_layers, random)
    while len(path) > lengths.longest:
        path = skip(path, num_layers, random, longest=1)
    while len(path) < lengths.shortest:
        path = lengthen(path, num_layers, random)
    return path


def skip(
    path: Path, num_layers: int, random: np.random.Generator, longest: int = LONGEST_BLOCK
) -> Path:
    """Skips a block of a path."""
    if len(path) < 2:
        return path
    size = block_size(min(longest, len(path) - 1), random)
    start = int(random.integers(0, len(path) - size + 1))
    return path[:start] + path[start + size :]


def repeat(path: Path, num_layers: int, random: np.random.Generator) -> Path:
    """Runs a block of a path once more."""
    size = block_size(min(LONGEST_BLOCK, len(path)), random)
    start = int(random.integers(0, len(path) - size + 1))
    return path[: start + size] + path[start:]


def block_size(longest: int, random: np.random.Generator) -> int:
    """Draws the layers of a block; small blocks are likelier, since fewer of them do harm."""
    return min(int(random.geometric(0.6)), longest)


def restore(path: Path, num_layers: int, random: np.random.Generator) -> Path:
    """Brings back one layer that a path does not run, in front of the first later one."""
    missing = sorted(set(range(num_layers)) - set(path))
    if not missing:
        return path
    layer = int(random.choice(missing))
    at = next((i for i, other in enumerate(path) if other > layer), len(path))
    return (*path[:at], layer, *path[at:])


def lengthen(path: Path, num_layers: int, random: np.random.Generator) -> Path:
    """Brings back a layer, or runs some again where none is missing."""
    restored = restore(path, num_layers, random)
    return restored if restored != path else repeat(path, num_layers, random)


KINDS: tuple[Callable[[Path, int, np.random.Generator], Path], ...] = (skip, repeat, restore)
