"""Checks a command line against the flags of its command, so that one line says what is wrong."""

from collections.abc import Iterable, Sequence

from cola_jax.cli.flag_table import Flag
from cola_jax.errors import InputError, UsageError, did_you_mean, shown
from cola_jax.files import check_local, check_place

PLACES = (  # values that name files or folders, or may do so
    *("MODEL", "TASK", "DIRECTORY", "FILE", "DATASET", "VARIANT"),
    *("SOURCE", "DESTINATION", "RUN_DIRECTORIES"),
)


def check(name: str, arguments: Sequence[str], flags: Iterable[Flag]) -> None:
    """Raises UsageError for unknown flags, unfit and missing values, and what is missing."""
    flags = list(flags)
    known = {spelling: flag for flag in flags for spelling in flag.spellings}
    places = [flag for flag in flags if flag.placed]
    given: set[str] = set()
    left, flag = list(arguments), None
    while left:
        word = left.pop(0)
        spelling, equals, value = word.partition("=")
        if not is_flag(word):
            if not places:
                why = f": {flag.name} takes no value" if flag is not None and flag.switch else ""
                raise UsageError(f"`cola {name}` takes no argument {word!r}{why}.")
            given.add(places[0].name)
            check_value(places[0], word, places[0].name)
            if not places[0].many:
                del places[0]
            continue
        flag = known.get(normal(spelling))
        if flag is None:
            near = did_you_mean(spelling, (one for one in known if one.startswith("--")))
            raise UsageError(f"`cola {name}` has no flag {spelling}{near}.")
        given.add(flag.name)
        take_values(flag, spelling, [value] if equals else None, left)
    missing = [flag.name for flag in flags if flag.required and flag.name not in given]
    if missing:
        raise UsageError(f"`cola {name}` needs {listed(missing)}.")


def take_values(flag: Flag, spelling: str, values: list[str] | None, left: list[str]) -> None:
    """Takes a flag's values off the rest of the command line, and checks them."""
    if flag.switch:
        if values is not None:
            raise UsageError(f"{spelling} takes no value: give {flag.name} or {flag.opposite}.")
        return
    if values is None:
        values = []
        while left and not is_flag(left[0]) and (flag.many or not values):
            values.append(left.pop(0))
    if not values:
        after = f", but {left[0]} follows it" if left else ""
        raise UsageError(f"{spelling} needs a value, {flag.metavar}{after}.")
    for value in values:
        check_value(flag, value, spelling)


def check_value(flag: Flag, value: str, spelling: str) -> None:
    """Raises UsageError for a value that is not one of a flag."""
    try:
        check_text(value)
        for place in places_of(flag, value):
            if flag.metavar in ("MODEL", "SOURCE", "DESTINATION"):
                check_local(place)
            check_place(place)
        flag.read(value)
    except ValueError as error:
        raise UsageError(f"{spelling}: {error}") from None


def places_of(flag: Flag, value: str) -> list[str]:
    """Returns what may be a file or a folder in the value of a flag; tasks have commas between."""
    if flag.metavar not in PLACES:
        return []
    return value.split(",") if flag.metavar == "TASK" else [value]


def check_text(value: str) -> None:
    """Raises ValueError for what no file can be named and no tokenizer reads."""
    if "\0" in value:
        raise InputError("a value cannot have a null character.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError(f"{shown(value)} is not UTF-8 text.") from None


def is_flag(word: str) -> bool:
    """Whether a word of a command line names a flag; negative numbers do not."""
    bare = word.lstrip("-")
    number = bare.lower() in ("inf", "infinity", "nan") and not word.startswith("--")
    return word.startswith("-") and bare[:1].isalpha() and not number


def normal(spelling: str) -> str:
    """Returns a flag with hyphens."""
    return spelling.replace("_", "-") if spelling.startswith("--") else spelling


def listed(names: Sequence[str]) -> str:
    """Writes names as a sentence does."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
