"""A run that is continued with more questions or evaluations has the rows of an unbroken one."""

import dataclasses
import threading

import numpy as np
import pytest

from cola_jax.execute.metrics import Metrics
from cola_jax.path import STOP
from cola_jax.runs import journal
from cola_jax.runs.devices import Devices
from cola_jax.runs.directory import UNFINISHED, RunDirectory
from cola_jax.runs.growth import continues, differing, flag_of
from cola_jax.runs.parts import read_part
from cola_jax.runs.session import RunConfig, Session
from cola_jax.runs.shard import Shard
from cola_jax.scoring.scorer import ReadingEvaluator
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.tasks.task import TaskConfig
from tests import tiny
from tests.runs import jobs
from tests.runs.conftest import KILLED, end
from tests.runs.interruption import fail_after, written

CONFIG = RunConfig(devices=Devices(data=1))
SEARCH = Settings(PRESETS["best"], simulations=10, leaves=4, seed=2, early_stop=False)
PATHS = [(0, 1, 2, 3, 4), (0, 2, 4), (0, 1, 1, 2, 3, 4), (1, 2, 3)]
TASKS = {
    "options": {"shots": 2},
    "letter-strict": {"scorer": "letter-strict"},
    "variants": {"variants": ("chat", "instruction")},
    "exact": {"scorer": "exact"},
    "generation": {"scorer": "generation", "max_new_tokens": 4},
}
OPEN = ("exact", "generation")


def rows(run):
    """All rows of a run, sorted; floats are written in full, so equal means to the last bit."""
    return [sorted(map(repr, table.to_pylist())) for table in (run.questions(), run.evaluations())]


def of(size, **changes):
    """The search with another budget."""
    return dataclasses.replace(SEARCH, simulations=size, **changes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of eight questions of multiple choice, of shots for them, and of eight sums."""
    folder = tmp_path_factory.mktemp("growth")
    sums = "".join(
        f'{{"id": "s{i}", "prompt": "{i} + 7 =", "answer": "{i + 7}"}}\n' for i in range(8)
    )
    (folder / "sums.jsonl").write_text(sums)
    lines = tiny.write_questions(folder / "all.jsonl", 10).read_text().splitlines(keepends=True)
    (folder / "task.jsonl").write_text("".join(lines[:8]))
    (folder / "shots.jsonl").write_text("".join(lines[8:]))
    return folder


@pytest.fixture(scope="module")
def task_of(files):
    """Returns the first questions of a task."""

    def make(name, limit):
        task = "sums.jsonl" if name in OPEN else "task.jsonl"
        more = {"shots_file": str(files / "shots.jsonl")} if name == "options" else {}
        return TaskConfig(str(files / task), limit=limit, **TASKS[name], **more)

    return make


@pytest.fixture(scope="module")
def prepare(checkpoint, task_of):
    """Makes a session over the first questions of a task."""

    def make(name, limit, config=CONFIG):
        return Session.prepare(checkpoint, task_of(name, limit).prepare, config)

    return make


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("letter-strict", marks=pytest.mark.slow),
        pytest.param("variants", marks=pytest.mark.slow),
        "generation",
    ],
)
def test_extended_search_has_the_rows_of_an_unbroken_one(prepare, tmp_path, name):
    whole = prepare(name, 7).search(str(tmp_path / "whole"), of(12))
    metrics = Metrics()
    for limit, size in ((1, 4), (5, 8), (7, 12)):
        run = prepare(name, limit).search(str(tmp_path / "run"), of(size), metrics)
        assert run.questions().num_rows == limit
        assert not (run.directory / UNFINISHED).exists()
    assert rows(run) == rows(whole)
    assert run.manifest()["settings"] == whole.manifest()["settings"]
    asked = sum(not row["reused"] for row in run.evaluations().to_pylist())
    if name != "variants":  # what asks again is not among the rows, and may be asked again
        assert metrics.evaluations - asked <= (
            # of a control search the verdicts for gold are not known to the bit
            asked // 2 if name == "letter-strict" else 0
        )


@pytest.mark.slow
def test_extended_robust_search_has_the_rows_of_an_unbroken_one(prepare, tmp_path, monkeypatch):
    whole = prepare("variants", 6).search(str(tmp_path / "whole"), of(8), robust=True)
    # one question at a time
    monkeypatch.setattr(journal.ResumedEvaluator, "most", lambda self: 1)
    for limit, size in ((4, 4), (6, 8)):
        session = prepare("variants", limit)
        run = session.search(str(tmp_path / "run"), of(size), robust=True)
    assert rows(run) == rows(whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["options", "exact"])
def test_extended_evaluation_has_the_rows_of_an_unbroken_one(prepare, tmp_path, name):
    whole = prepare(name, 7).evaluate(str(tmp_path / "whole"), PATHS)
    metrics = Metrics()
    for limit, paths in ((1, PATHS[1:2]), (4, PATHS[1:2]), (4, PATHS[1:]), (7, PATHS)):
        run = prepare(name, limit).evaluate(str(tmp_path / "run"), paths, metrics)
        assert run.evaluations().num_rows == limit * len(paths)
    assert rows(run) == rows(whole)
    # the one question is evaluated again where prompts share what they begin with
    assert metrics.evaluations == 7 * len(PATHS) + 1


@pytest.mark.slow
def test_killed_extension_has_the_rows_of_an_unbroken_one(
    prepare, task_of, start, tmp_path, checkpoint
):
    name, out = "options", str(tmp_path / "run")
    whole = prepare(name, 7).search(str(tmp_path / "whole"), of(12))
    prepare(name, 4).search(out, of(6))
    for count in (1, 4):
        job = start(jobs.killed_in_journal, checkpoint, task_of(name, 7), out, of(12), count)
        assert end(job) == KILLED
        assert RunDirectory(out).manifest()["settings"]["simulations"] in (6, 12)
    run = prepare(name, 7).search(out, of(12))
    assert rows(run) == rows(whole)
    assert not (run.directory / UNFINISHED).exists()


def test_nothing_written_is_evaluated_again(prepare, tmp_path, monkeypatch):
    """A run that fails in its first batch resumes where the last file of its journal ends."""
    monkeypatch.setattr(journal, "SECONDS", 0.0)
    monkeypatch.setattr(journal, "PIECE", 0.0)
    session, metrics = prepare("generation", 4), Metrics()
    whole = session.search(str(tmp_path / "whole"), SEARCH)
    with monkeypatch.context() as patch:
        fail_after(6, patch)
        with pytest.raises(RuntimeError, match="no room"):
            session.search(str(tmp_path / "run"), SEARCH, metrics)
    run = RunDirectory(tmp_path / "run")
    assert run.questions().num_rows == 0
    assert metrics.evaluations > 0
    kept = written(tmp_path / "run")
    assert kept == metrics.evaluations
    session.search(str(tmp_path / "run"), SEARCH, metrics)
    assert rows(run) == rows(whole)
    asked = sum(not row["reused"] for row in run.evaluations().to_pylist())
    assert metrics.evaluations == asked
    assert metrics.earlier == kept


def test_confirmed_paths_are_not_confirmed_again(prepare, tmp_path, monkeypatch):
    session, out = prepare("options", 4), str(tmp_path / "run")
    ask, asked, one_is = ReadingEvaluator.confirm, [], threading.Event()

    def confirm_one(self, paths, verdicts):
        confirmed = ask(self, paths, verdicts)
        one_is.set()
        return confirmed

    def fail(*arguments):
        assert one_is.wait(60)  # the batch that ends first may have nothing to confirm
        raise RuntimeError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(ReadingEvaluator, "confirm", confirm_one)
        patch.setattr(RunDirectory, "write_part", fail)
        with pytest.raises(RuntimeError, match="no room"):
            session.search(out, of(4))
    unfinished = (RunDirectory(out).directory / UNFINISHED).iterdir()
    held = [row for file in unfinished for row in read_part(file, journal.SCHEMA).to_pylist()]
    held = {row["question"]: row["confirmed"] for row in held if row["confirmed"] is not None}
    assert held

    def confirm(self, paths, verdicts):
        asked.extend(self.batch[b].question.id for b in np.flatnonzero(paths[:, 0] != STOP))
        return ask(self, paths, verdicts)

    monkeypatch.setattr(ReadingEvaluator, "confirm", confirm)
    found = {
        q["question"]: q["confirmed"] for q in session.search(out, of(4)).questions().to_pylist()
    }
    assert {name: found[name] for name in held} == held
    assert not set(asked) & set(held)


def test_damaged_journal_is_named(prepare, tmp_path):
    out = tmp_path / "run"
    prepare("options", 2).search(str(out), of(4))
    (out / UNFINISHED).mkdir()
    (out / UNFINISHED / "part.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"part\.parquet is damaged .* made again"):
        prepare("options", 3).search(str(out), of(4))


def test_shards_extend_a_run(prepare, tmp_path):
    whole = prepare("options", 6).search(str(tmp_path / "whole"), of(8))
    out = str(tmp_path / "run")
    for size in (4, 8):
        for index in (0, 1):
            config = dataclasses.replace(CONFIG, shard=Shard(index, 2))
            run = prepare("options", 6, config=config).search(out, of(size))
    assert rows(run) == rows(whole)
    assert not (run.directory / UNFINISHED).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 2}, "--limit: 4 questions there, 2 here"),
        ({"simulations": 4}, "--simulations: 8 there, 4 here"),
        ({"seed": 3}, "--seed: 2 there, 3 here"),
        ({"preset": PRESETS["cola"]}, "--preset or --rules: 5 rules of the search"),
        ({"early_stop": True}, "--early-stop: False there, True here"),
    ],
)
def test_what_cannot_be_continued_is_named_by_its_flag(prepare, tmp_path, change, message):
    out = str(tmp_path / "run")
    prepare("options", 4).search(out, of(8))
    before = rows(RunDirectory(out))
    size, limit = change.pop("simulations", 8), change.pop("limit", 4)
    with pytest.raises(ValueError, match=message) as error:
        prepare("options", limit).search(out, of(size, **change))
    assert "\n" not in str(error.value)
    assert rows(RunDirectory(out)) == before


def test_other_questions_are_refused(prepare, tmp_path, files, checkpoint):
    out = str(tmp_path / "run")
    prepare("letter-strict", 4).search(out, of(4))
    lines = (files / "task.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join(reversed(lines)))
    task = TaskConfig(str(tmp_path / "other.jsonl"), limit=6, **TASKS["letter-strict"])
    with pytest.raises(ValueError, match="--task: other questions or prompts"):
        Session.prepare(checkpoint, task.prepare, CONFIG).search(out, of(4))


def test_fewer_paths_are_refused(prepare, tmp_path):
    out = str(tmp_path / "run")
    prepare("options", 3).evaluate(out, PATHS[:2])
    with pytest.raises(ValueError, match="--paths: 2 paths there, 3 here"):
        prepare("options", 3).evaluate(out, PATHS[1:])


def test_runs_of_earlier_versions_are_continued():
    """They recorded a batch size, on which nothing depends."""
    old = {"command": "search", "questions": 4, "simulations": 8, "batch_size": 2}
    new = {"command": "search", "questions": 4, "simulations": 8}
    assert continues("run", old, new, lambda count: {}) is False
    assert continues("run", old, new | {"simulations": 9}, lambda count: {}) is True


def test_flags_are_those_of_the_command_line():
    assert flag_of("preset.max_length") == "--rules.max-length"
    assert flag_of("max_new_tokens") == "--max-new-tokens"
    assert flag_of("strategy") == "--preset"


def test_differing_compares_nested_settings():
    assert differing({"a": {"b": {"c": 1, "d": 2}}, "e": 1}, {"a": {"b": {"c": 0, "d": 2}}}) == [
        ("a.b.c", 1, 0),
        ("e", 1, None),
    ]
