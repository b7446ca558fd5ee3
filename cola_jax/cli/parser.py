"""Parsing with tyro: aliases, files of flags, help without rare flags, and errors of one line."""

import contextlib
import dataclasses
import io
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, PositionalMetavarFromFieldName, Suppress
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from cola_jax.errors import InputError, UsageError, did_you_mean, printed, reading, shown
from cola_jax.files import parse_yaml, read_text

# what users of lm-evaluation-harness, vLLM and Hugging Face call our flags
ALIASES = {
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
# set by one user in ten: the help leaves them out, README.md lists them; so are all of --rules.*
RARE = {
    *("beams", "candidates", "coordinator", "decoys", "early-stop", "fail-rate-level"),
    *("finalists", "first", "held-out-from", "held-out-seed", "host", "hub", "learning-rate"),
    *("leaves", "max-length", "min-layers", "num-hosts", "offspring", "part", "reads", "reuse"),
    *("robust", "rounds", "rows", "rule", "save-every", "shots-file", "shots-seed", "state-layer"),
    *("task-seed", "tokens", "try-scorer", "validation", "wait", "weight-decay"),
}
SHARED = ("config", "verbose", "quiet")  # flags of a start, which are not recorded with a run
NUMBER = re.compile(r"[-+.0-9eE]+")  # int and float read other digits, nan and underscores too
LARGEST = 2**63


class Flag(NamedTuple):
    """A flag, or an argument without a name."""

    name: str  # without hyphens
    aliases: tuple[str, ...]
    kind: Any  # its type
    positional: bool
    value: Any  # of the command, or the default

    @property
    def many(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.kind) is tuple

    @property
    def opposite(self) -> str:
        """The spelling that turns a switch off."""
        prefix, dot, field = self.name.rpartition(".")
        return f"--{prefix}{dot}no-{field}"

    @property
    def spellings(self) -> tuple[str, ...]:
        """All spellings on a command line."""
        if self.positional:
            return ()
        off = (self.opposite,) if self.kind is bool else ()
        return (*self.aliases, f"--{self.name}", *off)


def flags_of(command: Any, prefix: str = "") -> Iterator[Flag]:
    """Yield the flags of a command: a dataclass, or an instance with its values."""
    kind = command if isinstance(command, type) else type(command)
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        notes = getattr(hint, "__metadata__", ())
        hint = hint.__origin__ if notes else hint
        value = default_of(field) if kind is command else getattr(command, field.name)
        if dataclasses.is_dataclass(value) or dataclasses.is_dataclass(hint):
            nested = value if dataclasses.is_dataclass(value) else hint
            yield from flags_of(nested, "rules." if field.name == "rules" else prefix)
            continue
        names = [note.name for note in notes if getattr(note, "name", None)]
        aliases = [alias for note in notes for alias in getattr(note, "aliases", None) or ()]
        name = names[0] if names else field.name.replace("_", "-")
        yield Flag(prefix + name, tuple(aliases), hint, POSITIONAL in notes, value)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return a field's default, tyro.MISSING where there is none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is dataclasses.MISSING else field.default


def values_of(command: Any) -> dict[str, Any]:
    """Return the flags of a command with their values, as --config reads them, without None."""
    values = {flag.name: flag.value for flag in flags_of(command) if flag.name not in SHARED}
    return {name: plain(value) for name, value in values.items() if value is not None}


def plain(value: Any) -> Any:
    """Return a value as YAML has it."""
    if isinstance(value, tuple):
        return [str(part) for part in value]
    return value if isinstance(value, bool | int | float) else str(value)


def rename(word: str, spellings: Collection[str]) -> str:
    """Return a word with hyphens, and by our name of a flag that the command does not have."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--"):
        return word
    flag = flag.replace("_", "-")
    if flag not in spellings and ALIASES.get(flag, "") in spellings:
        flag = ALIASES[flag]
    return f"{flag}{equals}{value}"


def value_of(flag: str, words: Sequence[str]) -> str | None:
    """Find the last value of a flag before the real parsing."""
    value = None
    for word, after in zip(words, [*words, None][1:], strict=True):
        name, equals, text = word.partition("=")
        if name == flag:
            value = text if equals else after
    return value


@contextlib.contextmanager
def reading_config(file: str) -> Iterator[None]:
    """Turn what is wrong with a file of flags into a UsageError that names it."""
    try:
        with reading(file):
            yield
    except InputError as error:
        raise UsageError(str(error)) from None


def read_config(file: str) -> dict[str, Any]:
    """Read a YAML file of flags, by their dotted names; UsageError for anything else."""
    if not Path(file).is_file():
        raise UsageError(f"--config {printed(file)}: there is no such file.")
    with reading_config(file):
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


def words_of(values: Mapping[str, Any], flags: Mapping[str, Flag], command: str) -> list[str]:
    """Return the flags of a file as a command line has them; UsageError for unknown ones."""
    words: list[str] = []
    for key, value in values.items():
        flag = flags.get(rename(f"--{key}", flags))
        if flag is None:
            near = did_you_mean(key, (name.lstrip("-") for name in flags))
            raise UsageError(f"`cola {command}` has no flag {printed(key)}{near}.")
        spelling = f"--{flag.name}"
        if value is None or (value == [] and flag.many):
            continue
        if flag.kind is bool and isinstance(value, bool):
            words.append(spelling if value else flag.opposite)
        elif flag.many and isinstance(value, list):
            words += [spelling, *map(str, value)]
        elif flag.kind is bool or isinstance(value, bool | list | dict):
            raise UsageError(f"{printed(key)}: {shown(value)} is not a value of it.")
        else:
            words.append(f"{spelling}={value}")
    return words


def parse_words(name: str, command: Any, words: Sequence[str]) -> Any:
    """Make a command of its flags; `command` is a class, or an instance with other defaults.

    Raises:
      UsageError: for unknown flags, unfit values, and flags that are missing.
    """
    known = {spelling: flag for flag in flags_of(command) for spelling in flag.spellings}
    for word, after in zip(words, [*words, "--"][1:], strict=True):
        spelling, equals, _ = word.partition("=")
        flag = known.get(spelling)
        if flag is None and is_flag(word):
            near = did_you_mean(spelling, (name for name in known if name.startswith("--")))
            raise UsageError(f"`cola {name}` has no flag {printed(spelling)}{near}.")
        if flag is not None and flag.many and not equals and (after == "--" or is_flag(after)):
            raise UsageError(f"{spelling} needs a value.")
    kind, default = command, {}
    if not isinstance(command, type):
        kind, default = type(command), {"default": command}
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                kind, prog=f"cola {name}", args=words, config=MARKERS, registry=VALUES, **default
            )
    except SystemExit as end:
        cause: BaseException | None = end
        while (cause := cause.__context__) and not isinstance(cause, InputError):
            if isinstance(cause, ValueError):  # of ours, though tyro takes all for the user's
                raise cause from None
        raise UsageError(error_of(box.getvalue(), name)) from None


def is_flag(word: str) -> bool:
    """Return whether a word names a flag, and is not a number such as -inf."""
    number = word.lower() in ("-inf", "-infinity", "-nan")
    return re.match(r"--?[a-zA-Z]", word) is not None and not number


def print_help(name: str, command: type) -> None:
    """Print the help of a command, without rare flags."""
    config = (*MARKERS, FlagCreatePairsOff)
    with contextlib.suppress(SystemExit):
        tyro.cli(command, prog=f"cola {name}", args=["--help"], config=config, registry=HELP)
    print("\nRarely used flags are listed in cola_jax/cli/README.md; --config takes them as well.")


def error_of(box: str, name: str) -> str:
    """Return the error of one of tyro's boxes as a sentence."""
    title, *rows = [line.strip("│╭╮╰╯") for line in box.splitlines()]
    rules = [i for i, row in enumerate(rows) if re.fullmatch(r"[ ─-]+", row)]
    first = 1 if rules[:1] == [0] else 0  # a terminal without UTF-8 has one below the title
    rows = rows[first : (*rules[first:], len(rows))[0]]
    if "Required" in title:
        needed = [row.strip() for row in rows if re.match(r" {5,6}\S", row)]
        flags = [re.sub(r"^-\w \S+, |(?<=\S) .*", "", text) for text in needed]
        return f"`cola {name}` needs {' and '.join(flags)}."
    text = " ".join(" ".join(rows).split())
    if "Unrecognized" in title:
        words = text.removeprefix("Unrecognized options: ")
        return f"`cola {name}` takes no argument {printed(words)}."
    if choice := re.fullmatch(
        r"invalid choice '(.*)' for argument '(.*)'\. Expected .*\((.*)\)\.", text
    ):
        value, flag, listed = choice.groups()
        choices = re.findall(r"'([^']*)'", listed)
        near = did_you_mean(value, choices)
        return f"{flag}: {shown(value)} is not one of {', '.join(choices)}{near}."
    text = re.sub(r"^Error parsing (?:-\w/)?(--\S+|[A-Z_]+): ", r"\1: ", text)
    text = re.sub(r"^Error parsing [^:]*: ", "", text)
    if match := re.match(r"Missing value for argument '(?:-\w, )?(\S+)'", text):
        return f"{match[1]} needs a value."
    return text


def read_number(text: str, *, whole: bool) -> int | float:
    """Read a number in ASCII digits."""
    what = "a whole number" if whole else "a number"
    try:
        if not NUMBER.fullmatch(text):
            raise ValueError
        number = int(text) if whole else float(text)
    except ValueError:
        raise InputError(f"{shown(text)} is not {what}.") from None
    if not abs(number) < LARGEST:
        raise InputError(f"{shown(text)} is out of range: give {what} below 2**63.")
    return number


def value(read: Callable[[str], Any], metavar: str, choices: Any = None) -> Any:
    """Tell tyro how a value is read and named; None is written as auto."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda given: given is None or isinstance(given, str | int | float),
        str_from_instance=lambda given: ["auto" if given is None else str(given)],
        choices=choices,
    )


def choice(choices: Iterable[str]) -> Any:
    """Tell tyro that a value is one of these names."""
    return value(str, "|".join(choices), tuple(choices))


VALUES, HELP = ConstructorRegistry(), ConstructorRegistry()
MARKERS = (PositionalMetavarFromFieldName,)
POSITIONAL = get_args(Positional[int])[1]  # the note that it leaves on a type


@VALUES.primitive_rule
@HELP.primitive_rule
def read_primitive(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Read numbers and choices, also those that may be None, as people write them."""
    kinds = [info.type]
    if get_origin(info.type) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(info.type) if kind is not type(None)]
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return choice(get_args(kinds[0]))
    if kinds in ([str], [Path]):
        return value(kinds[0], "FILE" if kinds == [Path] else "TEXT")
    if kinds in ([int], [float]):
        whole = kinds == [int]
        return value(lambda text: read_number(text, whole=whole), "N" if whole else "NUMBER")
    return None


@HELP.struct_rule
def hide_rare(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Leave rare flags out of the help, and defaults that say nothing."""
    if info.type in HIDING:
        return None
    HIDING.append(info.type)
    spec = ConstructorRegistry.get_struct_spec(info)
    HIDING.pop()
    if not isinstance(spec, StructConstructorSpec) or not dataclasses.is_dataclass(info.type):
        return spec if isinstance(spec, StructConstructorSpec) else None
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


HIDING: list[Any] = []  # the class whose fields tyro lists, for which the rule does not apply
