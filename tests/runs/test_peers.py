"""Runs as files of PoLar and Dr.LLM: what is written, and that it is read back."""

import json
from pathlib import Path
from typing import Any

import pytest

from cola_jax.formats.searched import Searched, read_searched
from cola_jax.runs.peers import read_run, write_drllm, write_polar
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
    assert read_searched(file, 4) == read_searched(file) == read_run(run)
    with pytest.raises(ValueError, match="exists already: remove it"):
        write_polar(run, file)


def test_write_drllm_is_read_back(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert f"Dr.LLM: {file}, 2 of 3 questions; the others" in write_drllm(run, file)
    assert [(one.question, one.correct_paths) for one in read_searched(file, 4)] == [
        (one.question, one.correct_paths) for one in read_run(run)[:2]
    ]
    written = json.loads(file.read_text())
    assert (written["model_name"], written["num_simulations"]) == ("someone/model", 2)
    assert written["best_path"] == [list(SHORT), [0, 1, 1, 2, 3]]
    with pytest.raises(ValueError, match="exists already"):
        write_drllm(run, file)


def test_runs_without_what_is_written_are_refused(tmp_path: Path) -> None:
    wrong = make_run(tmp_path / "wrong", (E3, [Q3]))
    with pytest.raises(ValueError, match="no question with a right path"):
        write_drllm(wrong, tmp_path / "results.json")
    completed: Any = question("q1", gold=None, options=[])
    run = make_run(tmp_path / "completed", (E1, [completed]))
    with pytest.raises(ValueError, match="question 'q1' has no correct answer"):
        write_polar(run, tmp_path / "samples.json")
    assert not (tmp_path / "results.json").exists()
    assert not (tmp_path / "samples.json").exists()
