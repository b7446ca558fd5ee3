"""The greedy cover of a menu, and its cost."""

import numpy as np

from cola_jax.deploy.task_menu import greedy_cover, prefix_layers


def test_greedy_cover_begins_with_the_identity() -> None:
    right = np.array(
        [
            [1, 0, 0, 1],
            [0, 1, 0, 0],
            [0, 1, 1, 0],
            [0, 0, 1, 1],
            [0, 0, 1, 1],
        ],
        bool,
    )
    assert greedy_cover(right, [4, 4, 4, 4], 3) == [0, 2, 1]
    assert greedy_cover(right, [4, 4, 4, 4], 2) == [0, 2]
    assert greedy_cover(right, [4, 4, 4, 4], 9) == [0, 2, 1]  # the last adds nothing


def test_greedy_cover_prefers_the_shorter_of_equals() -> None:
    right = np.array([[0, 1, 1], [0, 1, 1]], bool)
    assert greedy_cover(right, [4, 5, 3], 2) == [0, 2]


def test_prefix_layers_counts_shared_layers_once() -> None:
    assert prefix_layers([(0, 1, 2)]) == 3
    assert prefix_layers([(0, 1, 2), (0, 1, 1, 2), (0, 2)]) == 3 + 2 + 1
