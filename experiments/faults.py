"""What a command of `cola` leaves when it crashes, or when the disk is full.

    python -m experiments.faults crash --out FOLDER -- search --model MODEL --task FILE ...
    python -m experiments.faults full --out FOLDER -- convert SOURCE {out}

The command is run once unbroken, with --output FOLDER/whole/out, or with that in place of {out}.
`crash` then ends it (SIGKILL) before each rename of a file or folder of its output, with half of
what is renamed, and after it; `full` runs it on a file system that is too small (a tmpfs, which
takes a right to mount), at so many sizes up to what the output takes. Each time the command is
given again, undisturbed, and its output compared: the paths, verdicts and margins of runs, other
files byte by byte. Exits with status 1 where one differs, or where an error was not one line.
"""

import contextlib
import dataclasses
import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import util
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional

from cola_jax.cli.main import main as cola
from experiments.outputs import outputs, same_output, with_output

WHOLE, CRASHED, SMALL = "whole", "crash", "small"  # of equal lengths, which files of Orbax have
MOMENTS = ("before", "during", "after")
Moment = Literal["before", "during", "after"]
FORK = multiprocessing.get_context("fork")  # of a process that has imported everything


@dataclasses.dataclass(frozen=True)
class Crash:
    """Crash a command before, during and after each rename."""

    command: Positional[tuple[str, ...]]
    """The command of `cola`; after `--`."""
    out: Path
    """Folder for the outputs."""


@dataclasses.dataclass(frozen=True)
class Full:
    """Run a command on file systems that are too small."""

    command: Positional[tuple[str, ...]]
    """The command of `cola`; after `--`."""
    out: Path
    """Folder for the outputs."""
    moments: int = 10
    """Sizes that are tried."""


def main(settings: Crash | Full) -> None:
    out = settings.out.absolute()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    renames, modules = out / "renames", out / "modules"

    def prepare() -> None:
        note(out / WHOLE, renames)
        util.Finalize(None, lambda: modules.write_text("\n".join(sys.modules)), exitpriority=1)

    status, said = forked(settings.command, out / WHOLE, prepare)
    if status:
        sys.exit(said)
    preload(modules.read_text().split())
    if isinstance(settings, Crash):
        number = len(renames.read_text())
        failed = list(crashes(settings.command, out, number))
        print(f"{number} renames, {3 * number} crashes, {len(failed)} failed")
    else:
        failed = list(full(settings.command, out, settings.moments))
        print(f"{settings.moments} moments, {len(failed)} failed")
    print("\n".join(failed))
    sys.exit(1 if failed else 0)


def forked(
    command: Sequence[str], folder: Path, prepare: Callable[[], None] = lambda: None
) -> tuple[int, str]:
    """Runs `cola` in a fork of this process; returns its exit status and what it printed."""
    folder.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile() as log:

        def run() -> None:
            os.dup2(log.fileno(), sys.stderr.fileno())
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            prepare()
            cola((*with_output(command, folder / "out"), "--quiet"))

        process = FORK.Process(target=run)
        process.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode, Path(log.name).read_text(errors="replace")


def preload(modules: Sequence[str]) -> None:
    """Imports what a command has imported, once for all forks."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def renamed(folder: Path, act: Callable[[Callable[[], Any], str], Any]) -> None:
    """Gives every rename below a folder to a function, with what it moves."""
    for name in ("rename", "replace"):
        original = getattr(os, name)

        def rename(source: Any, target: Any, *, original: Any = original, **places: Any) -> Any:
            def move() -> Any:
                return original(source, target, **places)

            inside = os.path.abspath(os.fspath(source)).startswith(str(folder))
            return act(move, os.fspath(source)) if inside else move()

        setattr(os, name, rename)


def note(folder: Path, file: Path) -> None:
    """Notes each rename below a folder by a character in a file."""

    def act(move: Callable[[], Any], _: str) -> Any:
        with file.open("a") as notes:
            notes.write(".")
        return move()

    file.touch()
    renamed(folder, act)


def crash(folder: Path, number: int, moment: Moment) -> None:
    """Kills this process before, during or after a rename."""
    count = iter(range(number + 1))

    def act(move: Callable[[], Any], source: str) -> Any:
        here = next(count, None) == number
        if here and moment == "during":
            halve(Path(source))
        if not here or moment == "after":
            move()
        if here:
            os.kill(os.getpid(), signal.SIGKILL)

    renamed(folder, act)


def halve(source: Path) -> None:
    """Removes the second half of a file, or of the files of a folder."""
    if source.is_file():
        os.truncate(source, source.stat().st_size // 2)
        return
    files = sorted(file for file in source.rglob("*") if file.is_file())
    for file in files[len(files) // 2 :]:
        file.unlink()


def crashes(command: Sequence[str], out: Path, number: int) -> Iterator[str]:
    """Yields the crashes after which the output differs."""
    for i in range(number):
        for moment in MOMENTS:
            folder = out / CRASHED
            forked(command, folder, lambda folder=folder, i=i, m=moment: crash(folder, i, m))
            yield from finished(command, out, folder, f"rename {i}, {moment}")
            shutil.rmtree(folder)


def full(command: Sequence[str], out: Path, moments: int) -> Iterator[str]:
    """Yields the sizes of a file system where the error is not one line, or the output differs."""
    files = [file for file in (out / WHOLE).rglob("*") if file.is_file()]
    size = sum(-(-file.stat().st_size // 4096) * 4096 for file in files)
    disk = out / SMALL
    for i in range(moments):
        disk.mkdir()
        room = 4096 * max(1, size * i // moments // 4096)
        mount("-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk))
        try:
            status, said = forked(command, disk)
            print(f"{room:,} bytes of {size:,}: {said.strip()}", flush=True)
            if status != 1 or len(said.splitlines()) != 1:
                yield f"{room:,} bytes: status {status}, {said!r}"
            mount("-o", "remount,size=1g", str(disk))
            yield from finished(command, out, disk, f"{room:,} bytes")
        finally:
            subprocess.run(["umount", str(disk)], check=True)
        disk.rmdir()


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def finished(command: Sequence[str], out: Path, folder: Path, name: str) -> Iterator[str]:
    """Runs a command again; yields what is wrong with its output, if anything."""
    status, said = forked(command, folder)
    if status and "exists already" not in said:  # it was complete
        yield f"{name}: status {status}, {said!r}"
    elif not same_output(out / WHOLE / "out", folder / "out"):
        yield f"{name}: the output differs"
    elif more := outputs(folder) - outputs(out / WHOLE):
        yield f"{name}: {sorted(more)} was left"


if __name__ == "__main__":
    commands = (
        Annotated[Crash, tyro.conf.subcommand("crash")]
        | Annotated[Full, tyro.conf.subcommand("full")]
    )
    main(tyro.cli(OmitArgPrefixes[commands], description=__doc__))
