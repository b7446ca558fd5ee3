"""The tables, figures and claims of CoLa, with controls: `python -m experiments.paper --help`.

`python -m experiments.paper --model smollm2 --out FOLDER` searches the cells of the paper's
settings, spaces and data sets one after the other, and writes a page that has them beside the
paper's numbers. Run it again to resume; `--cells` names some of them, and `--rows` caps all.
"""

import dataclasses

import tyro
from etils import epath

import cola_jax
from cola_jax.cli.main import main as cola
from cola_jax.engine.local import LocalEngine
from cola_jax.errors import InputError
from cola_jax.runs.session import open_model
from cola_jax.tasks.registry import load_questions
from experiments.paper.ceiling import labels_of, search_networks
from experiments.paper.cells import (
    CEILING,
    CELLS,
    DATA,
    LATENCY,
    Cell,
    Place,
    choose,
    finished_rows,
    runs_there,
)
from experiments.paper.latency import found_paths, time_paths, write_times
from experiments.paper.page import write_paper
from experiments.paper.plots import check_matplotlib
from experiments.paper.results import read

CEILING_ROWS = 60


@dataclasses.dataclass(frozen=True)
class Paper:
    """Search the cells of the paper, and write the page."""

    model: str
    """Checkpoint directory, Hub id or GGUF file."""
    out: str
    """Folder for the runs and the page."""
    cells: tuple[str, ...] = ()
    """Cells to run, such as 'sums/*', `ceiling` or `latency`; all by default."""
    rows: int | None = None
    """Most questions of a cell."""
    data: str | None = None
    """Folder with arc_easy.jsonl, arc_challenge.jsonl, math500.jsonl and gsm8k.jsonl, in place of
    the Hub's data sets."""
    second_model: str | None = None
    """Another model, searched on ARC-Easy alone."""
    page_only: bool = False
    """Write the page of what is there, and run nothing."""

    @property
    def place(self) -> Place:
        """Where the cells run."""
        return Place(self.out, (self.model, self.second_model), self.data, self.rows)


def run_cell(place: Place, cell: Cell) -> None:
    """Run the commands of a cell that is not finished."""
    model = place.model(cell)
    if model is None or finished_rows(place.directory(cell)) >= place.limit(cell):
        return
    layers = open_model(model, LocalEngine()).config.num_layers
    for arguments in place.commands(cell, layers):
        cola(arguments)


def run_ceiling(place: Place) -> None:
    """Search networks of random weights."""
    task = DATA["arc_easy"].source(place.data)
    rows = CEILING_ROWS if place.rows is None else min(CEILING_ROWS, place.rows)
    questions = load_questions(task, limit=rows)
    model = cola_jax.load(place.models[0])
    file = place.folder(CELLS[0]).parent / f"{CEILING}.json"
    search_networks(model, questions, labels_of(task), file)


def run_latency(place: Place) -> None:
    """Time the paths that the first search of the first cell found."""
    cell = CELLS[0]
    file = place.folder(cell).parent / f"{LATENCY}.json"
    there = [pair for pair in runs_there(place) if pair[0] == cell]
    if file.exists() or not there:
        return
    (result,) = read(there)
    text = result.run.questions(["text"])["text"][0].as_py()
    model = cola_jax.load(place.models[0])
    write_times(time_paths(model, result.model, text, found_paths(result)), file)


def main(settings: Paper) -> None:
    check_matplotlib()
    cells, others = choose(settings.cells)
    if settings.rows is not None and settings.rows < 1:
        raise InputError(f"rows must be at least 1, it is {settings.rows}.")
    if settings.data is not None and not epath.Path(settings.data).is_dir():
        raise InputError(
            f"data {settings.data} is no folder: give one with files such as arc_easy.jsonl, or "
            "leave it out for the data sets of the Hub."
        )
    place = settings.place
    if not settings.page_only:
        for cell in cells:
            run_cell(place, cell)
        if CEILING in others:
            run_ceiling(place)
        if LATENCY in others:
            run_latency(place)
    written = write_paper(place)
    number = len(written.results)
    print(f"{number} {'search' if number == 1 else 'searches'} on {written.file}")


if __name__ == "__main__":
    main(tyro.cli(Paper, description=__doc__))
