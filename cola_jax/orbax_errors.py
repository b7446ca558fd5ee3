"""Orbax and TensorStore, without what they log, and with errors of files as OSError."""

import contextlib
import logging
import os
import re
from collections.abc import Iterator

CODE = re.compile(r"\[os_error_code='(\d+)'\]")


def quieten() -> None:
    """Keeps Orbax from logging its steps, and errors that it raises as well."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Lets Orbax write in the body; OSError where a file cannot be, for which it has ValueError."""
    quieten()
    try:
        yield
    except ValueError as error:
        if not (found := CODE.search(str(error))):
            raise
        code = int(found[1])
        raise OSError(code, os.strerror(code)) from error
