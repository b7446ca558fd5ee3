"""Runs that continue under larger settings, and results that do not belong together."""

import dataclasses

import pytest

from cola_jax.errors import InputError
from cola_jax.execute import memory
from cola_jax.execute.metrics import Metrics
from cola_jax.question import Question
from cola_jax.runs.devices import Devices
from cola_jax.runs.hosts import Shard
from cola_jax.runs.run import UNFINISHED, Run
from cola_jax.runs.session import RunConfig, Session
from cola_jax.runs.settings import (
    ANY_SCORER,
    Asked,
    asked_here,
    check_comparable,
    continues,
)
from cola_jax.scoring import Encoded
from cola_jax.strategies.rules import PRESETS, Settings
from cola_jax.tasks.task import TaskConfig
from experiments.same_rows import differences
from tests import tiny
from tests.runs import jobs
from tests.runs.conftest import KILLED, end, fail_after, written

CONFIG = RunConfig(devices=Devices(data=1))
SEARCH = Settings(PRESETS["best"], simulations=10, leaves=4, seed=2, early_stop=False)
TASKS = {
    "options": {"shots": 2},
    "letter-strict": {"scorer": "letter-strict"},
    "variants": {"variants": ("chat", "instruction")},
    "generation": {"scorer": "generation", "max_new_tokens": 4},
}


def evaluated(run):
    """Counts the evaluations of a run that were run through the model."""
    return sum(not reused for reused in run.evaluations(["reused"])["reused"].to_pylist())


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
        task = "sums.jsonl" if name == "generation" else "task.jsonl"
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
    ["letter-strict", pytest.param("variants", marks=pytest.mark.slow), "generation"],
)
def test_extended_search_finds_what_an_unbroken_one_does(prepare, tmp_path, name):
    whole = prepare(name, 7).search(str(tmp_path / "whole"), of(12))
    metrics = Metrics()
    for limit, size in ((1, 4), (5, 8), (7, 12)):
        run = prepare(name, limit).search(str(tmp_path / "run"), of(size), metrics)
        assert run.questions().num_rows == limit
        assert not (run.directory / UNFINISHED).exists()
    assert differences(run, whole) == []
    assert run.manifest()["settings"] == whole.manifest()["settings"]
    if name != "variants":  # what asks again is not among the rows, and is asked again
        assert metrics.evaluations == evaluated(run)


@pytest.mark.slow
def test_killed_extension_finds_what_an_unbroken_one_does(
    prepare, task_of, start, tmp_path, checkpoint
):
    name, out = "options", str(tmp_path / "run")
    whole = prepare(name, 7).search(str(tmp_path / "whole"), of(12))
    prepare(name, 4).search(out, of(6))
    for count in (1, 2):
        work = task_of(name, 7).prepare, CONFIG, out, of(12), count, [UNFINISHED]
        assert end(start(jobs.killed, checkpoint, *work)) == KILLED
        assert Run(out).settings()["simulations"] == 12
    run = prepare(name, 7).search(out, of(12))
    assert differences(run, whole) == []
    assert not (run.directory / UNFINISHED).exists()


def test_failed_search_repeats_what_it_had_not_written(prepare, tmp_path, monkeypatch):
    """A wave of each of the two batches that run at the same time, at most."""
    monkeypatch.setattr(memory, "CPU", memory.CPU._replace(threads=2))  # as on an accelerator
    session, metrics = prepare("generation", 4), Metrics()
    whole = session.search(str(tmp_path / "whole"), SEARCH)
    run = Run(tmp_path / "run")
    with monkeypatch.context() as patch:
        fail_after(6, patch)
        with pytest.raises(RuntimeError, match="no room"):
            session.search(str(run.directory), SEARCH, metrics)
    kept = evaluated(run) + written(run)  # one of the batches may be done
    assert 0 < kept < metrics.evaluations
    again = Metrics()
    session.search(str(run.directory), SEARCH, again)
    assert differences(run, whole) == []
    assert (again.earlier, again.evaluations) == (kept, evaluated(run) - kept)


def test_shards_extend_a_run(prepare, tmp_path):
    whole = prepare("options", 6).search(str(tmp_path / "whole"), of(8))
    out = str(tmp_path / "run")
    for size in (4, 8):
        for index in (0, 1):
            config = dataclasses.replace(CONFIG, shard=Shard(index, 2))
            run = prepare("options", 6, config=config).search(out, of(size))
    assert differences(run, whole) == []
    assert not (run.directory / UNFINISHED).exists()


OLD = {
    **{"command": "search", "strategy": "best", "questions": 4, "simulations": 8, "seed": 2},
    **{"preset": {"max_times": 1}, "prompt": {"format": "plain", "hash": "a"}, "task": "a"},
    **{"paths": [[0, 1], [1]], "variants": {"chat": "a"}},
}
MORE = {"questions": 5, "task": "b", "prompt": {"format": "plain", "hash": "b"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"questions": 2}, "--limit: 4 there, 2 here"),
        ({"seed": 3}, "--seed: 2 there, 3 here"),
        ({"preset": {"max_times": 4}}, "--rules.max-times: 1 there, 4 here"),
        ({"prompt": {"format": "direct", "hash": "a"}}, "--format: 'plain' there, 'direct' here"),
        ({"max_new_tokens": 4}, "--max-new-tokens: None there, 4 here"),
        ({"task": "b"}, "--task: 'a' there, 'b' here"),
        ({"variants": {}}, "--variants: 'a' there, None here"),
        (MORE | {"variants": {"order": "b"}}, "--variants: 'a' there, None here"),
        ({"paths": [[0, 1]]}, r"--paths: \[\[0, 1\], \[1\]\] there, \[\[0, 1\]\] here"),
        ({"command": "evaluate"}, "was made by `cola search`, not by `cola evaluate`"),
    ],
)
def test_changes_that_do_not_continue_a_run_are_named_by_their_flags(change, message):
    with pytest.raises(InputError, match=f"run .*{message}"):
        continues("run", OLD, OLD | change)


@pytest.mark.parametrize(
    ("change", "further"),
    [
        ({}, False),
        (MORE | {"variants": {"chat": "b"}}, False),
        ({"simulations": 9}, True),
        ({"paths": [[1], [0, 1], [2]]}, True),
    ],
)
def test_continues_says_whether_questions_are_evaluated_further(change, further):
    assert continues("run", OLD, OLD | change) is further


def test_other_questions_are_refused(prepare, tmp_path, files, checkpoint):
    out = str(tmp_path / "run")
    prepare("letter-strict", 4).search(out, of(4))
    lines = (files / "task.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join(reversed(lines)))
    task = TaskConfig(str(tmp_path / "other.jsonl"), limit=6, **TASKS["letter-strict"])
    with pytest.raises(ValueError, match="--task: it has other questions, such as 'q0'"):
        Session.prepare(checkpoint, task.prepare, CONFIG).search(out, of(4))


DECIDING = {
    **{"model": "abc", "dtype": "float32", "scorer": "options", "chat": None},
    **{"prompt": {"format": "plain", "shots": ["a", "b"], "hash": "1"}, "simulations": 100},
}
QUESTIONS = [Question(name, f"What is {name}?", ("x", "y", "z"), 1) for name in ("p", "q")]


def asked(questions=QUESTIONS, digest="0", **settings) -> Asked:
    encoded = [Encoded(each, None, None, digest) for each in questions]  # type: ignore[arg-type]
    return asked_here(DECIDING | settings, encoded)._replace(name="here")


def changed(**fields) -> list[Question]:
    return [dataclasses.replace(QUESTIONS[0], **fields), Question("other", "Else?", ("x", "y"), 0)]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (asked(model="xyz"), "its model is abc, here it is xyz"),
        (asked(scorer="letter"), "its scorer is options, here it is letter"),
        (asked(prompt={"format": "x", "num_fewshot": 2}), "its format is plain, here it is x"),
        (asked(prompt={"format": "plain", "shots": ["a"]}), "its shots is 2, here it is 1"),
        (asked(digest="1"), r"2 of 2 prompts have changed \('p', 'q'\)"),
        (asked(changed(text="Who?")), r"1 of 2 texts have changed \('p'\)"),
        (asked(changed(options=("x", "y"))), r"1 of 2 options have changed \('p'\)"),
        (asked(changed(answer=2)), r"1 of 2 golds have changed \('p'\)"),
    ],
)
def test_check_comparable_names_differences(other, message):
    with pytest.raises(InputError, match=f"run does not belong to here: {message}. Give results"):
        check_comparable(asked()._replace(name="run"), other)


def test_check_comparable_returns_allowed_differences():
    shots = {"format": "plain", "shots": ["c", "d"], "hash": "2"}  # of another first question
    assert check_comparable(asked(), asked(QUESTIONS[:1], simulations=50, prompt=shots)) == []
    other = asked(scorer="letter", dtype="bfloat16")
    assert check_comparable(asked(), other, ANY_SCORER) == [
        "its dtype is float32, here it is bfloat16",
        "its scorer is options, here it is letter",
    ]
    with pytest.raises(InputError, match="its model is abc, here it is xyz"):
        check_comparable(asked(), asked(model="xyz"), ANY_SCORER)
