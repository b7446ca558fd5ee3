"""Sums made up on the spot: five levels of difficulty, exact answers, as many as there are.

For models too small for GSM8K. A question is a pure function of (seed, level, index), the same on
every machine and under every version of Python, and the first so many are the first of any more.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator

from cola_jax.question import Question, open_question

LEVELS = range(1, 6)


@dataclasses.dataclass(frozen=True)
class Level:
    """The pairs of numbers that a level combines; no result is negative."""

    first: range
    second: range
    signs: str

    def count(self, sign: str) -> int:
        """How many distinct questions have that sign."""
        if sign == "-" and self.first == self.second:  # only the larger minus the smaller
            return len(self.first) * (len(self.first) + 1) // 2
        return len(self.first) * len(self.second)

    @property
    def size(self) -> int:
        """How many distinct questions there are."""
        return sum(self.count(sign) for sign in self.signs)

    def question(self, number: int) -> tuple[int, str, int]:
        """Returns the two numbers and the sign of the question with that number, 0..size-1."""
        sign = self.signs[0]
        for sign in self.signs:
            if number < self.count(sign):
                break
            number -= self.count(sign)
        if sign == "-" and self.first == self.second:
            row = (math.isqrt(8 * number + 1) - 1) // 2
            return self.first[row], sign, self.second[number - row * (row + 1) // 2]
        return self.first[number // len(self.second)], sign, self.second[number % len(self.second)]


TABLE = {
    1: Level(range(10), range(10), "+-"),  # one digit
    2: Level(range(13), range(13), "*"),  # the times table up to twelve
    3: Level(range(10, 100), range(1, 10), "+-"),  # two digits and one digit
    4: Level(range(10, 100), range(10, 100), "+-"),  # two digits
    5: Level(range(100, 1000), range(100, 1000), "+-"),  # three digits
}


def arithmetic(
    level: int | None = None, limit: int = 100, seed: int = 0, *, purpose: str = "questions"
) -> list[Question]:
    """Makes questions of one level, or of all five in turn.

    Raises ValueError for a level that does not exist, and for more questions than a level has.
    """
    if level is not None and level not in TABLE:
        raise ValueError(f"the arithmetic task has the levels 1 to 5, not {level}.")
    levels = [level] if level is not None else list(TABLE)
    for i, each in enumerate(levels):
        wanted = max(0, limit - i + len(levels) - 1) // len(levels)
        if wanted > TABLE[each].size:
            raise ValueError(
                f"level {each} of the arithmetic task has {TABLE[each].size} distinct questions, "
                f"but {wanted} are wanted: lower the limit, or take a level of more digits."
            )
    streams = {each: stream(each, f"{purpose} {seed}") for each in levels}
    return [next(streams[levels[i % len(levels)]]) for i in range(limit)]


def stream(level: int, seed: str) -> Iterator[Question]:
    """Yields every question of a level once, in an order that the seed decides."""
    shape, seen, draw = TABLE[level], set(), 0
    while len(seen) < shape.size:
        digest = hashlib.sha256(f"arithmetic {seed} {level} {draw}".encode()).digest()
        number, draw = int.from_bytes(digest[:8], "little") % shape.size, draw + 1
        if number not in seen:
            seen.add(number)
            yield make(level, number)


def make(level: int, number: int) -> Question:
    """Makes the question of that level and number."""
    a, sign, b = TABLE[level].question(number)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    facts = (("arithmetic_level", str(level)),)
    return open_question(
        f"arithmetic/{level}/{a}{sign}{b}", f"{a} {sign} {b}", str(value), None, facts
    )
