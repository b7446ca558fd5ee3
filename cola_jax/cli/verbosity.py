"""Results on standard output, and messages on standard error.

Commands log to the logger `cola_jax`: info is printed by default, debug with --verbose, and only
warnings and errors with --quiet.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from cola_jax import progress
from cola_jax.errors import one_line

# characters that a terminal obeys, such as escape: names and texts may have them
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(9), *range(11, 32), *range(127, 160))}
LABELS = {
    logging.WARNING: ("warning: ", "bold yellow"),
    logging.ERROR: ("error: ", "bold red"),
}


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
errors = PlainConsole(stderr=True)  # messages


class ToConsole(logging.Handler):
    """Print messages where they do not disturb a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        text = self.format(record)
        if record.levelno < logging.INFO:  # details may take several lines
            line = Text(text, "dim")
        else:
            line = Text.assemble(LABELS.get(record.levelno, ""), one_line(text))
        with tqdm.external_write_mode() if errors.is_terminal else contextlib.nullcontext():
            errors.print(line, soft_wrap=True, highlight=False)


HANDLER = ToConsole()


def choose(*, verbose: bool = False, quiet: bool = False) -> None:
    """Choose the messages that are printed from now on."""
    progress.hidden = quiet
    log.handlers = [HANDLER]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)


def log_devices() -> None:
    """Log the devices of this host with --verbose, which imports JAX."""
    if log.isEnabledFor(logging.DEBUG):
        import jax

        names = ", ".join(f"{device} ({device.device_kind})" for device in jax.local_devices())
        log.debug("devices: %s", names)
