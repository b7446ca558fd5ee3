"""`Searched`: a question, its answer, and the paths on which a model was right or wrong."""

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from pathlib import Path as FilePath

from cola_jax.errors import InputError
from cola_jax.formats.peers.document import Field, Path, check_count


@dataclasses.dataclass(frozen=True)
class Searched:
    """What a search found out about one question."""

    question: str
    gold: str  # its correct answer: a letter of the options in the question, or text
    correct_paths: tuple[Path, ...]
    wrong_paths: tuple[Path, ...]
    baseline_right: bool | None  # of the pretrained model; None where it is not known

    @property
    def paths(self) -> tuple[Path, ...]:
        """All paths, the correct ones first."""
        return self.correct_paths + self.wrong_paths


def shortest_first(paths: Iterable[Path]) -> list[Path]:
    """Sorts paths by length, then by number of different layers, as Dr.LLM does."""
    return sorted(paths, key=lambda path: (len(path), len(set(path))))


def check_searched(
    file: FilePath, searched: Sequence[Searched], recorded: Field | None, num_layers: int | None
) -> None:
    """Raises ValueError where a file has too many paths, or is of a model of other layers.

    Args:
      recorded: the number of layers that the file names, if it does.
      num_layers: of the model that the paths are for; None where any will do.
    """
    check_count(file, sum(len(one.paths) for one in searched))
    if recorded is not None:
        layers = recorded.integer()
        if num_layers is not None and layers != num_layers:
            raise recorded.error(f"but the model has {num_layers} layers.")
        num_layers = layers
    if num_layers is None:
        return
    largest, number = max(
        ((max(map(max, one.paths)), n) for n, one in enumerate(searched, 1) if one.paths),
        key=operator.itemgetter(0),  # the first of the questions that have it
        default=(0, 0),
    )
    if largest >= num_layers:
        raise InputError(
            f"{file}: question {number} has a path of layer {largest}, the largest id of the "
            f"file, but the model has layers 0..{num_layers - 1}: these paths are of a model of "
            f"at least {largest + 1} layers."
        )
