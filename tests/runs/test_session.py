"""Sessions on a tiny model: an interrupted one resumes to what an unbroken one finds."""

import copy
import dataclasses
import json
import logging
import shutil
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import cola_jax
from cola_jax import checkpoint as checkpoints
from cola_jax.cli.runs import Generate
from cola_jax.errors import InputError
from cola_jax.execute.inputs import pad_paths
from cola_jax.execute.metrics import Metrics
from cola_jax.report import summarise
from cola_jax.runs.devices import Devices
from cola_jax.runs.hosts import Hosts
from cola_jax.runs.run import TABLES, UNFINISHED, Run
from cola_jax.runs.searches import check_robust
from cola_jax.runs.session import RunConfig, Session, collapse
from cola_jax.scoring import Grader
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.tasks.task import TaskConfig
from experiments.same_rows import differences
from tests import tiny
from tests.runs import jobs
from tests.runs.conftest import KILLED, end, fail_after, written

QUESTIONS = 6
SEARCH = Settings(PRESETS["cola"], simulations=10, leaves=4, seed=2, early_stop=False)
PATHS = [(0, 1, 2, 3, 4), (0, 2, 4), (0, 1, 1, 2, 3, 4)]
EVALUATE, GENERATE = jobs.Paths(PATHS), jobs.Paths(PATHS, "generate")
ONE = RunConfig(batch_size=2, devices=Devices(data=1))  # three batches
LEAST = 1e-3  # the margin above which no rounding changes a verdict
DECODING = {"scorer": "generation", "max_new_tokens": 4}


class Case(NamedTuple):
    """A session, what makes it, and what it did without an interruption."""

    session: Session
    prepare: Callable[..., Any]
    work: Settings | jobs.Paths
    run: Run


def by_path(run):
    """The evaluations of a run by question and path, without those of control searches."""
    every = run.evaluations().to_pylist()
    return {(row["question"], tuple(row["path"])): row for row in every if not row["control"]}


def count(run):
    """The evaluations of a run that were run through the model."""
    return sum(not row["reused"] for row in run.evaluations().to_pylist())


def changed(session, **config):
    """The same session with other flags, and the same weights."""
    config = dataclasses.replace(session.run_config, **config)
    return dataclasses.replace(session, run_config=config)


def with_nan(session, layer):
    """The same session with a layer whose output is not finite."""
    handle, model = copy.copy(session.handle), session.model
    layers = model.layers.replace(down=model.layers.down.at[layer].set(np.nan))
    handle.loaded = model.replace(layers=layers)
    return dataclasses.replace(session, handle=handle)


@pytest.fixture(scope="module")
def make_case(tmp_path_factory):
    """Prepares a session and fills a run directory."""

    def make(model, prepare, work, grader=None):
        session = Session.prepare(model, prepare, ONE)
        if grader is not None:
            session.scorer.grader = grader
        out = str(tmp_path_factory.mktemp("run") / "whole")
        return Case(session, prepare, work, jobs.fill(session, out, work))

    return make


@pytest.fixture(scope="module")
def search(make_case, checkpoint, task):
    return make_case(checkpoint, TaskConfig(task).prepare, SEARCH)


@pytest.fixture(scope="module")
def evaluate(make_case, checkpoint, task):
    return make_case(checkpoint, TaskConfig(task).prepare, EVALUATE)


@pytest.fixture(scope="module")
def grader():
    """One for all sessions, each of which would start processes of its own."""
    with Grader() as grader:
        yield grader


@pytest.fixture(scope="module")
def sums(make_case, checkpoint, grader, tmp_path_factory):
    """A checkpoint with many stop tokens, and sums of which it gives some answers."""
    folder = tmp_path_factory.mktemp("sums")
    model = shutil.copytree(checkpoint, folder / "ours")
    metadata = json.loads((model / "cola.json").read_text())
    ends = [1, *range(60, 80), *range(130, 200)]
    (model / "cola.json").write_text(json.dumps(metadata | {"stop_tokens": ends}))
    file, answers = folder / "sums.jsonl", {f"s{i}": str(i + 7) for i in range(QUESTIONS)}

    def write():
        lines = ({"id": i, "prompt": f"{i[1:]} + 7 =", "answer": answers[i]} for i in answers)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return TaskConfig(str(file), **DECODING)

    case = make_case(str(model), write().prepare, EVALUATE, grader)
    for row in case.run.evaluations().to_pylist():
        if not row["truncated"] and row["answer_text"]:
            answers[row["question"]] = row["answer_text"]
    write()
    return str(model), str(file)


@pytest.fixture(scope="module")
def decode(make_case, sums, grader):
    return make_case(sums[0], TaskConfig(sums[1], **DECODING).prepare, SEARCH, grader)


@pytest.fixture(scope="module")
def generate(make_case, sums):
    prompts = tuple(" ".join(tiny.WORDS[i : i + 3]) for i in range(QUESTIONS))
    return make_case(sums[0], Generate(sums[0], prompts, max_new_tokens=4).prepare, GENERATE)


@pytest.mark.parametrize(
    ("name", "files", "kinds"),
    [
        ("search", 3, TABLES),
        ("search", 5, [UNFINISHED]),
        ("evaluate", 1, TABLES),
        pytest.param("decode", 3, TABLES, marks=pytest.mark.slow),
        pytest.param("decode", 4, [UNFINISHED], marks=pytest.mark.slow),
        pytest.param("generate", 4, TABLES, marks=pytest.mark.slow),
    ],
)
def test_killed_session_repeats_nothing_written(request, start, tmp_path, name, files, kinds):
    case, out = request.getfixturevalue(name), str(tmp_path / "run")
    model = case.session.handle.source
    job = start(jobs.killed, model, case.prepare, ONE, out, case.work, files, kinds)
    assert end(job) == KILLED
    run = Run(out)
    assert sum(len(list(run.directory.glob(f"{kind}/part-*"))) for kind in kinds) in (0, files)
    before = count(run) + written(run)

    metrics = Metrics()
    jobs.fill(changed(case.session, batch_size=None), out, case.work, metrics)
    assert differences(run, case.run) == []
    assert not (run.directory / UNFINISHED).exists()
    assert len(run.manifest()["starts"]) == 2
    total = count(case.run)
    assert (metrics.earlier, metrics.evaluations) == (before, total - before)
    assert metrics.total >= total  # what control searches share is not known before
    assert run.manifest()["starts"][-1]["metrics"]["evaluations"] == metrics.evaluations
    questions = [q for q in run.questions().to_pylist() if q["best"] is not None]
    assert metrics.corrected == sum(q["baseline"] is False for q in questions)
    assert metrics.shortened == sum(
        bool(q["baseline"]) and len(q["best"]) < tiny.LAYERS for q in questions
    )


def test_search_rows(search):
    questions, evaluations = search.run.questions().to_pylist(), search.run.evaluations()
    assert sorted(q["question"] for q in questions) == [f"q{i}" for i in range(QUESTIONS)]
    for question in questions:
        every = [row for row in evaluations.to_pylist() if row["question"] == question["question"]]
        own = [row for row in every if not row["control"]]
        assert [row["node"] for row in own] == list(range(question["evaluations"]))
        assert (own[0]["parent"], own[0]["edit"], own[0]["wave"]) == (None, None, 0)
        assert all(row["edit"] and row["parent"] < row["node"] for row in own[1:])
        assert question["baseline"] == own[0]["verdict"]
        assert question["baseline_answer"] == own[0]["answer"]
        right = [row["path"] for row in own if row["verdict"]]
        assert (question["best"] in right) if right else (question["best"] is None)
        assert question["answers"] == len({row["answer"] for row in own})
        if question["baseline"]:
            assert question["controls"] == []
            continue
        own_answer = question["baseline_answer"]
        assert question["baseline_scores"] == [own[0]["scores"]]
        others = set(range(len(question["options"]))) - {question["gold"], own_answer}
        assert [one["target"] for one in question["controls"]] == [*sorted(others), own_answer]
        known = {tuple(row["path"]): row["scores"] for row in own}
        for searched in question["controls"]:
            target = searched["target"]
            other = [row for row in every if row["control"] and row["target"] == target]
            assert searched["evaluations"] == len(other) == 11
            assert searched["shared"] == sum(row["reused"] for row in other) >= 1
            assert all(row["verdict"] == (row["answer"] == target) for row in other)
            for row in other:
                assert row["reused"] == (tuple(row["path"]) in known)
                known.setdefault(tuple(row["path"]), row["scores"])
                assert row["scores"] == known[tuple(row["path"])]


def test_evaluate_rows(evaluate, search):
    """One question's paths in order, with the verdicts that a search has of the same path."""
    found, known = by_path(evaluate.run), by_path(search.run)
    ids = [f"q{i}" for i in range(QUESTIONS)]
    assert sorted(found) == sorted((i, path) for i in ids for path in PATHS)
    order = [tuple(row["path"]) for row in evaluate.run.evaluations().to_pylist()]
    assert order == PATHS * QUESTIONS
    assert sum(key in known for key in found) >= QUESTIONS  # the identity path at least
    for key in found.keys() & known.keys():
        assert found[key]["answer"] == known[key]["answer"]
        np.testing.assert_allclose(found[key]["margin"], known[key]["margin"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["search", "decode"])
def test_batch_size_changes_rounding_alone(request, tmp_path, name):
    case = request.getfixturevalue(name)
    run = jobs.fill(changed(case.session, batch_size=3), str(tmp_path / "run"), case.work)
    assert differences(run, case.run) == []


def test_batch_without_questions_is_refused():
    with pytest.raises(ValueError, match="at least 1 question"):
        RunConfig(batch_size=0)


def test_hosts_agree_on_the_settings(search, monkeypatch):
    def agree(hosts, shard, settings, *, together):
        raise ValueError(f"{settings['questions']} {settings['seed']} {together}")

    monkeypatch.setattr(Hosts, "agree", agree)
    with pytest.raises(ValueError, match="6 2 False"):
        jobs.fill(search.session, str(search.run.directory), SEARCH)


def test_finished_run_evaluates_nothing(search, monkeypatch):
    before, metrics = search.run.evaluations(), Metrics()
    monkeypatch.setattr(
        "cola_jax.runs.session.Workers", lambda *_, **__: pytest.fail("something was evaluated")
    )
    jobs.fill(changed(search.session, batch_size=2), str(search.run.directory), SEARCH, metrics)
    assert search.run.evaluations() == before
    assert (metrics.earlier, metrics.evaluations) == (count(search.run), 0)


def test_session_records_the_model_and_the_task(checkpoint, task, search):
    settings = search.session.settings
    assert settings["questions"] == QUESTIONS
    assert settings["dtype"] == "float32"
    assert settings["scorer"] == "options"
    fewer = Session.prepare(checkpoint, TaskConfig(task, limit=3).prepare)
    assert fewer.settings["task"] != settings["task"]
    assert fewer.settings["model"] == settings["model"]
    assert search.session.environment["num_layers"] == tiny.LAYERS
    assert search.session.environment["scorer"] == {"open": False, "decodes": False}


def test_path_that_is_not_finite_is_wrong(search, evaluate, decode, tmp_path):
    run = jobs.fill(with_nan(evaluate.session, 1), str(tmp_path / "evaluate"), EVALUATE)
    whole = by_path(evaluate.run)
    for key, row in by_path(run).items():
        if 1 in key[1]:
            assert (row["finite"], row["verdict"], row["answer"]) == (False, False, -1)
            assert row["margin"] == -np.inf
            assert np.isnan(row["scores"]).all()
        else:
            assert row["verdict"] == whole[key]["verdict"]
            assert row["margin"] == pytest.approx(whole[key]["margin"], abs=1e-4)
    run = jobs.fill(with_nan(search.session, 1), str(tmp_path / "search"), SEARCH)
    questions = run.questions().to_pylist()
    assert {(q["baseline"], q["baseline_answer"]) for q in questions} == {(False, -1)}
    assert any(q["best"] for q in questions)
    assert not any(1 in q["best"] for q in questions if q["best"])
    run = jobs.fill(with_nan(decode.session, 1), str(tmp_path / "decode"), EVALUATE)
    for row in run.evaluations().to_pylist():
        assert row["finite"] == (1 not in row["path"])
        if not row["finite"]:
            assert (row["finish"], row["verdict"], row["answer"]) == ("not finite", False, -1)


# open questions


def test_decoding_rows(sums, decode):
    settings, evaluations = decode.run.settings(), decode.run.evaluations().to_pylist()
    assert settings["prompt"]["stop_tokens"] == list(checkpoints.stop_tokens(sums[0]))
    questions = decode.run.questions().to_pylist()
    golds = {question["question"]: question["options"][0] for question in questions}
    for row in evaluations:
        assert row["grade"] == ("right" if row["verdict"] else "wrong")
        assert row["verdict"] == (row["margin"] > 0) == (row["answer"] == 0)
        assert row["truncated"] == (row["finish"] == "length")
        assert len(row["tokens"]) <= DECODING["max_new_tokens"]
        if row["answer_text"] == golds[row["question"]] and not row["truncated"]:
            assert row["verdict"]
        assert (row["answer_text"] or "") == row["text"].partition("\n")[0].strip()
    for column in ("verdict", "truncated"):
        values = [row[column] for row in evaluations]
        assert min(values.count(True), values.count(False)) > 3
    assert all(q["confirmed"] == (None if q["best"] is None else True) for q in questions)


def test_search_function_finds_what_the_session_does(decode):
    session, known = decode.session, by_path(decode.run)
    questions = [encoded.question for encoded in session.encoded[:2]]
    evaluate = cola_jax.evaluator(session.model, questions, session.scorer)
    outcomes = cola_jax.search(evaluate, questions, preset="cola", simulations=10, leaves=4, seed=2)
    for outcome in outcomes:
        own = [known[key] for key in known if key[0] == outcome.question.id]
        assert [tuple(row["path"]) for row in own] == outcome.paths
        assert [row["verdict"] for row in own] == outcome.verdicts.verdict.tolist()
        assert [row["text"] for row in own] == [one.text for one in outcome.verdicts.completion]


def test_other_shots_are_refused(sums, tmp_path):
    sessions = [
        Session.prepare(sums[0], TaskConfig("arithmetic", limit=3, level=1, shots=shots).prepare)
        for shots in (1, 2)
    ]
    with Run(tmp_path / "run").open(sessions[0].settings, {"num_layers": 5}) as run:
        pass
    with pytest.raises(ValueError, match="--task"), run.open(sessions[1].settings, {}):
        pass


def test_found_paths_are_asked_again_in_variants(checkpoint, task, search, tmp_path):
    """The answers are those of an evaluation of the same paths on the variant's own prompts."""
    config = TaskConfig(task, variants=("chat", "instruction"))
    session = Session.prepare(checkpoint, config.prepare, ONE)
    run = session.search(str(tmp_path / "run"), SEARCH)
    assert set(run.manifest()["settings"]["variants"]) == {"chat", "instruction"}
    with pytest.raises(ValueError, match="variants are chat, instruction: leave out"):
        session.evaluate(str(tmp_path / "evaluate"), PATHS)
    # the search itself is that without variants
    assert differences(run, search.run) == []
    model = session.model
    for row in run.questions().to_pylist():
        at = next(i for i, e in enumerate(session.encoded) if e.question.id == row["question"])
        asked = [entry["path"] for entry in row["again"]]
        assert asked[0] == list(range(tiny.LAYERS))
        for v, variant in enumerate(session.variants):
            question = variant.encoded[at].question
            evaluate = cola_jax.evaluator(model, [question], variant.scorer)
            verdicts = evaluate([asked])
            if (np.abs(verdicts.margin) > LEAST).all():
                assert [entry["holds"][v] for entry in row["again"]] == verdicts.verdict[0].tolist()
                assert row["variant_answers"][v] == verdicts.answer[0, 0]
        held = [e["path"] for e in row["again"] if all(e["holds"])]
        right = {tuple(r["path"]) for r in by_question(run, row["question"]) if r["verdict"]}
        robust = [len(path) for path in held if tuple(path) in right]
        assert (None if row["robust"] is None else len(row["robust"])) == min(robust, default=None)
        assert all(len(control["again"]) >= 1 for control in row["controls"])
    summary = summarise(run)
    assert summary.again is not None
    assert summary.again.agreement.n == 2 * QUESTIONS
    again = session.search(str(tmp_path / "run"), SEARCH)  # finished: nothing to do
    assert again.questions().num_rows == QUESTIONS


def by_question(run, name):
    return [
        row
        for row in run.evaluations().to_pylist()
        if row["question"] == name and not row["control"]
    ]


def test_shortgpt_is_refused_elsewhere_before_weights_load(checkpoint, task, search, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for directory, words in (
        (str(search.run.directory), "different settings"),
        (str(tmp_path), "is not empty"),
    ):
        session = Session.prepare(checkpoint, TaskConfig(task).prepare, ONE)
        settings = dataclasses.replace(SEARCH, preset=PRESETS["shortgpt"])
        with pytest.raises(ValueError, match=words):
            session.search(directory, settings)
        assert session.handle.loaded is None


@pytest.mark.parametrize("name", ["search", "decode"])
def test_reuse_repeats_no_evaluation(request, name, tmp_path):
    case = request.getfixturevalue(name)
    metrics = Metrics()
    run = case.session.search(
        str(tmp_path / "same"), SEARCH, metrics, reuse=[str(case.run.directory)]
    )
    assert metrics.evaluations == 0
    assert differences(run, case.run) == []
    assert all(run.evaluations()["reused"].to_pylist())
    if name == "decode":
        return
    other = dataclasses.replace(SEARCH, preset=PRESETS["enumerate"], control="all")
    alone = case.session.search(str(tmp_path / "alone"), other)
    metrics = Metrics()
    run = case.session.search(
        str(tmp_path / "other"), other, metrics, reuse=[str(case.run.directory)]
    )
    assert 0 < metrics.evaluations < count(alone)
    assert metrics.evaluations == count(run)
    found, expected = (
        {(row["question"], row["target"], tuple(row["path"])): row["verdict"] for row in rows}
        for rows in (run.evaluations().to_pylist(), alone.evaluations().to_pylist())
    )
    assert found == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"variants": ("chat", "instruction")},
        pytest.param({"scorer": "letter", "variants": ("order",)}, marks=pytest.mark.slow),
    ],
)
def test_robust_search_is_right_in_all_variants(checkpoint, task, tmp_path, settings):
    session = Session.prepare(checkpoint, TaskConfig(task, **settings).prepare, ONE)
    search = dataclasses.replace(SEARCH, control="all")
    run = session.search(str(tmp_path / "run"), search, robust=True)
    assert run.settings()["robust"] is True
    assert set(run.evaluations()["asked"].to_pylist()) == {None}  # no other search may take them
    every = [(session.scorer, session.encoded), *((v.scorer, v.encoded) for v in session.variants)]
    options = [tuple(range(len(e.question.options))) for e in session.encoded]
    places = [options, *(variant.places for variant in session.variants)]
    sure = 0
    for row in run.questions().to_pylist():
        at = next(i for i, e in enumerate(session.encoded) if e.question.id == row["question"])
        own = [r for r in run.evaluations().to_pylist() if r["question"] == row["question"]]
        for target in {r["target"] for r in own}:
            some = [r for r in own if r["target"] == target]
            paths = [tuple(r["path"]) for r in some]
            margins = []
            for (scorer, encoded), place in zip(every, places, strict=True):
                evaluate = cola_jax.evaluator(session.model, [encoded[at].question], scorer)
                verdicts = evaluate([paths]).of_target(place[at][target])
                margins.append(verdicts.margin[0])
            least = np.min(margins, axis=0)
            np.testing.assert_allclose([r["margin"] for r in some], least, atol=1e-3)
            clear = np.abs(np.array(margins)).min(axis=0) > LEAST
            right = np.array([r["verdict"] for r in some])
            np.testing.assert_array_equal(right[clear], least[clear] > 0)
            sure += clear.sum()
        assert len(row["variant_answers"]) == len(session.variants)
        given = {row["baseline_answer"], *row["variant_answers"]}
        others = set(range(len(row["options"]))) - given - {row["gold"]}
        targets = others | (given if len(given) == 1 else set())
        searched = {control["target"] for control in row["controls"]}
        assert searched == (set() if row["gold"] in given else targets)
        found = [entry for entry in row["again"][1:] if entry["path"] != row["again"][0]["path"]]
        assert all(all(entry["holds"]) for entry in found)
        assert (row["robust"] is None) == (row["best"] is None)
    assert sure > 50
    summary = summarise(run).again
    assert summary is not None
    assert summary.held.hits == summary.held.n  # all that is found is right in all variants


@pytest.mark.parametrize(
    ("decodes", "variants", "reuse", "message"),
    [
        (False, [], [], "needs another way to ask each question"),
        (False, ["chat"], ["run"], "can reuse no other run"),
        (True, ["chat"], [], "decodes answers"),
    ],
)
def test_robust_searches_that_cannot_be_are_refused(decodes, variants, reuse, message):
    scorer: Any = types.SimpleNamespace(name="generation", decodes=decodes)
    with pytest.raises(InputError, match=message):
        check_robust(scorer, variants, reuse)


# searches over all questions


def record(session, out, paths=PATHS):
    """Asks for one path of all questions, and then for more; returns the metrics."""
    metrics = Metrics()
    with session.recording(str(out), {"command": "static"}, metrics) as evaluate:
        for some in (paths[:1], paths):
            evaluate(pad_paths(some, QUESTIONS, tiny.LAYERS))
    return metrics


def test_interrupted_recording_repeats_nothing_written(evaluate, tmp_path, monkeypatch):
    session, total = evaluate.session, QUESTIONS * len(PATHS)
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    assert record(session, whole.directory).evaluations == total
    counts = whole.questions(["evaluations"])["evaluations"].to_pylist()
    assert counts == [len(PATHS)] * QUESTIONS
    with monkeypatch.context() as patch:
        fail_after(1, patch)
        with pytest.raises(RuntimeError, match="no room"):
            record(session, run.directory)
    assert run.questions().num_rows == 0
    assert written(run) == QUESTIONS
    metrics = record(session, run.directory)
    assert (metrics.earlier, metrics.evaluations) == (QUESTIONS, total - QUESTIONS)
    assert differences(run, whole) == []
    assert not (run.directory / UNFINISHED).exists()
    assert record(session, run.directory).evaluations == 0  # done: known, and written again
    assert differences(run, whole) == []


@pytest.mark.parametrize(
    ("answers", "golds", "said"),
    [
        ([1] * 19 + [0], [0, 1, 2, 3] * 5, "answers B, whatever is asked: to 19 of 20"),
        ([1] * 18 + [0] * 2, [1] * 12 + [0] * 8, "right for 12"),
        ([1] * 17 + [0] * 3, [0, 1, 2, 3] * 5, None),
        ([1] * 20, [1] * 13 + [0] * 7, None),  # as gold is
        ([1] * 19, [0] * 10 + [1] * 9, None),  # too few
        ([-1] * 20, [0, 1, 2, 3] * 5, None),  # no answer
    ],
)
def test_collapse_is_one_option_for_nearly_all_questions(answers, golds, said):
    problem = collapse(list(zip(answers, golds, strict=True)))
    assert problem is None if said is None else said in (problem or "")


@pytest.mark.parametrize("work", [dataclasses.replace(SEARCH, control="none"), EVALUATE])
def test_session_warns_once_of_a_scorer_that_collapses(search, tmp_path, caplog, monkeypatch, work):
    def all_alike(answers):
        return f"all {len(answers)} alike" if len(answers) > QUESTIONS // 2 else None

    monkeypatch.setattr("cola_jax.runs.session.collapse", all_alike)
    with caplog.at_level(logging.WARNING, "cola_jax"):
        jobs.fill(search.session, str(tmp_path / "run"), work)
    assert [each.getMessage() for each in caplog.records] == ["by the scorer options, all 4 alike"]
