"""`Kind`: a kind of file that users give, how it is damaged, and what a command reads of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

from cola_jax.errors import InputError

LONGEST_MESSAGE = 1000


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file; its mutations depend on a seed alone."""

    mutate: Callable[[int], Any]  # returns what the files hold
    read: Callable[[Any], object]  # writes and reads them, as a command does
    names: str = ""  # what the message of a refusal has to say, such as the name of the file
    quick: int = 50  # examples in the test suite

    def try_seed(self, seed: int) -> str | None:
        """Reads the mutation of a seed; returns the message of the refusal, None without one."""
        content = self.mutate(seed)
        return outcome(lambda: self.read(content), self.names)


def outcome(read: Callable[[], object], names: str = "") -> str | None:
    """Returns the one clear line with which a function refuses its files, None where it does not.

    Anything else than such a line fails.
    """
    try:
        read()
        return None
    except (InputError, OSError) as error:
        line = str(error)
    assert line, "no message"
    assert line.isprintable(), repr(line)
    assert len(line) < LONGEST_MESSAGE, line
    assert names in line, line
    return line
