"""Generated arithmetic in five levels of difficulty, for models too small for GSM8K.

A question is a pure function of seed, level and index: the same on every machine, and independent
of how many are generated.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from cola_jax.errors import InputError
from cola_jax.question import Question, open_question, stable_hash

DEFAULT_LIMIT = 100  # questions


class Level(NamedTuple):
    """The operands and signs of a level; no result is negative."""

    first: range
    second: range
    signs: str

    def count(self, sign: str) -> int:
        """Count the distinct questions with a sign."""
        if sign == "-" and self.first == self.second:  # the smaller is subtracted from the larger
            return len(self.first) * (len(self.first) + 1) // 2
        return len(self.first) * len(self.second)

    @property
    def size(self) -> int:
        """The number of distinct questions."""
        return sum(map(self.count, self.signs))

    def question(self, number: int) -> tuple[int, str, int]:
        """Return the operands and the sign of question `number`, 0..size-1."""
        sign = self.signs[0]
        if number >= self.count(sign):
            number = number - self.count(sign)
            sign = self.signs[1]
        if sign == "-" and self.first == self.second:
            row = (math.isqrt(8 * number + 1) - 1) // 2
            return self.first[row], sign, self.second[number - row * (row + 1) // 2]
        return self.first[number // len(self.second)], sign, self.second[number % len(self.second)]


TABLE = {
    1: Level(range(10), range(10), "+-"),  # one digit
    2: Level(range(13), range(13), "*"),  # times table up to twelve
    3: Level(range(10, 100), range(1, 10), "+-"),  # two digits and one digit
    4: Level(range(10, 100), range(10, 100), "+-"),  # two digits
    5: Level(range(100, 1000), range(100, 1000), "+-"),  # three digits
}


def arithmetic(
    level: int | None = None,
    limit: int = DEFAULT_LIMIT,
    seed: int = 0,
    *,
    purpose: str = "questions",
) -> list[Question]:
    """Generate distinct questions of one level, or of all five interleaved, as long as they last.

    `purpose` selects a stream: questions and shots have their own. Raises InputError for an unknown
    level.
    """
    if level not in (None, *TABLE):
        raise InputError(f"level must be 1 to 5 for the arithmetic task, got {level}.")
    levels = TABLE if level is None else [level]
    streams = [stream(each, f"{purpose} {seed}") for each in levels]
    in_turn = itertools.chain.from_iterable(itertools.zip_longest(*streams))
    return list(itertools.islice(filter(None, in_turn), max(0, limit)))


def stream(level: int, seed: str) -> Iterator[Question]:
    """Yield every question of a level once, in an order determined by the seed."""
    size = TABLE[level].size
    seen = set()
    draw = 0
    while len(seen) < size:
        number = stable_hash(f"arithmetic {seed} {level} {draw}") % size
        draw += 1
        if number not in seen:
            seen.add(number)
            yield make_question(level, number)


def make_question(level: int, number: int) -> Question:
    """Make question `number` of a level."""
    a, sign, b = TABLE[level].question(number)
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    metadata = (("arithmetic_level", str(level)),)
    return open_question(
        f"arithmetic/{level}/{a}{sign}{b}", f"{a} {sign} {b}", str(value), metadata=metadata
    )
