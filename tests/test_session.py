"""Sessions on a tiny model: a killed one goes on to the rows of an unbroken one."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from cola_jax.devices import Devices
from cola_jax.rows import control_option
from cola_jax.run import RunDirectory
from cola_jax.score import Verdicts
from cola_jax.search import PRESETS, Outcome
from cola_jax.session import Session
from cola_jax.tasks.asking import Asking
from tests import tiny

QUESTIONS = 9
SETTINGS = {"simulations": 10, "leaves": 4, "seed": 2, "group": 2}
PATHS = [(0, 1, 2, 3, 4), (0, 2, 4), (0, 1, 1, 2, 3, 4)]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A checkpoint and a task."""
    folder = tmp_path_factory.mktemp("tiny")
    task = tiny.write_questions(folder / "task.jsonl", QUESTIONS)
    return str(tiny.make_checkpoint(folder)), str(task)


@pytest.fixture(scope="module")
def session(material):
    return Session.prepare(material[0], Asking(material[1]), devices=Devices(data=1))


@pytest.fixture(scope="module")
def unbroken(session, tmp_path_factory):
    return session.search(str(tmp_path_factory.mktemp("run") / "a"), PRESETS["cola"], **SETTINGS)


def rows(run):
    """All rows of a run, sorted; floats as they are, so equal means to the last bit."""
    tables = (run.questions(), run.evaluations())
    return [sorted(table.to_pylist(), key=repr) for table in tables]


KILLED = """
import os, signal, sys
from cola_jax.devices import Devices
from cola_jax.search import PRESETS
from cola_jax.session import Session
from cola_jax.tasks.asking import Asking

model, task, out = sys.argv[1:]
def watch(counts):
    if counts.evaluations > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
session = Session.prepare(model, Asking(task), devices=Devices(data=1))
session.search(out, PRESETS["cola"], watch=watch, **{settings})
"""


def test_a_killed_search_goes_on(material, session, unbroken, tmp_path):
    script = textwrap.dedent(KILLED).format(after=55, settings=SETTINGS)
    out = str(tmp_path / "run")
    done = subprocess.run([sys.executable, "-c", script, *material, out], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    run = RunDirectory(out)
    assert run.questions().num_rows == 4  # two groups; the third is lost
    seen = []
    session.search(
        out, PRESETS["cola"], watch=lambda c: seen.append(dataclasses.replace(c)), **SETTINGS
    )
    assert rows(run) == rows(unbroken)
    assert seen[0].evaluations > 44
    assert (seen[-1].evaluations, seen[-1].total) == (99, 99)
    assert len(run.manifest()["starts"]) == 2


def test_the_group_changes_no_row(session, unbroken, tmp_path):
    other = session.search(str(tmp_path / "a"), PRESETS["cola"], **SETTINGS | {"group": 4})
    assert rows(other) == rows(unbroken)
    with pytest.raises(ValueError, match="at least 1 question"):
        session.search(str(tmp_path / "b"), PRESETS["cola"], **SETTINGS | {"group": 0})


def test_rows_of_a_search(session, unbroken):
    questions, evaluations = unbroken.questions().to_pylist(), unbroken.evaluations().to_pylist()
    assert sorted(q["question"] for q in questions) == [f"q{i}" for i in range(QUESTIONS)]
    for question in questions:
        mine = [row for row in evaluations if row["question"] == question["question"]]
        assert [row["node"] for row in mine] == list(range(question["evaluations"]))
        assert (mine[0]["parent"], mine[0]["edit"], mine[0]["wave"]) == (None, None, 0)
        assert all(row["edit"] and row["parent"] < row["node"] for row in mine[1:])
        assert question["baseline"] == mine[0]["verdict"]
        assert question["baseline_answer"] == mine[0]["answer"]
        right = [row["path"] for row in mine if row["verdict"]]
        assert (question["best"] in right) if right else (question["best"] is None)
        assert question["answers"] == len({row["answer"] for row in mine})
        control = question["control"]
        assert control not in (question["gold"], question["baseline_answer"])
        assert question["control_reached"] == any(row["answer"] == control for row in mine)


def test_a_finished_run_evaluates_nothing(session, unbroken, monkeypatch):
    def fail(*arguments, **keywords):
        raise AssertionError("something was evaluated")

    before = rows(unbroken)
    monkeypatch.setattr("cola_jax.session.Engine", fail)
    session.search(str(unbroken.directory), PRESETS["cola"], **SETTINGS)
    assert rows(unbroken) == before


@pytest.mark.parametrize("name", ["simulations", "leaves", "seed"])
def test_other_settings_do_not_go_on(session, unbroken, name):
    with pytest.raises(ValueError, match=f"{name}: {SETTINGS[name]} there, 5 here"):
        session.search(str(unbroken.directory), PRESETS["cola"], **SETTINGS | {name: 5})
    with pytest.raises(ValueError, match="paths: None there"):
        session.evaluate(str(unbroken.directory), PATHS)


def test_evaluate_goes_on(session, tmp_path):
    whole = session.evaluate(str(tmp_path / "whole"), PATHS, group=1)
    assert whole.evaluations().num_rows == QUESTIONS * len(PATHS)

    class Stop(Exception):
        pass

    def stop(counts):
        if counts.evaluations == 18:  # the sixth wave is done, and five parts are written
            raise Stop

    with pytest.raises(Stop):
        session.evaluate(str(tmp_path / "half"), PATHS, group=1, watch=stop)
    half = RunDirectory(tmp_path / "half")
    assert half.questions().num_rows == 5
    seen = []
    session.evaluate(str(tmp_path / "half"), PATHS, group=3, watch=lambda c: seen.append(c.total))
    assert rows(half) == rows(whole)
    assert set(seen) == {27}
    assert [tuple(row) for row in whole.evaluations().column("path").to_pylist()[:3]] == PATHS


def test_evaluate_and_search_agree(session, unbroken, tmp_path):
    run = session.evaluate(str(tmp_path / "run"), PATHS[:1])
    searched, evaluated = (
        sorted(
            (row for row in one.evaluations().to_pylist() if row["node"] == 0),
            key=lambda row: row["question"],
        )
        for one in (unbroken, run)
    )
    assert [row["question"] for row in evaluated] == [row["question"] for row in searched]
    assert [row["answer"] for row in evaluated] == [row["answer"] for row in searched]
    margins = [[row["margin"] for row in side] for side in (evaluated, searched)]
    np.testing.assert_allclose(*margins, rtol=1e-4, atol=1e-4)


def test_what_is_recorded(material, session):
    assert session.settings["questions"] == QUESTIONS
    assert session.settings["dtype"] == "float32"
    fewer = Session.prepare(material[0], Asking(material[1], limit=3))
    assert fewer.settings["task"] != session.settings["task"]
    assert fewer.settings["model"] == session.settings["model"]
    assert session.environment["num_layers"] == tiny.LAYERS


def test_the_control_is_a_fixed_wrong_option_that_is_not_the_baselines(session):
    encoded = session.questions[2]  # five options
    count, gold = len(encoded.question.options), encoded.question.answer
    for baseline in range(-1, count):
        verdicts = Verdicts(*(np.array([x]) for x in (baseline == gold, 0.0, baseline, True, None)))
        zeros = np.zeros(1, int)
        outcome = Outcome(encoded, [PATHS[0]], verdicts, zeros, zeros - 1, np.zeros((1, 4), int))
        control = control_option(outcome)
        assert control in set(range(count)) - {gold, baseline}
        assert control == control_option(outcome)
    two = dataclasses.replace(encoded.question, options=("a", "b"), answer=0)
    verdicts = Verdicts(*(np.array([x]) for x in (False, -1.0, 1, True, None)))
    outcome = dataclasses.replace(
        outcome, encoded=dataclasses.replace(encoded, question=two), verdicts=verdicts
    )
    assert control_option(outcome) is None
