"""Blinding: the runs of a trial show nothing before its verdict."""

from pathlib import Path

import pytest

from cola_jax.errors import InputError
from cola_jax.runs.blinding import check_verdict
from cola_jax.runs.prompt_results import prompt_results
from cola_jax.runs.results import RESULTS, Results, write_results
from cola_jax.runs.run import Run
from cola_jax.runs.status import read_progress
from cola_jax.runs.stored import read_labels
from tests.small_runs import EVALUATE, FIRST, SECOND, START, THIRD, letters, make_run

BLINDED = "a trial whose verdict is not beside it, and nothing that it measured is shown before"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a trial in `tmp_path`, of one of its prompts."""
    rows = [(FIRST, 0, True), (SECOND, 0, True), (THIRD, 0, True)]
    parts = letters("q1", rows), letters("q2", rows)
    start = START | {"date": "2026-11-30T12:00:00+00:00"}
    return make_run(tmp_path / "arc" / "prompts", *parts, start=start, **EVALUATE, protocol="h")


@pytest.mark.parametrize("other", [None, "g"])
def test_a_running_trial_shows_its_progress_alone(run, tmp_path, other):
    if other:  # results of another trial
        write_results(Results([], {"settings": {"hash": other}}), tmp_path / RESULTS)
    for show in (Run.summary, read_labels, lambda run: prompt_results([run])):
        with pytest.raises(InputError, match=BLINDED):
            show(run)
    assert read_progress(run)["done"] == 2
    assert "2 of 2 questions done" in repr(run)


def test_a_trial_with_its_verdict_shows_its_runs(run, tmp_path):
    write_results(Results([], {"settings": {"hash": "h"}}), tmp_path / RESULTS)
    assert run.summary().run["done"] == 2
    assert len(read_labels(run)) == 2


def test_a_trial_of_an_earlier_version_shows_its_runs(tmp_path):
    (tmp_path / "verdicts.json").write_text("{}")
    check_verdict(tmp_path / "arc", {"protocol": "h"})
    check_verdict(tmp_path / "elsewhere", {})
