"""What is said on standard error: more with --verbose, only warnings and errors with --quiet.

Commands log to the logger `cola_jax`: info is what is said by default, debug is for --verbose.
Progress is shown on `errors`, which --quiet silences.
"""

import contextlib
import logging
import platform
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from cola_jax import progress
from cola_jax.cli.parser import values_of
from cola_jax.errors import one_line

PACKAGES = ("cola-jax", "jax", "transformers")

# what a terminal obeys, such as the escape character: names and texts may have it
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}


class PlainConsole(Console):
    """A console that prints text as it is, and control characters in it as Python writes them."""

    def __init__(self, **options: Any):
        # rich would take [/b] for markup, and :b: for an emoji
        super().__init__(markup=False, emoji=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield segment._replace(text=segment.text.translate(CONTROLS))


log = logging.getLogger("cola_jax")
console = PlainConsole()  # results
errors = PlainConsole(stderr=True)  # progress, and what else is not a result


class ToConsole(logging.Handler):
    """Print messages where they do not disturb a progress bar; warnings are never silenced."""

    def emit(self, record: logging.LogRecord) -> None:
        shown = errors if record.levelno < logging.WARNING else alerts()
        said = self.format(record)  # details may take several lines
        text = Text(said if record.levelno < logging.INFO else one_line(said))
        if record.levelno >= logging.WARNING:
            text = Text.assemble(("warning: ", "bold yellow"), text)
        elif record.levelno < logging.INFO:
            text.stylize("dim")
        from tqdm import tqdm

        with tqdm.external_write_mode() if shown.is_terminal else contextlib.nullcontext():
            shown.print(text, soft_wrap=True, highlight=False)


HANDLER = ToConsole()


def alerts() -> Console:
    """Return where warnings and errors are printed."""
    return PlainConsole(stderr=True) if errors.quiet else errors


def print_error(text: str, error: BaseException) -> None:
    """Print an error as a line, and its traceback with --verbose."""
    log.debug("traceback:", exc_info=error)
    line = Text.assemble(("error: ", "bold red"), one_line(text))
    alerts().print(line, highlight=False, soft_wrap=True)


def choose(*, verbose: bool = False, quiet: bool = False) -> None:
    """Choose what is printed on standard error from now on."""
    errors.quiet = quiet
    progress.hidden = quiet
    log.handlers = [HANDLER]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def log_start(command: Any) -> None:
    """Log the versions of what runs, and the command's flags, where that is asked for."""
    if not log.isEnabledFor(logging.DEBUG):
        return
    from importlib.metadata import version

    import yaml

    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    log.debug("%s; Python %s", versions, platform.python_version())
    flags = yaml.safe_dump(values_of(command), sort_keys=False, allow_unicode=True)
    log.debug("configuration:\n  %s", flags.strip().replace("\n", "\n  "))


def log_devices() -> None:
    """Log the devices of this host, where that is asked for; imports JAX then."""
    if log.isEnabledFor(logging.DEBUG):
        import jax

        names = ", ".join(f"{device} ({device.device_kind})" for device in jax.local_devices())
        log.debug("devices: %s", names)
