"""`Shard`: the part of a run's questions that one process evaluates."""

import dataclasses
import math
import re

from cola_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Shard:
    """Every `count`-th question, from `index` on."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads `0/4`, the first of four; ValueError for other text."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if not match or int(match[1]) >= int(match[2]):
            raise InputError(f"shard {text!r} is not one of 0/N to N-1/N, such as 0/4.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def prefix(self) -> str:
        """What the names of its part files begin with."""
        return "part-" if self.count == 1 else f"part-{self.index}-of-{self.count}-"

    def overlaps(self, other: "Shard") -> bool:
        """Whether two shards, of the same or of different counts, may share a question."""
        return (self.index - other.index) % math.gcd(self.count, other.count) == 0


WHOLE = Shard(0, 1)
