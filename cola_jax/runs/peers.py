"""A run's questions and paths as PoLar's samples."""

import json
from pathlib import Path
from typing import Any

from cola_jax.errors import InputError, count, shown
from cola_jax.files import check_file, write_whole
from cola_jax.formats.peers import Searched, polar_samples
from cola_jax.path import identity
from cola_jax.question import LETTERS
from cola_jax.runs.run import Run
from cola_jax.runs.stored import Labels, read_labels


def read_run(run: Run) -> list[Searched]:
    """Return the questions of a run that are done, with the results of the search for gold.

    A question of multiple choice has its options in its text, and a letter as its answer; so
    has one whose scorer compares the texts of its options. Control searches, and whether a path
    held in other variants, have no place in the formats of others; ungraded paths are wrong.
    Raises InputError for a run without a question that is done, or without correct answers.
    """
    start, every = last_start(run), read_labels(run)
    answered_in_text = bool((start.get("scorer") or {}).get("open"))
    for labels in every:
        if labels.gold is None or not labels.options:
            raise InputError(
                f"{run.directory}: question {shown(labels.question)} has no correct answer, as "
                "those of `cola generate`: give a run of `cola search` or `cola evaluate`."
            )
    plain = identity(start["num_layers"])
    return [searched(labels, labels.gold or 0, plain, answered_in_text) for labels in every]


def last_start(run: Run) -> dict[str, Any]:
    """Return the last start of a run."""
    return run.manifest()["starts"][-1]


def searched(
    labels: Labels, correct: int, plain: tuple[int, ...], answered_in_text: bool
) -> Searched:
    """Convert the labels of one question; `plain` is the identity path."""
    text, gold = labels.text, labels.options[correct]
    if not answered_in_text:
        lettered = zip(LETTERS, labels.options, strict=False)
        text = "\n".join([text, *(f"{letter}. {option}" for letter, option in lettered)])
        gold = LETTERS[correct]
    verdicts = dict(zip(labels.paths, labels.right.tolist(), strict=True))
    return Searched(
        question=text,
        gold=gold,
        correct_paths=tuple(labels.correct),
        wrong_paths=tuple(path for path, right in verdicts.items() if not right),
        baseline_right=verdicts.get(plain),
    )


def write_polar(run: Run, file: Path) -> str:
    """Write a run as PoLar's `merged_mcts_samples.json`; return what was written, in words.

    Raises InputError where the file exists, or the run has nothing for it.
    """
    check_new(file)
    questions = read_run(run)
    write_json(file, polar_samples(questions, last_start(run)["num_layers"]))
    paths = sum(len(each.correct_paths + each.wrong_paths) for each in questions)
    return f"PoLar: {file}, {count(len(questions), 'question')} with {paths} paths"


def check_new(file: Path) -> None:
    """Raise InputError where a file exists, OSError where it cannot be written."""
    check_file(file)
    if file.exists():
        raise InputError(f"{file} exists already: remove it, or choose another file.")


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(content, ensure_ascii=False).encode())
