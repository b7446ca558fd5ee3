"""A scan: every block of layers skipped, and repeated once."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from cola_jax.errors import InputError
from cola_jax.path import identity

Kind = Literal["skip", "repeat"]
KINDS: tuple[Kind, ...] = ("skip", "repeat")
Path = tuple[int, ...]


class Block(NamedTuple):
    """Layers start..stop-1, skipped or run a second time after the first."""

    kind: Kind
    start: int
    stop: int

    def path(self, num_layers: int) -> Path:
        """Returns the path of a model with that one change."""
        layers = identity(num_layers)
        after = self.stop if self.kind == "skip" else self.start
        return layers[: self.start if self.kind == "skip" else self.stop] + layers[after:]


def blocks(
    num_layers: int, longest: int | None = None, kinds: Sequence[Kind] = KINDS
) -> list[Block]:
    """Lists all blocks of up to `longest` layers, skips first; the whole model is not skipped.

    Raises ValueError for a longest block outside 1..num_layers.
    """
    longest = num_layers if longest is None else longest
    if not 1 <= longest <= num_layers:
        raise InputError(
            f"blocks of up to {longest} layers cannot be scanned: the model has {num_layers}, so "
            f"give 1 to {num_layers}."
        )
    return [
        Block(kind, start, start + size)
        for kind in KINDS
        if kind in kinds
        for size in range(1, longest + 1)
        for start in range(num_layers - size + 1)
        if kind == "repeat" or size < num_layers
    ]


def scan_paths(
    num_layers: int, longest: int | None = None, kinds: Sequence[Kind] = KINDS
) -> list[Path]:
    """Returns the identity path, and the path of every block."""
    listed = blocks(num_layers, longest, kinds)
    return [identity(num_layers), *(block.path(num_layers) for block in listed)]


def block_of(path: Path, num_layers: int) -> Block:
    """Finds the block of a path that `scan_paths` made, other than the identity path."""
    size = abs(len(path) - num_layers)
    same = next((i for i, layer in enumerate(path) if layer != i), len(path))
    skip = len(path) < num_layers
    return Block("skip", same, same + size) if skip else Block("repeat", same - size, same)
