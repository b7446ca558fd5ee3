"""Parts of messages: the errors of other libraries, near names, and plurals."""

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any


def first_line(error: Exception) -> str:
    """Returns the first line of an error's text, or its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")


def shown(value: Any) -> str:
    """Writes a value for an error message: short, however large or deep it is."""
    short = reprlib.Repr()
    short.maxlevel, short.maxstring, short.maxother = 2, 80, 80
    try:
        return short.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "a huge number"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the most similar of the known names, or the shortest that begins with this one.

    Case, hyphens and underscores do not matter. None where no name is similar.
    """
    forms: dict[str, str] = {}
    for one in known:
        forms.setdefault(plain(one), one)
    begin = sorted((form for form in forms if form.startswith(plain(name))), key=len)
    near = begin[:1] if plain(name) else []
    near = near or difflib.get_close_matches(plain(name), forms, 1)
    return forms[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns a hint at the most similar of the known names, to append; "" where there is none."""
    near = nearest(name, known)
    return f" (did you mean {near}?)" if near else ""


def plain(name: str) -> str:
    """Returns a name without what people write differently."""
    return name.strip().lower().lstrip("-").replace("_", "-")


def count(number: int, noun: str) -> str:
    """Writes a number of things, such as 1 model or 2 models."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
