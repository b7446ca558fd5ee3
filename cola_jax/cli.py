"""The command `cola`: parsing its command line, and what becomes of errors."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.text import Text
from tyro.conf import subcommand

from cola_jax.commands.benchmark import Benchmark
from cola_jax.commands.convert import Convert
from cola_jax.commands.demo import Demo
from cola_jax.commands.evaluate import Evaluate
from cola_jax.commands.generate import Generate
from cola_jax.commands.material import Material
from cola_jax.commands.report import Report
from cola_jax.commands.search import Search
from cola_jax.search.presets import PRESETS
from cola_jax.tasks.task import Asking

DESCRIPTION = "Search which layers of a pretrained LLM to run, skip or loop, for each input."
COMMANDS = {
    "demo": Demo,
    "convert": Convert,
    "search": Search,
    "evaluate": Evaluate,
    "generate": Generate,
    "report": Report,
    "benchmark": Benchmark,
}


def parse(
    arguments: Sequence[str],
) -> Convert | Search | Evaluate | Generate | Report | Demo | Benchmark:
    """Parses a command line; `--preset` chooses the defaults that `--rules.*` override."""
    rules = PRESETS.get(chosen_preset(arguments), PRESETS["cola"])
    material = Material(tyro.MISSING, Asking(tyro.MISSING), tyro.MISSING)
    search = Search(material, rules=rules)
    commands: Any = None
    for name, command in COMMANDS.items():
        default: dict[str, Any] = {"default": search} if command is Search else {}
        one = Annotated[command, subcommand(name, **default)]
        commands = one if commands is None else commands | one
    return tyro.cli(commands, prog="cola", description=DESCRIPTION, args=list(arguments))


def chosen_preset(arguments: Sequence[str]) -> str:
    """Finds the value of `--preset` ahead of the real parsing."""
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if flag == "--preset":
            return value
        if flag.startswith("--preset="):
            return flag.removeprefix("--preset=")
    return "cola"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `cola`; what is wrong with the input is one line on stderr and exit status 1."""
    # transformers is here for tokenizers alone, and need not say that it misses torch
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    command = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        command.run()
    except KeyboardInterrupt:
        sys.exit("stopped. A search or an evaluation goes on when the same command is given again.")
    except (ValueError, OSError) as error:
        if not is_ours(error):
            raise
        message = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True).print(message, highlight=False, soft_wrap=True)
        sys.exit(1)


def is_ours(error: Exception) -> bool:
    """Whether an error speaks of the input: raised by this package, or by the operating system."""
    if isinstance(error, OSError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
