"""A run that fails while questions are evaluated, and what it leaves in its journal."""

from pathlib import Path

import pytest

from cola_jax.runs import journal
from cola_jax.runs.directory import UNFINISHED
from cola_jax.runs.parts import read_part


def fail_after(calls: int, patch: pytest.MonkeyPatch) -> None:
    """Lets evaluators of unfinished questions fail after so many calls."""
    evaluate, made = journal.ResumedEvaluator.evaluate, []

    def fail(self, *arguments):
        if len(made) == calls:
            raise RuntimeError("no room")
        made.append(arguments)
        evaluate(self, *arguments)

    patch.setattr(journal.ResumedEvaluator, "evaluate", fail)


def written(directory: Path) -> int:
    """Counts the evaluations in the journal of a run."""
    files = (directory / UNFINISHED).iterdir()
    return sum(read_part(file, journal.SCHEMA).num_rows for file in files)
