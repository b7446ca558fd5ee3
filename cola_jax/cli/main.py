"""The command `cola`: its signals, messages, errors and exit status."""

import logging
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from cola_jax import progress
from cola_jax.errors import InputError, Unfinished, UsageError, of_system, one_line
from cola_jax.files import keep_programs
from cola_jax.progress import log

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PIPE = 141  # the exit status of a shell after writing to a closed pipe
KEPT = "all written rows are kept. Re-run the same command to resume."
LABELS = {logging.WARNING: "warning: ", logging.ERROR: "error: "}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `cola`; bad input is one line on stderr, and exit status 1, or 2 for bad usage.

    Signals are handled before anything that takes long is imported.
    """
    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        run_command(sys.argv[1:] if arguments is None else [*arguments])
    except KeyboardInterrupt as interruption:
        (kept, *_) = getattr(interruption, "__notes__", [KEPT])
        print(f"\ninterrupted: {kept}", file=sys.stderr)
        (number, *_) = interruption.args or SIGNALS
        sys.exit(128 + number)  # as of a shell
    except BrokenPipeError:  # the reader of the results has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt for a signal; a second one kills the process."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    raise KeyboardInterrupt(number)


def run_command(arguments: Sequence[str]) -> None:
    """Parse a command line and run its command; exit with a line for an error of the input."""
    keep_programs()
    set_messages()
    from cola_jax.cli.commands import parse
    from cola_jax.cli.flags import yaml_of

    try:
        command = parse(arguments)
        set_messages(verbose=command.general.verbose, quiet=command.general.quiet)
        log.debug("configuration:\n%s", yaml_of(command))
        command.run()
    except BrokenPipeError:
        raise
    except (InputError, Unfinished, OSError) as error:
        log.debug("traceback:", exc_info=error)
        log.error("%s", of_system(error) if isinstance(error, OSError) else error)
        sys.exit(2 if isinstance(error, UsageError) else 1)


class ToTerminal(logging.Handler):
    """Print messages on standard error, where they do not disturb a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        text = self.format(record)
        if record.levelno >= logging.INFO:  # details may take several lines
            text = LABELS.get(record.levelno, "") + one_line(text)
        tqdm.write(text, file=sys.stderr)


HANDLER = ToTerminal()


def set_messages(*, verbose: bool = False, quiet: bool = False) -> None:
    """Print info, debug as well with --verbose, or warnings and errors alone with --quiet."""
    progress.hidden = quiet
    log.handlers = [HANDLER]
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
