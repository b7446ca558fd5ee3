"""Command lines and files of flags, parsed by tyro into dataclasses."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff, PositionalMetavarFromFieldName, Suppress
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructTypeInfo,
)

from cola_jax.errors import InputError, UsageError, printed, reading
from cola_jax.files import parse_yaml, read_text

# names in lm-evaluation-harness, vLLM and Hugging Face of our flags
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
    "--prompts": "--prompt",
    "--shots": "--num-fewshot",
    "--tasks": "--task",
    "--tensor-parallel-size": "--tensor",
}
# set by one user in ten, so not in the help but in README.md; so are all of --rules.*
RARE = {
    *("candidates", "coordinator", "decoys", "early-stop", "fail-rate-level"),
    *("finalists", "first", "held-out-from", "held-out-seed", "host", "hub", "learning-rate"),
    *("leaves", "max-length", "min-layers", "num-hosts", "offspring", "part"),
    *("reuse", "robust", "rounds", "rule", "shard", "shots-file", "tile-tokens"),
    *("shots-seed", "split", "state-layer", "task-seed", "tokens", "try-scorer", "validation"),
    *("variants", "wait", "weight-decay"),
}
RARE_NOTE = "Rarely used flags are listed in cola_jax/cli/README.md; --config takes them as well."
CONFIG = (PositionalMetavarFromFieldName, DisallowNone)
HELP_CONFIG = (*CONFIG, FlagCreatePairsOff)
REGISTRY, HELP_REGISTRY = ConstructorRegistry(), ConstructorRegistry()


def parse_words(kind: type, prog: str, words: Sequence[str]) -> Any:
    """Parse the flags of a command.

    Raises SystemExit after the help, and with status 2 after an error that tyro prints.
    """
    if {"-h", "--help"} & {*words}:
        with contextlib.suppress(SystemExit):
            tyro.cli(kind, prog=prog, args=["--help"], config=HELP_CONFIG, registry=HELP_REGISTRY)
        print(f"\n{RARE_NOTE}")
        sys.exit(0)
    try:
        words = [rename(word) for word in words]
        return tyro.cli(kind, prog=prog, args=words, config=CONFIG, registry=REGISTRY)
    except SystemExit as end:
        error = end.__context__
        while error is not None and is_of_tyro(error):
            error = error.__context__
        if error is not None and not isinstance(error, InputError):
            raise error from None  # a bug, which tyro takes for a refused value
        raise


def is_of_tyro(error: BaseException) -> bool:
    """Return whether tyro raised an error, as it does for text that is not a number."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "tyro" in Path(trace.tb_frame.f_code.co_filename).parts


def rename(word: str) -> str:
    """Return a word with hyphens, and with our name of a flag of another tool."""
    flag, equals, value = word.partition("=")
    if not flag.startswith("--"):
        return word
    flag = flag.replace("_", "-")
    return f"{ALIASES.get(flag, flag)}{equals}{value}"


def first_values(words: Sequence[str]) -> dict[str, str]:
    """Return the values of --config and --preset, which decide how all words are parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for flag in ("--config", "--preset"):
        parser.add_argument(flag, default=argparse.SUPPRESS)
    try:
        return vars(parser.parse_known_args(words)[0])
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}.") from None


def flag_values(command: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names of a command's flags, without hyphens, and their values."""
    hints = get_type_hints(type(command), include_extras=True)
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if dataclasses.is_dataclass(value):
            yield from flag_values(value, "rules." if field.name == "rules" else prefix)
        else:
            notes = getattr(hints[field.name], "__metadata__", ())
            names = [note.name for note in notes if getattr(note, "name", None)]
            yield prefix + (names or [field.name.replace("_", "-")])[0], value


def values_of(command: Any) -> dict[str, Any]:
    """Return the flags of a command with their values, as --config reads them, without None."""
    start = dict(flag_values(command.general))  # of one start, so not recorded with a run
    values = {name: value for name, value in flag_values(command) if name not in start}
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


def words_of(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values of a file of flags as words of a command line."""
    for name, value in values.items():
        if isinstance(value, bool):
            group, dot, last = name.rpartition(".")
            yield f"--{name}" if value else f"--{group}{dot}no-{last}"
        elif isinstance(value, list) and len(value) > 1:
            yield from (f"--{name}", *map(str, value))
        elif value is not None and value != []:  # after =, a value may begin with a hyphen
            yield f"--{name}={value[0] if isinstance(value, list) else value}"


def reader(read: Callable[[str], Any], metavar: str) -> Any:
    """Make tyro read a value by a function, which raises InputError; None is written as auto."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: value is None or isinstance(value, str | int),
        str_from_instance=lambda value: ["auto" if value is None else str(value)],
    )


@HELP_REGISTRY.primitive_rule
@REGISTRY.primitive_rule
def read_optional_choice(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """Read an optional choice as a choice; tyro would list None among them, in any order."""
    kinds: Any = get_args(info.type)
    if kinds[1:] != (NoneType,) or get_origin(kinds[0]) is not Literal:
        return None
    choice = PrimitiveTypeInfo.make(kinds[0], info.markers)
    spec: Any = ConstructorRegistry.get_primitive_spec(choice)
    return dataclasses.replace(
        spec, is_instance=lambda value: value is None or spec.is_instance(value)
    )


LISTING: list[Any] = []  # the class whose fields tyro lists, to which the rule does not apply


@HELP_REGISTRY.struct_rule
def hide_rare(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Leave rare flags and empty defaults out of the help, and reflow its paragraphs."""
    if info.type in LISTING or not dataclasses.is_dataclass(info.type):
        return None
    LISTING.append(info.type)
    spec: Any = ConstructorRegistry.get_struct_spec(info)
    LISTING.pop()
    fields = []
    for field in spec.fields:
        kind = field.type
        if field.name.replace("_", "-") in RARE or field.name == "rules":
            kind = Suppress[kind]
        elif any(field.default is empty for empty in (None, (), False)):
            kind = Annotated[kind, tyro.conf.arg(help_behavior_hint="")]
        fields.append(dataclasses.replace(field, type=kind, helptext=reflow(field.helptext)))
    fields.sort(key=lambda field: field.name == "general")  # the last group
    return dataclasses.replace(spec, fields=tuple(fields))


def reflow(text: str | Callable[[], str | None] | None) -> Callable[[], str]:
    """Return the help of a flag, when it is needed, as one paragraph."""
    return lambda: " ".join(((text() if callable(text) else text) or "").split())
