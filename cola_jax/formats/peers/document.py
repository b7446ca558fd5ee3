"""Files written elsewhere: JSON and YAML, read field by field, so that errors name the place."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Any

from cola_jax import files
from cola_jax.errors import InputError, reading, shown

Path = tuple[int, ...]
MOST_PATHS = 1_000_000  # of a file
MOST_LAYERS = 10_000  # of a path, whatever the model


@dataclasses.dataclass(frozen=True)
class Field:
    """A value of a file and its place, such as `samples[3].question`."""

    file: FilePath
    place: str
    value: Any

    def error(self, rule: str) -> InputError:
        """Returns the error that this value breaks a rule."""
        return InputError(f"{self.file}: {self.place or 'the file'} is {shown(self.value)}: {rule}")

    def child(self, name: str | int) -> "Field":
        """Returns what a mapping or list holds under a name or index that it has."""
        if isinstance(name, int):
            place = f"{self.place}[{name}]"
        elif name.isidentifier():
            place = f"{self.place}.{name[:80]}" if self.place else name[:80]
        else:
            place = f"{self.place}[{shown(name)}]"
        return Field(self.file, place, self.value[name])

    def has(self, name: str) -> bool:
        """Whether this is a mapping that has a name."""
        return isinstance(self.value, dict) and name in self.value

    def get(self, name: str) -> "Field | None":
        """Returns what a mapping holds under a name, None where that is nothing or null."""
        return self.child(name) if self.mapping().get(name) is not None else None

    def require(self, name: str) -> "Field":
        """Returns what a mapping holds under a name; ValueError where it holds nothing."""
        found = self.get(name)
        if found is None:
            raise self.error(f"it has no {name!r}.")
        return found

    def mapping(self) -> dict[str, Any]:
        """Returns the value where it is a mapping; ValueError for others."""
        if not isinstance(self.value, dict):
            raise self.error("a mapping belongs here.")
        return self.value

    def items(self) -> Iterator["Field"]:
        """Iterates over the entries of a list; ValueError for other values."""
        return (self.child(index) for index in range(self.size()))

    def size(self) -> int:
        """Counts the entries of a list; ValueError for other values."""
        if not isinstance(self.value, list):
            raise self.error("a list belongs here.")
        return len(self.value)

    def text(self) -> str:
        """Returns the value where it is text; ValueError for others."""
        if not isinstance(self.value, str):
            raise self.error("text belongs here.")
        return self.value

    def integer(self) -> int:
        """Returns the value where it is an integer from 0 up; ValueError for others, also true."""
        if type(self.value) is not int or self.value < 0:
            raise self.error("an integer from 0 up belongs here.")
        return self.value

    def right(self) -> bool:
        """Returns whether a score from 0 to 1 is 1, or a boolean true; ValueError for others."""
        if not isinstance(self.value, int | float) or not 0 <= self.value <= 1:
            raise self.error("a score from 0 to 1 belongs here.")
        return self.value == 1

    def label(self) -> str:
        """Returns an answer, text or a number, as text; ValueError for other values."""
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            return shown(self.value)
        return self.text()

    def path(self) -> Path:
        """Returns a list of layer ids as a path; ValueError for other values and an empty list."""
        if not 0 < self.size() <= MOST_LAYERS:
            raise self.error(f"a path has 1 to {MOST_LAYERS} layers, this one has {self.size()}.")
        if all(type(layer) is int and layer >= 0 for layer in self.value):
            return tuple(self.value)
        return tuple(layer.integer() for layer in self.items())  # names the one that is not

    def paths(self) -> list[Path]:
        """Returns a list of paths, each once; ValueError for other values, or too many."""
        check_count(self.file, self.size())
        return list(dict.fromkeys(entry.path() for entry in self.items()))


def parse_json(file: FilePath, text: str) -> Field:
    """Parse the JSON `text` of a file, which may have NaN."""
    with reading(file):
        return Field(file, "", json.loads(text))


def parse_yaml(file: FilePath, text: str) -> Field:
    """Parses the YAML `text` of a file; ValueError where it cannot be read."""
    return Field(file, "", files.parse_yaml(text, file))


def check_count(file: FilePath, paths: int) -> None:
    """Raises ValueError for more paths than a file may hold."""
    if paths > MOST_PATHS:
        raise InputError(
            f"{file} has more than {MOST_PATHS} paths (at least {paths}): split the file."
        )


def check_layers(field: Field, largest: int, num_layers: int) -> None:
    """Raises ValueError where the largest layer id of a file, in `field`, is not of the model."""
    if largest >= num_layers:
        raise field.error(
            f"the largest layer id of the file is {largest}, but the model has layers "
            f"0..{num_layers - 1}: these paths are of a model of at least {largest + 1} layers."
        )
