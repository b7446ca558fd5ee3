"""Sessions on a tiny model: a killed one goes on to the rows of an unbroken one."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from cola_jax import checkpoint, search
from cola_jax.runs.devices import Devices
from cola_jax.runs.directory import RunDirectory
from cola_jax.runs.schema import control_option
from cola_jax.runs.session import Session
from cola_jax.scoring.grader import Grade, Grader
from cola_jax.scoring.verdicts import Verdicts
from cola_jax.search import PRESETS, Outcome
from cola_jax.tasks.task import Asking
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
from cola_jax.runs.devices import Devices
from cola_jax.search import PRESETS
from cola_jax.runs.session import Session
from cola_jax.tasks.task import Asking

model, task, out = sys.argv[1:]
def watch(counts):
    if counts.evaluations > {after}:
        os.kill(os.getpid(), signal.SIGKILL)
session = Session.prepare(model, Asking(task, **{asking}), devices=Devices(data=1))
session.search(out, PRESETS["cola"], watch=watch, **{settings})
"""


def test_a_killed_search_goes_on(material, session, unbroken, tmp_path):
    script = textwrap.dedent(KILLED).format(after=55, asking={}, settings=SETTINGS)
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
    monkeypatch.setattr("cola_jax.runs.session.Engine", fail)
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


# open questions

DECODING = {"scorer": "generate", "max_new_tokens": 4}
ASKED = 6


def open_session(material, **changed):
    return Session.prepare(
        material[0], Asking(material[1], **DECODING | changed), devices=Devices(data=1)
    )


@pytest.fixture(scope="module")
def open_material(material, tmp_path_factory):
    """A checkpoint of which many tokens end a text, and sums of which it gives some answers."""
    folder = tmp_path_factory.mktemp("open")
    model = shutil.copytree(material[0], folder / "ours")
    metadata = json.loads((model / "cola.json").read_text())
    ends = [1, *range(60, 80), *range(130, 200)]
    (model / "cola.json").write_text(json.dumps(metadata | {"stop_tokens": ends}))
    file = folder / "sums.jsonl"

    def write(answers):
        rows = ({"id": f"s{i}", "prompt": f"{i} + 7 =", "answer": a} for i, a in enumerate(answers))
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    write(str(i + 7) for i in range(ASKED))
    run = open_session((str(model), str(file))).evaluate(str(folder / "run"), PATHS, group=2)
    said = dict.fromkeys(range(ASKED))
    for row in run.evaluations().to_pylist():
        if not row["cut"] and row["said"]:
            said[int(row["question"][1:])] = row["said"]
    write(said[i] or str(i + 7) for i in range(ASKED))
    return str(model), str(file)


@pytest.fixture(scope="module")
def decoding(open_material):
    return open_session(open_material)


@pytest.fixture(scope="module")
def decoded(decoding, tmp_path_factory):
    return decoding.search(str(tmp_path_factory.mktemp("run") / "a"), PRESETS["cola"], **SETTINGS)


def test_rows_of_what_was_said(open_material, decoded):
    questions, evaluations = decoded.questions().to_pylist(), decoded.evaluations().to_pylist()
    assert len(questions) == ASKED
    tokens = checkpoint.stop_tokens(open_material[0])
    assert decoded.manifest()["settings"]["prompt"]["stop_ids"] == list(tokens)
    golds = {q["question"]: q["options"][0] for q in questions}
    for row in evaluations:
        assert row["grade"] == ("right" if row["verdict"] else "wrong")
        assert row["verdict"] == (row["margin"] > 0) == (row["answer"] == 0)
        assert 1 <= row["decoded"] <= DECODING["max_new_tokens"]
        assert row["finish"] in ("stop", "length")
        assert row["cut"] == (row["finish"] == "length")
        assert row["logprob"] < 0
        if row["said"] == golds[row["question"]] and not row["cut"]:
            assert row["verdict"]
        if row["cut"]:
            assert row["decoded"] == DECODING["max_new_tokens"]
        assert (row["said"] or "") == row["text"].partition("\n")[0].strip()
    for part in ([r["verdict"] for r in evaluations], [r["cut"] for r in evaluations]):
        assert min(part.count(True), part.count(False)) > 3
    assert all(q["confirmed"] == (None if q["best"] is None else True) for q in questions)


def test_a_killed_search_that_decodes_goes_on(open_material, decoding, decoded, tmp_path):
    script = textwrap.dedent(KILLED).format(after=46, asking=DECODING, settings=SETTINGS)
    out = str(tmp_path / "run")
    done = subprocess.run([sys.executable, "-c", script, *open_material, out], env=os.environ)
    assert done.returncode == -signal.SIGKILL
    lost = ASKED - RunDirectory(out).questions().num_rows
    assert 0 < lost < ASKED
    decoding.search(out, PRESETS["cola"], **SETTINGS)
    assert rows(RunDirectory(out)) == rows(decoded)


def test_the_function_finds_what_the_session_does(decoding, decoded):
    arguments = {key: SETTINGS[key] for key in ("simulations", "leaves", "seed", "group")}
    outcomes = search(decoding.model, decoding.questions[:2], **arguments)
    evaluations = decoded.evaluations().to_pylist()
    for outcome in outcomes:
        mine = [r for r in evaluations if r["question"] == outcome.encoded.question.id]
        assert [tuple(row["path"]) for row in mine] == outcome.paths
        assert [row["verdict"] for row in mine] == outcome.verdicts.verdict.tolist()
        assert [row["text"] for row in mine] == [said.text for said in outcome.verdicts.said]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"max_new_tokens": 5}, "max_new_tokens"),
        ({"format": "direct"}, "prompt"),
        ({"chat": True}, "chat"),
        ({"scorer": "exact", "max_new_tokens": None}, "scorer"),
        ({"limit": 3}, "questions"),
    ],
)
def test_other_ways_of_asking_do_not_go_on(open_material, decoded, changed, name):
    other = open_session(open_material, **changed)
    with pytest.raises(ValueError, match=name):
        other.search(str(decoded.directory), PRESETS["cola"], **SETTINGS)


def test_shots_that_differ_do_not_go_on(open_material, tmp_path):
    made = [
        Session.prepare(open_material[0], Asking("arithmetic", limit=3, level=1, shots=shots))
        for shots in (1, 2)
    ]
    run = RunDirectory(tmp_path / "run")
    run.open(made[0].settings, {})
    with pytest.raises(ValueError, match="prompt"):
        run.open(made[1].settings, {})


def test_exact_and_decoding_agree_on_a_session(open_material, decoding, decoded, tmp_path):
    exact = open_session(open_material, scorer="exact", max_new_tokens=None)
    read = exact.evaluate(str(tmp_path / "exact"), PATHS, group=3).evaluations().to_pylist()
    again = decoding.evaluate(str(tmp_path / "decoded"), PATHS, group=3)
    said = again.evaluations().to_pylist()
    both = [{(r["question"], tuple(r["path"])): r for r in each} for each in (read, said)]
    assert both[0].keys() == both[1].keys()
    for key, row in both[0].items():
        assert row["text"] is None
        assert row["grade"] is None
        # other tokens may spell the answer, so reading is the stricter one
        assert both[1][key]["verdict"] or not row["verdict"]
    # what the same paths say is the same wherever they are judged
    for row in decoded.evaluations().to_pylist():
        other = both[1].get((row["question"], tuple(row["path"])))
        if other is not None:
            names = ("text", "said", "finish", "cut", "grade", "verdict", "decoded")
            assert [row[n] for n in names] == [other[n] for n in names]


def test_a_grader_that_raises_loses_nothing_written(decoding, tmp_path, monkeypatch):
    whole = decoding.evaluate(str(tmp_path / "whole"), PATHS, group=1)
    calls, grade = [], Grader.grade

    def fail(self, pairs):
        calls.append(pairs)
        if len(calls) > 6:  # two for a question: of gold and of the decoy
            raise RuntimeError("no process left")
        return grade(self, pairs)

    monkeypatch.setattr(Grader, "grade", fail)
    with pytest.raises(RuntimeError, match="no process left"):
        decoding.evaluate(str(tmp_path / "half"), PATHS, group=1)
    monkeypatch.undo()
    half = RunDirectory(tmp_path / "half")
    assert 0 < half.questions().num_rows < ASKED
    decoding.evaluate(str(tmp_path / "half"), PATHS, group=2)
    assert rows(half) == rows(whole)


def test_what_the_grader_fails_on_has_no_verdict(decoding, tmp_path, monkeypatch):
    monkeypatch.setattr("cola_jax.scoring.grader.Worker.grade", lambda self, pair: Grade.UNGRADED)
    run = decoding.evaluate(str(tmp_path / "run"), PATHS)
    evaluations = run.evaluations().to_pylist()
    ungraded = [row for row in evaluations if row["grade"] == "ungraded"]
    assert ungraded
    assert all(row["verdict"] is None for row in ungraded)
    assert all(row["verdict"] is False for row in evaluations if row["cut"])
    # the very text of gold needs no worker
    assert any(row["verdict"] for row in evaluations)
