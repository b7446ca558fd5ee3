"""Paths as a command line names them."""

import dataclasses
from pathlib import Path

from cola_jax.edits import random_paths
from cola_jax.path import parse_path


@dataclasses.dataclass(frozen=True)
class PathFlags:
    """Paths given, read from a file, or drawn."""

    paths: tuple[str, ...] = ()
    """Paths such as 0-5,7,7,8-29 or 0-5,(6-7)x2,8-29."""
    paths_file: Path | None = None
    """A file with a path on each line; # starts a comment."""
    random: int = 0
    """Add so many random paths of 1 to 3 edits."""
    seed: int = 0
    """Of the random paths."""
    max_length: int | None = None
    """The longest path allowed, in layers; twice the model's by default."""

    def collect(self, num_layers: int) -> list[tuple[int, ...]]:
        """Reads all paths asked for, each once, in order; ValueError for one that is none."""
        if self.random < 0:
            raise ValueError(f"the number of random paths is at least 0, it is {self.random}.")
        if self.max_length is not None and not (self.paths or self.paths_file or self.random):
            raise ValueError(
                f"a longest path of {self.max_length} layers limits no path: give --paths, "
                "--paths-file or --random."
            )
        paths = [parse_path(text, num_layers, self.max_length) for text in self.paths]
        if self.paths_file is not None:
            for number, line in enumerate(read_lines(self.paths_file), start=1):
                if text := line.split("#")[0].strip():
                    try:
                        paths.append(parse_path(text, num_layers, self.max_length))
                    except ValueError as error:
                        raise ValueError(f"{self.paths_file}:{number}: {error}") from None
        if self.random:
            paths += random_paths(num_layers, self.random, self.seed, max_length=self.max_length)
        return list(dict.fromkeys(paths))


def read_lines(file: Path) -> list[str]:
    """Reads a text file's lines; ValueError where it is not text."""
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}).") from None
