"""Comparisons of searches."""

import math
from pathlib import Path
from typing import Any

import pytest

from cola_jax.errors import InputError
from cola_jax.runs.comparison import MAX_RUNS, change_estimate, check_runs, compare_runs
from cola_jax.runs.estimates import BEYOND, UNDECIDED, sentences_of
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.runs.search_results import AFTER, limit_of
from cola_jax.scoring.net import Net
from cola_jax.strategies.reached import ONCE
from tests.small_runs import PARTS, START, WHOLE, make_run, part

ALIKE = {"baseline_scores": [[-2.0, -1.0, -2.0]]}  # of gold and its control


def test_check_runs_refuses_runs_that_are_not_comparable(
    tmp_path: Path, run: Run, evaluated_run: Run
):
    check_runs([run])
    first = make_run(tmp_path / "a", *PARTS, model="123")

    def other(name: str, **settings: Any) -> Run:
        start = START | {"origin": {}}
        return make_run(tmp_path / name, *PARTS, start=start, **{"model": "123"} | settings)

    for runs, message in (
        ([run, evaluated_run], "made by 'evaluate', not by a search"),
        ([run] * (MAX_RUNS + 1), f"at most {MAX_RUNS} runs"),
        ([first, other("b", model="fed")], "its model is 123, here it is fed"),
    ):
        with pytest.raises(InputError, match=message):
            check_runs(runs)


def test_changes_are_paired_over_common_questions(tmp_path: Path):
    """The second run reaches gold of one question more, and no control."""
    lost = part("q2", best=None, confirmed=None, **ALIKE)
    first = make_run(tmp_path / "a", part("q1"), lost)
    second = make_run(tmp_path / "b", part("q1", best=WHOLE), part("q2", **ALIKE), part("q5"))
    changes = Results(compare_runs([first, second], ["a", "b"]))
    assert changes.groups == ["b"]
    beyond = changes.find(BEYOND, "b")
    assert beyond is not None
    assert (beyond.value, beyond.n, beyond.corrected) == (0.5, 1, beyond.p)
    after = changes.find(AFTER, "b")
    assert after is not None
    assert (after.value, after.n) == (0.5, 2)
    assert changes.value(f"{AFTER}, a shorter one", "b") == -0.5
    assert sentences_of(changes)[0].startswith("b: nothing shown: too few questions differ")
    assert compare_runs([first], ["a"]) == []


def test_an_undecided_change_has_no_p():
    rest = {"expected": 6.0, "by_chance": (2.0, 9.0), "scale": 1.0}
    net = Net(0.5, (math.nan, math.nan), 0.01, 20, 12, informative=15, effective=2.0, **rest)
    assert net.undecided
    change = change_estimate("b", ONCE, net, math.nan, limit_of(net, weighted=True))
    assert change.p_text == ""
    assert change.result == UNDECIDED
