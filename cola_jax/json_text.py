"""Parses JSON that comes from elsewhere, and writes JSON that people read.

Whatever is parsed gives one clear error.
"""

import json
from collections.abc import Callable, Iterable
from typing import Any

from cola_jax.errors import InputError, shown

DIGITS = 19  # of an integer that has 64 bits


def parse_json(text: str | bytes, where: str, *, finite: bool = True) -> Any:
    """Parses JSON text.

    Args:
      text: UTF-8 where it is bytes.
      where: names the file, and the line of one, in errors.
      finite: refuses numbers that JSON does not have (NaN, infinity), integers beyond 64 bits,
        half characters (lone surrogates), which cannot be written again, and names that an object
        gives two values.

    Returns:
      Dictionaries, lists, text, numbers, booleans and None.

    Raises:
      ValueError: for what is not JSON, or is nested too deeply to be read.
    """

    def constant(name: str) -> float:
        raise InputError(f"{where}: {name} is not a number that JSON has: write null.")

    def integer(digits: str) -> int:
        count = len(digits.lstrip("-"))
        if count > DIGITS:
            raise InputError(f"{where}: an integer of {count:,} digits is out of range.")
        return int(digits)

    def number(digits: str) -> float:
        value = float(digits)
        if value in (float("inf"), -float("inf")):
            raise InputError(f"{where}: the number {shown(digits)} is out of range.")
        return value

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            name = next((name for name, value in pairs if value != values[name]), None)
            if name is not None:
                raise InputError(f"{where}: {shown(name)} is given two values: give it one.")
        return values

    hooks: dict[str, Any] = {"parse_constant": constant, "parse_int": integer}
    hooks |= {"parse_float": number, "object_pairs_hook": unique}
    try:
        value = json.loads(text, **(hooks if finite else {}))
    except json.JSONDecodeError as error:
        line = f" in line {error.lineno}" if error.lineno > 1 else ""
        raise InputError(f"{where}: this is not JSON ({error.msg}{line}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: this is not UTF-8 text ({error}).") from None
    except RecursionError:
        raise InputError(f"{where}: this is nested too deeply to be read.") from None
    except ValueError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where} cannot be read as JSON ({error}).") from None
    escaped = "\\u" in text if isinstance(text, str) else b"\\u" in text
    if finite and escaped:
        check_characters(value, where)
    return value


def check_characters(value: Any, where: str) -> None:
    """Raises ValueError for text with half a character, which no tokenizer and no file takes."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: {error.object[error.start]!r} is half a character (a lone surrogate): write "
            "the text as UTF-8."
        ) from None


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parses a JSON object.

    Returns:
      Its values by name.

    Raises:
      ValueError: as `parse_json`, and for other JSON than an object.
    """
    value = parse_json(text, where)
    if not isinstance(value, dict):
        raise InputError(f"{where}: a JSON object belongs here, not {shown(value)}.")
    return value


def readable_json(
    value: Any, *, default: Callable[[Any], Any] | None = None, allow_nan: bool = True
) -> str:
    """Writes JSON with an entry on each line, and each list of integers, as a path, on one line.

    Args:
      value: dictionaries whose keys are text, lists, tuples and what `json.dumps` writes.
      default: converts what JSON does not have.
      allow_nan: ValueError for NaN and infinity where this is False.
    """

    def block(entries: Iterable[str], indent: str) -> str:
        return f"\n{indent}  " + f",\n{indent}  ".join(entries) + f"\n{indent}"

    def write(value: Any, indent: str) -> str:
        inner = f"{indent}  "
        if isinstance(value, dict) and value:
            entries = (f"{encode(name)}: {write(one, inner)}" for name, one in value.items())
            return "{" + block(entries, indent) + "}"
        if isinstance(value, list | tuple) and any(type(one) is not int for one in value):
            return "[" + block((write(one, inner) for one in value), indent) + "]"
        return encode(value)

    encode = json.JSONEncoder(default=default, allow_nan=allow_nan).encode
    return write(value, "")
