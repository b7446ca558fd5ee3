"""`Reuse`: evaluations that earlier runs stored, so that a search does not repeat them."""

import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import pyarrow as pa

from cola_jax.errors import InputError, shown
from cola_jax.path import STOP, pad_path
from cola_jax.runs.comparable import Wording, asked_by_run, asked_here, check_comparable
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.part_checks import check_counts, check_nodes
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import Scorer, most_options
from cola_jax.scoring.verdicts import Completion, Verdicts

ASKED = ["question", "prompt_hash", "options", "gold", "evaluations"]  # columns of questions
log = logging.getLogger(__name__)


class StoredRows:
    """The evaluations of questions in the tables of earlier runs or starts."""

    def __init__(self):
        self.tables: dict[str, list[pa.Table]] = defaultdict(list)  # of each question

    def add(self, table: pa.Table, names: Set[str]) -> set[str]:
        """Adds the rows of a table that are of some questions; returns all questions it has."""
        tables = by_question(table)
        for name in names & tables.keys():
            self.tables[name].append(tables[name])
        return set(tables)

    def of(self, question: str) -> Iterator[dict[str, Any]]:
        """Yields the rows of a question."""
        for table in self.tables.get(question, ()):
            yield from table.to_pylist()

    def forget(self, question: str) -> None:
        """Lets go of a question, and of tables that have no other."""
        self.tables.pop(question, None)


class Reuse:
    """The evaluations of runs over the same checkpoint, prompts and scorer."""

    def __init__(
        self,
        directories: Sequence[str],
        settings: Mapping[str, Any],
        encoded: Sequence[Encoded],
        scorer: Scorer,
    ):
        """Reads runs; ValueError where one cannot serve questions, naming the difference."""
        self.scorer, here = scorer, asked_here(settings, encoded)
        asked = {one.question.id: identity_of(one) for one in encoded}
        self.stored = StoredRows()
        for directory in directories:
            run = RunDirectory(directory)
            told = check_comparable(asked_by_run(run), here, Wording._fields)
            asked_there = run.questions(ASKED)
            rows = asked_there.to_pylist()
            stored = {
                row["question"]: (row["prompt_hash"], tuple(row["options"]), row["gold"])
                for row in rows
            }
            shared = {name for name in stored if stored[name] == asked.get(name)}
            detail = f" ({'; '.join(told)})" if told else ""
            if not shared:
                raise InputError(
                    f"{directory} has none of these questions in the same words: its "
                    f"{len(stored)} questions or their prompts are others{detail}."
                )
            if told:
                log.info("%s is reused where nothing differs%s", directory, detail)
            evaluations = run.evaluations()
            check_counts(directory, asked_there, evaluations)
            self.stored.add(evaluations, shared)

    def verdicts(self, batch: Sequence[Encoded], positions: int) -> tuple[np.ndarray, Verdicts]:
        """Returns the paths [B, C, P] known of a batch, STOP-padded, and their verdicts [B, C]."""
        known = [self.of_question(one, positions) for one in batch]
        width = max(map(len, known))
        paths = np.full((len(batch), width, positions), STOP, np.int32)
        most = max(1, *(len(one.question.options) for one in batch))
        out = Verdicts.empty((len(batch), width), most)
        for b, (one, rows) in enumerate(zip(batch, known, strict=True)):
            for c, (path, row) in enumerate(rows.items()):
                paths[b, c] = pad_path(path, positions)
                out.put((b, slice(c, c + 1)), stored_verdict(row, one, self.scorer))
        return paths, out

    def of_question(self, one: Encoded, positions: int) -> dict[tuple[int, ...], dict[str, Any]]:
        """Returns the stored evaluation of each path of a question, that for gold if there is."""
        rows = self.stored.of(one.question.id)
        return stored_rows(rows, lambda row: len(row["path"]) <= positions)


def stored_rows(
    rows: Iterable[dict[str, Any]], serves: Callable[[dict[str, Any]], bool]
) -> dict[tuple[int, ...], dict[str, Any]]:
    """Returns the graded row of each path of a question that serves, that for gold if there is."""
    found: dict[tuple[int, ...], dict[str, Any]] = {}
    for row in rows:
        path = tuple(row["path"])
        graded = row["grade"] != Grade.UNGRADED.value
        if graded and serves(row) and (path not in found or not row["control"]):
            found[path] = row
    return found


def stored_verdict(row: Mapping[str, Any], one: Encoded, scorer: Scorer) -> Verdicts:
    """Reads one row as the verdict [1] that the scorer gave, for gold."""
    gold = one.question.answer
    completion = None
    if row["finish"] is not None:
        completion = Completion(
            text=row["text"],
            answer=row["answer_text"],
            finish=row["finish"],
            truncated=row["truncated"],
            grade=None if row["grade"] is None else Grade(row["grade"]),
            tokens=tuple(row["tokens"]),
            logprob=row["logprob"],
            entropy=math.nan if row["entropy"] is None else row["entropy"],
            certainty=math.nan if row["certainty"] is None else row["certainty"],
        )
    column = np.full(1, None, object)
    column[0] = completion
    verdicts = Verdicts(
        verdict=np.array([row["finite"] and row["answer"] == gold]),
        margin=np.array([row["margin"]], np.float32),
        answer=np.array([row["answer"]], np.int32),
        scores=np.array([row["scores"]], np.float32),
        finite=np.array([row["finite"]]),
        completion=column,
    )
    return scorer.of_target(verdicts, gold) if row["control"] else verdicts


def stored_verdicts(
    run: RunDirectory, encoded: Sequence[Encoded], scorer: Scorer, paths: int
) -> Verdicts:
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
        one = stored_verdict(row, encoded[i], scorer)
        out.put((i, slice(row["node"], row["node"] + 1)), one)
    return out


def identity_of(one: Encoded) -> tuple[str, tuple[str, ...], int]:
    """Returns what makes a question the same to the model."""
    return one.prompt_hash, one.question.options, one.question.answer


def by_question(table: pa.Table) -> dict[str, pa.Table]:
    """Divides the rows of a table by their question; those of one keep their order."""
    question = table["question"].fill_null("").combine_chunks().dictionary_encode()
    number = question.indices.to_numpy()
    rows = table.take(np.argsort(number, kind="stable"))
    bounds = itertools.pairwise([0, *np.cumsum(np.bincount(number)).tolist()])
    names = question.dictionary.to_pylist()
    return {
        name: rows.slice(start, end - start)
        for name, (start, end) in zip(names, bounds, strict=True)
    }
