"""The flags of a command, read from its dataclass: names, values, defaults and help."""

import ast
import dataclasses
import functools
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import OmitArgPrefixes, Positional
from tyro.constructors import PrimitiveConstructorSpec

from cola_jax.errors import InputError, did_you_mean, shown

OMITS = getattr(OmitArgPrefixes[int], "__metadata__")  # noqa: B009 - what tyro marks a field with
PLACED = getattr(Positional[int], "__metadata__")  # noqa: B009 - likewise
NUMBER = re.compile(r"[-+.0-9eE]+")  # int and float read other digits, nan and underscores too
LARGEST = 2**63
NAMED_CHOICES = 40  # characters of choices that are shown in place of a value
# what a value is called in the help where its type says too little
METAVARS = {
    "--early-layers": "LAYERS",
    "--format": "FORMAT",
    "--hub": "DATASET",
    "--level": "1..5",
    "--fail-rate-level": "1..5",
    "--longest-block": "LAYERS",
    "--max-layers": "LAYERS",
    "--max-length": "LAYERS",
    "--memory-budget": "SIZE|SHARE",
    "--min-layers": "LAYERS",
    "--path": "PATH",
    "--paths": "PATH",
    "--preset": "PRESET",
    "--reuse": "DIRECTORY",
    "--run": "DIRECTORY",
    "--runs": "DIRECTORY",
    "--coordinator": "HOST:PORT",
    "--decoys": "DIRECTORY",
    "--remove": "KEY",
    "--scorer": "SCORER",
    "--shard": "I/N",
    "--source": "SOURCE",
    "--stop": "TEXT",
    "--prompt": "TEXT",
    "--subject": "SUBJECT",
    "--task": "TASK",
    "--try-scorer": "SCORER",
    "--variants": "VARIANT",
    "--wait": "SECONDS",
    "--held-out-from": "FILE",
    "--shots-file": "FILE",
}


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of the command line, or an argument without one."""

    name: str  # with its hyphens, or in capitals where it has none
    owner: str  # the class that declares it
    aliases: tuple[str, ...] = ()
    read: Callable[[str], Any] = str  # ValueError for a value that is none
    choices: tuple[str, ...] = ()
    metavar: str = ""
    switch: bool = False  # has no value
    many: bool = False  # takes several values
    required: bool = False
    default: Any = None
    describe: Callable[[], str] = str  # the help, without the default

    @property
    def placed(self) -> bool:
        """Whether it is given by its place, without a name."""
        return not self.name.startswith("-")

    @property
    def opposite(self) -> str:
        """The name that turns a switch off."""
        prefix, dot, field = self.name.removeprefix("--").rpartition(".")
        return f"--{prefix}{dot}no-{field}"

    @property
    def spellings(self) -> tuple[str, ...]:
        """All names under which it can be given."""
        return (*self.aliases, self.name, *([self.opposite] if self.switch else []))


def flags_of(command: Any, prefix: str = "") -> Iterator[Flag]:
    """Yields the flags of a command: a dataclass, or one with defaults that decide types."""
    kind = command if isinstance(command, type) else type(command)
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        hint, metadata = bare(hints[field.name])
        default = default_of(field, command)
        struct = next((one for one in members(hint) if dataclasses.is_dataclass(one)), None)
        if struct is None:
            yield make_flag(kind, field.name, hint, metadata, default, prefix)
            continue
        inner = prefix if omits(metadata) else f"{prefix}{name_of(field.name, metadata)}."
        yield from flags_of(default if dataclasses.is_dataclass(default) else struct, inner)


def make_flag(
    owner: type, field: str, hint: Any, metadata: Sequence[Any], default: Any, prefix: str
) -> Flag:
    """Makes the flag of a field."""
    many = get_origin(hint) is tuple
    kinds = members(get_args(hint)[0] if many else hint)
    choices = tuple(str(one) for kind in kinds for one in get_args(kind) if is_literal(kind))
    placed = any(one in metadata for one in PLACED)
    name = name_of(field, metadata)
    name = name.upper().replace("-", "_") if placed else f"--{prefix}{name}"
    spec = next((one for one in metadata if isinstance(one, PrimitiveConstructorSpec)), None)
    given = first(metadata, "metavar") or METAVARS.get(name)
    if spec is None and choices:
        shown = "|".join(choices)
        given = shown if len(shown) <= NAMED_CHOICES else given or "NAME"
    return Flag(
        name=name,
        owner=owner.__name__,
        aliases=tuple(first(metadata, "aliases") or ()),
        read=reader(kinds, choices, spec),
        choices=choices,
        metavar=name if placed else given or metavar_of(kinds, field),
        switch=kinds == [bool],
        many=many,
        required=default is tyro.MISSING,
        default=default,
        describe=lambda: first(metadata, "help") or field_help(owner, field),
    )


def default_of(field: dataclasses.Field[Any], command: Any) -> Any:
    """Returns a field's default, tyro.MISSING where there is none."""
    if not isinstance(command, type):
        return getattr(command, field.name)
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is dataclasses.MISSING else field.default


def bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """Takes a type apart from what is noted about it, also inside of `| None`."""
    if hasattr(hint, "__metadata__"):
        return hint.__origin__, hint.__metadata__
    for one in members(hint):
        if hasattr(one, "__metadata__"):
            return one.__origin__, one.__metadata__
    return hint, ()


def members(hint: Any) -> list[Any]:
    """Returns the types of a union, without None."""
    if get_origin(hint) not in (Union, types.UnionType):
        return [hint]
    return [one for one in get_args(hint) if one is not type(None)]


def is_literal(kind: Any) -> bool:
    """Whether a type is a choice of names."""
    return get_origin(kind) is Literal


def omits(metadata: Sequence[Any]) -> bool:
    """Whether the flags below a field go without its name."""
    return any(one in metadata for one in OMITS)


def first(metadata: Sequence[Any], attribute: str) -> Any:
    """Returns what the notes of a field say of something, if anything."""
    plain = (one for one in metadata if not isinstance(one, PrimitiveConstructorSpec))
    found = (getattr(one, attribute, None) for one in plain)
    value = next((one for one in found if one), None)
    if value is None and attribute == "metavar":
        specs = (one for one in metadata if isinstance(one, PrimitiveConstructorSpec))
        return next((one.metavar for one in specs), None)
    return value


def name_of(field: str, metadata: Sequence[Any]) -> str:
    """Returns the name of a field's flag."""
    return str(first(metadata, "name") or field).replace("_", "-")


def metavar_of(kinds: Sequence[Any], field: str) -> str:
    """Returns what a value is called in the help."""
    if float in kinds:
        return "NUMBER"
    if int in kinds:
        return "N"
    return "FILE" if Path in kinds else field.upper()


def reader(
    kinds: Sequence[Any], choices: Sequence[str], spec: PrimitiveConstructorSpec[Any] | None
) -> Callable[[str], Any]:
    """Returns the function that reads a value, and raises ValueError for one that is none."""
    if spec is not None:
        return lambda text: spec.instance_from_str([text])
    if choices:
        return functools.partial(read_choice, choices=choices)
    if float in kinds:
        return functools.partial(read_number, kind=float, what="a number")
    if int in kinds:
        return functools.partial(read_number, kind=int, what="a whole number")
    return str


def read_choice(text: str, choices: Sequence[str]) -> str:
    """Reads one of some names."""
    if text not in choices:
        near = did_you_mean(text, choices)
        raise InputError(f"{shown(text)} is not one of {', '.join(choices)}{near}.")
    return text


def read_number(text: str, kind: Callable[[str], Any], what: str) -> Any:
    """Reads a number in ASCII digits; ValueError for one that is not finite, or 2**63 or more."""
    if not NUMBER.fullmatch(text):
        raise InputError(f"{shown(text)} is not {what}.")
    try:
        number = kind(text)
    except ValueError:
        raise InputError(f"{shown(text)} is not {what}.") from None
    if not abs(number) < LARGEST:
        raise InputError(f"{shown(text)} is out of range: give {what} below 2**63.")
    return number


def field_help(owner: type, field: str) -> str:
    """Returns what the source says of a field: the text below it, or the comment behind it."""
    for kind in owner.__mro__:
        if field in vars(kind).get("__annotations__", {}):
            return " ".join(class_help(kind.__module__).get((kind.__name__, field), "").split())
    raise TypeError(f"{owner.__name__} has no field {field}")


@functools.cache
def class_help(module: str) -> dict[tuple[str, str], str]:
    """Reads what the source of a module says of the fields of its classes."""
    source = inspect.getsource(sys.modules[module])
    lines, said = source.splitlines(), {}
    for kind in ast.parse(source).body:
        if not isinstance(kind, ast.ClassDef):
            continue
        for field, after in zip(kind.body, [*kind.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            text = lines[(field.end_lineno or 1) - 1].partition("  # ")[2]
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                text = str(after.value.value)
            said[kind.name, field.target.id] = text
    return said
