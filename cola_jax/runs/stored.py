"""Results of other runs: right paths, verdicts that are reused, and wrong answers."""

import dataclasses
import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from cola_jax.errors import InputError
from cola_jax.identity import check_belongs
from cola_jax.path import identity
from cola_jax.question import INTEGER, Question, decoy_of
from cola_jax.runs.parts import by_question
from cola_jax.runs.run import Path, Run
from cola_jax.runs.schema import asked_digest, known_verdicts, stored_verdict
from cola_jax.runs.settings import (
    ANY_SCORER,
    asked_by_run,
    asked_here,
    check_comparable,
    deciding,
)
from cola_jax.scoring.encode import Encoded
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import most_options
from cola_jax.scoring.verdicts import Verdicts

log = logging.getLogger(__name__)
ANSWER = ["question", "path", "answer_text", "grade", "truncated"]
EVALUATION = ["question", "path", "verdict", "margin", "control"]
QUESTION = ["question", "text", "options", "gold", "prompt_hash", "metadata", "evaluations"]
QUESTION += ["again"]


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """The results of a run for N paths of one question, asked for the correct answer."""

    question: str  # its id
    text: str
    options: tuple[str, ...]
    gold: int | None  # the correct option; None where no options were offered
    prompt_hash: str
    metadata: dict[str, str]
    paths: tuple[Path, ...]  # in the order of the run, each once
    right: np.ndarray  # [N], in all variants where the search was for that; ungraded is wrong
    margin: np.ndarray  # [N]
    robust: dict[Path, bool] | None  # of the paths asked again; None without variants

    @property
    def correct(self) -> list[Path]:
        """The paths that are right, shortest first."""
        return sorted(
            (p for p, right in zip(self.paths, self.right, strict=True) if right), key=by_length
        )

    @property
    def held(self) -> list[Path]:
        """The paths that are right in all variants, shortest first; `correct` without variants."""
        if self.robust is None:
            return self.correct
        return [path for path in self.correct if self.robust.get(path)]


def by_length(path: Path) -> tuple[int, Path]:
    """Order paths by length, and by layers where lengths are equal."""
    return len(path), path


def read_labels(run: Run) -> list[Labels]:
    """Read the labels of the questions that are done, in the order of the run.

    Raises InputError for a directory that is not a run, and for a run without a question.
    """
    rows: dict[str, dict[Path, Any]] = defaultdict(dict)
    for row in run.evaluations(EVALUATION).to_pylist():
        if not row["control"]:
            rows[row["question"]].setdefault(tuple(row["path"]), row)
    questions = run.questions(QUESTION).to_pylist()
    if not questions:
        raise InputError(f"{run.directory} has no question done yet: let the run finish first.")
    return [labels_of(question, rows[question["question"]]) for question in questions]


def labels_of(question: dict[str, Any], rows: dict[Path, Any]) -> Labels:
    """Make the labels of a question from its row and those of its evaluations."""
    again = question["again"]
    holds = {tuple(entry["path"]): all(entry["holds"]) for entry in again or ()}
    return Labels(
        question=question["question"],
        text=question["text"],
        options=tuple(question["options"]),
        gold=question["gold"],
        prompt_hash=question["prompt_hash"],
        metadata={entry["name"]: entry["value"] for entry in question["metadata"] or ()},
        paths=tuple(rows),
        right=np.array([bool(row["verdict"]) for row in rows.values()], bool),
        margin=np.array([row["margin"] for row in rows.values()], np.float32),
        robust=None if again is None else holds,
    )


class Reuse:
    """The evaluations of other runs over the same checkpoint, prompts and scorer."""

    def __init__(
        self, directories: Sequence[str], settings: Mapping[str, Any], encoded: Sequence[Encoded]
    ):
        """Read runs; InputError where one cannot serve these questions."""
        self.tables: dict[str, list[pa.Table]] = defaultdict(list)
        asked = pa.array([asked_digest(each) for each in encoded])
        ungraded = pc.field("grade").isin([Grade.UNGRADED.value])
        for directory in directories:
            run = Run(directory)
            theirs, action = deciding(run.settings()), "reuse runs of the same model and scorer"
            check_belongs(directory, theirs, "this command", deciding(settings), action)
            rows = run.evaluations().filter(pc.field("asked").isin(asked) & ~ungraded)
            if not rows.num_rows:
                raise InputError(
                    f"{directory} has none of these questions in the same words: its questions or "
                    "their prompts differ."
                )
            for name, table in by_question(rows).items():
                self.tables[name].append(table)

    def known(self, encoded: Encoded, positions: int) -> dict[Path, Verdicts]:
        """Return the verdict [1] of each path of a question of at most so many layers."""
        known = known_verdicts(self.tables[encoded.question.id], encoded)
        return {path: verdict for path, verdict in known.items() if len(path) <= positions}


def stored_verdicts(run: Run, encoded: Sequence[Encoded], paths: int) -> Verdicts:
    """Read the verdicts [n, C] of a run that evaluated C paths, in the order of `encoded`."""
    at = {each.question.id: i for i, each in enumerate(encoded)}
    out = Verdicts.empty((len(encoded), paths), most_options(encoded))
    for row in run.evaluations().to_pylist():
        i = at[row["question"]]
        out.put((i, slice(row["node"], row["node"] + 1)), stored_verdict(row, encoded[i]))
    return out


class Answers:
    """The answers of the pretrained model and of random paths to each question of a run."""

    def __init__(self, directory: epath.PathLike):
        """Read a run of `cola evaluate` that decoded answers, the identity path's among them.

        Raises InputError for a run that decoded nothing, and one without the identity path.
        """
        self.run = Run(directory)
        manifest = self.run.manifest()
        settings, start = manifest["settings"], manifest["starts"][-1]
        if settings.get("command") != "evaluate" or not (start.get("scorer") or {}).get("decodes"):
            raise InputError(
                f"{directory} does not hold decoded answers of given paths: make it with `cola "
                "evaluate --scorer generation`."
            )
        paths, self.plain = list(map(tuple, settings["paths"])), identity(start["num_layers"])
        if self.plain not in paths or len(paths) < 2:
            raise InputError(
                f"{directory} needs the model's own answer and those on other paths: add "
                f"--paths 0-{start['num_layers'] - 1} and --random 50 to its command."
            )
        self.tables = by_question(self.run.evaluations(ANSWER))

    def check(self, settings: Mapping[str, Any], encoded: Sequence[Encoded]) -> None:
        """Raise InputError where a command asks other questions, and log other differences."""
        asked, allowed = asked_here(settings, encoded), (*ANY_SCORER, "options")
        if differences := check_comparable(asked_by_run(self.run), asked, allowed):
            text = "; ".join(differences)
            log.info("the answers of %s have other settings: %s", self.run.directory, text)

    def decoy(self, question: Question) -> str | None:
        """Return the wrong answer given on as many paths as gold, or as nearly as possible.

        Not the pretrained model's own. An integer gold that no path gives has an integer close to
        it that no path gives either. None where there is no answer to choose. Raises InputError
        for a question that the run does not have.
        """
        if question.id not in self.tables:
            raise InputError(
                f"question {question.id} is not among those answered in {self.run.directory}: "
                "answer the same questions there."
            )
        plain, right, counts = None, 0, Counter[str]()
        for row in self.tables[question.id].to_pylist():
            answer = None if row["truncated"] else row["answer_text"]
            if tuple(row["path"]) == self.plain:
                plain = answer
            elif row["grade"] == Grade.RIGHT.value:
                right += 1
            elif row["grade"] == Grade.WRONG.value and answer is not None:
                counts[answer.strip()] += 1
        near = decoy_of(question.id, question.gold)
        if near is not None:
            counts.setdefault(near, 0)
        whole = INTEGER.fullmatch(question.gold)  # where a number is asked, a number is plausible

        def distance(answer: str) -> tuple[int, bytes]:
            drawn = hashlib.sha256(f"decoy {question.id} {answer}".encode()).digest()
            return abs(counts[answer] - right), drawn

        allowed = [
            answer
            for answer in counts
            if answer not in (plain, question.gold, "") and (not whole or INTEGER.fullmatch(answer))
        ]
        return min(allowed, key=distance, default=None)
