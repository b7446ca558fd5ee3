"""A scan: every block of layers skipped, and repeated once."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from cola_jax.errors import InputError
from cola_jax.path import edited, identity

Kind = Literal["skip", "repeat"]
KINDS: tuple[Kind, ...] = ("skip", "repeat")  # numbered as the edits of paths are
Path = tuple[int, ...]


class Block(NamedTuple):
    """Layers start..stop-1, skipped or run a second time after the first."""

    kind: Kind
    start: int
    stop: int

    def path(self, num_layers: int) -> Path:
        """Return the path of a model with only that change."""
        edit = KINDS.index(self.kind), self.start, self.stop - self.start, 1
        return edited(identity(num_layers), edit)


def blocks(
    num_layers: int, longest: int | None = None, kinds: Sequence[Kind] = KINDS
) -> list[Block]:
    """List all blocks of up to `longest` layers, skips first; the whole model is not skipped.

    Raises InputError for a longest block outside 1..num_layers.
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
    """Return the identity path, and the path of every block."""
    listed = blocks(num_layers, longest, kinds)
    return [identity(num_layers), *(block.path(num_layers) for block in listed)]


def block_of(path: Path, num_layers: int) -> Block:
    """Find the block of a path that `scan_paths` made, other than the identity path."""
    size = abs(len(path) - num_layers)
    same = next((i for i, layer in enumerate(path) if layer != i), len(path))
    skip = len(path) < num_layers
    return Block("skip", same, same + size) if skip else Block("repeat", same - size, same)
