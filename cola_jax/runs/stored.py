"""Results of stored runs that other commands take: labels, verdicts and decoded answers."""

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cola_jax.errors import InputError, count, shown
from cola_jax.files import check_file, exists, write_whole
from cola_jax.formats.peers import INVALID, VALID
from cola_jax.path import LayerPath, identity
from cola_jax.question import INTEGER, LETTERS, Question, decoy_of
from cola_jax.runs.blinding import check_verdict
from cola_jax.runs.run import Run
from cola_jax.runs.schema import by_question, stored_verdict
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import Scorer
from cola_jax.scoring.verdicts import Verdicts

ANSWER = ["question", "path", "answer_text", "grade", "truncated"]


@dataclasses.dataclass(frozen=True)
class Labels:
    """The verdicts of a run for one question, without those of control searches."""

    question: str  # its id
    text: str
    options: tuple[str, ...]
    gold: int | None  # the correct option; None where no options were offered
    verdicts: dict[LayerPath, bool]  # ungraded is wrong

    @property
    def correct(self) -> list[LayerPath]:
        """The correct paths, shortest first."""
        correct = (path for path, right in self.verdicts.items() if right)
        return sorted(correct, key=lambda path: (len(path), path))


def read_labels(run: Run) -> list[Labels]:
    """Read the labels of the finished questions, in order; InputError where there are none.

    Nor are there any of a trial that has no verdict yet.
    """
    check_verdict(run.directory, run.settings())
    verdicts: dict[str, dict[LayerPath, bool]] = defaultdict(dict)
    for row in run.evaluations(["question", "path", "verdict", "control"]).to_pylist():
        if not row["control"]:
            verdicts[row["question"]].setdefault(tuple(row["path"]), bool(row["verdict"]))
    columns = ["question", "text", "options", "gold"]
    questions = run.questions(columns).to_pylist()
    if not questions:
        raise InputError(f"{run.directory} has no question done yet: let the run finish first.")
    labels = []
    for row in questions:
        row |= {"options": tuple(row["options"]), "verdicts": verdicts[row["question"]]}
        labels.append(Labels(**row))
    return labels


def write_polar(run: Run, file: Path) -> str:
    """Write a run as a new `merged_mcts_samples.json` of PoLar, and return a summary."""
    check_file(file)
    if exists(file):
        raise InputError(f"{file} exists already: remove it, or choose another file.")
    content = polar_samples(run)
    write_whole(file, json.dumps(content, ensure_ascii=False).encode())
    samples = content["samples"]
    paths = sum(len(sample[VALID] + sample[INVALID]) for sample in samples)
    return f"PoLar: {file}, {count(len(samples), 'question')} with {paths} paths"


def polar_samples(run: Run) -> dict[str, Any]:
    """Make the content of PoLar's file from the finished questions of a run.

    Options are part of a question's text, and the answer is a letter, but for scorers of open
    questions. Control searches are left out; ungraded paths are wrong. A baseline that
    is not known is left out, which their loader takes for wrong.
    """
    facts = run.facts()
    samples = []
    for labels in read_labels(run):
        if labels.gold is None or not labels.options:
            raise InputError(
                f"{run.directory}: question {shown(labels.question)} has no correct answer, as "
                "those of `cola generate`: give a run of `cola search` or `cola evaluate`."
            )
        text = labels.text
        gold = labels.options[labels.gold]
        if not facts.is_open:
            options = zip(LETTERS, labels.options, strict=False)
            text = "\n".join([text, *(f"{letter}. {option}" for letter, option in options)])
            gold = LETTERS[labels.gold]
        sample: dict[str, Any] = {"question": text, "gt_ans": gold}
        baseline = labels.verdicts.get(identity(facts.num_layers))
        if baseline is not None:
            sample["initial_score"] = float(baseline)
        sample[VALID] = [list(path) for path in labels.correct]
        sample[INVALID] = [list(path) for path, right in labels.verdicts.items() if not right]
        samples.append(sample)
    model = facts.settings.get("model")
    named = {} if model is None else {"model": model}  # `read_paths` refuses it for another
    return {"num_layers": facts.num_layers, **named, "samples": samples}


def stored_verdicts(
    run: Run, questions: Sequence[Question], scorer: Scorer, paths: int
) -> Verdicts:
    """Read the verdicts [n, C] of a run of C paths, in the order of the questions.

    Raises InputError for questions that an engine has set aside, which would count as wrong.
    """
    place = {question.id: i for i, question in enumerate(questions)}
    options = max(len(question.options) for question in questions)
    out = Verdicts.empty((len(questions), paths), options)
    rows = run.evaluations()
    if lacking := len(questions) - rows.num_rows // paths:
        raise InputError(
            f"{run.directory} lacks {count(lacking, 'question')}: run the command again with a "
            "smaller --batch-size, or workers with more memory."
        )
    for row in rows.to_pylist():
        i = place[row["question"]]
        node = row["node"]
        out.put((i, slice(node, node + 1)), stored_verdict(row, questions[i], scorer))
    return out


class Answers:
    """The decoded answers of a run: of the pretrained model, and of other paths."""

    def __init__(self, run: Run):
        """Read a run of `cola evaluate` that decodes, along the identity path and others."""
        self.run = run
        facts = run.facts()
        if facts.command != "evaluate" or not facts.decodes:
            raise InputError(
                f"{run.directory} does not hold decoded answers of given paths: make it with "
                "`cola evaluate --scorer generation`."
            )
        self.plain = identity(facts.num_layers)
        if self.plain not in facts.paths or len(facts.paths) < 2:
            raise InputError(
                f"{run.directory} needs the model's own answer and those on other paths: add "
                f"--paths 0-{facts.num_layers - 1} and --random 50 to its command."
            )
        self.tables = by_question(run.evaluations(ANSWER))

    def decoy(self, question: Question) -> str | None:
        """Return the wrong answer whose count of paths is closest to that of gold, if any.

        The pretrained model's own answer is never a decoy. An integer close to an integer gold is
        a candidate even where no path gives it.
        """
        if question.id not in self.tables:
            raise InputError(
                f"question {question.id} is not among those answered in {self.run.directory}: "
                "answer the same questions there."
            )
        plain = None
        right = 0
        counts = Counter[str]()
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
