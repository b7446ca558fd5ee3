"""The memory of the host that searches take: those that cannot fit are refused before they run."""

from cola_jax.errors import InputError
from cola_jax.execute.memory import capacity, format_bytes
from cola_jax.strategies.rules import Settings, TreeRules

EDIT = 64  # bytes of an edit: four integers, and whether it fits
LAYER = 12  # bytes of a layer of an edited path, while all edits of a node are looked at
NODE = 64  # bytes of a node, beside its path


def check_memory(settings: Settings, num_layers: int, searches: int, budget: int) -> None:
    """Raise InputError that names the flag for which searches together need more than `budget`."""
    rules, positions = settings.preset, settings.positions(num_layers)
    tree = isinstance(rules, TreeRules)
    sizes = rules.largest_skip, rules.max_repeat, rules.max_times, rules.max_move
    skip, repeat, times, move = (min(size, positions) for size in sizes)
    edits = skip + repeat * times + 2 * move * min(rules.max_move_block, positions)
    searches = capacity(searches) if tree else searches  # with those that round up the batch
    node = 4 * positions + NODE
    needed = {
        f"--rules.max-length {rules.max_length:g}": (
            edits * positions * (LAYER * positions if tree else EDIT)
        ),
        f"--simulations {settings.simulations:,}": (settings.simulations + 1) * node,
        f"--leaves {settings.leaves:,}": (settings.leaves + 1) * node,
    }
    for flag, size in needed.items():
        if searches * size > budget:
            raise InputError(
                f"{flag} makes {searches} searches together take {format_bytes(searches * size)}, "
                f"of {format_bytes(budget)}: lower it, or give a smaller --batch-size."
            )
