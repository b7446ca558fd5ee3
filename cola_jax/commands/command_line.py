"""The command line before it is parsed: other tools' names of flags, and files of flags."""

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from tyro.conf import OmitArgPrefixes

CONFIG = "--config"
OMITS = getattr(OmitArgPrefixes[int], "__metadata__")  # noqa: B009 - what tyro marks a field with
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


def prepare(arguments: Sequence[str], commands: Mapping[str, type]) -> list[str]:
    """Returns a command line in our own names, with the flags of its --config file first.

    Raises ValueError for a command that there is not, and for an unfit file.
    """
    if not arguments or arguments[0].startswith("-"):
        return list(arguments) or ["--help"]
    name, *given = arguments
    if name not in commands:
        near = difflib.get_close_matches(name, commands, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ValueError(
            f"there is no command {name!r}: {hint}The commands are {', '.join(commands)}."
        )
    own = set(flags_of(commands[name]))
    given = [rename(argument, own) for argument in given]
    given, file = take_config(given)
    return [name, *(read_config(file, own) if file else ()), *given]


def rename(argument: str, own: set[str]) -> str:
    """Returns a flag by our name, where the command has none of that name itself."""
    flag, equals, value = argument.partition("=")
    name = flag.replace("_", "-")
    if flag.startswith("--") and name not in own and SYNONYMS.get(name) in own:
        return f"{SYNONYMS[name]}{equals}{value}"
    return argument


def take_config(given: list[str]) -> tuple[list[str], str | None]:
    """Takes --config FILE out of a command line."""
    for place, argument in enumerate(given):
        if argument.startswith(f"{CONFIG}="):
            return given[:place] + given[place + 1 :], argument.removeprefix(f"{CONFIG}=")
        if argument == CONFIG:
            if place + 1 == len(given):
                raise ValueError(f"{CONFIG} needs a file.")
            return given[:place] + given[place + 2 :], given[place + 1]
    return given, None


def read_config(file: str, own: set[str]) -> Iterator[str]:
    """Reads a YAML file of flags as a command line has them.

    Raises ValueError for a file that is missing or holds anything else, and for a flag that the
    command does not have, with the nearest that it has.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file} must map names of flags to values, such as limit: 100.")
    for key, value in flatten(values):
        flag = rename(f"--{str(key).replace('_', '-')}", own)
        if flag not in own and f"{flag.partition('.')[0]}.*" not in own:
            near = difflib.get_close_matches(flag, own, 1)
            hint = f" (did you mean {near[0].removeprefix('--')}?)" if near else ""
            raise ValueError(f"{file}: the command has no flag {key}{hint}.")
        yield from as_arguments(flag, value, file)


def flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the values of nested mappings under their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def as_arguments(flag: str, value: Any, file: str) -> Iterator[str]:
    """Yields a flag and its value as a command line has them."""
    if value is None or value == []:
        return
    if isinstance(value, bool):
        yield flag if value else f"--no-{flag.removeprefix('--')}"
        return
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | int | float) and type(one) is not bool for one in values):
        raise ValueError(f"{file}: {flag.removeprefix('--')} has the unfit value {value!r}.")
    yield flag
    yield from map(str, values)


def flags_of(command: type, prefix: str = "") -> Iterator[str]:
    """Yields the flags of a command, as they are written.

    Those below a field whose default decides its type, as a preset does, are written with a star.
    """
    for field, kind in get_type_hints(command, include_extras=True).items():
        if dataclasses.is_dataclass(getattr(command, field, None)):
            yield f"--{prefix}{field}.*"
            continue
        metadata = getattr(kind, "__metadata__", ())
        inner = getattr(kind, "__origin__", kind) if metadata else kind
        name = name_of(field, metadata)
        structs = [one for one in (inner, *getattr(inner, "__args__", ())) if is_struct(one)]
        for struct in structs:
            yield from flags_of(struct, prefix if omits(metadata) else f"{prefix}{name}.")
        if not structs:
            yield f"--{prefix}{name}"


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


def is_struct(kind: Any) -> bool:
    """Whether a type holds flags of its own."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def omits(metadata: Sequence[Any]) -> bool:
    """Whether the flags below a field go without its name."""
    return any(one in metadata for one in OMITS)


def name_of(field: str, metadata: Sequence[Any]) -> str:
    """Returns the name of a field's flag."""
    given = (getattr(one, "name", None) for one in metadata)
    return next((name for name in given if name), field).replace("_", "-")
