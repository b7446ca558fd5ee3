"""What a search takes of a machine's memory, so that one that cannot fit is refused at once."""

import math

from cola_jax.errors import InputError
from cola_jax.execute.memory import capacity, format_bytes
from cola_jax.strategies.rules import Settings, TreeRules

EDIT = 64  # bytes of an edit: four integers, and what says whether it fits
LAYER = 12  # bytes of a layer of an edited path, while all edits of a node are looked at
NODE = 64  # bytes of a node, beside its path


def check_memory(settings: Settings, num_layers: int, searches: int, budget: int) -> None:
    """Raises ValueError where searches that run together need more than `budget` bytes.

    The message names the flag to lower, and the largest value that fits.
    """
    positions = settings.positions(num_layers)
    if isinstance(settings.preset, TreeRules):
        searches = capacity(searches)  # with those that round up the batch
    edits, needed = edits_at(settings, positions), bytes_of_edits(settings, positions)
    if searches * needed > budget:
        each = budget / searches
        if isinstance(settings.preset, TreeRules):
            largest = int(math.sqrt(each / (LAYER * edits)))
        else:
            largest = int(each / (EDIT * edits))
        raise InputError(
            f"--rules.max-length {settings.preset.max_length:g} allows paths of {positions:,} "
            f"layers, and {searches} searches together would take "
            f"{format_bytes(searches * needed)} for their edits, of {format_bytes(budget)}: give "
            f"at most {math.floor(100 * largest / num_layers) / 100:g}, or a smaller --batch-size."
        )
    node = 4 * positions + NODE
    for name, count in (("simulations", settings.simulations), ("leaves", settings.leaves)):
        if searches * (count + 1) * node > budget:
            raise InputError(
                f"--{name} {count:,} would take {format_bytes(searches * (count + 1) * node)} for "
                f"the paths of {searches} searches together, of {format_bytes(budget)}: give at "
                f"most {max(1, budget // (searches * node) - 1):,}, or a smaller --batch-size."
            )


def edits_at(settings: Settings, positions: int) -> int:
    """Returns how many edits there are at each position of a path of so many layers."""
    rules = settings.preset
    sizes = rules.largest_skip, rules.max_repeat, rules.max_times, rules.max_move
    skip, repeat, times, move = (min(size, positions) for size in sizes)
    return max(1, skip + repeat * times + 2 * move * min(rules.max_move_block, positions))


def bytes_of_edits(settings: Settings, positions: int) -> int:
    """Returns the bytes that all edits of a path of so many layers take."""
    edits = edits_at(settings, positions) * positions
    tree = isinstance(settings.preset, TreeRules)
    return edits * (LAYER * positions if tree else EDIT)
