"""The help of the command line: flags in groups by what a user decides, wrapped like prose."""

import inspect
import shutil
import textwrap
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.text import Text

from cola_jax.cli.flag_table import Flag

WIDEST = 100  # columns; longer lines of prose are hard to read
NARROWEST = 50
COLUMN = 26  # where the text of a flag begins
GENERAL = (
    Flag("--config", "general", metavar="FILE", describe=lambda: (
        "YAML file of flags by their names, such as the config.yaml that a run writes; flags on "
        "the command line take precedence."
    )),
    Flag("--verbose", "general", ("-v",), switch=True, describe=lambda: (
        "Also print the resolved configuration, versions, devices, each compilation with its "
        "seconds, and the traceback of an error."
    )),
    Flag("--quiet", "general", ("-q",), switch=True, describe=lambda: (
        "Print results, warnings and errors alone: no progress, and nothing about what is loaded."
    )),
    Flag("--help", "general", ("-h",), switch=True, describe=lambda: "Print this help."),
)  # fmt: skip
# what a user decides, in the order of the help; a group has flags, all flags of a class, or those
# fields of a class. What is in none belongs to the command itself.
GROUPS = {
    "Model": ("--model", "--dtype", "--revision"),
    "Task": ("TaskConfig",),
    "Prompts and scoring": tuple(
        f"TaskConfig --{name}"
        for name in (
            "scorer",
            "format",
            "rule",
            "num-fewshot",
            "shots-file",
            "chat",
            "max-new-tokens",
            "variants",
        )
    ),
    "Held-out questions": (
        "--held-out",
        "--held-out-from",
        "--held-out-seed",
        "--part",
    ),
    "": (),  # those of the command itself
    "Paths": ("PathFlags",),
    "Output": ("--output", "--json", "--page", "--polar", "--drllm"),
    "Speed and devices": ("RunFlags --batch-size", "Devices"),
    "Several processes or hosts": ("--shard", "Hosts"),
    "Rules of the search, by default those of the preset": ("rules",),
    "General": ("general",),
}
OWN = {  # the title of a command's own flags
    "distill": "Router and training",
    "export": "Path and format",
    "generate": "Prompts and decoding",
    "menu": "Menu",
    "static": "Search",
    "benchmark": "Measurement",
}
COMMAND_GROUPS = {
    "Start": ("demo", "tasks"),
    "Models": ("convert", "cache"),
    "Runs": ("search", "evaluate", "generate", "scan", "report"),
    "Use what was found": ("static", "menu", "distill", "export", "lm-eval"),
    "Speed": ("benchmark",),
}


def print_help(name: str, command: type, flags: Iterable[Flag]) -> None:
    """Prints the help of a command."""
    flags = list(flags)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(textwrap.fill(usage(name, flags), width(), subsequent_indent=" " * 8))
    console.print("\n" + textwrap.fill(summary(command), width()))
    groups: dict[str, list[Flag]] = {title: [] for title in GROUPS}
    for flag in (*flags, *GENERAL):
        groups[group_of(flag)].append(flag)
    for title, members in groups.items():
        if members:
            console.print(Text(f"\n{title or OWN.get(name, name.capitalize())}", "bold"))
            for flag in members:
                console.print(entry(invocation(flag), text_of(flag)))
    if any(flag.switch for flag in flags):
        console.print(
            "\n" + textwrap.fill("A flag without a value is turned off by its --no- form.", width())
        )


def print_commands(description: str, commands: Mapping[str, type]) -> None:
    """Prints the help of `cola` itself."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"usage: cola COMMAND [FLAGS]\n\n{textwrap.fill(description, width())}")
    for title, names in COMMAND_GROUPS.items():
        console.print(Text(f"\n{title}", "bold"))
        for name in names:
            console.print(entry(name, summary(commands[name]), 14))
    console.print(Text("\nGeneral", "bold"))
    for flag, text in (
        ("COMMAND --help", "Print the flags of a command."),
        ("--version", "Print the version."),
        ("--print-completion SHELL", "Print a script for bash, zsh or fish that completes."),
    ):
        console.print(entry(flag, text))


def usage(name: str, flags: Iterable[Flag]) -> str:
    """Writes a command with what it needs."""
    needed = (flag.name if flag.placed else invocation(flag, short=False) for flag in flags
              if flag.required)  # fmt: skip
    return " ".join(["usage: cola", name, *needed, "[FLAGS]"])


def summary(command: type) -> str:
    """Returns what a command does."""
    return " ".join((inspect.getdoc(command) or "").split("\n\n")[0].split())


def group_of(flag: Flag) -> str:
    """Returns the title of the group that a flag belongs to."""
    owner = "rules" if flag.name.startswith("--rules.") else flag.owner
    for key in (f"{owner} {flag.name}", flag.name, owner):
        for title, keys in GROUPS.items():
            if key in keys:
                return title
    return ""


def invocation(flag: Flag, short: bool = True) -> str:
    """Writes a flag with its value."""
    if flag.placed:
        return flag.name
    names = [*(flag.aliases if short else ()), flag.name]
    if flag.switch and flag.default is True:
        names += [flag.opposite]
    return ", ".join(names) + (f" {flag.metavar}{' ...' * flag.many}" if not flag.switch else "")


def text_of(flag: Flag) -> str:
    """Writes the help of a flag as sentences, with its choices and its default."""
    text = flag.describe()
    text = text[:1].upper() + text[1:]
    if text and text[-1] not in ".?!":
        text += "."
    if flag.switch:
        return f"{text} (default: on)" if flag.default is True else text
    named = flag.metavar == "|".join(flag.choices) or all(one in text for one in flag.choices)
    if not named:
        text += f" One of {', '.join(flag.choices)}."
    if flag.required:
        return f"{text} (required)"
    if flag.default is None and flag.metavar.startswith("auto|"):
        return f"{text} (default: auto)"
    if flag.default in (None, (), ""):
        return text
    shown = f"{flag.default:.3g}" if isinstance(flag.default, float) else flag.default
    return f"{text} (default: {shown})"


def entry(left: str, right: str, column: int = COLUMN) -> str:
    """Writes a line of a list, and its text beside or below it."""
    indent = " " * column
    lines = textwrap.wrap(right, width() - column, break_on_hyphens=False)
    if lines and len(left) + 4 <= column:  # beside it
        first, *lines = lines
        head = [f"  {left}".ljust(column) + first]
    else:
        head = textwrap.wrap(left, width() - 2, initial_indent="  ", subsequent_indent="    ")
    return "\n".join([*head, *(indent + line for line in lines)])


def width() -> int:
    """Returns the columns of the help."""
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))
