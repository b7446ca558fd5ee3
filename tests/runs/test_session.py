"""Sessions on a tiny model: an interrupted one resumes to what an unbroken one finds."""

import dataclasses
import functools
import json
import shutil
from typing import Any, NamedTuple

import numpy as np
import pytest

import cola_jax
from cola_jax import checkpoint as checkpoints
from cola_jax.engine.devices import Devices
from cola_jax.engine.engine import QuestionShare
from cola_jax.engine.local import LocalEngine
from cola_jax.engine.model import ModelHandle
from cola_jax.errors import InputError
from cola_jax.execute import memory
from cola_jax.execute.inputs import pad_paths
from cola_jax.metrics import Metrics
from cola_jax.runs.reuse import Reuse
from cola_jax.runs.run import TABLES, UNFINISHED, Run
from cola_jax.runs.search_results import SPENT
from cola_jax.runs.session import Session, call, check_memory, make_session, recording
from cola_jax.scoring import Grader, Options
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.tasks.task import TaskConfig
from cola_jax.tasks.wordings import WordedScorer
from cola_jax.wording import Wording
from tests import tiny
from tests.runs import jobs
from tests.runs.conftest import KILLED, end, evaluated, failing_after, written
from tests.same_rows import differences

QUESTIONS = 6
SEARCH = Settings(PRESETS["cola"], simulations=10, leaves=4, seed=2, early_stop=False)
PATHS = [(0, 1, 2, 3, 4), (0, 2, 4), (0, 1, 1, 2, 3, 4)]
SHOTS = tiny.questions(12)[8:]
LEAST = 1e-3  # the margin above which no rounding changes a verdict
DECODING = {"scorer": "generation", "max_new_tokens": 4}


def one(batch_size: int | None = 2, **options: Any) -> LocalEngine:
    """An engine of one device, whose runs have three batches by default."""
    return LocalEngine(Devices(data=1), batch_size=batch_size, **options)


class Case(NamedTuple):
    """A session, its task, and what it did without an interruption."""

    session: Session
    task: TaskConfig
    work: jobs.Work
    run: Run
    again: bool = False  # whether found paths are asked again

    def grown(self, limit=None, **options):
        """Another session over the first questions of the task."""
        task = dataclasses.replace(self.task, limit=limit)
        prepare = functools.partial(task.prepare, again=self.again)
        session = Session.prepare(self.session.model.source, prepare, one(**options))
        share_grader(session, getattr(self.session.asked.scorer, "grader", None))
        return session


def with_nan(session, layer):
    """The same session with a layer whose output is not finite."""
    model = session.model.load()
    (stack,) = model.layers
    changed = model.replace(layers=(stack.replace(down=stack.down.at[layer].set(np.nan)),))
    return dataclasses.replace(session, model=ModelHandle.of(changed))


def share_grader(session, grader):
    """Let a session use a grader, whose processes take long to start."""
    if grader is not None:
        session.asked.scorer.grader = grader


def make_case(folder, model, task, work, grader=None, *, again=False):
    """Prepare a session and fill a run directory."""
    session = Session.prepare(str(model), functools.partial(task.prepare, again=again), one())
    share_grader(session, grader)
    return Case(session, task, work, jobs.fill(session, str(folder / "whole"), work), again)


def check_same(run, whole):
    """Check that a run is finished, with the rows of an unbroken one."""
    assert differences(run, whole) == []
    assert not (run.directory / UNFINISHED).exists()


@pytest.fixture(scope="module")
def search(checkpoint, task, tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("search"), checkpoint, TaskConfig(task), SEARCH)


@pytest.fixture(scope="module")
def evaluate(checkpoint, task, tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("evaluate"), checkpoint, TaskConfig(task), PATHS)


@pytest.fixture(scope="module")
def reworded(checkpoint, task, tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("reworded"), TaskConfig(task, prompts=2)
    return make_case(folder, checkpoint, config, SEARCH, again=True)


@pytest.fixture(scope="module")
def decode(checkpoint, tmp_path_factory):
    """A checkpoint with many stop tokens, and sums of which it gives some answers."""
    folder = tmp_path_factory.mktemp("sums")
    model = shutil.copytree(checkpoint, folder / "ours")
    metadata = json.loads((model / "cola.json").read_text())
    ends = [1, *range(60, 80), *range(130, 200)]
    (model / "cola.json").write_text(json.dumps(metadata | {"stop_tokens": ends}))
    file, answers = folder / "sums.jsonl", {f"s{i}": str(i + 7) for i in range(QUESTIONS)}

    def case(name, work):
        lines = ({"id": i, "prompt": f"{i[1:]} + 7 =", "answer": answers[i]} for i in answers)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return make_case(folder / name, model, TaskConfig(str(file), **DECODING), work, grader)

    with Grader() as grader:  # each session would start processes of its own
        for row in case("evaluate", PATHS).run.evaluations().to_pylist():
            if not row["truncated"] and row["answer_text"]:
                answers[row["question"]] = row["answer_text"]
        yield case("search", SEARCH)


@pytest.mark.parametrize(
    ("name", "files", "kinds"),
    [
        ("search", 3, TABLES),
        pytest.param("search", 5, [UNFINISHED], marks=pytest.mark.slow),
        pytest.param("evaluate", 1, TABLES, marks=pytest.mark.slow),
        pytest.param("decode", 3, TABLES, marks=pytest.mark.slow),
        pytest.param("decode", 4, [UNFINISHED], marks=pytest.mark.slow),
    ],
)
def test_killed_session_repeats_nothing_written(request, start, tmp_path, name, files, kinds):
    case, out = request.getfixturevalue(name), str(tmp_path / "run")
    model, prepare = case.session.model.source, case.task.prepare
    assert end(start(jobs.killed, model, prepare, one(), out, case.work, files, kinds)) == KILLED
    run = Run(out)
    assert sum(len(list(run.directory.glob(f"{kind}/part-*"))) for kind in kinds) in (0, files)
    before = evaluated(run) + written(run)

    metrics = Metrics()
    jobs.fill(case.grown(batch_size=None), out, case.work, metrics)
    check_same(run, case.run)
    assert len(run.read_starts()[1]) == 2
    total = evaluated(case.run)
    assert (metrics.earlier, metrics.evaluations) == (before, total - before)
    searched = (metrics.steps, metrics.all_steps)
    expected = searched if case.work == SEARCH else (total, metrics.total)
    assert expected[0] == expected[1] > 0
    assert run.read_starts()[1][-1]["metrics"]["evaluations"] == metrics.evaluations


def test_finished_run_evaluates_nothing(search, monkeypatch):
    before, metrics = search.run.evaluations(), Metrics()
    monkeypatch.setattr(LocalEngine, "workers", lambda *_: pytest.fail("evaluated again"))
    jobs.fill(search.grown(batch_size=3), str(search.run.directory), SEARCH, metrics)
    assert search.run.evaluations() == before
    assert (metrics.earlier, metrics.evaluations) == (evaluated(search.run), 0)


def test_path_that_is_not_finite_is_wrong(search, evaluate, decode, tmp_path):
    for name, case in (("evaluate", evaluate), ("decode", decode)):
        run = jobs.fill(with_nan(case.session, 1), str(tmp_path / name), PATHS)
        for row in run.evaluations().to_pylist():
            assert row["finite"] == (1 not in row["path"])
            if not row["finite"]:
                assert (row["verdict"], row["answer"]) == (False, -1)
                assert row["finish"] in (None, "not finite")
    run = jobs.fill(with_nan(search.session, 1), str(tmp_path / "search"), SEARCH)
    questions = run.questions().to_pylist()
    assert {(q["baseline"], q["baseline_answer"]) for q in questions} == {(False, -1)}
    assert any(q["best"] for q in questions)
    assert not any(1 in q["best"] for q in questions if q["best"])


def test_decoding_rows(decode):
    stop_tokens = decode.run.settings()["prompt"]["stop_tokens"]
    assert stop_tokens == list(checkpoints.stop_tokens(decode.session.model.source))
    questions, rows = decode.run.questions().to_pylist(), decode.run.evaluations().to_pylist()
    for row in rows:
        assert row["grade"] == ("right" if row["verdict"] else "wrong")
        assert row["verdict"] == (row["margin"] > 0) == (row["answer"] == 0)
        assert row["truncated"] == (row["finish"] == "length")
        assert (row["answer_text"] or "") == row["text"].partition("\n")[0].strip()
    for column in ("verdict", "truncated"):
        assert {row[column] for row in rows} == {True, False}
    assert all(q["confirmed"] == (None if q["best"] is None else True) for q in questions)


def evaluated_alone(model, question, scorer, paths):
    """The verdicts of paths on the prompt of one question."""
    return cola_jax.evaluate(model, [question], paths, scorer=scorer).verdicts


def test_best_paths_are_asked_again_in_other_wordings(search, reworded):
    """The answers are those of an evaluation of the same paths on the wording's own prompts."""
    session, run = reworded.session, reworded.run
    assert run.settings()["prompts"] == len(session.again) == 2
    # the search itself is that without other wordings
    check_same(run, search.run)
    for row in run.questions().to_pylist():
        (question,) = [each for each in session.asked.questions if each.id == row["question"]]
        asked = [entry["path"] for entry in row["again"]]
        whole = list(range(tiny.LAYERS))
        assert asked == [whole, *([row["best"]] if row["best"] not in (None, whole) else [])]
        for w, worded in enumerate(session.again):
            verdicts = evaluated_alone(session.model.load(), question, worded.scorer, asked)
            if (np.abs(verdicts.margin) > LEAST).all():
                assert [entry["holds"][w] for entry in row["again"]] == verdicts.verdict[0].tolist()
                assert row["again_answers"][w] == verdicts.answer[0, 0]
        assert all(len(control["again"]) >= 1 for control in row["controls"])
    summary = run.summary()
    agreement = summary.find("model's answer in another wording: the same")
    assert agreement is not None
    assert agreement.n == 2 * QUESTIONS
    # the rows tell how many were run, those in variants and of control searches included
    assert summary.value(SPENT) == run.read_starts()[1][-1]["metrics"]["evaluations"]
    gold = summary.value("of them by the searches for gold")
    assert summary.value(SPENT) > gold + summary.value("added by other wordings") > 0


def test_shortgpt_is_refused_elsewhere_before_weights_load(checkpoint, task, search, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    settings = dataclasses.replace(SEARCH, preset=PRESETS["shortgpt"])
    places = {search.run.directory: "different settings", tmp_path: "is not empty"}
    for directory, words in places.items():
        session = Session.prepare(checkpoint, TaskConfig(task).prepare, one())
        with pytest.raises(ValueError, match=words):
            session.search(str(directory), settings)
        assert session.model.loaded is None


def test_reuse_repeats_no_evaluation(search, decode, tmp_path):
    def reusing(case, name, settings):
        metrics = Metrics()
        reuse = [str(case.run.directory)]
        return case.session.search(str(tmp_path / name), settings, metrics, reuse=reuse), metrics

    for name, case in (("search", search), ("decode", decode)):
        run, metrics = reusing(case, name, SEARCH)
        assert metrics.evaluations == 0
        check_same(run, case.run)
        assert all(run.evaluations()["reused"].to_pylist())
    other = dataclasses.replace(SEARCH, preset=PRESETS["enumerate"], control="all")
    alone = search.session.search(str(tmp_path / "alone"), other)
    run, metrics = reusing(search, "other", other)
    assert 0 < metrics.evaluations == evaluated(run) < evaluated(alone)
    check_same(run, alone)


def test_memory_must_suffice_for_the_other_wordings(checkpoint, task):
    """Whose prompts may be longer; before the weights load."""
    session = Session.prepare(str(checkpoint), TaskConfig(task).prepare)
    shots = WordedScorer(Wording(draw="again 0"), Options(tiny.tokenizer(), shots=SHOTS), {})
    again = {shots: shots.sample(session.asked.sample)}
    sizes = range(2_000, 2_000_000, 2_000)
    least = next(size for size in sizes if not is_refused(session, size, again={}))
    assert is_refused(session, least, again=again)
    assert session.model.loaded is None


def test_other_wordings_have_tokens_of_the_vocabulary(checkpoint, task):
    model = ModelHandle(str(checkpoint))
    prepared = call(functools.partial(TaskConfig(task, prompts=1).prepare, again=True), model)
    ((worded, sample),) = prepared.again.items()
    prompts = sample[0].prompts
    strange = dataclasses.replace(sample[0], prompts=prompts.replace(ids=prompts.ids + 1_000_000))
    prepared = dataclasses.replace(prepared, again={worded: [*sample, strange]})
    with pytest.raises(InputError, match=r"in another wording, token ids run from .*--prompts 0"):
        make_session(model, one(), prepared)


def is_refused(session, budget, again):
    """Whether a search is refused for its memory."""
    engine = LocalEngine(Devices(memory_budget=str(budget)))
    asked = dataclasses.replace(session, engine=engine, again=again)
    try:
        check_memory(asked, 8)
    except InputError:
        return True
    return False


def record(session, out):
    """Asks for one path of all questions, and then for more; returns the metrics."""
    metrics = Metrics()
    with recording(session, str(out), {"command": "static"}, metrics) as evaluate:
        for chosen in (PATHS[:1], PATHS):
            evaluate(pad_paths(chosen, QUESTIONS, tiny.LAYERS))
    return metrics


def test_interrupted_recording_repeats_nothing_written(evaluate, tmp_path, monkeypatch):
    session, total = evaluate.session, QUESTIONS * len(PATHS)
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    assert record(session, whole.directory).evaluations == total
    counts = whole.questions(["evaluations"])["evaluations"].to_pylist()
    assert counts == [len(PATHS)] * QUESTIONS
    with failing_after(1, monkeypatch):
        record(session, run.directory)
    assert run.questions().num_rows == 0
    assert written(run) == QUESTIONS
    metrics = record(session, run.directory)
    assert (metrics.earlier, metrics.evaluations) == (QUESTIONS, total - QUESTIONS)
    check_same(run, whole)
    before = run.parts()
    assert record(session, run.directory).evaluations == 0
    assert run.parts() == before  # a finished run is left as it is
    check_same(run, whole)


def test_saved_search_is_a_run_with_a_report(checkpoint, tmp_path):
    questions = tiny.questions(5)
    model = cola_jax.load(checkpoint)
    outcomes = cola_jax.search(model, questions, scorer="options", simulations=8, leaves=4)
    outcomes = cola_jax.confirm(outcomes)
    run = cola_jax.save_run(outcomes, tmp_path / "run")
    assert run.settings()["simulations"] == 8
    rows = run.questions().to_pylist()
    assert [row["question"] for row in rows] == [question.id for question in questions]
    assert [row["text"] for row in rows] == [question.text for question in questions]
    assert [row["confirmed"] for row in rows] == [outcome.confirmed for outcome in outcomes]
    assert run.summary()[0].n == 5
    assert run.summary().sentences == outcomes.summary().sentences
    outcomes.sort(key=lambda outcome: outcome.question.id, reverse=True)
    other = cola_jax.save_run(outcomes, tmp_path / "sorted").questions().to_pylist()
    assert other == rows[::-1]
    text = repr(run)
    assert len(text) < 500
    assert "5 of 5 questions done, scorer options" in text
    assert run._repr_html_().count("<br>") == text.count("\n")
    assert "no run yet" in repr(Run(tmp_path / "other"))


def test_saved_search_of_a_changed_model_is_not_its_checkpoints(checkpoint, tmp_path):
    questions, model = tiny.questions(5), cola_jax.load(checkpoint)
    changed, runs = model.replace(norm=model.norm * 2), []
    for each in (model, changed):
        outcomes = cola_jax.search(each, questions, scorer="options", simulations=2)
        runs.append(cola_jax.save_run(outcomes, tmp_path / f"run{len(runs)}"))
    with pytest.raises(ValueError, match=r"created with different settings .*--model"):
        cola_jax.save_run(outcomes, runs[0].directory)
    digest = checkpoints.read_metadata(checkpoint)["digest"]
    assert runs[0].settings()["model"] == digest != runs[1].settings()["model"]
    ours = runs[0].settings()
    with pytest.raises(ValueError, match="its model is"):
        Reuse(runs[1:], ours, outcomes.searched.asked)
    Reuse(runs[:1], ours, outcomes.searched.asked)


def of(size):
    """A search with a smaller budget."""
    return dataclasses.replace(SEARCH, simulations=size)


@pytest.mark.parametrize("name", [pytest.param("reworded", marks=pytest.mark.slow), "decode"])
def test_extended_search_finds_what_an_unbroken_one_does(request, tmp_path, name):
    case, metrics = request.getfixturevalue(name), Metrics()
    for limit, settings in ((1, of(4)), (QUESTIONS, SEARCH)):
        run = case.grown(limit).search(str(tmp_path / "run"), settings, metrics)
        assert run.questions().num_rows == limit
    check_same(run, case.run)
    assert run.settings() == case.run.facts().settings
    if name == "decode":  # what asks again is not among the rows, and is asked again
        assert metrics.evaluations == evaluated(run)


@pytest.mark.slow
def test_killed_extension_finds_what_an_unbroken_one_does(search, start, tmp_path):
    model, prepare, out = search.session.model.source, search.task.prepare, str(tmp_path / "run")
    search.grown(4).search(out, of(6))
    for count in (1, 2):
        work = prepare, one(), out, SEARCH, count, [UNFINISHED]
        assert end(start(jobs.killed, model, *work)) == KILLED
        assert Run(out).settings()["simulations"] == SEARCH.simulations
    check_same(search.grown().search(out, SEARCH), search.run)


def test_failed_search_repeats_what_it_had_not_written(decode, tmp_path, monkeypatch):
    """A wave of each of the two batches that run at the same time, at most."""
    monkeypatch.setattr(memory, "CPU", memory.CPU._replace(threads=2))  # as on an accelerator
    metrics, again, run = Metrics(), Metrics(), Run(tmp_path / "run")
    with failing_after(6, monkeypatch):
        decode.session.search(str(run.directory), SEARCH, metrics)
    kept = evaluated(run) + written(run)  # one of the batches may be done
    assert 0 < kept < metrics.evaluations
    decode.session.search(str(run.directory), SEARCH, again)
    check_same(run, decode.run)
    assert (again.earlier, again.evaluations) == (kept, evaluated(run) - kept)


def test_shares_extend_a_run(search, tmp_path):
    for settings in (of(4), SEARCH):
        for index in (0, 1):
            session = search.grown(share=QuestionShare(index, 2, f"{settings.simulations}"))
            run = session.search(str(tmp_path / "run"), settings)
    check_same(run, search.run)
