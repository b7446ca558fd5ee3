"""The command `cola`: parses its command line, and reports errors."""

import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Protocol

import tyro
from rich.console import Console
from rich.text import Text
from tyro.conf import subcommand

from cola_jax.cache_directory import keep_programs
from cola_jax.commands import command_line
from cola_jax.commands.benchmark import Benchmark
from cola_jax.commands.cache import Cache
from cola_jax.commands.convert import Convert
from cola_jax.commands.demo import Demo
from cola_jax.commands.distill import Distill
from cola_jax.commands.export import Export
from cola_jax.commands.flags import TaskFlags
from cola_jax.commands.generate import Generate
from cola_jax.commands.lm_eval import LmEval
from cola_jax.commands.menu import Menu
from cola_jax.commands.report import Report
from cola_jax.commands.scan import Scan
from cola_jax.commands.search import Evaluate, Search
from cola_jax.commands.static import Static
from cola_jax.commands.tasks import Tasks
from cola_jax.search.presets import DEFAULT, PRESETS
from cola_jax.tasks.task import TaskConfig

DESCRIPTION = "Search which layers of a pretrained LLM to run, skip or loop, for each input."
INTERRUPTED = 130  # the exit status of a shell after Ctrl-C
COMMANDS = {
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


class Command(Protocol):
    """A subcommand with its flags."""

    def run(self) -> None: ...


def parse(arguments: Sequence[str]) -> Command:
    """Parses a command line; without arguments, prints the help.

    `--preset` chooses the defaults that `--rules.*` override. What follows `lm-eval` is parsed by
    the harness.
    """
    if list(arguments[:1]) == ["lm-eval"]:
        return LmEval(tuple(arguments[1:]))
    arguments = command_line.prepare(arguments, COMMANDS)
    rules = PRESETS.get(chosen_preset(arguments), PRESETS[DEFAULT])
    flags = TaskFlags(tyro.MISSING, TaskConfig(tyro.MISSING), tyro.MISSING)
    search = Search(flags, rules=rules)
    commands: Any = None
    for name, command in COMMANDS.items():
        default: dict[str, Any] = {"default": search} if command is Search else {}
        one = Annotated[command, subcommand(name, **default)]
        commands = one if commands is None else commands | one
    return tyro.cli(commands, prog="cola", description=DESCRIPTION, args=arguments)


def chosen_preset(arguments: Sequence[str]) -> str:
    """Finds the value of `--preset` before the real parsing."""
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if flag == "--preset":
            return value
        if flag.startswith("--preset="):
            return flag.removeprefix("--preset=")
    return DEFAULT


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `cola`; bad input is one line on stderr and exit status 1."""
    keep_programs()
    # transformers serves for tokenizers alone, and need not report that torch is missing
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    given = sys.argv[1:] if arguments is None else list(arguments)
    if given == ["--version"]:
        print(f"cola-jax {version('cola-jax')}")
        return
    try:
        parse(given).run()
    except KeyboardInterrupt:
        kept = "interrupted: what a run has written is kept. Start the same command again to go on."
        print(f"\n{kept}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (ValueError, OSError) as error:
        if not is_input_error(error):
            raise
        message = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True).print(message, highlight=False, soft_wrap=True)
        sys.exit(1)


def is_input_error(error: Exception) -> bool:
    """Whether an error is about the input: raised by this package, or by the operating system."""
    if isinstance(error, OSError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
