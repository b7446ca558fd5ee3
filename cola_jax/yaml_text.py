"""Parses YAML that comes from elsewhere, so that whatever it is gives one clear error."""

import itertools
import re
from collections.abc import Iterator
from typing import Any

import yaml

from cola_jax.errors import InputError, first_line, shown

LARGEST = 500_000  # characters; the parser is slow, and no merge or file of flags has as many
DEEPEST = 100  # lists and mappings within each other; the parser takes quadratic time in them
NULL = ("", "~", "null", "Null", "NULL")
TRUE = ("true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON")
FALSE = ("false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF")
LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # that in C is not everywhere


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML text.

    Args:
      where: names the file in errors.

    Returns:
      Dictionaries, lists, booleans and None; numbers and dates stay text, as they are written.

    Raises:
      ValueError: for what is not YAML, is nested too deeply or too long to be read, has a name
        twice in one mapping, a tag, or a reference to a list or mapping, of which a few make
        millions.
    """
    if len(text) > LARGEST:
        raise InputError(
            f"{where} has {len(text):,} characters of YAML, but at most {LARGEST:,} are read."
        )
    steps = (1 if bracket in "[{" else -1 for bracket in re.findall(r"[\[\]{}]", text))
    if max(itertools.accumulate(steps), default=0) > DEEPEST:
        raise InputError(f"{where} is nested too deeply to be read.")
    try:
        return Values(where, yaml.parse(text, LOADER)).document()
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not YAML ({problem_of(error)}).") from None
    except OverflowError as error:  # of an escape such as \UFFFFFFFF
        raise InputError(f"{where} is not YAML ({first_line(error)}).") from None


def problem_of(error: yaml.YAMLError) -> str:
    """Returns what is wrong, and in which line."""
    mark = getattr(error, "problem_mark", None)
    line = f" in line {mark.line + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or first_line(error)}{line}"


class Values:
    """Makes values of the events of a parser."""

    def __init__(self, where: str, events: Iterator[Any]):
        self.where, self.events = where, events
        self.texts: dict[str, Any] = {}  # that may be referred to

    def error(self, event: Any, problem: str) -> InputError:
        """Returns the error that something stands in a line."""
        return InputError(f"{self.where}, line {event.start_mark.line + 1}: {problem}.")

    def document(self) -> Any:
        """Returns the value of the only document, None where there is none."""
        next(self.events)
        if isinstance(next(self.events), yaml.StreamEndEvent):
            return None
        value = self.of(next(self.events), 0)
        next(self.events)
        if not isinstance(event := next(self.events), yaml.StreamEndEvent):
            raise self.error(event, "a second document begins: leave it out")
        return value

    def of(self, event: Any, depth: int) -> Any:
        """Returns the value that begins with an event."""
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.texts:
                raise self.error(
                    event, f"*{event.anchor} refers to no text: write out what is meant"
                )
            return self.texts[event.anchor]
        if event.tag is not None:
            raise self.error(event, f"the tag {shown(event.tag)} is not read: leave it out")
        if depth > DEEPEST:
            raise InputError(f"{self.where} is nested too deeply to be read.")
        if isinstance(event, yaml.SequenceStartEvent):
            return list(self.entries(depth))
        if isinstance(event, yaml.MappingStartEvent):
            return self.mapping(depth)
        value = scalar(event)
        if event.anchor is not None:
            self.texts[event.anchor] = value
        return value

    def entries(self, depth: int) -> Iterator[Any]:
        """Yields the entries of a list."""
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            yield self.of(event, depth + 1)

    def mapping(self, depth: int) -> dict[str, Any]:
        """Returns a mapping, whose names are text whatever they are."""
        values: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise self.error(event, "a name belongs before the colon, and nothing else")
            if event.value in values:
                raise self.error(event, f"{shown(event.value)} is given twice: give it once")
            values[event.value] = self.of(next(self.events), depth + 1)
        return values


def scalar(event: yaml.ScalarEvent) -> str | bool | None:
    """Returns the value of a text, which in quotes is nothing else."""
    text, plain = event.value, event.implicit[0]
    if plain and text in NULL:
        return None
    return text in TRUE if plain and text in (*TRUE, *FALSE) else text
