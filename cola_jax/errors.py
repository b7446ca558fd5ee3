"""Errors of the input, and parts of their messages: values, near names, and plurals."""

import contextlib
import difflib
import errno
import inspect
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any

# raised by parsers for files that are not as they expect; AssertionError is ours alone
BUILTIN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
LIBRARIES = {"jinja2", "pyarrow", "pydantic_core", "safetensors", "safetensors_rust", "struct"}
LIBRARIES |= {"yaml", "pyo3_runtime"}  # the PanicException of the last is no Exception
LONGEST = 300  # characters of another library's error that are worth reading
LONGEST_LINE = 2000  # characters of an error in all


class InputError(ValueError):
    """A mistake of the user: `cola` prints its message in one line, without a traceback."""


class Unfinished(Exception):
    """Questions failed again and again; all others are done. Shown in a line, with status 1."""


class UsageError(InputError):
    """A command line that cannot be run; the command ends with status 2."""


@contextlib.contextmanager
def reading(source: str | os.PathLike[str], action: str = "") -> Iterator[None]:
    """Turn errors of parsers in the body into an InputError that names the source.

    `source` is a file or the name of another input, `action` a sentence to append: the next action
    of the user. An InputError of the body gets the name in front, unless it has it.
    """
    name = printed(os.fspath(source), LONGEST)
    end = f". {action}" if action else "."
    try:
        yield
    except InputError as error:
        if name in str(error):
            raise
        raise InputError(f"{name}: {str(error).rstrip('.')}{end}") from error
    except BaseException as error:
        if not is_of_parser(error):
            raise
        raise InputError(f"{name} cannot be read ({reason(error)}){end}") from error


def is_of_parser(error: BaseException) -> bool:
    """Return whether parsers raise such errors for their input.

    Tokenizers raises Exception itself, and Arrow an OSError that is not the system's.
    """
    if type(error) is OSError:
        return error.errno is None
    root = type(error).__module__.partition(".")[0]
    return isinstance(error, BUILTIN) or root in LIBRARIES or type(error) is Exception


def reason(error: Any) -> str:
    """Return the first violation that pydantic found, with its place, or an error's first line."""
    if not callable(getattr(error, "errors", None)):
        return first_line(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    rule = first["msg"].removeprefix("Value error, ").rstrip(".")
    got = "" if first["type"] in ("missing", "value_error") else f", got {shown(first['input'])}"
    return f"{f'{place}: ' if place else ''}{rule}{got}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    text = str(error).strip() or type(error).__name__
    line = text.splitlines()[0].rstrip(". ")
    line = line if line.isprintable() else repr(line)
    return f"{line[:LONGEST]}{'...' * (len(line) > LONGEST)}"


def shown(value: Any) -> str:
    """Write a value for an error message: short, however large or deep it is."""
    short = reprlib.Repr()
    short.maxlevel = 2
    short.maxstring = 80
    short.maxother = 80
    try:
        return short.repr(value).replace("\n", " ")
    except ValueError:  # an integer of more digits than Python writes
        return "a huge number"


def printed(name: str, longest: int = 80) -> str:
    """Write a name for an error message: as it is, unless it is long or has other than text."""
    return name if 0 < len(name) <= longest and name.isprintable() else shown(name)


def one_line(text: str) -> str:
    """Write a message as one line of a terminal, with unprintable characters escaped."""
    if len(text) > LONGEST_LINE:
        half = LONGEST_LINE // 2
        text = f"{text[:half]} ... {text[-half:]}"
    return escaped(text)


def escaped(text: str) -> str:
    """Write the characters of a text that are not printable as Python writes them."""
    return "".join(x if x.isprintable() else ascii(x)[1:-1] for x in text)


def of_system(error: OSError) -> str:
    """Write an error of the operating system, with the file that it is about."""
    file = error.filename2 or error.filename
    if file is None or not error.strerror:
        return str(error)
    next_action = "Give another place, or look at its permissions."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        next_action = "Make room, and start the same command again."
    return f"{printed(os.fspath(file))}: {error.strerror}. {next_action}"


def shorten(names: list[str], limit: int = 4) -> str:
    """Join names, and count those beyond the limit instead of listing them."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" * (len(names) > limit))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the most similar of the known names, or the shortest that begins with this name.

    Case, hyphens and underscores do not matter. None where no name is similar.
    """
    plain = plain_name(name)
    forms = {plain_name(other): other for other in known}
    begin = sorted((form for form in forms if plain and form.startswith(plain)), key=len)
    near = begin or difflib.get_close_matches(plain, forms, 1)
    return forms[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint at the most similar of the known names, to append; "" where there is none."""
    near = nearest(name, known)
    return f" (did you mean {near}?)" if near else ""


def check_keywords(function: Callable, options: Mapping[str, Any], known: type) -> None:
    """Raise InputError for an option of a function that `known`, a TypedDict, does not have."""
    names = {*inspect.signature(function).parameters, *known.__annotations__} - {"options"}
    for name in options.keys() - known.__annotations__.keys():
        raise InputError(f"{function.__name__} has no argument {name}{did_you_mean(name, names)}.")


def check_whole(name: str, value: Any) -> None:
    """Raise InputError where an argument is not a whole number of at least 1."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not is_whole or value < 1:
        rule = "at least 1" if is_whole else "a whole number"
        raise InputError(f"{name} must be {rule}, it is {shown(value)}.")


def plain_name(name: str) -> str:
    """Return a name in one spelling: lower case, hyphens, no leading dashes."""
    return name.strip().lower().lstrip("-").replace("_", "-")


def count(number: int, noun: str) -> str:
    """Write a number of things, such as 1 model or 2 models."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def check_belongs(
    name: str, theirs: Mapping[str, Any], other: str, ours: Mapping[str, Any], action: str
) -> None:
    """Raise InputError where values that both sides have differ, naming each difference.

    Files that are valid by themselves and do not belong together give plausible wrong numbers, so
    each carries what it rests on, such as the digest of a "model", and this is called wherever two
    meet. Under "questions" it has a mapping from ids to digests. None, or no entry, is not known;
    `action` is the next action of the user, a clause in the imperative.
    """
    known = [key for key in theirs if theirs[key] is not None and ours.get(key) is not None]
    differences = (describe_difference(key, theirs[key], ours[key]) for key in known)
    if problems := "; ".join(filter(None, differences)):
        raise InputError(
            f"{name} does not belong to {other}: {problems}. {action[0].upper()}{action[1:]}."
        )


def describe_difference(name: str, theirs: Any, ours: Any) -> str:
    """Describe how two values differ, digests by their beginnings; "" where they do not."""
    if isinstance(theirs, Mapping):
        changed = [shown(key) for key, value in theirs.items() if ours.get(key, value) != value]
        named = shorten(changed, limit=3)
        return f"{len(changed)} of {len(theirs)} {name} have changed ({named})" if changed else ""
    return "" if theirs == ours else f"its {name} is {brief(theirs)}, here it is {brief(ours)}"


def brief(value: Any) -> str:
    """Write a value for a message, a digest as its beginning."""
    text = printed(value) if isinstance(value, str) and value else shown(value)
    return text if len(text) < 32 or not text.isalnum() else text[:12]
