"""What is recorded of the machine and the command of a start."""

import datetime
import functools
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("cola-jax", "jax", "jaxlib", "flax", "transformers", "numpy")


def machine() -> dict[str, Any]:
    """Returns what is recorded about when and where a run was started."""
    device = jax.local_devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": f"{device.platform} {device.device_kind}",
        "command_line": shlex.join(sys.argv),
        "commit": git_commit(),
    }


@functools.cache
def git_commit() -> str | None:
    """Returns the commit of the checkout that runs, with a mark where it has changes, if it is one.

    An installed package has none; its version is recorded.
    """
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
