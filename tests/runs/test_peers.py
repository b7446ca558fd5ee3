"""Runs as files of PoLar: what is written, and that it is read back."""

import json
from pathlib import Path
from typing import Any

import pytest

from cola_jax.formats.peers import Searched, polar_samples, read_paths
from cola_jax.runs.peers import read_run, write_polar
from cola_jax.runs.run import Run
from tests.report.conftest import (
    E1,
    E2,
    E3,
    F1,
    F3,
    G1,
    G3,
    Q1,
    Q2,
    Q3,
    WHOLE,
    evaluation,
    make_run,
    question,
)

SHORT = (0, 1, 3)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    control = evaluation("q3", 3, (2,), 2, True, control=True)
    return make_run(tmp_path, (E1 + E2, [Q1, Q2]), ([*E3, control], [Q3]), scorer="letter")


def test_read_run_shows_options_and_leaves_out_control_searches(run: Run) -> None:
    text = "What is q1?\nA. a\nB. b\nC. c"
    first, second, third = read_run(run)
    assert first == Searched(text, "A", (SHORT, WHOLE), ((0, 3),), True)
    assert (second.correct_paths, second.baseline_right) == (((0, 1, 1, 2, 3),), False)
    assert (third.correct_paths, len(third.wrong_paths)) == ((), 3)


def test_read_run_gives_the_text_of_an_open_answer(tmp_path: Path) -> None:
    run = make_run(tmp_path, (F1 + F3, [G1, G3]), scorer="generation")
    first, second = read_run(run)
    assert (first.question, first.gold) == ("What is g1?", "7")
    assert second.baseline_right is False  # not graded
    assert WHOLE in second.wrong_paths


def test_write_polar_is_read_back(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "new" / "merged_mcts_samples.json"
    assert write_polar(run, file) == f"PoLar: {file}, 3 questions with 9 paths"
    assert json.loads(file.read_text()) == polar_samples(read_run(run), 4)
    assert read_paths(file, 4)[:2] == [SHORT, WHOLE]
    with pytest.raises(ValueError, match="exists already: remove it"):
        write_polar(run, file)


def test_write_polar_refuses_a_run_without_correct_answers(tmp_path: Path) -> None:
    completed: Any = question("q1", gold=None, options=[])
    run = make_run(tmp_path / "completed", (E1, [completed]))
    with pytest.raises(ValueError, match="question 'q1' has no correct answer"):
        write_polar(run, tmp_path / "samples.json")
    assert not (tmp_path / "samples.json").exists()
