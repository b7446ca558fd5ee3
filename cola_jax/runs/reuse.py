"""Stored evaluations: those of other runs, which a search need not repeat, and those of a run."""

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from cola_jax.errors import InputError, shown
from cola_jax.runs.comparable import Wording, asked_by_run, asked_here, check_comparable
from cola_jax.runs.directory import Path, RunDirectory
from cola_jax.runs.parts import by_question, check_counts, check_nodes
from cola_jax.runs.schema import stored_verdict
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import most_options
from cola_jax.scoring.verdicts import Verdicts

log = logging.getLogger(__name__)


class Reuse:
    """The evaluations of runs over the same checkpoint, prompts and scorer."""

    def __init__(
        self, directories: Sequence[str], settings: Mapping[str, Any], encoded: Sequence[Encoded]
    ):
        """Reads runs; InputError where one cannot serve questions, naming the difference."""
        self.tables: dict[str, list[pa.Table]] = defaultdict(list)
        here = asked_here(settings, encoded)
        for directory in directories:
            run = RunDirectory(directory)
            there = asked_by_run(run)
            told = check_comparable(there, here, Wording._fields)
            shared = {
                name for name, words in there.questions.items() if here.questions.get(name) == words
            }
            detail = f" ({'; '.join(told)})" if told else ""
            if not shared:
                raise InputError(
                    f"{directory} has none of these questions in the same words: its "
                    f"{len(there.questions)} questions or their prompts are others{detail}."
                )
            if told:
                log.info("%s is reused where nothing differs%s", directory, detail)
            evaluations = run.evaluations()
            check_counts(run.directory, run.questions(["question", "evaluations"]), evaluations)
            for name, table in by_question(evaluations).items():
                if name in shared:
                    self.tables[name].append(table)

    def known(self, encoded: Encoded, positions: int) -> dict[Path, Verdicts]:
        """Returns the verdict [1] of each path of a question of at most so many layers."""
        rows = (row for table in self.tables[encoded.question.id] for row in table.to_pylist())
        return {
            tuple(row["path"]): stored_verdict(row, encoded)
            for row in rows
            if len(row["path"]) <= positions and row["grade"] != Grade.UNGRADED.value
        }


def stored_verdicts(run: RunDirectory, encoded: Sequence[Encoded], paths: int) -> Verdicts:
    """Reads the verdicts [n, C] of a run that evaluated C paths, in the order of `encoded`."""
    at = {one.question.id: i for i, one in enumerate(encoded)}
    out = Verdicts.empty((len(encoded), paths), most_options(encoded))
    rows = run.evaluations()
    check_nodes(run.directory, rows["node"].to_numpy(), paths)
    for row in rows.to_pylist():
        i = at.get(row["question"])
        if i is None:
            raise InputError(
                f"{run.directory} has evaluations of {shown(row['question'])}, which is none of "
                "its questions: remove the part file that has them."
            )
        out.put((i, slice(row["node"], row["node"] + 1)), stored_verdict(row, encoded[i]))
    return out
