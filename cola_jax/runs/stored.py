"""Results of stored runs: labels, verdicts, outcomes of searches, and decoded answers."""

import dataclasses
import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cola_jax.errors import InputError, count, shown
from cola_jax.files import check_file, exists, write_whole
from cola_jax.formats.peers import INVALID, VALID
from cola_jax.layer_costs import LayerCosts
from cola_jax.path import LayerPath, format_path, identity, is_whole_path, parse_edit
from cola_jax.question import INTEGER, LETTERS, Question, decoy_of
from cola_jax.runs.blinding import check_verdict
from cola_jax.runs.run import Run
from cola_jax.runs.schema import by_question, stored_verdict
from cola_jax.scoring.grader import Grade
from cola_jax.scoring.scorer import Scorer
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.strategies.outcome import NO_EDIT, NO_PARENT, ROOT, Again, Outcome

OUTCOME = ["question", "confirmed", "again", "again_answers", "controls"]
OUTCOME += ["baseline_scores", "baseline_logprobs"]
ANSWER = ["question", "path", "answer_text", "grade", "truncated"]


@dataclasses.dataclass(frozen=True)
class Labels:
    """The verdicts of a run for one question, without those of control searches."""

    question: str  # its id
    text: str
    options: tuple[str, ...]
    gold: int | None  # the correct option; None where no options were offered
    verdicts: dict[LayerPath, bool]  # ungraded is wrong
    costs: LayerCosts | None = None  # by which the length of paths of parts is counted

    @property
    def correct(self) -> list[LayerPath]:
        """The correct paths, shortest first."""
        layers = len if self.costs is None else self.costs.layers
        correct = (path for path, right in self.verdicts.items() if right)
        return sorted(correct, key=lambda path: (layers(path), path))


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
        labels.append(Labels(**row, costs=run.layout.costs))
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
    is not known is left out, which their loader takes for wrong. InputError for paths with parts
    or shares of layers, which lists of layers cannot hold.
    """
    facts = run.facts()
    samples = []
    for labels in read_labels(run):
        if labels.gold is None or not labels.options:
            raise InputError(
                f"{run.directory}: question {shown(labels.question)} has no correct answer, as "
                "those of `cola generate`: give a run of `cola search` or `cola evaluate`."
            )
        for path in labels.verdicts:
            if not is_whole_path(path):
                raise InputError(
                    f"{run.directory} has paths with parts or shares of layers, such as "
                    f"{format_path(path)}, and PoLar's files list whole layers: give a run of them."
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


def stored_outcomes(run: Run, questions: Sequence[Question], scorer: Scorer) -> list[Outcome]:
    """Read the outcomes of those questions that a run of searches has finished, in their order."""
    options = max(1, *(len(question.options) for question in questions))
    finished = {row["question"]: row for row in run.questions(OUTCOME).to_pylist()}
    tables = by_question(run.evaluations())
    outcomes = []
    for question in questions:
        if (row := finished.get(question.id)) is None:
            continue
        rows = tables[question.id].to_pylist()
        searches = itertools.groupby(rows, lambda each: (each["control"], each["target"]))
        of_gold, *controls = (
            stored_search(list(group), question, scorer, options, run.layout.costs)
            for _, group in searches
        )
        outcome = dataclasses.replace(of_gold, confirmed=row["confirmed"], controls=tuple(controls))
        outcomes.append(with_stored_again(outcome, row))
    return outcomes


def stored_search(
    rows: Sequence[Mapping[str, Any]],
    question: Question,
    scorer: Scorer,
    options: int,
    costs: LayerCosts | None,
) -> Outcome:
    """Return the outcome of the rows of one search, without what its question's row has."""
    target = rows[ROOT]["target"]
    verdicts = Verdicts.empty((len(rows),), options)
    for node, row in enumerate(rows):
        verdicts.put((slice(node, node + 1),), stored_verdict(row, question, scorer))
    parents = [row["parent"] for row in rows]
    edits = [NO_EDIT if row["edit"] is None else parse_edit(row["edit"]) for row in rows]
    return Outcome(
        question=question,
        target=target,
        paths=[tuple(row["path"]) for row in rows],
        verdicts=verdicts if target == question.answer else verdicts.of_target(target),
        wave=np.array([row["wave"] for row in rows], np.int32),
        parent=np.array([NO_PARENT if i is None else i for i in parents], np.int32),
        edits=np.array(edits, np.int32),
        reused=np.array([row["reused"] for row in rows], bool),
        costs=costs,
    )


def with_stored_again(outcome: Outcome, row: Mapping[str, Any]) -> Outcome:
    """Add the answers in other wordings of a question's row to the same searches."""
    if row["again"] is None:
        return outcome
    scores = np.array(row["baseline_scores"], np.float32)
    logprobs = np.full_like(scores, np.nan)
    if row["baseline_logprobs"] is not None:
        logprobs = np.array(row["baseline_logprobs"], np.float32)

    def add(search: Outcome, entries: Sequence[Mapping[str, Any]]) -> Outcome:
        nodes = [entry["node"] for entry in entries]
        holds = np.array([entry["holds"] for entry in entries], bool)
        again = Again(nodes, holds, row["again_answers"], scores, logprobs)
        return dataclasses.replace(search, again=again)

    pairs = zip(outcome.controls, row["controls"], strict=True)
    controls = tuple(add(search, entry["again"]) for search, entry in pairs)
    return dataclasses.replace(add(outcome, row["again"]), controls=controls)


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
