"""The commands of `cola`, and how a command line becomes one of them."""

import sys
from collections.abc import Sequence
from typing import Any

import tyro

from cola_jax.cli import parser
from cola_jax.cli.benchmark import Benchmark
from cola_jax.cli.deployment import Distill, Export, LmEval, Menu, Static
from cola_jax.cli.flags import Command, TaskFlags
from cola_jax.cli.models import Cache, Convert, Demo, Tasks
from cola_jax.cli.report import Report
from cola_jax.cli.runs import Evaluate, Generate, Scan, Search
from cola_jax.errors import UsageError, did_you_mean, printed, shown
from cola_jax.strategies.rules import DEFAULT, PRESETS
from cola_jax.tasks.task import TaskConfig

DESCRIPTION = """Search which layers of a pretrained LLM to run, skip or loop, for each input.

COMMAND --help lists the flags of a command; --version and --print-completion SHELL go alone.
"""
SHELLS = ("bash", "zsh", "fish")
HELP = ("--help", "-h")
COMMANDS: dict[str, type[Command]] = {
    "demo": Demo,
    "convert": Convert,
    "cache": Cache,
    "tasks": Tasks,
    "search": Search,
    "evaluate": Evaluate,
    "generate": Generate,
    "scan": Scan,
    "static": Static,
    "menu": Menu,
    "distill": Distill,
    "export": Export,
    "lm-eval": LmEval,
    "report": Report,
    "benchmark": Benchmark,
}


def parse(arguments: Sequence[str]) -> Command:
    """Parse a command line; print the help, the version or a completion where that is asked for.

    The flags of --config come before those of the command line, and `--preset` chooses the defaults
    of `--rules.*`. What follows `lm-eval` is parsed by the harness.

    Raises:
      UsageError: for a command line that cannot be run.
    """
    for word in arguments:
        if word.encode("utf-8", "replace").decode() != word:
            raise UsageError(f"{shown(word)} is not UTF-8 text.")
    name, *words = arguments or ["--help"]
    if name == "help" and words and words[0] in COMMANDS:
        name, words = words[0], ["--help"]
    if name not in COMMANDS:
        print_general(name, words)
        sys.exit(0)
    if name == "lm-eval":
        return LmEval(tuple(words))
    command: Any = COMMANDS[name]
    if {*HELP} & {*words}:
        parser.print_help(name, command)
        sys.exit(0)
    file = parser.value_of("--config", words)
    values = {} if file is None else parser.read_config(file)
    if command is Search:
        command = search_with(parser.value_of("--preset", words) or values.get("preset"))
    flags = {each: flag for flag in parser.flags_of(command) for each in flag.spellings}
    words = [parser.rename(word, flags) for word in words]
    with parser.reading_config(file or ""):
        in_file = parser.words_of(values, flags, name)
    try:
        return parser.parse_words(name, command, [*in_file, *words])
    except UsageError as error:
        flag = str(error).partition(":")[0]
        if any(word.partition("=")[0] == flag for word in in_file):
            raise UsageError(f"{file}: {str(error).removeprefix('--')}") from None
        raise


def search_with(preset: Any) -> Search:
    """Return a search of which the rules of a preset are the defaults."""
    flags = TaskFlags(tyro.MISSING, TaskConfig(tyro.MISSING), tyro.MISSING)
    return Search(flags, rules=PRESETS.get(str(preset), PRESETS[DEFAULT]))


def print_general(name: str, words: Sequence[str]) -> None:
    """Print what `cola` prints without a command; UsageError for an unknown command."""
    if name in (*HELP, "help"):
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="cola", description=DESCRIPTION, args=["--help"]
        )
    elif name == "--version":
        from importlib.metadata import version

        if words:
            raise UsageError(f"--version takes nothing after it, not {shown(words[0])}.")
        print(f"cola-jax {version('cola-jax')}")
    elif name == "--print-completion":
        shell = " ".join(words)
        if shell not in SHELLS:
            near = did_you_mean(shell, SHELLS)
            raise UsageError(f"{name} needs one of {', '.join(SHELLS)}{near}.")
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="cola", args=["--tyro-print-completion", shell], registry=parser.VALUES
        )
    else:
        near = did_you_mean(name, (*COMMANDS, "--help", "--version", "--print-completion"))
        raise UsageError(f"there is no command {printed(name)}{near}: `cola --help` lists them.")
