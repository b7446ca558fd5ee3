"""The rows of a trial: the runs that lie beside its results, and the digest of their verdicts."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from cola_jax.deploy.verify.protocol import PROTOCOL
from cola_jax.errors import InputError, reading, shown
from cola_jax.files import exists, inside, read_json
from cola_jax.question import digest
from cola_jax.runs.results import Results, changed
from cola_jax.runs.run import Run
from cola_jax.runs.session import prompt_folders
from cola_jax.storage import AnyPath, path_of

ROWS = "rows"  # field of a trial's results
COLUMNS = ["question", "node", "verdict", "margin"]


def trial_runs(directory: AnyPath, protocol: Mapping[str, Any]) -> Iterator[Run]:
    """Yield the runs of a trial: of each task, the samples and the paths in every prompt.

    Raises InputError for a task whose name, in a file of somebody else, leads elsewhere.
    """
    samples = protocol.get("self_consistency", {}).get("samples", {})
    for task, asked in protocol["tasks"].items():
        if PurePath(task).name != task or task in ("", ".."):
            raise InputError(f"{shown(task)} is not the name of a task's folder: restore the file.")
        folder = str(inside(directory, task))
        names = [f"sample-{number}" for number in range(1, samples.get(task, 0) + 1)]
        for place in (*(str(inside(folder, name)) for name in names), folder):
            yield from map(Run, prompt_folders(place, len(asked["prompts"])))


def digest_of_rows(directory: AnyPath, protocol: Mapping[str, Any]) -> str:
    """Return the digest of a trial's protocol and of the verdicts of its runs."""
    runs = trial_runs(directory, protocol)
    return digest(protocol["hash"], *(digest_of_run(run) for run in runs))


def digest_of_run(run: Run) -> str:
    """Return the digest of the verdicts of a run."""
    rows = run.evaluations(COLUMNS).sort_by([("question", "ascending"), ("node", "ascending")])
    out = hashlib.sha256()
    for name in COLUMNS:
        out.update(repr(rows[name].to_pylist()).encode())
    return out.hexdigest()


def check_rows(file: AnyPath, results: Results) -> None:
    """Raise EditedError for results of a trial that are not those of the rows beside them.

    Results that were copied elsewhere, or are of an earlier version, have none to compare with.
    """
    folder = path_of(file).parent
    stated = results.run.get(ROWS)
    if stated is None or not exists(folder / PROTOCOL):
        return
    with reading(folder / PROTOCOL):
        protocol = read_json(folder / PROTOCOL)
        runs = [run for run in trial_runs(folder, protocol) if run.exists()]
        found = digest_of_rows(folder, protocol) if runs else stated
    if found != stated:
        raise changed(file, results.run, "its rows or its protocol were changed")
