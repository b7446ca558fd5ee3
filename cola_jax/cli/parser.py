"""Command lines and files of flags: flags of dataclasses, their values, and the help by tyro."""

import argparse
import contextlib
import dataclasses
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, PositionalMetavarFromFieldName, Suppress
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from cola_jax.errors import (
    LONGEST,
    InputError,
    UsageError,
    did_you_mean,
    printed,
    reading,
    shown,
)
from cola_jax.files import parse_yaml, read_text

# what users of lm-evaluation-harness, vLLM and Hugging Face call our flags
ALIASES = {
    "--apply-chat-template": "--chat",
    "--backend": "--device",
    "--data-parallel-size": "--data",
    "--fewshot": "--num-fewshot",
    "--max-gen-toks": "--max-new-tokens",
    "--max-tokens": "--max-new-tokens",
    "--no-apply-chat-template": "--no-chat",
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
# set by one user in ten: the help leaves them out, README.md lists them; so are all of --rules.*
RARE = {
    *("candidates", "coordinator", "decoys", "early-stop", "fail-rate-level"),
    *("finalists", "first", "held-out-from", "held-out-seed", "host", "hub", "learning-rate"),
    *("leaves", "max-length", "min-layers", "num-hosts", "offspring", "part", "reads"),
    *("reuse", "robust", "rounds", "rule", "shard", "shots-file", "tile-tokens"),
    *("shots-seed", "split", "state-layer", "task-seed", "tokens", "try-scorer", "validation"),
    *("variants", "wait", "weight-decay"),
}
SHARED = ("config", "verbose", "quiet")  # flags of a start, which are not recorded with a run
POSITIONAL = get_args(Positional[int])[1]  # the note that it leaves on a type
CONFIG = (PositionalMetavarFromFieldName, FlagCreatePairsOff)  # of tyro's help
REGISTRY = ConstructorRegistry()  # tyro's rules for the types of our flags

Place = tuple[str, ...]  # the fields that lead to a flag


class Flag(NamedTuple):
    """A flag, or an argument without a name."""

    name: str  # without hyphens
    spellings: list[str]  # none of an argument without a name
    kind: Any  # its type
    hint: Any  # the same, with tyro's notes
    place: Place
    value: Any  # of the command, or the default; tyro.MISSING where there is none

    @property
    def many(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.kind) is tuple

    def read(self, texts: Any) -> Any:
        """Read the value that is written in texts; InputError where one is unfit."""
        if self.kind is bool:
            return texts
        hint = get_args(self.kind)[0] if self.many else self.hint
        with REGISTRY:
            spec: Any = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(hint, set()))
        values = tuple(spec.instance_from_str([text]) for text in texts)
        return values if self.many else values[0]


def blank(kind: Any) -> Any:
    """Make a command whose required flags are tyro.MISSING."""
    required = {}
    for field in dataclasses.fields(kind):
        if field.default is field.default_factory is dataclasses.MISSING:
            hint = get_type_hints(kind)[field.name]
            required[field.name] = blank(hint) if dataclasses.is_dataclass(hint) else tyro.MISSING
    return kind(**required)


def flags_of(command: Any, prefix: str = "", place: Place = ()) -> Iterator[Flag]:
    """Yield the flags of a command: a dataclass, or an instance with its values."""
    command = blank(command) if isinstance(command, type) else command
    hints = get_type_hints(type(command), include_extras=True)
    for field in dataclasses.fields(command):
        hint, value, at = hints[field.name], getattr(command, field.name), (*place, field.name)
        if dataclasses.is_dataclass(value):
            yield from flags_of(value, "rules." if field.name == "rules" else prefix, at)
            continue
        notes = getattr(hint, "__metadata__", ())
        names = [note.name for note in notes if getattr(note, "name", None)]
        name = prefix + (names or [field.name.replace("_", "-")])[0]
        aliases = [alias for note in notes for alias in getattr(note, "aliases", None) or ()]
        spellings = [] if POSITIONAL in notes else [*aliases, f"--{name}"]
        yield Flag(name, spellings, hint.__origin__ if notes else hint, hint, at, value)


def with_values(command: Any, values: Mapping[Place, Any], place: Place = ()) -> Any:
    """Return a command with other values of its flags."""
    made = {}
    for field in dataclasses.fields(command):
        value, at = getattr(command, field.name), (*place, field.name)
        nested = dataclasses.is_dataclass(value)
        made[field.name] = with_values(value, values, at) if nested else values.get(at, value)
    return type(command)(**made)


def values_of(command: Any) -> dict[str, Any]:
    """Return the flags of a command with their values, as --config reads them, without None."""
    values = {flag.name: flag.value for flag in flags_of(command) if flag.name not in SHARED}
    return {name: yaml_value(value) for name, value in values.items() if value is not None}


def yaml_value(value: Any) -> Any:
    """Return a value as YAML has it."""
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return value if isinstance(value, bool | int | float) else str(value)


def yaml_of(command: Any) -> str:
    """Return the flags of a command as a file for --config."""
    import yaml

    return yaml.safe_dump(values_of(command), sort_keys=False, allow_unicode=True)


class WordParser(argparse.ArgumentParser):
    """An `argparse` parser without defaults and abbreviations, which raises UsageError."""

    def __init__(self, prog: str):
        super().__init__(
            prog, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"`{self.prog}`: {message[:LONGEST]}.")

    def add(self, flag: Flag) -> None:
        """Take a flag, whose texts are kept under its name."""
        if not flag.spellings:
            self.add_argument(flag.name, nargs="*" if flag.many else 1)
        elif flag.kind is bool:
            action = argparse.BooleanOptionalAction
            self.add_argument(*flag.spellings, dest=flag.name, action=action)
        else:
            self.add_argument(*flag.spellings, dest=flag.name, nargs="+" if flag.many else 1)


def read_values(prog: str, flags: Sequence[Flag], words: Iterable[str]) -> dict[Place, Any]:
    """Read the values on a command line; InputError for unknown flags and unfit values."""
    parser, known = WordParser(prog), {f"--no-{f.name}" for f in flags if f.kind is bool}
    for flag in flags:
        parser.add(flag)
        known.update(flag.spellings)
    texts, extra = parser.parse_known_args([rename(word, known) for word in words])
    if extra and extra[0].startswith("-"):
        word = extra[0].partition("=")[0]
        raise UsageError(f"`{prog}` has no flag {printed(word)}{did_you_mean(word, known)}.")
    if extra:
        raise UsageError(f"`{prog}` takes no argument {printed(extra[0])}.")
    values = {}
    for flag in flags:
        if flag.name in texts:
            with reading(f"--{flag.name}"):
                values[flag.place] = flag.read(getattr(texts, flag.name))
    return values


def parse_words(
    command: Any, prog: str, words: Sequence[str], file: str, in_file: Iterable[str]
) -> Any:
    """Make a command of a command line, and of the words of a file where that has none.

    Raises:
      InputError: for unknown flags, unfit values, and flags that are missing.
    """
    flags = list(flags_of(command))
    with reading(file):
        values = read_values(prog, [flag for flag in flags if flag.spellings], in_file)
    command = with_values(command, values | read_values(prog, flags, words))
    if missing := [flag for flag in flags_of(command) if flag.value is tyro.MISSING]:
        names = (flag.spellings[-1] if flag.spellings else flag.name.upper() for flag in missing)
        raise UsageError(f"`{prog}` needs {' and '.join(names)}.")
    return command


def first_values(words: Sequence[str]) -> dict[str, str]:
    """Return the values of --config and --preset, which decide how all words are read."""
    parser = WordParser("cola")
    parser.add_argument("--config")
    parser.add_argument("--preset")
    return vars(parser.parse_known_args(words)[0])


def rename(word: str, known: Collection[str]) -> str:
    """Return a word with hyphens, and by our name of a flag that the command does not have."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--"):
        return word
    flag = flag.replace("_", "-")
    if flag not in known and ALIASES.get(flag) in known:
        flag = ALIASES[flag]
    return f"{flag}{equals}{value}"


def read_flag_file(file: str) -> dict[str, Any]:
    """Read a YAML file of flags, by their dotted names; InputError for anything else."""
    if not Path(file).is_file():
        raise UsageError(f"--config {printed(file)}: there is no such file.")
    with reading(file):
        values = parse_yaml(read_text(file), file)
        if not isinstance(values, dict):
            raise InputError("it must map names of flags to values, such as limit: 100.")
        return dict(flatten(values))


def flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, empty ones too, under their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def words_of(entries: Mapping[str, Any]) -> Iterator[str]:
    """Yield the entries of a file of flags as a command line has them."""
    for key, entry in entries.items():
        if isinstance(entry, bool):
            yield f"--{key}" if entry else f"--no-{key}"
        elif isinstance(entry, list) and len(entry) > 1:
            yield from (f"--{key}", *map(str, entry))
        elif entry is not None and entry != []:  # after =, a value may begin with a hyphen
            yield f"--{key}={entry[0] if isinstance(entry, list) else entry}"


def print_help(name: str, command: type) -> None:
    """Print the help of a command, without rare flags."""
    with contextlib.suppress(SystemExit):
        tyro.cli(command, prog=f"cola {name}", args=["--help"], config=CONFIG, registry=REGISTRY)
    print("\nRarely used flags are listed in cola_jax/cli/README.md; --config takes them as well.")


def read_whole(text: str) -> int:
    """Read a whole number in ASCII digits, below 2**63."""
    if not re.fullmatch(r"[-+]?[0-9]{1,18}", text):
        raise InputError(f"{shown(text)} is not a whole number of at most 18 digits.")
    return int(text)


def read_float(text: str) -> float:
    """Read a finite number in ASCII digits."""
    if not re.fullmatch(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,2})?", text):
        raise InputError(f"{shown(text)} is not a number such as 0.5 or 1e-3.")
    return float(text)


def reader(read: Callable[[str], Any], metavar: str, choices: Any = None) -> Any:
    """Tell tyro how a value is read and named; None is written as auto."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, str | int | float),
        str_from_instance=lambda value: ["auto" if value is None else str(value)],
        choices=choices,
    )


def choice(choices: Iterable[str]) -> Any:
    """Tell tyro that a value is one of these names."""
    names = tuple(choices)

    def read(text: str) -> str:
        if text not in names:
            near = did_you_mean(text, names)
            raise InputError(f"{shown(text)} is not one of {', '.join(names)}{near}.")
        return text

    return reader(read, "|".join(names), names)


READERS = {
    str: reader(str, "TEXT"),
    Path: reader(Path, "FILE"),
    int: reader(read_whole, "N"),
    float: reader(read_float, "NUMBER"),
}


@REGISTRY.primitive_rule
def read_primitive(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Read numbers and choices, also those that may be None, as people write them."""
    kind = info.type
    if get_origin(kind) in (Union, types.UnionType):
        kind = str if str in get_args(kind) else get_args(kind)[0]
    return choice(get_args(kind)) if get_origin(kind) is Literal else READERS.get(kind)


HIDING: list[Any] = []  # the class whose fields tyro lists, for which the rule does not apply


@REGISTRY.struct_rule
def hide_rare(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Leave rare flags out of the help, and defaults that say nothing."""
    if info.type in HIDING or not dataclasses.is_dataclass(info.type):
        return None
    HIDING.append(info.type)
    spec: Any = ConstructorRegistry.get_struct_spec(info)
    HIDING.pop()
    fields = []
    for field in spec.fields:
        kind = field.type
        if field.name.replace("_", "-") in RARE or field.name == "rules":
            kind = Suppress[kind]
        elif any(field.default is empty for empty in (None, (), False)):
            kind = Annotated[kind, tyro.conf.arg(help_behavior_hint="")]
        fields.append(dataclasses.replace(field, type=kind, helptext=flow(field.helptext)))
    fields.sort(key=lambda field: field.name == "general")  # the last group
    return dataclasses.replace(spec, fields=tuple(fields))


def flow(text: str | Callable[[], str | None] | None) -> Callable[[], str]:
    """Return the help of a flag, when it is asked for, as one paragraph."""
    return lambda: " ".join(((text() if callable(text) else text) or "").split())
