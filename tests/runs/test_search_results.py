"""Estimates of searches, against numbers worked out by hand from small runs."""

import math
from pathlib import Path

import pytest

from cola_jax.runs.estimates import (
    BEFORE,
    BEYOND,
    EXPECTED,
    FOUND,
    PREFERENCE,
    REACHED,
    SAMPLED,
    UNDECIDED,
    UNKNOWN,
    UNSCORED,
    Estimate,
)
from cola_jax.runs.results import Results
from cola_jax.runs.run import Run
from cola_jax.runs.search_results import AFTER, ASKED_AGAIN, SHORTENED, SPENT
from tests.small_runs import UNGRADED, WHOLE, letters, make_run, part

LENGTH = "mean layers of the best paths"
CONTROL = "wrong answers that searches reached"
CONFIRMED = "best path is right in float32"


OTHERS = ("expected", "samples")  # shares that are no counts


def shares(results: Results) -> dict[str, tuple[int, int]]:
    """Return the hits and n of the shares that are not of nothing."""
    found = (each for each in results if each.unit == "share" and each.n)
    return {each.name: (each.hits, each.n) for each in found if not each.name.startswith(OTHERS)}


def test_estimates_of_a_search(run: Run):
    results = run.summary()
    assert shares(results) == {
        BEFORE: (2, 5),
        FOUND: (2, 3),  # q2 and q5 of q2, q3 and q5
        REACHED: (1, 2),  # q2 of q2 and q3, as q5 has no control
        CONTROL: (1, 2),  # q3 of q2 and q3
        SHORTENED: (1, 2),  # q1 of q1 and q4
        AFTER: (4, 5),
        "right before, on no path with fewer layers": (1, 5),
        "W→W: right on no path that was tried": (1, 5),
        CONFIRMED: (3, 4),
        "paths tried, right before: wrong (C→W)": (2, 3),  # q1 and q4: a path of each
        "paths tried, wrong before: right (W→C)": (2, 5),  # q2, q3 and q5: two paths
        "evaluations for gold, not finite": (1, 13),
    }
    beyond = results.find(BEYOND)
    assert beyond is not None
    assert (beyond.value, beyond.n, beyond.p, beyond.corrected) == (pytest.approx(0), 2, 1, 1)
    assert math.isnan(beyond.low)
    counts = [SPENT, "of them by the searches for gold", "added by control searches"]
    assert [results.value(name) for name in counts] == [15, 13, 2]
    assert results.value(LENGTH) == pytest.approx((3 + 5 + 4 + 4 + 3) / 5)
    assert results.value("layers run, best paths, right before (C→C)") == (3 + 4) / 2
    assert results.value("distinct layers, best paths, wrong before (W→C)") == (4 + 3) / 2
    assert results.sentences[0].startswith("Nothing shown: ")


def test_estimates_of_few_questions(tmp_path: Path):
    right = make_run(tmp_path / "right", part("q4")).summary()
    assert right.find(REACHED) is right.find(BEYOND) is right.find(PREFERENCE) is None
    wrong = make_run(tmp_path / "wrong", part("q3")).summary()
    assert wrong.value(LENGTH) == 4  # of the identity, as no path is correct
    ungraded = make_run(tmp_path / "ungraded", UNGRADED, scorer="generation").summary()
    assert math.isnan(ungraded.value(BEFORE))
    assert math.isnan(ungraded.value(LENGTH))
    assert ungraded.value("questions excluded, ungraded before") == 1


def test_estimates_without_scores(tmp_path: Path):
    """Of a user's metric, or of a model whose logits are not finite."""
    parts = part("q2", baseline_scores=None), part("q3", baseline_scores=[[0, 1, math.nan]])
    results = make_run(tmp_path, *parts).summary()
    assert shares(results)[CONTROL] == (1, 2)
    assert results.value(UNSCORED) == 2
    assert results.find(REACHED) is results.find(PREFERENCE) is None


def test_estimates_of_completions(open_run: Run):
    found = shares(open_run.summary())
    assert found[BEFORE] == (1, 3)  # without g3, which is ungraded
    assert found[FOUND] == (1, 2)  # g2 of g2 and g4
    assert found["evaluations for gold, ungraded"] == (3, 11)
    assert found["evaluations for gold, truncated"] == (1, 11)
    assert found["best path decodes the same in float32"] == (2, 3)
    tokens = open_run.summary().value("tokens decoded per evaluation")
    assert tokens == pytest.approx((10 * 4 + 12) / 11)


def test_estimates_that_do_not_apply_are_left_out(tmp_path: Path):
    for scorer, dtype, name, there in (
        ("letter", "bfloat16", "q1", {"in float32"}),
        ("letter", "float32", "q1", set()),
        ("exact", "float32", "q1", set()),
        ("generation", "float32", "g2", {"token"}),
    ):
        run = make_run(tmp_path / scorer / dtype, part(name), scorer=scorer, dtype=dtype)
        names = " ".join(each.name for each in run.summary())
        assert {word for word in ("in float32", "ungraded", "token") if word in names} == there


def test_time_of_the_best_paths(tmp_path: Path):
    run = make_run(tmp_path, part("q1"), part("q2"), part("q3"), layer_costs=[1.0, 2.0, 3.0, 4.0])
    # q1: 0, 1 and 3; q2: 0, 1, 1, 2 and 3; q3: all
    assert run.summary().value("mean time of the best paths") == pytest.approx((7 + 12 + 10) / 3)
    assert run.summary().value("the same, as a share of the model's") == pytest.approx(
        0.96667, 1e-4
    )


def test_summary_refuses_other_runs(tmp_path: Path):
    with pytest.raises(ValueError, match=r"made by 'static', not by a search .* see `cola report"):
        make_run(tmp_path / "other", command="static").summary()
    with pytest.raises(ValueError, match="has no question done yet"):
        make_run(tmp_path / "new").summary()


def test_samples_of_the_model_are_as_many_as_evaluations(tmp_path: Path):
    """The chance of one of n = 2: for options among those offered, for an answer as it is."""
    rows = [(WHOLE, 1, False), ((0, 2), 0, True)]
    of_options = {"best": (0, 2), "control": 2, "baseline_scores": [[math.log(1 / 6)] * 2 + [0.0]]}
    fields = {"options": ["7", "9"], "baseline_answer": -1, "best": (0, 2), "control": 1}
    logprobs = [[math.log(0.25), -2.0], [-9.0, -9.0]]  # the second in another wording
    of_answers = fields | {"baseline_logprobs": logprobs, "again_answers": [-1]}
    for scorer, each, chance in (("letter", of_options, 1 / 8), ("exact", of_answers, 1 / 4)):
        parts = [letters(f"q{i}", rows, **each) for i in range(2)]
        results = make_run(tmp_path / scorer, *parts, scorer=scorer).summary()
        expected = 1 - (1 - chance) ** 2
        sampled = results.find(SAMPLED)
        assert sampled is not None
        assert (sampled.value, sampled.n) == (pytest.approx(expected), 2)
        assert sampled.control
        assert f"at equal cost are right on {2 * expected:.1f}." in results.sentences[0]
    normed = make_run(tmp_path / "normed", letters("q", rows, **of_options), scorer="options-norm")
    assert normed.summary().find(SAMPLED) is None


@pytest.mark.parametrize("scorer", ["exact", "generation"])
def test_open_questions_are_weighted_by_log_probabilities(tmp_path: Path, scorer: str):
    """Gold of 12 wrong questions is reached and the decoy is not: no skill if it is preferred."""
    fields = {"best": (0, 2), "control": 1, "options": ["7", "9"], "baseline_answer": -1}
    rows = [(WHOLE, -1, False), ((0, 2), 0, True)]

    def searched(name: str, logprobs: list[list[float]] | None) -> tuple[Estimate, str]:
        parts = [letters(f"q{i}", rows, **fields, baseline_logprobs=logprobs) for i in range(12)]
        results = make_run(tmp_path / name, *parts, scorer=scorer, questions=12).summary()
        beyond = results.find(BEYOND)
        assert beyond is not None
        return beyond, results.sentences[0]

    alike, sentence = searched("alike", [[-3.0, -3.0]])
    assert alike.is_shown
    assert sentence.startswith("Shown: ")
    unknown, sentence = searched("unknown", None)
    assert unknown.value == pytest.approx(0.5)
    assert unknown.note == UNKNOWN
    assert not unknown.is_shown
    assert "preference among the answers searched for is not known" in sentence
    assert sentence.startswith("Nothing shown: ")
    preferred, _ = searched("preferred", [[-3.0, -9.0]])
    assert preferred.note == UNDECIDED


def test_expected_share_is_weighted_by_preference(tmp_path: Path):
    scores = [[-2.0, -1.0, -2.0]]  # the model has no preference between gold and the control
    fields = {"best": (0, 2), "control": 2, "baseline_scores": scores}
    rows = [(WHOLE, 1, False), ((0, 2), 0, True)]
    run = make_run(tmp_path, *(letters(f"q{i}", rows, **fields) for i in range(12)), questions=12)
    results = run.summary()
    expected = results.find(EXPECTED)
    beyond = results.find(BEYOND)
    assert expected is not None
    assert beyond is not None
    assert expected.value == pytest.approx(0.5)
    assert 0 <= expected.low <= expected.value <= expected.high <= 1
    assert beyond.value == pytest.approx(0.5)
    assert beyond.is_shown
    assert results.find(BEYOND + ASKED_AGAIN) is None
