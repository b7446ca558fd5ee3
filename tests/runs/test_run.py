"""The run directory: what it refuses, what damage it notices, and what an interruption leaves."""

import contextlib
import errno
import json
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from cola_jax.errors import InputError
from cola_jax.files import matching, write_whole
from cola_jax.metrics import Metrics
from cola_jax.runs.compare import asked_here
from cola_jax.runs.records import encode_record
from cola_jax.runs.run import TABLES, UNFINISHED, Run
from cola_jax.runs.schema import (
    EVALUATIONS,
    PART,
    Part,
    encode_part,
    host_name,
    known_verdicts,
    question_row,
    start_of,
)
from cola_jax.runs.status import read_progress
from cola_jax.runs.work import wave_part
from cola_jax.scoring import Options, Verdicts
from tests.runs.conftest import asking

SETTINGS = {"model": "abc", "seed": 0, "preset": {"max_skip": 4, "max_repeat": 4}, "questions": 3}
START = {"device": "cpu"}
PATHS = [(0, 1), (1,)]
BATCH = [asking("a"), asking("b")]


def rows(ids):
    """The rows of a part: two evaluations for each question."""
    fixed = {"length": 2, "verdict": True, "margin": 0.5, "answer": 0, "finite": True}
    evaluations = [{"question": i, "path": [0, n], "node": n} | fixed for i in ids for n in (0, 1)]
    return Part(evaluations, [question_row(asking(i), 2) for i in ids])


def wave(*scores):
    """The verdicts [2, 2] of `PATHS` for two questions."""
    scores = np.array(scores)[:, None, None] * np.array([1.0, 0])
    return [PATHS] * 2, Verdicts.of_scores(np.tile(scores, (1, 2, 1)), 0)


@pytest.fixture
def run(tmp_path):
    with Run(tmp_path / "run [1] *?").open(SETTINGS, START) as run:  # a name with a pattern
        assert run.done == set()
    return run


def reopened(run, settings=SETTINGS, start=START, *more, **options):
    """The same run, to be opened again."""
    return Run(run.directory, shared=run.shared).open(settings, start, *more, **options)


@contextlib.contextmanager
def unlocked(directory, *, shared):
    yield


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """Returns runs of one directory without a lock, as in storage."""
    monkeypatch.setattr("cola_jax.runs.run.locked", unlocked)
    return lambda: Run(tmp_path / "bare")


def done(run, *settings):
    """Opens a run again, and returns the questions that are done."""
    with reopened(run, *settings) as again:
        return again.done


def column(table, name="question"):
    return table.column(name).to_pylist()


def test_write_keeps_the_order(run):
    run.write(rows("ab"))
    run.write(rows("c"))
    assert done(run) == {"a", "b", "c"}
    again = Run(run.directory)
    assert column(again.questions()) == ["a", "b", "c"]
    assert column(again.evaluations(["question"])) == ["a", "a", "b", "b", "c", "c"]
    assert column(again.evaluations(), "path")[1] == [0, 1]
    assert not list(Path(run.directory).rglob("*.partial"))  # nothing half-written is left


@pytest.mark.parametrize(
    "name", ["run.json", "starts", "evaluations", "questions", UNFINISHED, ".lock"]
)
def test_a_link_out_of_a_run_is_neither_read_nor_written(run, tmp_path, name):
    run.write(rows("ab"))
    outside, place = tmp_path / "outside", Path(run.directory) / name
    if place.exists():
        place.rename(outside)
    else:
        outside.mkdir()
    place.symlink_to(outside)
    before = sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*"))
    more = SETTINGS | {"simulations": 9}
    with pytest.raises(InputError, match=rf"{name} is a link to {outside}"), reopened(run, more):
        pass
    assert sorted((file, file.stat().st_mtime_ns) for file in tmp_path.rglob("*")) == before


def test_a_link_among_the_parts_is_refused_before_any_is_deleted(run, tmp_path):
    for ids in "ab":
        run.write(rows(ids))
    last = Path(run.parts()[-1]["questions"])
    last.rename(tmp_path / last.name)
    last.symlink_to(tmp_path / last.name)
    with pytest.raises(InputError, match=rf"{last.name} is a link to"):
        run.set_aside()
    assert (tmp_path / last.name).exists()
    assert len(list(last.parent.iterdir())) == 2


def test_names_of_parts_have_their_questions_and_machine(run):
    run.write(rows("ab"), "t1v-n-1234567-w-0.c.my-project.internal.example")
    run.write(rows("c"))
    names = [part["questions"].name for part in run.parts()]
    (start,) = (file.stem for file in (run.directory / "starts").iterdir())
    machine = "234567_w_0_c_my_project_internal_example"
    assert re.match(rf"part-s{start}-00000-2-{machine}-[0-9a-f]{{8}}\.", names[0])
    end = rf"00001-1-{host_name()}-[0-9a-f]{{8}}\.[0-9a-f]{{16}}\.parquet$"
    assert re.match(rf"part-s{start}-{end}", names[1])
    assert [PART.match(name)["questions"] for name in names] == ["2", "1"]
    assert {start_of(name) for name in names} == {start}
    assert host_name("élan/../x") == "_lan____x"


def test_failures_are_those_of_the_last_start(run):
    assert run.failures() == []
    run.fail(["a", "b"], "it killed three workers", "pod-1")
    (failure,) = Run(run.directory).failures()
    assert failure.pop("date").endswith("+00:00")
    reason = "it killed three workers"
    assert failure == {"questions": ["a", "b"], "reason": reason, "machine": "pod_1"}
    (file,) = (run.directory / "failed").iterdir()
    file.write_text("{")
    with pytest.raises(InputError, match=file.name):
        run.failures()
    with reopened(run) as again:  # which tries the questions again
        assert again.failures() == []


def test_manifest_is_written_once_and_each_start_apart(run):
    content = (run.directory / "run.json").read_bytes()
    assert Run(run.directory).facts() == (SETTINGS, START)
    metrics, start = Metrics(), {"device": "gpu", "flags": {"limit": 3, "task": "Prüfung.csv"}}
    with reopened(run, SETTINGS | {"questions": 4}, start, metrics=metrics):
        metrics.add(evaluations=7)
    assert (run.directory / "run.json").read_bytes() == content
    assert Run(run.directory).settings() == SETTINGS | {"questions": 4}
    assert (run.directory / "config.yaml").read_text() == "limit: 3\ntask: Prüfung.csv\n"
    first, second = run.read_starts()[1]
    assert first == START
    assert second["metrics"]["evaluations"] == 7


def test_open_refuses_directories_of_other_files(tmp_path):
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(InputError, match=r"not empty and has no run\.json"):
        done(Run(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["letters.txt"]
    with pytest.raises(InputError, match="not a run directory"):
        Run(tmp_path).facts()
    for place in ("letters.txt", "letters.txt/run", "x" * 300):
        with pytest.raises(OSError, match=r"letters|too long"):
            done(Run(tmp_path / place))
    (tmp_path / "run").mkdir()  # as an early interruption leaves it
    (tmp_path / "run" / ".run.json.partial").write_text("{")
    assert done(Run(tmp_path / "run")) == set()


@pytest.mark.parametrize("name", ["run.json", "starts/*.json"])
def test_damaged_and_changed_records_are_named(run, name):
    (file,) = Path(run.directory).glob(name)
    changed = json.loads(file.read_text()) | {"settings": SETTINGS | {"seed": 1}}
    for content in ("", "{", "[]", json.dumps({"settings": SETTINGS}), json.dumps(changed)):
        file.write_text(content)
        for read in (Run(run.directory).facts, lambda: done(run)):
            with pytest.raises(InputError, match=re.escape(str(file))):
                read()


@pytest.mark.parametrize("kind", ["evaluations", "questions"])
def test_damaged_part_is_named_and_written_again_once_removed(run, kind):
    for i in "abc":
        run.write(rows(i))
    (run.directory / kind / ".part-00003.parquet.partial").write_bytes(b"half")
    file = run.parts()[1][kind]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=rf"{file.name}: it is damaged.*Remove it"):
        getattr(run, kind)()
    file.unlink()
    with reopened(run) as again:
        assert again.done == {"a", "c"}
        assert column(again.evaluations()) == ["a", "a", "c", "c"]
        again.write(rows("b"))
    assert sorted(column(run.questions())) == ["a", "b", "c"]
    assert len(column(run.evaluations())) == 6


def test_a_question_of_two_processes_is_read_from_the_first_part(run):
    for ids, margin in (("ab", 0.25), ("bc", 0.5)):
        run.write(with_margin(ids, margin))
    assert column(run.questions()) == ["a", "b", "c"]
    assert run.evaluations(["margin"])["margin"].to_pylist() == [0.25] * 4 + [0.5] * 2
    assert [table.num_rows for table in run.tables("evaluations")] == [4, 2]
    assert done(run) == {"a", "b", "c"}


def margins(run):
    """The margins of each question that counts, by its id."""
    table = run.evaluations(["question", "margin"]).to_pylist()
    return {row["question"]: row["margin"] for row in table}


def with_margin(ids, margin):
    part = rows(ids)
    return Part([row | {"margin": margin} for row in part.evaluations], part.questions)


def test_the_newest_start_counts_where_an_older_one_ends_late(bare):
    """Storage has no lock: a driver that was replaced may still write what it had in progress."""
    old, new, start = bare(), bare(), START | {"date": "2026-01-02T03:04:05+00:00"}
    with old.open(SETTINGS, start), new.open(SETTINGS, start):
        old.write(with_margin("a", 1.0))
        new.write(with_margin("ab", 2.0))
        new.flush()
        old.write(with_margin("bc", 1.0))
    reader = Run(old.directory)
    assert margins(reader) == {"a": 2.0, "b": 2.0, "c": 1.0}
    assert column(reader.questions()) == ["c", "a", "b"]  # those of the older start first
    assert [column(table) for table in reader.tables("questions")] == [["a", "b"], [], ["c"]]
    assert read_progress(reader)["done"] == 3
    assert done(reader) == {"a", "b", "c"}


def test_starts_of_the_same_moment_have_one_order(bare, monkeypatch):
    names = iter(("0001-bbbbbbbb", "0001-aaaaaaaa", "0002-00000000"))
    monkeypatch.setattr("cola_jax.runs.run.next_start", lambda known: next(names))
    runs = bare(), bare()
    with runs[0].open(SETTINGS, START), runs[1].open(SETTINGS, START):
        for number, run in enumerate(runs):
            run.write(with_margin("a", float(number)))
    assert margins(Run(runs[0].directory)) == {"a": 0.0}


def test_what_an_older_start_finishes_with_fewer_evaluations_is_not_done(bare):
    old, new, settings = bare(), bare(), SETTINGS | {"simulations": 4}
    with old.open(settings, START), new.open(settings | {"simulations": 8}, START):
        old.write(with_margin("ab", 1.0))
        new.write(with_margin("b", 2.0))
    with bare().open(settings | {"simulations": 8}, START) as again:
        assert again.done == {"b"}
        assert again.earlier.keys() == {"a"}  # whose evaluations are known


def test_a_part_without_a_start_is_of_the_first(run):
    with reopened(run) as again:
        again.write(with_margin("a", 2.0))
    stem = "part-00007-1-host-0a1b2c3d"  # as an earlier version names it
    for folder, content in zip(TABLES, with_margin("a", 1.0)[:2], strict=True):
        run.write_rows(folder, stem, content)
    assert margins(run) == {"a": 2.0}


def test_a_start_of_another_model_is_refused(run):
    record = encode_record({"settings": SETTINGS | {"model": "f" * 64}, "model": "qwen"})
    write_whole(run.directory / "starts" / "0009-00000000.json", record)
    message = r"is of model abc, and its start 0009-00000000 of model ffffffffffff \(qwen\)"
    with pytest.raises(InputError, match=message):
        done(run)


def test_write_returns_before_storage_answers_and_the_end_waits(run, monkeypatch):
    go, write, order = threading.Event(), write_whole, []

    def slow(file, content):
        go.wait(60)
        order.append((file.parent.name, file.name.partition(".")[0]))
        write(file, content)

    with reopened(run) as again:
        monkeypatch.setattr("cola_jax.runs.run.write_whole", slow)
        for name in "abc":
            again.write(rows(name))
        assert order == []
        assert again.done == set()  # nothing is done that is not written
        go.set()
        again.flush()
        assert again.done == {"a", "b", "c"}
    for kind, stem in order:
        if kind == "questions":
            assert order.index(("evaluations", stem)) < order.index((kind, stem))
    assert len(order) == 6


def test_evaluations_that_arrive_after_their_questions_are_not_kept(run):
    with reopened(run) as again:
        again.write(rows("a"))
        again.flush()
        again.write(Part(rows("a").evaluations, []))
        again.flush()
        assert not matching(run.directory / UNFINISHED, "*")
        assert not again.waves


def test_tidy_keeps_a_part_that_another_host_completes_meanwhile(run, monkeypatch):
    parts, made = Run.parts, rows("c")
    run.write(rows("ab"))

    def complete(self):
        run.write_rows("questions", "part-00001-1-other-0", made.questions)
        return parts(self)

    with reopened(run):
        run.write_rows("evaluations", "part-00001-1-other-0", made.evaluations)
        monkeypatch.setattr(Run, "parts", complete)
    monkeypatch.undo()
    assert len(run.parts()) == 2


def test_parts_of_another_run_are_refused(run, tmp_path):
    run.write(rows("a"))
    with Run(tmp_path / "other").open(SETTINGS | {"model": "xyz"}, START) as other:
        other.write(rows("b"))
    (part,) = other.parts()
    for kind, file in part.items():
        shutil.copy(file, run.directory / kind)
    message = r"it is of another run, of model xyz and not abc\. Remove it"
    with pytest.raises(InputError, match=message):
        done(run)


def known_of(run, encoded):
    """The verdict of each path of an unfinished question that an earlier start wrote."""
    return known_verdicts(run.earlier.get(encoded.question.id, ()), encoded, Options(None))


def test_known_are_the_evaluations_that_earlier_starts_wrote(run):
    variant = [asking("a", "In short: ?"), asking("b", "In short: ?")]
    with reopened(run) as first:
        first.write(wave_part(BATCH, *wave(0.25, -0.5), run.layout))
        first.write(wave_part(variant, *wave(2.0, 3.0), run.layout))
        assert known_of(first, BATCH[0]) == {}  # what this start wrote is in memory already
    with reopened(run) as again:
        for encoded, margin in zip([*BATCH, *variant], (0.25, -0.5, 2.0, 3.0), strict=True):
            known = known_of(again, encoded)
            assert list(known) == [(0, 1), (1,)]
            for verdict in known.values():
                assert verdict.margin.tolist() == [margin]
                assert verdict.verdict.tolist() == [margin > 0]
        assert known_of(again, asking("a", "another text")) == {}
        assert known_of(again, asking("c")) == {}


def test_replace_writes_all_questions_together(run):
    run.write(rows("abc"))
    for missing, interrupted in (([], True), ([0, 1, 2], False), ([], False)):
        with reopened(run) as again:
            again.load_evaluations()
            assert again.missing([asking(name).question for name in "abc"]) == missing
            assert again.earlier.keys() == {"a", "b", "c"}
            if interrupted:
                again.set_aside()
            else:
                again.replace(rows("abc"))
    assert column(run.questions()) == ["a", "b", "c"]
    assert not (run.directory / UNFINISHED).exists()


def here(encoded):
    return asked_here(SETTINGS, [each.question for each in encoded], encoded)


def test_other_questions_are_refused(run):
    def refused(settings, questions, message):
        asked = here(questions)
        with pytest.raises(InputError, match=message), reopened(run, settings, START, asked):
            pass

    run.write(rows("ab"))
    questions = [asking(i) for i in "abcde"]
    with reopened(run, SETTINGS, START, here(questions[:3])) as again:
        assert again.missing([each.question for each in questions[:3]]) == [2]
    more = SETTINGS | {"questions": 4}
    refused(more, questions[1:], "--task: it has other questions, such as 'a'")
    refused(SETTINGS, [asking("a", "Who?"), asking("b")], "1 of 2 texts have changed")


def test_processes_that_share_a_run_ask_some_of_its_questions(run):
    run.write(rows("ab"))
    shared = Run(run.directory, shared=True)
    some = here([asking("b"), asking("c")])
    with shared.open(SETTINGS, START, some) as again:
        assert again.done == {"a", "b"}


def test_unfinished_evaluations_are_kept_until_their_questions_are_finished(run):
    def kept():
        first.flush()
        return len(matching(run.directory / UNFINISHED, "*"))

    with reopened(run) as first:
        content = encode_part(EVALUATIONS, rows("ab").evaluations, run.mark)
        first.write(Part(content, []))  # as a worker encodes it
        first.write(Part(rows("b").evaluations, []))
        first.write(rows("b"))
        assert kept() == 1  # a is not finished
        first.write(rows("a"))
        assert kept() == 0


def test_count_earlier_adds_what_is_done(tmp_path):
    results = [(False, [0, 1]), (False, None), (True, [0]), (True, [0, 1]), (None, [0])]
    part = rows("abcde")
    for question, (baseline, best) in zip(part.questions, results, strict=True):
        question |= {"baseline": baseline, "best": best}
    settings = SETTINGS | {"questions": 5, "command": "search"}
    with Run(tmp_path / "run").open(settings, START) as run:
        run.write(part)
    with Run(tmp_path / "run").open(settings, START) as run:
        run.metrics.corrected = 1
        run.count_earlier(num_layers=2)
    assert (run.metrics.earlier, run.metrics.evaluations) == (10, 0)
    assert (run.metrics.corrected, run.metrics.shortened) == (2, 1)


def test_full_disk_keeps_written_rows(run, monkeypatch):
    run.write(rows("a"))

    def fail(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cola_jax.runs.run.write_whole", fail)
        with pytest.raises(OSError, match="No space left"):
            run.write(rows("b"))
    run.write(rows("b"))
    assert column(run.questions()) == ["a", "b"]
