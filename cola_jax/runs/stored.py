"""Results of finished runs: labels, samples for PoLar, reused verdicts, and decoys."""

import dataclasses
import hashlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from etils import epath

from cola_jax.errors import InputError, count, shown
from cola_jax.files import check_file, write_whole
from cola_jax.formats.peers import Searched, polar_samples
from cola_jax.identity import check_belongs
from cola_jax.path import identity
from cola_jax.question import INTEGER, LETTERS, Question, decoy_of
from cola_jax.runs.run import Path, Run
from cola_jax.runs.schema import asked_digest, by_question, known_verdicts, stored_verdict
from cola_jax.runs.settings import (
    ANY_SCORER,
    asked_by_run,
    asked_here,
    check_comparable,
    deciding,
)
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import Encoded, most_options
from cola_jax.scoring.verdicts import Verdicts

log = logging.getLogger(__name__)
ANSWER = ["question", "path", "answer_text", "grade", "truncated"]


@dataclasses.dataclass(frozen=True)
class Labels:
    """The verdicts of a run for one question, without those of control searches."""

    question: str  # its id
    text: str
    options: tuple[str, ...]
    gold: int | None  # the correct option; None where no options were offered
    prompt_hash: str
    verdicts: dict[Path, bool]  # in all variants of a robust search; ungraded is wrong
    robust: dict[Path, bool] | None  # of the paths asked again; None without variants

    @property
    def correct(self) -> list[Path]:
        """The correct paths, shortest first."""
        correct = (path for path, right in self.verdicts.items() if right)
        return sorted(correct, key=lambda path: (len(path), path))

    @property
    def held(self) -> list[Path]:
        """The paths that are right in all variants, shortest first; `correct` without variants."""
        if self.robust is None:
            return self.correct
        return [path for path in self.correct if self.robust.get(path)]


def read_labels(run: Run) -> list[Labels]:
    """Read the labels of the finished questions, in the order of the run.

    Raises InputError for a directory that is not a run, and for a run without a question.
    """
    verdicts: dict[str, dict[Path, bool]] = defaultdict(dict)
    for row in run.evaluations(["question", "path", "verdict", "control"]).to_pylist():
        if not row["control"]:
            verdicts[row["question"]].setdefault(tuple(row["path"]), bool(row["verdict"]))
    columns = ["question", "text", "options", "gold", "prompt_hash", "again"]
    questions = run.questions(columns).to_pylist()
    if not questions:
        raise InputError(f"{run.directory} has no question done yet: let the run finish first.")
    labels = []
    for row in questions:
        again = row.pop("again")
        robust = {tuple(each["path"]): all(each["holds"]) for each in again or ()}
        row |= {"options": tuple(row["options"]), "verdicts": verdicts[row["question"]]}
        labels.append(Labels(**row, robust=None if again is None else robust))
    return labels


def write_polar(run: Run, file: FilePath) -> str:
    """Write a run as PoLar's `merged_mcts_samples.json`, and return a summary.

    Raises InputError where the file exists, and for a run without correct answers.
    """
    check_file(file)
    if file.exists():
        raise InputError(f"{file} exists already: remove it, or choose another file.")
    questions, start = read_searched(run), run.manifest()["starts"][-1]
    samples = polar_samples(questions, start["num_layers"])
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(samples, ensure_ascii=False).encode())
    paths = sum(len(each.correct_paths + each.wrong_paths) for each in questions)
    return f"PoLar: {file}, {count(len(questions), 'question')} with {paths} paths"


def read_searched(run: Run) -> list[Searched]:
    """Return the finished questions of a run as PoLar has them.

    Options are part of a question's text, and the answer is a letter, but for scorers of open
    questions. Control searches and variants are left out; ungraded paths are wrong. Raises
    InputError for a run without finished questions, or without correct answers.
    """
    start = run.manifest()["starts"][-1]
    plain, is_open = identity(start["num_layers"]), (start.get("scorer") or {}).get("open")
    questions = []
    for labels in read_labels(run):
        if labels.gold is None or not labels.options:
            raise InputError(
                f"{run.directory}: question {shown(labels.question)} has no correct answer, as "
                "those of `cola generate`: give a run of `cola search` or `cola evaluate`."
            )
        text, gold = labels.text, labels.options[labels.gold]
        if not is_open:
            options = zip(LETTERS, labels.options, strict=False)
            text = "\n".join([text, *(f"{letter}. {option}" for letter, option in options)])
            gold = LETTERS[labels.gold]
        wrong = tuple(path for path, right in labels.verdicts.items() if not right)
        baseline = labels.verdicts.get(plain)
        questions.append(Searched(text, gold, tuple(labels.correct), wrong, baseline))
    return questions


class Reuse:
    """The evaluations of other runs with the same checkpoint, prompts and scorer."""

    def __init__(
        self, directories: Sequence[str], settings: Mapping[str, Any], encoded: Sequence[Encoded]
    ):
        """Read runs; InputError for a run that cannot serve these questions."""
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
        """Return the verdict [1] of each path of a question with at most `positions` layers."""
        known = known_verdicts(self.tables[encoded.question.id], encoded)
        return {path: verdict for path, verdict in known.items() if len(path) <= positions}


def stored_verdicts(run: Run, encoded: Sequence[Encoded], paths: int) -> Verdicts:
    """Read the verdicts [n, C] of a run of C paths, in the order of `encoded`."""
    place = {each.question.id: i for i, each in enumerate(encoded)}
    out = Verdicts.empty((len(encoded), paths), most_options(encoded))
    for row in run.evaluations().to_pylist():
        i, node = place[row["question"]], row["node"]
        out.put((i, slice(node, node + 1)), stored_verdict(row, encoded[i]))
    return out


class Answers:
    """The decoded answers of a run: of the pretrained model, and of other paths."""

    def __init__(self, directory: epath.PathLike):
        """Read a run of `cola evaluate` with the scorer `generation` and the identity path.

        Raises InputError for any other run.
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
        """Raise InputError for other questions or another model, and log other differences."""
        asked, allowed = asked_here(settings, encoded), (*ANY_SCORER, "options")
        if differences := check_comparable(asked_by_run(self.run), asked, allowed):
            text = "; ".join(differences)
            log.info("the answers of %s have other settings: %s", self.run.directory, text)

    def decoy(self, question: Question) -> str | None:
        """Return the wrong answer whose count of paths is closest to that of gold.

        The pretrained model's own answer is never a decoy. An integer close to an integer gold is
        a candidate even where no path gives it. None without candidates. Raises InputError for a
        question that the run does not have.
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
        whole = INTEGER.fullmatch(question.gold)  # the decoy of a number is a number

        def distance(answer: str) -> tuple[int, bytes]:
            drawn = hashlib.sha256(f"decoy {question.id} {answer}".encode()).digest()
            return abs(counts[answer] - right), drawn

        excluded = {plain, question.gold, ""}
        allowed = [a for a in counts.keys() - excluded if not whole or INTEGER.fullmatch(a)]
        return min(allowed, key=distance, default=None)
