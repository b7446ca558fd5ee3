"""Decoys of open questions: wrong answers that the model itself gives on other paths.

A control search needs a wrong answer that is as easy to come across as gold. What a model answers
on random paths, before any search, tells how easy each answer is.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

from etils import epath

from cola_jax.errors import InputError
from cola_jax.path import identity
from cola_jax.question import INTEGER, Question, decoy_of
from cola_jax.runs.directory import RunDirectory
from cola_jax.scoring.grader import Grade

COLUMNS = ["question", "path", "answer_text", "grade", "truncated"]


class Answers:
    """What the pretrained model and random paths answered to each question of a run."""

    def __init__(self, directory: epath.PathLike, model: str | None = None):
        """Reads a run of `cola evaluate` that decoded answers, the identity path's among them.

        `model` is the identity of the checkpoint that is to be searched. Raises ValueError for a
        run of another checkpoint, one that decoded nothing, and one without the identity path.
        """
        run = RunDirectory(directory)
        manifest = run.manifest()
        settings, start = manifest["settings"], manifest["starts"][-1]
        if settings.get("command") != "evaluate" or not (start.get("scorer") or {}).get("decodes"):
            raise InputError(
                f"{directory} does not hold decoded answers of given paths: make it with `cola "
                "evaluate --scorer generation`."
            )
        if model is not None:
            run.check_model(model)
        paths, plain = [tuple(path) for path in settings["paths"]], identity(start["num_layers"])
        if plain not in paths or len(paths) < 2:
            raise InputError(
                f"{directory} needs the model's own answer and those on other paths: add "
                f"--paths 0-{start['num_layers'] - 1} and --random 50 to its command."
            )
        self.directory, self.run = directory, run
        self.own: dict[str, str | None] = {}  # the pretrained model's, by question
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)  # of wrong answers
        self.right: Counter[str] = Counter()  # paths that gave gold
        for row in run.evaluations(COLUMNS).to_pylist():
            self.add(row, tuple(row["path"]) == plain)

    def add(self, row: Mapping[str, Any], own: bool) -> None:
        """Counts one answer."""
        question = row["question"]
        answer = None if row["truncated"] else row["answer_text"]
        if own:
            self.own[question] = answer
        elif row["grade"] == Grade.RIGHT.value:
            self.right[question] += 1
        elif row["grade"] == Grade.WRONG.value and answer is not None:
            self.counts[question][answer.strip()] += 1

    def decoy(self, question: Question) -> str | None:
        """Returns the wrong answer given on as many paths as gold, as nearly as there is one.

        Not the pretrained model's own. An integer gold that no path gives has an integer close to
        it that no path gives either. None where there is no answer to choose. Raises ValueError
        for a question that the run does not have.
        """
        if question.id not in self.own:
            raise InputError(
                f"question {question.id} is not among those answered in {self.directory}: answer "
                "the same questions there."
            )
        own, right = self.own[question.id], self.right[question.id]
        whole = bool(INTEGER.fullmatch(question.gold))
        counts = {
            answer: count
            for answer, count in self.counts[question.id].items()
            if answer not in (own, question.gold, "")
            # what is no number where a number is asked is no plausible answer
            and (not whole or INTEGER.fullmatch(answer))
        }
        near = decoy_of(question.id, question.gold)
        if near is not None and near != own:
            counts.setdefault(near, 0)

        def distance(answer: str) -> tuple[int, bytes]:
            drawn = hashlib.sha256(f"decoy {question.id} {answer}".encode()).digest()
            return abs(counts[answer] - right), drawn

        return min(counts, key=distance, default=None)
