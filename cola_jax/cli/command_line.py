"""The command line before it is parsed: other tools' names of flags, and files of flags."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

from cola_jax.cli.flag_table import Flag, name_of, omits
from cola_jax.cli.usage import check_text
from cola_jax.errors import InputError, UsageError, did_you_mean, of_system, printed, shown
from cola_jax.files import check_place, read_text

CONFIG = "--config"
# what users of lm-evaluation-harness, vLLM and Hugging Face call our flags
SYNONYMS = {
    "--apply-chat-template": "--chat",
    "--backend": "--device",
    "--data-parallel-size": "--data",
    "--fewshot": "--num-fewshot",
    "--max-gen-toks": "--max-new-tokens",
    "--max-tokens": "--max-new-tokens",
    "--out": "--output",
    "--output-dir": "--output",
    "--output-path": "--output",
    "--path": "--paths",
    "--paths": "--path",
    "--prompts": "--prompt",
    "--shots": "--num-fewshot",
    "--tasks": "--task",
    "--tensor-parallel-size": "--tensor",
}


class Shared(NamedTuple):
    """The flags that every command takes, beside its own."""

    config: str | None = None
    verbose: bool = False
    quiet: bool = False
    help: bool = False


SWITCHES = {
    "--verbose": "verbose",
    "-v": "verbose",
    "--quiet": "quiet",
    "-q": "quiet",
    "--help": "help",
    "-h": "help",
}


def take_shared(given: Sequence[str]) -> tuple[list[str], Shared]:
    """Takes the flags that every command has out of a command line.

    Raises UsageError for --config without a file, and for both --verbose and --quiet.
    """
    rest: list[str] = []
    found: dict[str, Any] = {}
    words = iter(given)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == CONFIG:
            value = value if equals else next(words, "")
            if not value or value.startswith("--"):
                raise UsageError(f"{CONFIG} needs a file.")
            check_config(value)
            found["config"] = value
        elif word in SWITCHES:
            found[SWITCHES[word]] = True
        else:
            rest.append(word)
    shared = Shared(**found)
    if shared.verbose and shared.quiet:
        raise UsageError("--verbose and --quiet say the opposite: give one.")
    return rest, shared


def check_config(file: str) -> None:
    """Raises UsageError for text that can name no file."""
    try:
        check_text(file)
        check_place(file)
    except ValueError as error:
        raise UsageError(f"{CONFIG}: {error}") from None


def rename(argument: str, own: Collection[str]) -> str:
    """Returns a flag by our name, where the command has none of that name itself."""
    flag, equals, value = argument.partition("=")
    name = flag.replace("_", "-")
    if flag.startswith("--") and name not in own and SYNONYMS.get(name) in own:
        return f"{SYNONYMS[name]}{equals}{value}"
    return argument


def read_config(file: str) -> dict[str, Any]:
    """Reads a YAML file of flags, by their dotted names.

    Raises UsageError for a file that is missing or holds anything else.
    """
    from cola_jax.files import parse_yaml

    try:
        values = parse_yaml(read_text(file), file)
    except InputError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(of_system(error)) from None
    if not isinstance(values, dict):
        raise UsageError(f"{file} must map names of flags to values, such as limit: 100.")
    return dict(flatten(values))


def flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested mappings, empty ones too, under their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_arguments(
    values: Mapping[str, Any], flags: Mapping[str, Flag], file: str, name: str
) -> Iterator[str]:
    """Yields the flags of a file as a command line has them.

    Raises UsageError for a flag that the command does not have, with the nearest that it has, and
    for an unfit value.
    """
    for key, value in values.items():
        spelling = rename(f"--{key.replace('_', '-')}", flags)
        if spelling not in flags:
            near = did_you_mean(key, (one.removeprefix("--") for one in flags))
            raise UsageError(f"{file}: `cola {name}` has no flag {printed(key)}{near}.")
        try:
            yield from words_of(flags[spelling], value)
        except ValueError as error:
            raise UsageError(f"{file}: {printed(key)}: {error}") from None


def words_of(flag: Flag, value: Any) -> Iterator[str]:
    """Yields a flag and its value as a command line has them; ValueError for an unfit value."""
    if value is None or (value == [] and flag.many):
        return
    if flag.switch:
        if not isinstance(value, bool):
            raise InputError(f"{shown(value)} is neither true nor false.")
        yield flag.name if value else flag.opposite
        return
    values = value if isinstance(value, list) and flag.many else [value]
    if unfit := [one for one in values if isinstance(one, bool | list | dict)]:
        raise InputError(f"{shown(unfit[0])} is not a value of it.")
    texts = [str(one) for one in values]
    for text in texts:
        flag.read(text)
    yield from [flag.name, *texts] if flag.many else [f"{flag.name}={texts[0]}"]


def values_of(command: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the flags of a command with their values; those that are None are left out."""
    hints = get_type_hints(type(command), include_extras=True)
    for field in dataclasses.fields(command):
        metadata = getattr(hints[field.name], "__metadata__", ())
        name, value = name_of(field.name, metadata), getattr(command, field.name)
        if dataclasses.is_dataclass(value):
            yield from values_of(value, prefix if omits(metadata) else f"{prefix}{name}.")
        elif value is not None:
            plain = isinstance(value, bool | int | float)
            listed = isinstance(value, tuple)
            yield (
                f"{prefix}{name}",
                value if plain else [str(one) for one in value] if listed else str(value),
            )
