"""Blinding: no outcome of a trial's runs is shown before the trial has its verdict.

Who sees the effects of a running trial may stop it, extend it or leave it by them, and its p-values
then mean nothing.
"""

from collections.abc import Mapping
from typing import Any

from cola_jax.errors import InputError, reading
from cola_jax.files import exists, read_json
from cola_jax.runs.results import RESULTS
from cola_jax.storage import AnyPath, path_of

EARLIER = "verdicts.json"  # results of trials of earlier versions
DEPTH = 3  # folders of a trial above a run: of a task, of a sample and of a prompt


def check_verdict(directory: AnyPath, settings: Mapping[str, Any]) -> None:
    """Raise InputError for a run, of these settings, of a trial that has no verdict yet.

    Runs of other commands have no protocol.
    """
    protocol = settings.get("protocol")
    if protocol is None:
        return
    for folder in list(path_of(directory).parents)[:DEPTH]:
        if exists(folder / EARLIER):
            return
        file = folder / RESULTS
        if exists(file):
            with reading(file):
                if read_json(file)["run"]["settings"].get("hash") == protocol:
                    return
    raise InputError(
        f"{directory} is a run of a trial whose verdict is not beside it, and nothing that it "
        "measured is shown before: run the same `cola verify` to its end; `cola status "
        f"{directory}` shows its progress."
    )
