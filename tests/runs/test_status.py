"""The progress of runs: empty, in progress, stopped, finished, and of earlier versions."""

import os
import signal
from datetime import UTC, datetime, timedelta

import pytest
from etils import epath

from cola_jax.errors import InputError
from cola_jax.files import matching
from cola_jax.metrics import Metrics
from cola_jax.runs import status
from cola_jax.runs.run import Run
from cola_jax.runs.schema import Part, host_name, part_name, question_row
from cola_jax.runs.status import questions_per_second, read_progress
from tests.runs.conftest import KILLED, asking, end

BEGAN = datetime(2026, 1, 2, 3, tzinfo=UTC)
SETTINGS = {"command": "search", "questions": 10}


def begin(directory, began=BEGAN, metrics=None, **settings):
    start = {"date": began.isoformat(timespec="seconds")}
    return Run(directory).open(SETTINGS | settings, start, metrics=metrics)


def write(run, names, seconds=0, machine=None, evaluations=3):
    """Write a part of questions at a number of seconds after `BEGAN`."""
    before = set(matching(run.directory / "questions", "*"))
    rows = [question_row(asking(name), evaluations) for name in names]
    rows = [row | {"controls": [{"evaluations": 4, "shared": 1}]} for row in rows]
    run.write(Part([], rows), machine)
    run.flush()
    (file,) = set(matching(run.directory / "questions", "*")) - before
    time = BEGAN.timestamp() + seconds
    os.utime(file, (time, time))
    return file


def test_progress_of_a_start_that_has_not_ended(tmp_path):
    with begin(tmp_path, BEGAN - timedelta(days=1), Metrics()) as run:
        write(run, "a", -86000, "old")
    with begin(tmp_path) as run:
        write(run, "bc", 100, "pod-0.cluster")
        write(run, "de", 200, "pod-1")
        write(run, "f", 250, "pod-0.cluster")
        run.fail("g", "it killed three workers", "pod-1")
        progress = read_progress(Run(tmp_path))  # as another process sees it
    assert progress["state"] == "not ended"
    counts = {"questions": 10, "done": 6, "failed": 1, "parts_read": 4, "estimated": False}
    counts |= {"evaluations": 36, "evaluations_expected": 60}
    assert counts.items() <= progress.items()
    assert progress["first_part"] == BEGAN + timedelta(seconds=100)
    assert progress["last_part"] == BEGAN + timedelta(seconds=250)
    shares = {each["machine"]: each["questions"] for each in progress["machines"]}
    assert shares == {"old": 1, "pod_0_cluster": 3, "pod_1": 2}
    assert progress["machines"][1]["last_part"] == progress["last_part"]
    rate = progress["questions_per_second"]
    assert rate == pytest.approx(5 / 250, rel=0.2)
    assert progress["evaluations_per_second"] == pytest.approx(6 * rate)
    assert progress["seconds_left"] == pytest.approx(3 / rate)
    assert ["metrics" in start for start in progress["starts"]] == [True, False]


def test_progress_of_an_empty_and_of_an_ended_run(tmp_path):
    with begin(tmp_path / "run") as run:
        progress = read_progress(run)
    assert (progress["state"], progress["done"], progress["machines"]) == ("not ended", 0, [])
    for name in ("evaluations_expected", "questions_per_second", "seconds_left", "last_part"):
        assert progress[name] is None
    with begin(tmp_path / "run", metrics=Metrics()) as run:
        write(run, "abc", 10)
    progress = read_progress(run)
    assert (progress["state"], progress["seconds_left"]) == ("stopped", None)
    assert progress["questions_per_second"] == pytest.approx(3 / 10)
    with begin(tmp_path / "run") as run:  # one that is killed after its last part
        write(run, "defghij", 20)
    assert read_progress(run)["state"] == "finished"
    for file in (run.directory / "starts").iterdir():
        file.unlink()
    assert read_progress(Run(run.directory))["state"] == "not started"
    with pytest.raises(InputError, match="it is not a run directory"):
        read_progress(Run(tmp_path))


def test_evaluations_of_given_paths_are_expected_before_any_part(tmp_path):
    with begin(tmp_path, command="evaluate", paths=[[0], [1]]) as run:
        assert read_progress(run)["evaluations_expected"] == 20


def test_progress_of_processes_that_started_together(tmp_path):
    for together, ended in enumerate(((False, False), (True, False), (True, True))):
        for metrics in ended:
            start = {"date": BEGAN.isoformat(), "together": str(together)}
            with Run(tmp_path).open(SETTINGS, start, metrics=Metrics() if metrics else None):
                pass
        assert read_progress(Run(tmp_path))["state"] == ("stopped" if all(ended) else "not ended")


def test_parts_of_earlier_versions_are_counted_by_reading(tmp_path):
    with begin(tmp_path) as run:
        for names, stem in (("abc", "part-00000-0a1b2c3d"), ("de", "part-1-of-2-00001-00112233")):
            written = write(run, names).name.partition(".")[0]
            for file in tmp_path.glob(f"*/{written}.*"):
                file.rename(file.with_name(part_name(stem, file.read_bytes())))
        write(run, "f", 5, "new")
    assert Run(tmp_path).questions(["question"])["question"].to_pylist() == list("abcdef")
    progress = read_progress(run)
    shares = {each["machine"]: each["questions"] for each in progress["machines"]}
    assert shares == {"unknown": 5, "new": 1}
    assert progress["done"] == 6


def test_evaluations_of_many_parts_are_estimated(tmp_path, monkeypatch):
    monkeypatch.setattr(status, "LARGE", 4)
    monkeypatch.setattr(status, "SAMPLE", 2)
    with begin(tmp_path) as run:
        for i, name in enumerate("abcde"):
            write(run, name, i, evaluations=10 * i)
        progress = read_progress(run)
    assert (progress["done"], progress["parts_read"], progress["estimated"]) == (5, 2, True)
    assert progress["evaluations"] == 5 * (3 + 30) / 2 + 5 * 1.5
    assert all(part.questions == 1 for part in status.list_parts(run))


def test_a_question_that_two_commands_finished_counts_once(tmp_path):
    with begin(tmp_path) as run:
        for seconds, machine in ((10, "a"), (11, "b")):
            write(run, "abcdef", seconds, machine)
        progress = read_progress(run)
    assert (progress["state"], progress["done"], progress["evaluations"]) == ("not ended", 6, 36)
    assert [each["questions"] for each in progress["machines"]] == [6, 0]
    with begin(tmp_path, BEGAN + timedelta(seconds=15)) as run:
        write(run, "abcdef", 20, "b")
        progress = read_progress(run)
    # the rows of the newer start count
    assert [each["questions"] for each in progress["machines"]] == [0, 6]
    assert progress["questions_per_second"] == pytest.approx(6 / 5)


def test_rate_is_that_of_machines_that_write_together():
    def rate(times):
        return questions_per_second(BEGAN, [part(seconds) for seconds in times])

    def part(seconds):
        return status.WrittenPart(BEGAN + timedelta(seconds=seconds), epath.Path(), "a", 2)

    assert rate([]) is None
    assert rate([0]) is None
    assert rate([50]) == pytest.approx(2 / 50)
    together = [60 * n + i / 100 for n in range(1, 9) for i in range(4)]
    assert rate(together) == pytest.approx(4 * 2 / 60, rel=0.1)
    # an hour of work at half of the speed after many hours
    slower = [*range(0, 36000, 10), *range(36000, 40000, 20)]
    assert rate(slower) == pytest.approx(2 / 20, rel=0.1)
    assert rate([4000] * 300) is None  # as of storage that knows seconds


def fill(directory):
    """Write parts of one question, and be killed."""
    with begin(directory, datetime.now(UTC), questions=40) as run:
        for i in range(30):
            run.write(Part([], [question_row(asking(str(i)), 2)]))
        run.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_progress_while_another_process_writes(start, tmp_path):
    process, seen = start(fill, tmp_path), []
    while process.is_alive():
        if (tmp_path / "run.json").exists():
            seen.append(read_progress(Run(tmp_path))["done"])
    assert end(process) == KILLED
    progress = read_progress(Run(tmp_path))
    assert seen == sorted(seen)
    assert (progress["done"], progress["state"]) == (30, "not ended")
    assert progress["machines"][0]["machine"] == host_name()


def test_parts_that_disappear_meanwhile_are_left_out(tmp_path):
    with begin(tmp_path) as run:
        write(run, "a").unlink()
        (part,) = [status.WrittenPart(BEGAN, run.directory / "questions" / "part-0", "a", None)]
        assert status.read_counts(run, [part]) == [part]
