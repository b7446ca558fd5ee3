"""Presets: everything that decides which paths a search evaluates, by name."""

import dataclasses
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from cola_jax.execute.evaluator import Workload


@dataclasses.dataclass(frozen=True)
class Preset:
    """The rules of a search; recorded whole with every run.

    A node P is worth Q(P)/v(P) + exploration * sqrt(ln V / v(P)) - length_weight * |P|/L, where v
    are the node's visits and V those of the whole tree (CoLa, section 3).
    """

    exploration: float = 2.0  # c
    length_weight: float = 0.1  # lambda
    length_penalty: float = 0.0  # taken off the reward, times |P|/L
    max_skip: int = 4  # layers in the largest block skipped; 0 turns skips off
    max_repeat: int = 4  # layers in the largest block repeated; 0 turns repeats off
    max_times: int = 4  # extra runs of a repeated block
    max_move: int = 0  # places a layer may move either way; 0 turns moves off
    widening: float = 2.0  # a node has up to widening * sqrt(visits) children
    min_length: float = 0.25  # the shortest path, in multiples of L
    max_length: float = 2.0  # the longest path, in multiples of L

    def __post_init__(self):
        for name in ("max_skip", "max_repeat", "max_times", "max_move"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, it is {getattr(self, name)}.")
        if not (self.max_skip or (self.max_repeat and self.max_times) or self.max_move):
            raise ValueError("a search needs edits: give max_skip, max_repeat or max_move above 0.")
        if not 0 <= self.min_length <= 1 <= self.max_length:
            raise ValueError(
                "min_length must be in 0..1 and max_length at least 1 (both in multiples of L), "
                f"they are {self.min_length} and {self.max_length}."
            )
        if self.widening < 1:
            raise ValueError(f"widening must be at least 1, it is {self.widening}.")
        if self.exploration < 0:
            raise ValueError(f"exploration must be 0 or more, it is {self.exploration}.")

    def lengths(self, num_layers: int) -> tuple[int, int]:
        """Returns the shortest and the longest path allowed, in layers."""
        return max(1, round(self.min_length * num_layers)), int(self.max_length * num_layers)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides a search, beside the model and the questions."""

    preset: Preset
    simulations: int
    leaves: int
    seed: int
    early_stop: bool

    def __post_init__(self):
        if self.simulations < 1 or self.leaves < 1:
            raise ValueError(
                "simulations and leaves must be at least 1, they are "
                f"{self.simulations} and {self.leaves}."
            )

    def positions(self, num_layers: int) -> int:
        """Returns P, the layers of the longest path allowed."""
        return self.preset.lengths(num_layers)[1]

    def workload(self, num_layers: int) -> "Workload":
        """Returns what a batch of questions will be asked to run."""
        from cola_jax.execute.evaluator import Workload

        return Workload(self.leaves, self.positions(num_layers))


# `cola` is the reward, the tree value and the edits of CoLa with the design's c and lambda. The
# paper names neither a rule of expansion nor its cap on length: children widen with the root of
# the visits, an edit's kind is drawn before the edit, and paths have a quarter to twice L layers.
PresetName = Literal["cola"]
PRESETS: dict[str, Preset] = {"cola": Preset()}
