"""The commands of `cola`, and the command that a command line names."""

import contextlib
import dataclasses
import logging
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version

import tyro

from cola_jax.cli import parser
from cola_jax.cli.benchmark import Benchmark
from cola_jax.cli.deployment import Distill, Menu, Static
from cola_jax.cli.export import Export, LmEval
from cola_jax.cli.flags import Command
from cola_jax.cli.models import Cache, Convert, Demo, Tasks
from cola_jax.cli.report import Report
from cola_jax.cli.runs import Evaluate, Generate, Scan, Search
from cola_jax.cli.verbosity import log
from cola_jax.errors import UsageError, did_you_mean, printed, reading, shown
from cola_jax.strategies.rules import PRESETS, Rules

DESCRIPTION = """Search which layers of a pretrained LLM to run, skip or loop, for each input.

COMMAND --help lists the flags of a command; --version and --print-completion SHELL go alone.
"""
PACKAGES = ("cola-jax", "jax", "transformers")
SHELLS = ("bash", "zsh", "fish")
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
    """Parse a command line; print the help, the version or a completion script instead.

    Flags on the command line take precedence over those of --config, and `--preset` chooses the
    defaults of `--rules.*`; the rules of a file with another preset are not used. What follows
    `lm-eval` is parsed by the harness.

    Raises:
      UsageError: for a command line that cannot be run.
      SystemExit: after a help page and the like, and with status 2 after an error of tyro's.
    """
    for word in arguments:
        if word.encode("utf-8", "replace").decode() != word:
            raise UsageError(f"{shown(word)} is not UTF-8 text.")
    name, *words = arguments or ["--help"]
    if name == "help" and words:
        name, words = words[0], ["--help"]
    if name not in COMMANDS:
        print_general(name, words)
        sys.exit(0)
    if name == "lm-eval":
        return LmEval(tuple(words))
    kind, prog, first = COMMANDS[name], f"cola {name}", parser.first_values(words)
    if "config" in first:
        prog += f" --config {first['config']}"  # errors name the file
        values = parser.read_flag_file(first["config"])
        preset = values.get("preset")
        if preset not in (None, first.get("preset", preset)):  # its rules go with it
            values = {name: values[name] for name in values if not name.startswith("rules.")}
        with reading(first["config"]):
            words = [*parser.words_of(values), *words]
        first = {"preset": preset} | first
    rules = PRESETS.get(str(first.get("preset")))
    if kind is Search and rules is not None:
        fields = [("rules", Rules, rules)]
        kind = dataclasses.make_dataclass("Search", fields, bases=(Search,), frozen=True)
    return parser.parse_words(kind, prog, words)


def print_general(name: str, words: Sequence[str]) -> None:
    """Print output that no command makes; UsageError for an unknown command."""
    if name in ("-h", "--help", "help"):
        arguments = ["--help"]
    elif name == "--version":
        print(f"cola-jax {version('cola-jax')}")
        return
    elif name == "--print-completion":
        if [*words] not in ([shell] for shell in SHELLS):
            raise UsageError(f"{name} needs one of {', '.join(SHELLS)}.")
        arguments = ["--tyro-print-completion", *words]
    else:
        near = did_you_mean(name, (*COMMANDS, "--help", "--version", "--print-completion"))
        raise UsageError(f"there is no command {printed(name)}{near}: `cola --help` lists them.")
    with contextlib.suppress(SystemExit):
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="cola",
            description=DESCRIPTION,
            args=arguments,
            config=parser.HELP_CONFIG,
            registry=parser.HELP_REGISTRY,
        )


def log_start(command: Command) -> None:
    """Log the versions of packages and the command's flags with --verbose."""
    if log.isEnabledFor(logging.DEBUG):
        versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
        log.debug("%s; Python %s", versions, platform.python_version())
        text = parser.yaml_of(command).strip().replace("\n", "\n  ")
        log.debug("configuration:\n  %s", text)
