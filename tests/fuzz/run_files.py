"""Files of a run directory, as reports, resumed runs and other searches read them."""

import contextlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import NamedTuple

from cola_jax.cli.report import Report
from cola_jax.deploy.menu import candidates
from cola_jax.deploy.router import target_of_path
from cola_jax.deploy.settings import MenuSettings
from cola_jax.execute.metrics import Metrics
from cola_jax.question import open_question
from cola_jax.runs.run import MANIFEST, STARTS, Run
from cola_jax.runs.settings import asked_here
from cola_jax.runs.stored import Answers, Reuse, read_labels, write_polar
from tests.fuzz import sound_runs
from tests.fuzz.kind import Kind
from tests.fuzz.mutations import mutate_bytes, mutate_json_text
from tests.fuzz.sound_runs import LAYERS

NAMES = (MANIFEST, STARTS, "evaluations")
make = sound_runs.make


class Example(NamedTuple):
    """A mutated file of a run, and what reads the run."""

    run: str
    reader: str
    file: str
    content: bytes


def kinds(folder: Path) -> dict[str, Kind]:
    """Returns the kinds of files of the runs that `make` made."""
    readers = Readers()
    files = {
        name: {
            file.relative_to(folder / name).as_posix(): file for file in (folder / name).rglob("*")
        }
        for name in sound_runs.NAMES
    }

    def mutate(kind: str, seed: int) -> Example:
        draw = random.Random(seed)
        run, reader = draw.choice(USES)
        names = [name for name in sorted(files[run]) if name.startswith(kind) and "." in name]
        name = draw.choice(names)
        return Example(run, reader, name, mutated(files[run][name], seed))

    def read(example: Example) -> None:
        copy = folder / "fuzzed"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder / example.run, copy)
        (copy / example.file).write_bytes(example.content)
        quiet = io.StringIO()
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            getattr(readers, example.reader)(copy)

    return {
        kind: Kind(lambda seed, kind=kind: mutate(kind, seed), read, "fuzzed", quick=15)
        for kind in NAMES
    }


def mutated(file: Path, seed: int) -> bytes:
    """Returns the mutation of a file."""
    if file.suffix == ".json":
        return mutate_json_text(json.loads(file.read_bytes()), seed)
    return mutate_bytes(file.read_bytes(), seed)


class Readers:
    """What reads a run: each a method that takes its directory."""

    def __init__(self) -> None:
        self.scorer = sound_runs.scorer()
        self.encoded = sound_runs.encoded(self.scorer)

    def report(self, folder: Path) -> None:
        Report((str(folder),)).run()

    def compared(self, folder: Path) -> None:
        sound = folder.parent / "decoded"
        Report((str(folder), str(sound)), page=folder.parent / "page.html", json=True).run()

    def exported(self, folder: Path) -> None:
        run = Run(folder)
        write_polar(run, folder / "polar.json")

    def resumed(self, folder: Path) -> None:
        """Does what a command does with its run directory before it evaluates anything."""
        settings = sound_runs.SEARCH | {"command": "search", "simulations": 200}
        here = asked_here(settings, self.encoded)
        with Run(folder).open(settings, sound_runs.START, here, metrics=Metrics()) as run:
            run.count_earlier(LAYERS)
            for encoded in self.encoded:
                run.known(encoded)

    def reused(self, folder: Path) -> None:
        stored = Reuse([str(folder)], sound_runs.SEARCH, self.encoded)
        for encoded in self.encoded:
            stored.known(encoded, 2 * LAYERS)

    def chosen_from(self, folder: Path) -> None:
        """Does what `cola menu` and `cola distill` do with a run."""
        run = Run(folder)
        labels = read_labels(run)
        candidates(labels, LAYERS, MenuSettings())
        for path in (path for one in labels for path in one.held):
            target_of_path(path, LAYERS)

    def decoys(self, folder: Path) -> None:
        answers = Answers(folder)
        for name in ("g1", "g2"):
            answers.decoy(open_question(name, "3 + 4", "7"))


USES = (
    *(("search", "report"), ("decoded", "report"), ("evaluated", "report"), ("scan", "report")),
    *(("search", "resumed"), ("search", "reused"), ("search", "chosen_from")),
    *(("search", "exported"), ("decoded", "exported"), ("evaluated", "decoys")),
)
