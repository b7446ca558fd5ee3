"""The command `cola`: parses its command line, and reports errors."""

import contextlib
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Protocol

import tyro
from rich.text import Text

from cola_jax.cli import verbosity
from cola_jax.cli.benchmark import Benchmark
from cola_jax.cli.cache import Cache
from cola_jax.cli.command_line import as_arguments, read_config, rename, take_shared
from cola_jax.cli.completion import print_completion
from cola_jax.cli.convert import Convert
from cola_jax.cli.demo import Demo
from cola_jax.cli.distill import Distill
from cola_jax.cli.export import Export
from cola_jax.cli.flag_table import flags_of
from cola_jax.cli.flags import TaskFlags
from cola_jax.cli.generate import Generate
from cola_jax.cli.help import print_commands, print_help
from cola_jax.cli.lm_eval import LmEval
from cola_jax.cli.menu import Menu
from cola_jax.cli.report import Report
from cola_jax.cli.scan import Scan
from cola_jax.cli.search import Evaluate, Search
from cola_jax.cli.signals import Interrupted, Terminated, ended_in_order
from cola_jax.cli.static import Static
from cola_jax.cli.tasks import Tasks
from cola_jax.cli.usage import check
from cola_jax.cli.verbosity import log
from cola_jax.errors import InputError, UsageError, did_you_mean, of_system, one_line, shown
from cola_jax.files import keep_programs
from cola_jax.strategies.rules import DEFAULT, PRESETS
from cola_jax.tasks.task import TaskConfig

DESCRIPTION = "Search which layers of a pretrained LLM to run, skip or loop, for each input."
INTERRUPTED = 130  # the exit status of a shell after Ctrl-C
PIPE = 141  # likewise after writing to a closed pipe
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
    the harness. Raises UsageError for a command line that cannot be run.
    """
    name, given = command_of(arguments)
    if name == "lm-eval":
        return LmEval(tuple(given))
    given, shared = take_shared(given)
    values = {} if shared.config is None else read_config(shared.config)
    flags = {flag.name: flag for flag in flags_of(COMMANDS[name])}
    given = [rename(argument, flags) for argument in given]
    preset = chosen_preset(given) or str(values.get("preset", DEFAULT))
    command: Any = with_defaults(COMMANDS[name], preset)
    flags = {flag.name: flag for flag in flags_of(command)}
    if shared.help:
        print_help(name, COMMANDS[name], flags.values())
        sys.exit(0)
    arguments = [*as_arguments(values, flags, shared.config or "", name), *given]
    check(name, arguments, flags.values())
    return build(name, command, arguments)


def command_of(arguments: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Returns the name of the command and what follows it; prints the help where that is asked.

    Raises UsageError for a command that there is not.
    """
    first, *rest = arguments or ["--help"]
    if first == "help" and rest and rest[0] in COMMANDS:
        return rest[0], ["--help"]
    if first in ("--help", "-h", "help"):
        print_commands(DESCRIPTION, COMMANDS)
        sys.exit(0)
    if first == "--version":
        raise UsageError(f"--version takes nothing after it, not {shown(rest[0])}.")
    if first.startswith("-"):
        near = did_you_mean(first, ("--help", "--version", "--print-completion"))
        raise UsageError(f"{first} needs a command before it{near}: `cola --help` lists them.")
    if first not in COMMANDS:
        near = did_you_mean(first, COMMANDS)
        raise UsageError(f"there is no command {first!r}{near}: `cola --help` lists them.")
    return first, rest


def with_defaults(command: type, preset: str) -> Any:
    """Returns a command whose rules, if it has some, are those of a preset."""
    if command is not Search:
        return command
    flags = TaskFlags(tyro.MISSING, TaskConfig(tyro.MISSING), tyro.MISSING)
    return Search(flags, rules=PRESETS.get(preset, PRESETS[DEFAULT]))


def build(name: str, command: Any, arguments: Sequence[str]) -> Command:
    """Makes a command of arguments that were checked.

    Raises UsageError where a value is unfit beside another.
    """
    said = io.StringIO()
    default: dict[str, Any] = {} if isinstance(command, type) else {"default": command}
    kind = command if isinstance(command, type) else type(command)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"cola {name}", args=arguments, **default)
    except SystemExit as end:
        cause: BaseException | None = end
        while cause is not None and not isinstance(cause, ValueError):
            cause = cause.__context__
        if cause is None:
            print(said.getvalue(), end="", file=sys.stderr)
            raise
        raise UsageError(str(cause)) from None


def chosen_preset(arguments: Sequence[str]) -> str | None:
    """Finds the value of `--preset` before the real parsing."""
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if flag == "--preset":
            return value
        if flag.startswith("--preset="):
            return flag.removeprefix("--preset=")
    return None


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `cola`; bad input is one line on stderr, and exit status 1, or 2 for bad usage."""
    keep_programs()
    # transformers serves for tokenizers alone, and need not report that torch is missing
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    given = sys.argv[1:] if arguments is None else list(arguments)
    verbosity.choose()
    try:
        with ended_in_order():
            if given == ["--version"]:
                print(f"cola-jax {version('cola-jax')}")
            elif given[:1] == ["--print-completion"]:
                print_completion(given[1:], COMMANDS)
            else:
                run(given)
    except KeyboardInterrupt as interrupt:
        kept = "what a run has written is kept. Start the same command again to go on."
        ended = "terminated" if isinstance(interrupt, Terminated) else "interrupted"
        print(f"\n{ended}: {str(interrupt) or kept}", file=sys.stderr)
        sys.exit(interrupt.status if isinstance(interrupt, Interrupted) else INTERRUPTED)
    except BrokenPipeError:  # what reads the results has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE)
    except (InputError, OSError, MemoryError) as error:
        log.debug("traceback:", exc_info=error)
        said = of_system(error) if isinstance(error, OSError) else str(error)
        if isinstance(error, MemoryError):
            said = f"memory ran out ({error}): close other programs, or take a smaller model."
        message = Text.assemble(("error: ", "bold red"), one_line(said))
        verbosity.alerts().print(message, highlight=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def run(arguments: Sequence[str]) -> None:
    """Parses a command line and runs its command."""
    command = parse(arguments)
    if not isinstance(command, LmEval):
        shared = take_shared(arguments)[1]
        verbosity.choose(verbose=shared.verbose, quiet=shared.quiet)
        verbosity.log_start(command)
    command.run()
