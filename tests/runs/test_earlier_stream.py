"""Runs of an earlier version, whose trees drew other paths from the same seed, keep their rows.

`earlier/stream_1.tar.xz` has, by commit f99d5269, a checkpoint and two searches of `task.jsonl`:
`finished` of four questions, and `killed`, with two of six questions done and rows of two others.
"""

import shutil
from pathlib import Path

import pytest

import cola_jax
from cola_jax.cli.main import main
from cola_jax.errors import InputError
from cola_jax.files import matching
from cola_jax.metrics import Metrics
from cola_jax.runs.counts import count_again
from cola_jax.runs.run import UNFINISHED, Run
from cola_jax.runs.settings import stream_of
from tests import tiny

EARLIER = Path(__file__).parent / "earlier"
QUESTIONS = tiny.questions(6)
START = {"num_layers": 5, "model": "there"}
SEARCH = {"scorer": "options", "simulations": 8, "leaves": 4, "batch_size": 2, "prompts": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("earlier")
    shutil.unpack_archive(EARLIER / "stream_1.tar.xz", folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return cola_jax.load(folder / "checkpoint")


@pytest.fixture(scope="module")
def fresh(model, tmp_path_factory):
    """The run of a search of all questions by this version."""
    run = Run(tmp_path_factory.mktemp("fresh") / "run")
    cola_jax.search(model, QUESTIONS, output=run.directory, **SEARCH)
    return run


@pytest.fixture(params=["finished", "killed"])
def run(request, folder, tmp_path):
    return Run(shutil.copytree(folder / request.param, tmp_path / request.param))


def searched(run):
    """The searches of each question: target, path, parent and edit of each evaluation."""
    columns = ["target", "path", "parent", "edit"]
    rows = {}
    for row in run.evaluations(["question", *columns]).to_pylist():
        rows.setdefault(row["question"], []).append([row[name] for name in columns])
    return rows


def streams(run):
    return [stream_of(start.settings) for start in run.starts()]


def test_it_is_reported(run, capsys):
    done = run.questions(["question"]).num_rows
    assert run.summary()[0].n == done
    main(["report", str(run.directory)])
    assert f"{done} of" in " ".join(capsys.readouterr().out.split())


def unfinished_paths(run):
    """The paths that are known of each unfinished question."""
    with run.open(run.settings(), START) as opened:
        return {
            name: {tuple(row["path"]) for table in tables for row in table.to_pylist()}
            for name, tables in opened.earlier.items()
        }


def test_finished_questions_stay_and_others_are_searched_as_by_this_version(run, model, fresh):
    """Known evaluations serve the new trees, and those that these do not ask for are dropped."""
    before, known, metrics = searched(run), unfinished_paths(run), Metrics()
    outcomes = cola_jax.search(model, QUESTIONS, output=run.directory, metrics=metrics, **SEARCH)
    rows, others = searched(run), searched(fresh)
    assert {name: rows[name] for name in before} == before
    assert all(others[name] != before[name] for name in before)  # by another stream
    new = {name: rows[name] for name in rows.keys() - before}
    assert new == {name: others[name] for name in new}
    assert [o.question for o in outcomes] == QUESTIONS
    for outcome in outcomes:
        paths = [path for search in (outcome, *outcome.controls) for path in search.paths]
        assert paths == [tuple(path) for _, path, *_ in rows[outcome.question.id]]
    assert streams(run) == [1, 1, 2]
    assert not matching(run.directory, UNFINISHED)
    asked = {name: {tuple(path) for _, path, *_ in new[name]} for name in new}
    asked_again = [row for row in run.questions().to_pylist() if row["question"] in new]
    assert metrics.evaluations == sum(map(count_again, asked_again)) + sum(
        len(paths - known.get(name, set())) for name, paths in asked.items()
    )


def test_outcomes_of_a_finished_run_cost_no_evaluation(folder, model, tmp_path):
    run = Run(shutil.copytree(folder / "finished", tmp_path / "run"))
    before, parts, metrics = searched(run), run.parts(), Metrics()
    outcomes = cola_jax.search(
        model, QUESTIONS[:4], output=run.directory, metrics=metrics, **SEARCH
    )
    assert metrics.evaluations == 0
    assert run.parts() == parts
    assert searched(run) == before
    ours, theirs = (each.summary().sentences[0].partition(", p ") for each in (run, outcomes))
    assert ours == theirs


def test_a_larger_budget_is_refused_and_reuses_the_run_elsewhere(run, model, folder, tmp_path):
    more = SEARCH | {"simulations": 12}
    message = (
        "has questions that an earlier version.* repeat --simulations 8, or choose another "
        f"directory, with --reuse {run.directory}"
    )
    with pytest.raises(InputError, match=message):
        cola_jax.search(model, QUESTIONS, output=run.directory, **more)
    cola_jax.search(model, QUESTIONS, output=run.directory, **SEARCH)
    with pytest.raises(InputError, match=message):  # with questions of both
        cola_jax.search(model, QUESTIONS, output=run.directory, **more)
    command = ["search", "--model", str(folder / "checkpoint"), "--output", str(tmp_path / "new")]
    command += ["--task", str(EARLIER / "task.jsonl")]
    command += ["--simulations", "12", "--leaves", "4", "--prompts", "1"]
    main([*command, "--reuse", str(run.directory)])
    reused = Run(tmp_path / "new").evaluations(["question", "path", "reused"]).to_pylist()
    assert any(row["reused"] for row in reused)


def test_without_a_finished_question_a_larger_budget_starts_anew(folder, tmp_path):
    run = Run(shutil.copytree(folder / "killed", tmp_path / "run"))
    shutil.rmtree(run.directory / "questions")
    settings = run.settings() | {"stream": 2, "simulations": 12}
    with run.open(settings, START) as opened:
        assert opened.done == set()
        assert opened.earlier.keys() == {"q1", "q2", "q4", "q5"}
