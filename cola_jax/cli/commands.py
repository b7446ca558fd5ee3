"""The commands of `cola`, and how a command line becomes one of them."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from cola_jax.cli import parser
from cola_jax.cli.benchmark import Benchmark
from cola_jax.cli.deployment import Distill, Menu, Static
from cola_jax.cli.export import Export, LmEval
from cola_jax.cli.flags import Command
from cola_jax.cli.models import Cache, Convert, Demo, Tasks
from cola_jax.cli.report import Report
from cola_jax.cli.runs import Evaluate, Generate, Scan, Search
from cola_jax.errors import InputError, UsageError, did_you_mean, printed, shown
from cola_jax.strategies.rules import DEFAULT, PRESETS

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

    The flags of the command line take precedence of those of --config, and `--preset` chooses the
    defaults of `--rules.*`. What follows `lm-eval` is parsed by the harness.

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
    try:
        first = parser.first_values(words)
        file = first.get("config", "")
        entries = parser.read_flag_file(file) if "config" in first else {}
        made = parser.blank(command)
        if command is Search:
            preset = first.get("preset", entries.get("preset"))
            made = dataclasses.replace(made, rules=PRESETS.get(str(preset), PRESETS[DEFAULT]))
        return parser.parse_words(made, f"cola {name}", words, file, parser.words_of(entries))
    except InputError as error:
        raise UsageError(str(error)) from None


def print_general(name: str, words: Sequence[str]) -> None:
    """Print what `cola` prints without a command; UsageError for an unknown command."""
    if name in (*HELP, "help"):
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="cola", description=DESCRIPTION, args=["--help"]
        )
    elif name == "--version":
        from importlib.metadata import version

        print(f"cola-jax {version('cola-jax')}")
    elif name == "--print-completion":
        shell = " ".join(words)
        if shell not in SHELLS:
            near = did_you_mean(shell, SHELLS)
            raise UsageError(f"{name} needs one of {', '.join(SHELLS)}{near}.")
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="cola",
            args=["--tyro-print-completion", shell],
            config=parser.CONFIG,
            registry=parser.REGISTRY,
        )
    else:
        near = did_you_mean(name, (*COMMANDS, "--help", "--version", "--print-completion"))
        raise UsageError(f"there is no command {printed(name)}{near}: `cola --help` lists them.")
