"""Cells: the searches of the paper's settings, spaces and data sets, and their commands.

A cell is a run directory, `OUT/<model>/<data>/<preset>/<space>`. Open questions need decoys first:
the model's own answers on other paths, in `OUT/<model>/<data>/answers`.
"""

import dataclasses
import fnmatch
import math
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath

from etils import epath

from cola_jax.errors import InputError, did_you_mean
from cola_jax.runs.run import Run
from cola_jax.strategies.rules import simulations_of

JOINT = "skip+repeat"
MAIN = "cola"  # the setting of the paper's main text
APPENDIX = "cola-appendix"
CEILING = "ceiling"  # names beside those of cells
LATENCY = "latency"
SECOND = "second"  # the other model, in names
GEMMA = "gemma-3-270m.gguf"  # the second model where none is given
RANDOM = 30  # paths beside the identity path on which decoys are answered


@dataclasses.dataclass(frozen=True)
class Data:
    """Questions of a data set, and how they are scored."""

    name: str  # of the folder
    task: str  # of the Hub, or generated
    scorer: str
    file: str = ""  # in a folder of local copies
    level: int | None = None
    published: str = ""  # the data set of the paper that it stands for
    note: str = ""

    @property
    def is_open(self) -> bool:
        """Whether answers are free text, so that controls need decoys."""
        return self.scorer == "exact"

    def source(self, folder: str | None) -> str:
        """Return the task, or its file in a folder that has it."""
        if folder is not None and self.file:
            file = epath.Path(folder) / self.file
            if file.exists():
                return str(file)
        return self.task


DATA = {
    data.name: data
    for data in (
        Data("arc_easy", "arc_easy", "options", "arc_easy.jsonl", published="ARC-Easy"),
        Data(
            "arc_easy-letter",
            "arc_easy",
            "letter-strict",
            "arc_easy.jsonl",
            published="ARC-Easy",
            note="the model must say the letter, of all tokens",
        ),
        Data(
            "arc_challenge",
            "arc_challenge",
            "options",
            "arc_challenge.jsonl",
            published="ARC-Challenge",
        ),
        Data("sums", "arithmetic", "exact"),
        *(
            Data(
                f"math500-{level}",
                "math_500",
                "exact",
                "math500.jsonl",
                level,
                f"DART-{level}",
                f"MATH-500 of level {level}, in place of DART-{level}",
            )
            for level in range(1, 6)
        ),
        Data(
            "gsm8k",
            "gsm8k",
            "exact",
            "gsm8k.jsonl",
            note="a floor: the model answers 1.7 % directly, so most searches start from nothing",
        ),
    )
}


@dataclasses.dataclass(frozen=True)
class Cell:
    """One search: a data set, a setting and a space."""

    data: Data
    preset: str = MAIN
    space: str = JOINT
    rows: int = 100
    second: bool = False  # with the second model

    @property
    def name(self) -> str:
        """The name by which the command takes it."""
        name = f"{self.data.name}/{self.preset}/{self.space}"
        return f"{SECOND}/{name}" if self.second else name

    @property
    def simulations(self) -> int:
        """Evaluations per question, beyond the baseline."""
        return simulations_of(self.preset)


CELLS = (
    *(Cell(DATA["arc_easy"], space=space, rows=200) for space in (JOINT, "skip", "repeat")),
    *(Cell(DATA["sums"], space=space, rows=200) for space in (JOINT, "skip", "repeat")),
    Cell(DATA["arc_easy-letter"]),
    Cell(DATA["arc_challenge"]),
    Cell(DATA["arc_easy"], second=True),
    Cell(DATA["arc_easy"], APPENDIX),
    *(Cell(DATA[f"math500-{level}"], rows=20) for level in range(1, 6)),
    Cell(DATA["gsm8k"]),
    *(Cell(DATA[name], space="skip+repeat+move", rows=200) for name in ("arc_easy", "sums")),
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the cells of a command run: models, folder, data and the number of rows."""

    out: str
    models: tuple[str, str | None]  # the model and the second one
    data: str | None = None  # folder of local copies
    rows: int | None = None  # the most of a cell

    def model(self, cell: Cell) -> str | None:
        """Return the model of a cell, None where it was not given."""
        return self.models[cell.second]

    def folder(self, cell: Cell) -> epath.Path:
        """Return the folder of a cell's data set."""
        model = self.model(cell) or SECOND
        return epath.Path(self.out) / model_folder(model) / cell.data.name

    def directory(self, cell: Cell) -> epath.Path:
        """Return the run directory of a cell."""
        return self.folder(cell) / cell.preset / cell.space

    def limit(self, cell: Cell) -> int:
        """Return the questions of a cell."""
        return cell.rows if self.rows is None else min(cell.rows, self.rows)

    def commands(self, cell: Cell, num_layers: int) -> list[list[str]]:
        """Return the arguments of the `cola` commands that run a cell, in order.

        A run that asks more questions already keeps them.
        """
        data = cell.data
        asked = ["--model", str(self.model(cell)), "--task", data.source(self.data)]
        if data.level is not None:
            asked += ["--level", str(data.level)]
        answers, directory = self.folder(cell) / "answers", self.directory(cell)
        search = ["search", *asked, *self.limit_flag(cell, directory), "--scorer", data.scorer]
        search += ["--preset", cell.preset, "--space", cell.space, "--output", str(directory)]
        if not data.is_open:
            return [search]
        decode = ["evaluate", *asked, *self.limit_flag(cell, answers), "--scorer", "generation"]
        decode += ["--paths", f"0-{num_layers - 1}", "--random", str(RANDOM)]
        return [[*decode, "--output", str(answers)], [*search, "--decoys", str(answers)]]

    def limit_flag(self, cell: Cell, directory: epath.Path) -> list[str]:
        """Return the flag of the number of questions of a run."""
        run = Run(directory)
        asked = run.settings()["questions"] if run.exists() else 0
        return ["--limit", str(max(self.limit(cell), asked))]

    def command(self, *cells: str) -> str:
        """Write the command of this page, or of some cells, for any folder and copy of the data."""
        model, second = self.models
        words = ["python", "-m", "experiments.paper", "--model", portable(model)]
        if second is not None or any(name.startswith(SECOND) for name in cells):
            words += ["--second-model", portable(second or GEMMA)]
        return shlex.join([*words, "--out", "FOLDER", *(["--cells", *cells] if cells else [])])


def portable(model: str) -> str:
    """Return a model's name without the folders of this machine."""
    return PurePath(model).name if PurePath(model).is_absolute() else model


def model_folder(model: str) -> str:
    """Return the name of a model's folder: the last part of its place."""
    return PurePath(model).name.removesuffix(".gguf")


def choose(patterns: Sequence[str]) -> tuple[list[Cell], set[str]]:
    """Return the cells that patterns name, and which of `ceiling` and `latency`; all for none.

    Raises InputError for a pattern that names nothing.
    """
    names = [*(cell.name for cell in CELLS), CEILING, LATENCY]
    chosen = set() if patterns else set(names)
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            near = did_you_mean(pattern, names)
            raise InputError(f"no cell is called {pattern}{near}: give some of {', '.join(names)}.")
        chosen |= set(matched)
    return [cell for cell in CELLS if cell.name in chosen], chosen & {CEILING, LATENCY}


def finished_rows(directory: epath.Path) -> int:
    """Return how many questions of a run are finished, 0 where there is none."""
    run = Run(directory)
    return run.questions(["question"]).num_rows if run.exists() else 0


class Speeds:
    """Measured evaluations a second, and evaluations a question and simulation, by data set."""

    def __init__(self, runs: Iterable[tuple[Cell, Run]]):
        """Take the runs that are there."""
        self.measured: dict[tuple[str, bool], tuple[float, float]] = {}
        for cell, run in runs:
            every = [start.get("metrics") or {} for start in run.read_starts()[1]]
            evaluations = sum(each.get("evaluations", 0) for each in every)
            seconds = sum(each.get("seconds", 0) for each in every if each.get("evaluations"))
            questions = run.questions(["question"]).num_rows
            if evaluations and seconds and questions:
                budget = questions * run.settings()["simulations"]
                speed = evaluations / seconds
                self.measured[cell.data.name, cell.second] = speed, evaluations / budget

    def hours(self, cell: Cell, rows: int) -> float:
        """Predict the hours of a cell by its own data set, or by the slowest one; NaN for none.

        Those of decoys, which take as long for each evaluation, are among them.
        """
        known = self.measured.get((cell.data.name, cell.second))
        if known is None and self.measured:
            known = min(self.measured.values())
        if known is None:
            return math.nan
        speed, each = known
        decoys = 1 + RANDOM if cell.data.is_open else 0
        return rows * (cell.simulations * each + decoys) / speed / 3600


def runs_there(place: Place) -> Iterator[tuple[Cell, Run]]:
    """Yield the cells that have a run with a finished question, with their runs."""
    for cell in CELLS:
        if (cell.second and place.models[1] is None) or not place.directory(cell).exists():
            continue
        if finished_rows(place.directory(cell)):
            yield cell, Run(place.directory(cell))
