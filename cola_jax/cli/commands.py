"""The commands of `cola`, and command lines and files of flags, which tyro parses into them."""

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import tyro
from tyro.conf import DisallowNone, Fixed, PositionalMetavarFromFieldName, Suppress
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructTypeInfo

from cola_jax.cli import ledger
from cola_jax.cli.benchmark import Benchmark
from cola_jax.cli.deployment import Distill, LmEval, Menu, Static
from cola_jax.cli.export import Export
from cola_jax.cli.flags import NO_SHARES, SEARCHED, Command, Shares
from cola_jax.cli.models import Cache, Convert, Demo, Tasks
from cola_jax.cli.report import Report
from cola_jax.cli.runs import EvaluateCommand, Generate, Scan, Search
from cola_jax.cli.status import Status
from cola_jax.cli.verify import Verify
from cola_jax.errors import InputError, UsageError, did_you_mean, reading
from cola_jax.files import parse_yaml, read_text
from cola_jax.strategies.rules import PRESETS, Rules, check_renamed

DESCRIPTION = """Search which layers of a pretrained LLM to run, skip or loop, for each input.

COMMAND --help lists the flags of a command; --version goes alone.
"""
RARE_NOTE = "Rarely used flags are listed in cola_jax/cli/README.md; --config takes them as well."
CONFIG = (PositionalMetavarFromFieldName, DisallowNone)
FLAGS = ConstructorRegistry()
HELP = ConstructorRegistry()
COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "convert": Convert,
    "cache": Cache,
    "tasks": Tasks,
    "search": Search,
    "evaluate": EvaluateCommand,
    "generate": Generate,
    "scan": Scan,
    "static": Static,
    "menu": Menu,
    "distill": Distill,
    "verify": Verify,
    "export": Export,
    "lm-eval": LmEval,
    "report": Report,
    "status": Status,
    "benchmark": Benchmark,
}
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
    "--shots": "--num-fewshot",
    "--tasks": "--task",
    "--tensor-parallel-size": "--tensor",
}
# flags of earlier versions, whose files of flags have them off, and what to give instead
ASK_AGAIN = (
    "give --prompts N, and `cola search` asks again along the paths that it finds in N other "
)
ASK_AGAIN += "wordings"
REMOVED = {
    "--variants": ASK_AGAIN,
    "--robust": ASK_AGAIN,
    "--share": "give --format peft",
    "--rules.exits": "give --preset early-exit for prefixes of the layers alone",
    **{f"--rules.{name}": f"give --{name}" for name in SEARCHED},
}
# set by one user in ten, so not in the help but in README.md
RARE = {
    *("candidates", "coordinator", "decoys", "finalists", "first"),
    *("held_out_from", "held_out_seed", "host", "hub", "learning_rate", "leaves", "max_length"),
    *("min_layers", "num_hosts", "offspring", "part", "reuse", "rounds"),
    *("rule", "rules", "shots_file", "shots_seed", "split", "state_layer", "task_seed"),
    *("tile_tokens", "try_scorer", "validation", "wait", "weight_decay"),
}


def parse(arguments: Sequence[str]) -> Command:
    """Parse a command line.

    Flags on the command line take precedence over those of --config, and `--preset` chooses the
    defaults of `--rules.*`; the rules of a file with another preset are not used. What follows
    `lm-eval` is parsed by the harness.

    Raises InputError for a broken file of flags and for words as `check_words`, and SystemExit
    after a help page and the like, and with status 2 after an error that tyro prints.
    """
    name, *words = arguments or ["--help"]
    check_words(words)
    if name == "--version":
        print(f"cola-jax {version('cola-jax')}")
        sys.exit()
    if name == "lm-eval":
        return LmEval(tuple(words))
    if name not in COMMANDS and not name.startswith("-"):
        hint = did_you_mean(name, COMMANDS)
        raise UsageError(f"unknown command {name!r}{hint}: `cola --help` lists the commands.")
    if name not in COMMANDS:  # --help, or --tyro-print-completion
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="cola",
            description=DESCRIPTION,
            args=[name, *words],
            config=CONFIG,
            registry=HELP,
        )
    kind, prog, first = COMMANDS[name], f"cola {name}", first_values(words)
    if kind is Verify and ledger.FLAG in words:  # which needs no model, task or claim
        kind, prog = ledger.Ledger, f"{prog} {ledger.FLAG}"
        words.remove(ledger.FLAG)
    description, preset = f"{kind.__doc__}\n\n{RARE_NOTE}", first.preset
    if first.config:
        prog += f" --config {first.config}"  # errors name the file
        values = read_flags(first.config)
        preset = preset or values.get("preset")
        if preset != values.get("preset", preset):  # its rules go with it
            values = {name: values[name] for name in values if not is_rule(name)}
        words = [*words_of(values), *words]
        check_words(words)
    check_renamed(str(preset))
    rules = PRESETS.get(str(preset))
    if kind is Search and rules is not None:
        fields = [
            ("rules", Rules, rules),
            ("parts", bool, rules.parts),
            ("shares", Shares, rules.shares),
        ]
        kind = dataclasses.make_dataclass("Search", fields, bases=(Search,), frozen=True)
    return tyro.cli(
        kind,
        prog=prog,
        description=description,
        args=[our_flag(word) for word in words],
        config=CONFIG,
        registry=HELP if {"-h", "--help"} & {*words} else FLAGS,
    )


def is_rule(name: str) -> bool:
    """Tell whether a flag changes the rules of a preset."""
    return name in SEARCHED or name.startswith("rules.")


def check_words(words: Sequence[str]) -> None:
    """Raise UsageError for a flag of earlier versions, and for bytes that are not UTF-8.

    No record of a run holds the latter.
    """
    for word in words:
        flag = word.partition("=")[0]
        if flag in REMOVED:
            raise UsageError(f"{flag} is no longer a flag: {REMOVED[flag]}.")
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{word!r} is not UTF-8: use a name without such bytes.") from None


def first_values(words: Sequence[str]) -> argparse.Namespace:
    """Return the values of --config and --preset, which decide how all words are parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--config", "--preset"):
        parser.add_argument(flag, nargs="?")
    return parser.parse_known_args(words)[0]


def our_flag(word: str) -> str:
    """Return a word with our name of a flag of another tool."""
    flag, equals, value = word.partition("=")
    ours = ALIASES.get(flag.replace("_", "-"))
    return f"{ours}{equals}{value}" if ours else word


def read_flags(file: str) -> dict[str, Any]:
    """Read a YAML file of flags, by their dotted names; InputError for anything else."""
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
        if f"--{name}" in REMOVED and value in (None, False, 0):
            continue
        if isinstance(value, bool):
            group, dot, last = name.rpartition(".")
            yield f"--{name}" if value else f"--{group}{dot}no-{last}"
        elif isinstance(value, list) and len(value) > 1:
            yield from (f"--{name}", *map(str, value))
        elif value == [] and name == "shares":  # where the preset has some
            yield f"--{name}={NO_SHARES}"
        elif value is not None and value != []:  # after =, a value may begin with a hyphen
            yield f"--{name}={value[0] if isinstance(value, list) else value}"


LISTING: list[Any] = []  # the classes whose fields tyro lists, to which the rules do not apply


def field_types(info: StructTypeInfo, types: Mapping[str, Any]) -> StructConstructorSpec | None:
    """List the fields of a dataclass as tyro does, with some types in place of theirs."""
    if info.type in LISTING or not dataclasses.is_dataclass(info.type):
        return None
    LISTING.append(info.type)
    spec: Any = ConstructorRegistry.get_struct_spec(info)
    LISTING.pop()
    fields = (
        dataclasses.replace(field, type=types[field.name][field.type])
        if field.name in types
        else field
        for field in spec.fields
    )
    return dataclasses.replace(spec, fields=tuple(fields))


@FLAGS.struct_rule
def leave_to_search(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Make no flags of rules that `cola search` has flags for itself."""
    is_rules = isinstance(info.type, type) and issubclass(info.type, Rules)
    return field_types(info, dict.fromkeys(SEARCHED, Fixed)) if is_rules else None


@HELP.struct_rule
def hide_rare(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Leave rare flags out of the help, which the parser must know."""
    return field_types(info, dict.fromkeys(RARE, Suppress))
