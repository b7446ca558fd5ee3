"""Edits of paths: skip, repeat and move a block of layers; tables of edits, random paths."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from cola_jax.errors import InputError
from cola_jax.identity import random_of
from cola_jax.path import STOP, Ids, identity

Scalar = Int[ArrayLike, ""]

# The edits. Each maps output positions to input positions, so one gather makes the new path; all
# take one padded path [P] and scalars, and vmap. What falls beyond P is cut: see `edits_fit`.


def skip(path: Int[Array, " P"], start: Scalar, k: Scalar) -> Int[Array, " P"]:
    """Remove the block of k layers at position `start`."""
    p = jnp.arange(path.shape[0])
    return gather(path, jnp.where(p < start, p, p + k))


def repeat(path: Int[Array, " P"], start: Scalar, k: Scalar, r: Scalar) -> Int[Array, " P"]:
    """Run the block of k layers at position `start` r extra times."""
    p = jnp.arange(path.shape[0])
    inside = start + (p - start) % k
    source = jnp.where(p < start + k * (r + 1), inside, p - k * r)
    return gather(path, jnp.where(p < start, p, source))


def move(path: Int[Array, " P"], start: Scalar, k: Scalar, s: Scalar) -> Int[Array, " P"]:
    """Move the block of k layers at position `start` by s places, later for s > 0."""
    p = jnp.arange(path.shape[0])
    target = start + s
    moved = (p >= target) & (p < target + k)
    passed_later = (p >= start) & (p < target)  # these slide back by k to make room
    passed_earlier = (p >= target + k) & (p < start + k)
    source = jnp.where(passed_later, p + k, jnp.where(passed_earlier, p - k, p))
    return gather(path, jnp.where(moved, p - s, source))


def gather(path: Int[Array, " P"], source: Int[Array, " P"]) -> Int[Array, " P"]:
    """Take the layers at `source`, STOP where it points outside."""
    inside = (source >= 0) & (source < path.shape[0])
    return jnp.where(inside, path[jnp.clip(source, 0, path.shape[0] - 1)], STOP)


MOST_KNOWN = 1000  # random paths in a row
SKIP, REPEAT, MOVE = 0, 1, 2
KINDS = ("skip", "repeat", "move")


class Edit(NamedTuple):
    """One edit, or arrays of them: what, at which position, how many layers, and how much.

    `amount` is r for a repeat, s for a move and 0 for a skip.
    """

    kind: Int[Array, "*A"]
    start: Int[Array, "*A"]
    k: Int[Array, "*A"]
    amount: Int[Array, "*A"]


def edit_table(
    positions: int,
    skip: int = 4,
    repeat: int = 4,
    times: int = 4,
    move: int = 0,
    move_block: int = 1,
) -> Edit:
    """List every edit of a path padded to `positions`, as numpy arrays [A].

    Blocks skipped are of 1..skip layers, blocks repeated of 1..repeat layers with 1..times extra
    runs, blocks moved of 1..move_block layers by 1..move places either way; 0 leaves a kind out.
    """
    # larger ones fit in no path
    skip, repeat, times, move, move_block = (
        min(size, positions) for size in (skip, repeat, times, move, move_block)
    )
    shapes = [(SKIP, k, 0) for k in range(1, skip + 1)]
    shapes += [(REPEAT, k, r) for k in range(1, repeat + 1) for r in range(1, times + 1)]
    places = [s for s in range(-move, move + 1) if s]
    shapes += [(MOVE, k, s) for k in range(1, move_block + 1) for s in places]
    if not shapes:
        raise InputError("no edit is allowed: give skip, repeat (with times) or move above 0.")
    rows = np.array(
        [(kind, start, k, amount) for kind, k, amount in shapes for start in range(positions)],
        np.int32,
    )
    return Edit(*rows.T)


def apply_edit(path: Int[Array, " P"], edit: Edit) -> Int[Array, " P"]:
    """Apply one edit (scalars) to one padded path."""
    kind, start, k, amount = edit
    edits = [
        skip(path, start, k),
        repeat(path, start, k, amount),
        move(path, start, k, amount),
    ]
    return jnp.select([kind == SKIP, kind == REPEAT], edits[:2], edits[2])


def edited(path: tuple[int, ...], edit: Ids) -> tuple[int, ...]:
    """Apply one edit to one path without padding, as `apply_edit` does to a padded one."""
    kind, start, k, amount = (int(x) for x in edit)
    before, block, after = path[:start], path[start : start + k], path[start + k :]
    if kind == SKIP:
        return before + after
    if kind == REPEAT:
        return before + block * (amount + 1) + after
    rest = before + after
    return rest[: start + amount] + block + rest[start + amount :]


def edits_fit(length: Any, edits: Edit, shortest: Any, longest: Any) -> Any:
    """Say which edits' blocks lie in a path of a length, and whose result is as long as allowed.

    A path that is longer than allowed, such as the identity, may be made shorter. Takes scalars and
    edits [A], of numpy or of JAX; returns booleans [A] of the same.
    """
    kind, start, k, amount = edits
    after = length - k * (kind == SKIP) + k * amount * (kind == REPEAT)
    target = start + amount * (kind == MOVE)
    inside = (start + k <= length) & (target >= 0) & (target + k <= length)
    return inside & (after >= shortest) & ((after <= longest) | (after < length))


def format_edit(edit: Ids) -> str:
    """Write an edit for people: `skip 2 at 5`, `repeat 1 at 7 x2`, `move 1 at 3 by -1`."""
    kind, start, k, amount = (int(x) for x in edit)
    suffix = {SKIP: "", REPEAT: f" x{amount}", MOVE: f" by {amount:+d}"}[kind]
    return f"{KINDS[kind]} {k} at {start}{suffix}"


def random_paths(
    num_layers: int,
    count: int,
    seed: int,
    edits: int = 3,
    max_length: int | None = None,
) -> list[tuple[int, ...]]:
    """Draw distinct paths of 1..edits random edits of the identity, never the identity itself.

    The number of edits, then the kind (skip or repeat), then one fitting edit of that kind are
    drawn evenly. Raises ValueError where so few paths exist that `count` are not found: where a
    thousand in a row were known.
    """
    limit = 2 * num_layers if max_length is None else max_length
    if limit < num_layers or seed < 0:
        raise InputError(
            f"random paths start from all {num_layers} layers, so max_length must be at least "
            f"that, and the seed 0 or more: they are {limit} and {seed}."
        )
    generator = random_of(seed)
    fitting = FittingEdits(edit_table(limit), 1, limit)
    found: dict[tuple[int, ...], None] = {}
    known = 0  # since the last new one
    while len(found) < count and known < MOST_KNOWN:
        path = identity(num_layers)
        for _ in range(generator.integers(1, edits + 1)):
            edit = random_edit(len(path), fitting, generator)
            path = path if edit is None else edited(path, edit)
        known += 1
        if path != identity(num_layers) and path not in found:
            found[path], known = None, 0
    if len(found) < count:
        raise InputError(
            f"only {len(found)} of {count} distinct random paths were found for {num_layers} "
            f"layers with at most {edits} edits: ask for fewer."
        )
    return list(found)


class FittingEdits(dict[int, dict[int, np.ndarray]]):
    """By the length of a path and by kind, the indices of the edits that fit, found when needed."""

    def __init__(self, table: Edit, shortest: int, longest: int):
        """Take all edits [A], and how long a path may become."""
        super().__init__()
        self.table, self.shortest, self.longest = table, shortest, longest

    def __missing__(self, length: int) -> dict[int, np.ndarray]:
        fits = edits_fit(length, self.table, self.shortest, self.longest)
        found = {
            kind: np.flatnonzero(fits & (self.table.kind == kind)) for kind in range(len(KINDS))
        }
        self[length] = {kind: edits for kind, edits in found.items() if len(edits)}
        return self[length]


def random_edit(
    length: int, fitting: FittingEdits, generator: np.random.Generator
) -> np.ndarray | None:
    """Draw one edit [4] that fits a path of a length, the kind first; None where none does."""
    if not fitting[length]:
        return None
    kind = generator.choice(list(fitting[length]))
    chosen = generator.choice(fitting[length][kind])
    return np.array([column[chosen] for column in fitting.table])
