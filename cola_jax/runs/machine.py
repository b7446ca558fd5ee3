"""The record of the machine and the command, for a start of a run."""

import datetime
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

PACKAGES = ("cola-jax", "jax", "jaxlib", "flax", "transformers", "numpy")


def machine() -> dict[str, Any]:
    """Return the record of the machine and the command, for a start of a run."""
    import jax

    device = jax.local_devices()[0]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "device": f"{device.platform} {device.device_kind}",
        "command_line": command_line(),
        "commit": git_commit(Path(__file__).parents[2]),
    }


def command_line() -> str:
    """Return the command of this process, without the folder of its program."""
    program, *words = sys.argv
    place = PurePath(program)
    name = f"python -m {place.parent.name}" if place.name == "__main__.py" else place.name
    return " ".join([name, shlex.join(words)]).strip()


def git_commit(folder: Path) -> str | None:
    """Return the commit of a checkout, marked where it has changes; None without one."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    if not (folder / ".git").exists():  # nor take the commit of a project around a package
        return None
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # git is not installed
        return None
