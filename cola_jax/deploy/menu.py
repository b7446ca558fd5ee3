"""A menu: a few paths that serve every question, and which of them serves which question best."""

from collections.abc import Sequence

import numpy as np

Path = tuple[int, ...]


def greedy_cover(right: np.ndarray, lengths: Sequence[int], size: int) -> list[int]:
    """Chooses paths that answer as many questions as possible between them.

    Each step adds the path that is right on most questions on which no chosen path is; of equal
    ones that which is right on more questions, then the shorter. Paths that add nothing are left
    out.

    Args:
      right: [n, C], whether a path answers a question; the first path, the identity, is chosen.
      lengths: of the paths, in layers.
      size: the most paths to choose.

    Returns:
      The indices of the chosen paths, in order.
    """
    chosen, covered = [0], right[:, 0].copy()
    while len(chosen) < size:
        gain = (right & ~covered[:, None]).sum(axis=0)
        best = max(
            (i for i in range(right.shape[1]) if i not in chosen),
            key=lambda i: (gain[i], right[:, i].sum(), -lengths[i]),
            default=None,
        )
        if best is None or not gain[best]:
            break
        chosen.append(best)
        covered |= right[:, best]
    return chosen


def prefix_layers(paths: Sequence[Path]) -> int:
    """Returns the layers that run when paths share the states of their common prefixes."""
    return len({path[: n + 1] for path in paths for n in range(len(path))})
