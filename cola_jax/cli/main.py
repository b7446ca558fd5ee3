"""The command `cola`: its signals and errors."""

import os
import sys
from collections.abc import Sequence

from cola_jax.cli.signals import Interrupted, Terminated, ended_in_order

PIPE = 141  # the exit status of a shell after writing to a closed pipe
KEPT = "what a run has written is kept. Start the same command again to go on."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `cola`; bad input is one line on stderr, and exit status 1, or 2 for bad usage.

    Signals are handled before anything that takes long is imported; after the process's own command
    line (None), a signal ends the process at once.
    """
    try:
        with ended_in_order(last=arguments is None):
            run_command(sys.argv[1:] if arguments is None else [*arguments])
    except KeyboardInterrupt as interrupt:
        kind = Terminated if isinstance(interrupt, Terminated) else Interrupted
        print(f"\n{kind.__name__.lower()}: {str(interrupt) or KEPT}", file=sys.stderr)
        sys.exit(128 + kind.number)  # as of a shell
    except BrokenPipeError:  # what reads the results has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE)


def run_command(arguments: Sequence[str]) -> None:
    """Parse a command line and run its command; exit with a line for an error of the input."""
    from cola_jax.cli import verbosity
    from cola_jax.cli.commands import parse
    from cola_jax.errors import InputError, UsageError, of_system
    from cola_jax.files import keep_programs

    keep_programs()
    # transformers serves for tokenizers alone, and need not report that torch is missing
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    verbosity.choose()
    try:
        command = parse(arguments)
        verbosity.choose(verbose=command.general.verbose, quiet=command.general.quiet)
        verbosity.log_start(command)
        command.run()
    except BrokenPipeError:
        raise
    except (InputError, OSError, MemoryError) as error:
        text = of_system(error) if isinstance(error, OSError) else str(error)
        if isinstance(error, MemoryError):
            text = f"memory ran out ({error}): close other programs, or take a smaller model."
        verbosity.log.debug("traceback:", exc_info=error)
        verbosity.log.error("%s", text)
        sys.exit(2 if isinstance(error, UsageError) else 1)
