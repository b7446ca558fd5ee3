"""Checks data that comes from elsewhere against pydantic types, with one line for what is wrong."""

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from cola_jax.errors import InputError, shown

T = TypeVar("T")


def validated(schema: TypeAdapter[T], value: Any, where: str, *, json: bool = False) -> T:
    """Checks a value against a type.

    Args:
      schema: the type.
      value: what is checked; JSON text where `json` says so.
      where: names the file in errors.

    Returns:
      The value as that type.

    Raises:
      ValueError: names the first field that does not fit, its value, and the rule.
    """
    try:
        return schema.validate_json(value) if json else schema.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    rule = first["msg"].removeprefix("Value error, ").rstrip(".")
    got = "" if first["type"] in ("missing", "value_error") else f", got {shown(first['input'])}"
    raise InputError(f"{where}: {f'{place}: ' if place else ''}{rule}{got}.")
