"""Runs of an earlier version, which was killed half-way, are read, reported and resumed.

`earlier` has a search and an evaluation of given paths by commit 75fc156a: parts without a start,
settings with digests of encoded questions, and waves of unfinished questions. By commit 6f5924a5 it
has a search that asked again in two variants, and one for paths right in all variants at once.
"""

import shutil
from pathlib import Path

import pytest

from cola_jax.cli.main import main
from cola_jax.errors import InputError
from cola_jax.files import matching
from cola_jax.metrics import Metrics
from cola_jax.runs.compare import asked_here
from cola_jax.runs.run import UNFINISHED, Run
from cola_jax.runs.schema import Part
from cola_jax.runs.search_results import SPENT
from cola_jax.runs.status import read_progress
from cola_jax.runs.stored import stored_outcomes
from cola_jax.scoring import Options
from cola_jax.strategies.rules import TreeRules
from cola_jax.tasks.task import load_questions

EARLIER = Path(__file__).parent / "earlier"
NEW = {"questions_digest": "1" * 64}  # in place of the digest of the encoded questions
START = {"date": "2026-12-01T00:00:00+00:00", "model": "tiny/ours", "num_layers": 5}


@pytest.fixture(params=["search", "evaluate"])
def run(request, tmp_path):
    return Run(shutil.copytree(EARLIER / request.param, tmp_path / request.param))


@pytest.fixture
def questions():
    return load_questions(str(EARLIER / "task.jsonl"))


def settings(run, **changes):
    """The settings of the same command in this version."""
    settings = run.settings() | NEW | changes
    del settings["task"]
    stream = {"stream": TreeRules.stream} if settings["command"] == "search" else {}
    return settings | stream


def counts(run):
    """The questions that are done, and the evaluations that are kept of each other question."""
    kept = {name: sum(map(len, tables)) for name, tables in run.earlier.items()}
    return sorted(run.done), dict(sorted(kept.items()))


KEPT = {
    # seven of each in a part without its questions, and the same in two waves
    "search": (["q1", "q2", "q4", "q5"], {"q0": 14, "q3": 14}),
    "evaluate": (["q1", "q5"], {"q2": 32, "q4": 32}),
}


def test_it_is_read_and_its_progress_known(run):
    name = run.directory.name
    done, _ = KEPT[name]
    assert sorted(run.questions()["question"].to_pylist()) == done
    assert set(run.evaluations()["question"].to_pylist()) == set(done)
    progress = read_progress(run)
    assert (progress["done"], progress["state"]) == (len(done), "not ended")
    assert f"{len(done)} of 6 questions done" in repr(run)


def test_it_is_reported(run, capsys):
    main(["report", str(run.directory)])
    assert "of 6 questions" in " ".join(capsys.readouterr().out.split())


def test_it_is_resumed(run, questions):
    name = run.directory.name
    asked = asked_here(settings(run), questions, [])
    metrics = Metrics()
    with run.open(settings(run), START, asked, metrics=metrics) as again:
        assert counts(again) == KEPT[name]
        missing = again.missing(questions)
        assert [questions[i].id for i in missing] == sorted(
            {f"q{i}" for i in range(6)} - again.done
        )
        again.count_earlier(5)
        assert metrics.earlier > 0
        for i in missing:
            row = {"question": questions[i].id, "evaluations": 1, "text": questions[i].text}
            again.write(Part([{"question": questions[i].id, "path": [0]}], [row]))
    assert run.questions(["question"]).num_rows == 6
    assert not matching(run.directory, UNFINISHED)
    assert read_progress(Run(run.directory))["state"] == "finished"


def test_it_is_extended(run, questions):
    """With more paths, all questions are asked again, and the stored evaluations are known.

    Trees drew other paths, so that searches are not extended.
    """
    asked = asked_here({}, questions, [])
    if run.directory.name == "search":
        with (
            pytest.raises(InputError, match=f"another directory, with --reuse {run.directory}"),
            run.open(settings(run, simulations=12), START, asked),
        ):
            pass
        return
    more = {"paths": [*run.settings()["paths"], [0] * 7]}
    with run.open(settings(run, **more), START, asked) as again:
        assert again.done == set()
        assert again.earlier.keys() >= set(KEPT["evaluate"][0])


def test_its_outcomes_are_read(questions):
    run = Run(EARLIER / "search")
    outcomes = stored_outcomes(run, questions, Options(None))
    rows = {row["question"]: row for row in run.questions().to_pylist()}
    assert [outcome.question.id for outcome in outcomes] == sorted(rows)
    for outcome in outcomes:
        row = rows[outcome.question.id]
        assert (outcome.baseline, outcome.evaluations) == (row["baseline"], row["evaluations"])
        assert outcome.best == (None if row["best"] is None else tuple(row["best"]))
        assert len(outcome.controls) == len(row["controls"])


@pytest.mark.parametrize(
    ("name", "ways", "agreement", "before", "evaluations"),
    [
        ("variants", ("once", "asked again"), (1 / 12, 12), (0, 6), 84),
        ("robust", ("asked again",), (5 / 6, 6), (2 / 6, 6), 60),
    ],
)
def test_a_search_with_variants_is_reported_as_then(name, ways, agreement, before, evaluations):
    run = Run(EARLIER / name)
    assert run.ways().names == ways
    summary = run.summary()
    for label, (value, n) in (
        ("model's answer in another wording: the same", agreement),
        ("right in all wordings before", before),
    ):
        figure = summary.find(label)
        assert (figure.value, figure.n) == (pytest.approx(value), n)
    assert summary.value(SPENT) == read_progress(run)["evaluations"] == evaluations


def test_a_search_with_variants_is_not_resumed(tmp_path):
    run = Run(shutil.copytree(EARLIER / "variants", tmp_path / "run"))
    settings = {name: x for name, x in run.settings().items() if not name.startswith("variant")}
    with pytest.raises(InputError, match="in --prompts other wordings"), run.open(settings, START):
        pass


def test_what_differs_is_still_refused(run, questions):
    other = asked_here(run.settings(), questions[:5], [])
    for opened, message in (
        (run.open(settings(run), START, other), "other questions, such as 'q5'"),
        (run.open(settings(run, dtype="bfloat16"), START), "float32 there, bfloat16 here"),
    ):
        with pytest.raises(InputError, match=message), opened:
            pass
