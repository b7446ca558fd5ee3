"""`FeatureCache`: features of examples in part files, computed once."""

import io
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from cola_jax.deploy.array_file import open_array
from cola_jax.errors import InputError
from cola_jax.files import write_whole

REPAIR = "remove it, and it is computed again"


class FeatureCache:
    """Rows [A, ...] of float16 in part files of a folder; A may differ between parts."""

    def __init__(self, directory: epath.Path, parts: Sequence[np.ndarray]):
        """Takes the rows that each part holds; together they are 0..N-1."""
        self.directory, self.parts = directory, parts
        count = sum(map(len, parts))
        self.place = np.zeros((count, 2), np.int64)  # the part of each row, and where in it
        for number, rows in enumerate(parts):
            self.place[rows] = [(number, i) for i in range(len(rows))]
        self.arrays: list[np.ndarray] = []

    def fill(self, compute: Callable[[np.ndarray], np.ndarray]) -> None:
        """Computes the parts that are not there, and opens all of them."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for number, rows in enumerate(self.parts):
            file = self.directory / f"part-{number:05d}.npy"
            if not file.exists():
                content = io.BytesIO()
                np.save(content, compute(rows).astype(np.float16))
                write_whole(file, content.getvalue())
            array = open_array(file, REPAIR)
            if array.dtype != np.float16 or array.ndim < 2 or len(array) != len(rows):
                raise InputError(f"{file} has other features than those of its part: {REPAIR}.")
            self.arrays.append(array)

    @property
    def longest(self) -> int:
        """The largest A."""
        return max(array.shape[1] for array in self.arrays)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns rows [B, A, ...], padded with 0 to the largest A."""
        out = np.zeros((len(rows), self.longest, *self.arrays[0].shape[2:]), np.float16)
        for b, (number, i) in enumerate(self.place[rows].tolist()):
            row = self.arrays[number][i]
            out[b, : len(row)] = row
        return out
