"""Searches beyond their controls: asked again in other wordings, and compared between runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from cola_jax.errors import InputError
from cola_jax.report import check_runs, compare_runs, search_report, summarise
from cola_jax.report.controls import MAX_RUNS
from cola_jax.runs.run import Run
from cola_jax.scoring.statistics import Share
from tests.report.conftest import PARTS, START, WHOLE, letters, make_run, part, text_of


def asked_again(name: str, plain: list[int], *searches: Any, **fields: Any) -> Any:
    """Make a part of a question asked in two more wordings, in which `plain` are the answers.

    A search is its target, and each path asked again with what held in the two wordings.
    """

    def columns(target: int, *asked: tuple[tuple[int, ...], list[bool]]) -> dict[str, Any]:
        again = [{"path": path, "holds": holds} for path, holds in asked]
        best = min((path for path, _ in asked if path != WHOLE), key=len, default=None)
        found = {"best": best, "again": again}
        return found | {"target": target, "evaluations": 2, "shared": 1}

    gold, *controls = [columns(*search) for search in searches]
    own = {key: gold[key] for key in ("best", "again")}
    scores = [[-1.0 if j == answer else -2.0 for j in range(3)] for answer in (1, *plain)]
    asked = {"again_answers": plain, "baseline_scores": scores, "controls": controls}
    return letters(name, [(WHOLE, 1, False)], **own | asked | fields)


def test_summarise_questions_asked_again(tmp_path: Path):
    no, yes, half = [False, False], [True, True], [True, False]
    parts = [
        # wrong in all before, gold holds, the control does not
        asked_again("a", [1, 1], (0, (WHOLE, no), ((0, 1), yes)), (2, (WHOLE, no), ((0,), half)),
                    (1, (WHOLE, yes), ((0, 1, 2), yes))),
        # wrong in all before, gold does not hold, the control does
        asked_again("b", [1, 2], (0, (WHOLE, no), ((0, 1), half)), (2, (WHOLE, no), ((0,), yes))),
        # right in one wording before
        asked_again("c", [0, 1], (0, (WHOLE, half), ((0, 1), yes)), (2, (WHOLE, no))),
        # right in all before, and on two layers fewer
        asked_again("d", [0, 0], (0, (WHOLE, yes), ((0, 1), yes)),
                    baseline=True, baseline_answer=0),
    ]  # fmt: skip
    run = make_run(tmp_path, *parts)
    summary = summarise(run)
    again = summary.again
    assert again is not None
    assert (again.agreement, again.before) == (Share(6, 8), Share(1, 4))
    assert again.held == Share(1, 2)  # a of a and b
    assert again.held_control == Share(0, 1)  # of a, as b's is the model's answer in a wording
    assert again.mixed == Share(1, 1)  # c
    assert again.shortened == Share(1, 1)
    held = summary.nets["asked again"]
    assert (held.value, held.n, held.reached) == (1.0, 1, 1)
    # a and b of a, b and c, which has no control where its second answer is right
    assert (summary.nets["once"].n, summary.nets["asked again"].n) == (3, 1)
    # each question's paths asked again, in two wordings
    assert summary.again_evaluations == 2 * (4 + 3 + 2 + 2)
    assert summary.kept.keys() == {"once"}
    assert "difference in points, asked again" in text_of(search_report(run, summary))


def test_check_runs_refuses_runs_that_are_not_comparable(tmp_path: Path, run: Run, evaluated: Run):
    check_runs([run])
    first = make_run(tmp_path / "a", *PARTS, model="123", variants=["shots"])

    def other(name: str, **settings: Any) -> Run:
        start = START | {"origin": {}}
        return make_run(tmp_path / name, *PARTS, start=start, **{"model": "123"} | settings)

    for runs, message in (
        ([run, evaluated], "made by 'evaluate', not by a search"),
        ([run] * (MAX_RUNS + 1), f"at most {MAX_RUNS} runs"),
        ([first, other("b", model="fed")], "its model is 123, here it is fed"),
        ([first, other("d", prompts=2, prompts_digest="d")], "again in different wordings"),
    ):
        with pytest.raises(InputError, match=message):
            check_runs(runs)


def test_changes_are_paired_over_common_questions(tmp_path: Path):
    """The second run reaches gold of one question more, and no control."""
    alike = {"baseline_scores": [[-2.0, -1.0, -2.0]]}  # gold and its control
    lost = part("q2", best=None, confirmed=None, **alike)
    first = make_run(tmp_path / "a", part("q1"), lost)
    second = make_run(tmp_path / "b", part("q1", best=WHOLE), part("q2", **alike), part("q5"))
    [change] = compare_runs([first, second], 4)
    assert (change.after.first_only, change.after.second_only, change.after.n) == (1, 0, 2)
    assert (change.shortened.first_only, change.shortened.second_only) == (0, 1)
    net = change.nets["once"]
    assert (net.value, net.n, net.informative) == (1.0, 1, 1)
    assert change.p["once"] == net.p
    json.dumps(change.to_json(), allow_nan=False)
    assert compare_runs([first], 4) == []
