"""The runs of `experiments.hostile`: written by hand, and made by commands."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from etils import epath

from cola_jax.cli.main import main
from cola_jax.formats.conversion import convert
from cola_jax.report import summarise, write_markdown, write_page, write_results
from cola_jax.report.compare import compare_runs
from cola_jax.runs.run import Run
from tests import tiny
from tests.report.conftest import make_run
from tests.report.hostile import (
    LONG,
    TEXTS,
    decoded_part,
    letters_part,
    settings_of,
    start_of,
)

# of a file: all but "/", in at most 255 bytes
FILE = "[red]:smile:<img src=x onerror=window.pwned=1>&\"'#%2F?{{7}}\u202e\u2028"
EVERY = " ".join(TEXTS.values())
PARTS = {"letter": letters_part, "generation": decoded_part}
SEARCHED = ("script end", "image", "quotes", "link", "prototype", "URL")  # ids that tasks may have


def make_pages(folder: Path) -> Iterator[tuple[str, Path]]:
    """Makes the runs and their pages, and yields the name and file of each page."""
    start = start_of(EVERY)
    for scorer, make in PARTS.items():
        values = settings_of(EVERY) | {"scorer": scorer}
        run = make_run(folder / scorer, make(TEXTS.values()), start=start, **values)
        yield scorer, write_all([run], run.directory / f"{FILE}.html")
        longer = start_of(EVERY + "".join(LONG.values()))
        part = make([*LONG.values(), *(text * 9999 for text in TEXTS.values())])
        run = make_run(folder / f"{scorer} long", part, scorer=scorer, start=longer)
        yield f"{scorer} of a megabyte", write_all([run], run.directory / f"{FILE}.html")
    runs = [
        make_run(folder / name / FILE, letters_part(TEXTS.values()), scorer="letter", start=start)
        for name in (f"a {FILE}", f"b {FILE}", "=1+1")
    ]
    yield "several runs", write_all(runs, epath.Path(folder / "several.html"))
    yield from make_by_commands(folder)


def write_all(runs: Sequence[Run], page: epath.Path) -> Path:
    """Writes what `cola report` writes."""
    summaries = [summarise(run) for run in runs]
    write_page(runs, summaries, page, compare_runs(runs, summaries[0].num_layers))
    write_markdown(runs, summaries, page.with_suffix(".md"))
    for run, summary in zip(runs, summaries, strict=True):
        write_results(run, summary)
    return Path(page)


def make_by_commands(folder: Path) -> Iterator[tuple[str, Path]]:
    """Searches and scans such questions with a tiny random model; all files have such names."""
    model, task = folder / f"model {FILE}", folder / f"task {FILE}.jsonl"
    convert(str(tiny.make_source(folder / f"source {FILE}")), model)
    rows = [row(TEXTS[name]) for name in SEARCHED]
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command, *flags in (("search", "--simulations", "4"), ("scan", "--longest-block", "2")):
        output = folder / f"{command} {FILE}"
        given = ["--model", str(model), "--task", str(task), "--output", str(output)]
        main([command, *given, *flags, "--scorer", "letter", "--quiet"])
        yield command, output / "report.html"


def row(text: str) -> dict:
    """Writes a question in ARC's fields."""
    choices = {"text": [text, "b", "c"], "label": ["A", "B", "C"]}
    return {"id": text, "question": text, "choices": choices, "answerKey": "A"}
