"""Recommendations: the model unless a candidate is shown to be better on held-out questions."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from cola_jax.question import Question
from cola_jax.runs.estimates import CANDIDATES, CHANGE, MODEL, TRIES
from cola_jax.runs.recommendation import Measurement, Recommendation
from cola_jax.runs.results import Results
from cola_jax.runs.tries import earlier, read_tries, seen
from cola_jax.scoring.statistics import Crossed

N = 200
PLAIN = np.arange(N)[:, None] % 2 == 0


def gaining(count: int, lost: int = 0, prompts: int = 1) -> np.ndarray:
    """Answer some of the questions that the model gets wrong, and lose others, in each prompt."""
    right = np.repeat(PLAIN, prompts, axis=1)
    right[1 : 2 * count : 2] = True
    right[: 2 * lost : 2] = False
    return right


def test_a_candidate_is_recommended_where_it_is_better_by_a_simultaneous_interval() -> None:
    right = {"much": gaining(30), "little": gaining(7, 1), "none": PLAIN}
    each = Recommendation(right, PLAIN, "little")
    assert each.recommended == "much"  # the surest
    assert each.sentence.startswith(
        "Recommended: much. It answers more questions correctly than the model, in this prompt, by "
        "+15.0 points (simultaneous 95 % interval +"
    )
    assert each.sentence.endswith("p <0.001, corrected for 3 candidates).")
    alone = Recommendation({"little": gaining(8)}, PLAIN, "little")
    assert alone.recommended == "little"
    several = {"little": gaining(8), "second": PLAIN, "third": PLAIN, "fourth": PLAIN}
    assert several["little"].sum() == PLAIN.sum() + 8
    among = Recommendation(several, PLAIN, "little")
    assert among.changes["little"].corrected == min(1, 4 * among.changes["little"].p)
    assert math.isnan(among.changes["second"].low)  # no answer changed
    assert "no answer changed" in Recommendation({"second": PLAIN}, PLAIN, "second").sentence


def test_earlier_results_on_the_same_questions_share_the_budget() -> None:
    model = SimpleNamespace(digest="m", identity=SimpleNamespace(name="x"))
    session: Any = SimpleNamespace(
        model=model, settings={"scorer": "letter"}, environment={"task": "sums"}
    )
    questions = [Question(f"q{i % 7}", f"text {i % 5}") for i in range(9)]
    recommended = []
    for seed in (0, 1, 1, 2, 0):
        measurement = Measurement.of(session, [session], questions, {"seed": seed})
        assert len(measurement.questions) == 5
        each = Recommendation({"0,2": gaining(6)}, PLAIN, "0,2", measurement.earlier())
        measurement.record("0,2", each)
        recommended.append(each)
    assert [len(each.earlier) for each in recommended] == [0, 1, 1, 2, 0]  # again is no other
    assert len(read_tries()) == 3
    assert read_tries()[0].outcome == "recommended 0,2, found +3.0 points"
    assert read_tries()[0].tests == 1
    assert [each.recommended for each in recommended[:4]] == ["0,2", MODEL, MODEL, MODEL]
    results = Results([*recommended[3].of_group("0,2"), *recommended[3].estimates()])
    assert (results.value(CANDIDATES), results.value(TRIES)) == (1, 2)
    (sentence,) = results.sentences
    assert "corrected for 1 candidate and 2 earlier results on these questions" in sentence
    assert sentence.startswith("Recommended: the model as it is. 0,2 is not shown to be better")


def test_paths_measured_beside_what_was_found_are_in_the_ledger_and_count() -> None:
    """Otherwise the best of them on held-out questions could be tried there as one claim."""
    model = SimpleNamespace(digest="m", identity=SimpleNamespace(name="x"))
    session: Any = SimpleNamespace(model=model, settings={}, environment={"task": "sums"})
    questions = [Question(f"q{i}", f"text {i}") for i in range(5)]
    first = Measurement.of(session, [session], questions, 1)
    right = {f"0,{i}": gaining(i) for i in range(1, 5)}
    first.record("0,1", Recommendation(right, PLAIN, "0,1"), [*right, "0,9"])
    assert [each.claim for each in read_tries()] == ["0,1", "0,2", "0,3", "0,4", "0,9"]
    assert seen(earlier("m", "0,9"), first.questions) == {*first.questions}
    second = Measurement.of(session, [session], questions, 2)
    (result,) = second.earlier()
    assert (result.claim, result.tests) == ("0,1", 4)
    alone = Recommendation({"0,4": gaining(8)}, PLAIN, "0,4", [result])
    assert alone.tests == 5
    assert Recommendation(right, PLAIN, "0,4", [result]).tests == 8
    more = Recommendation(right | {"0,5": PLAIN}, PLAIN, "0,4", [result])
    assert more.tests == 10


def test_prompts_are_draws() -> None:
    """A gain in one prompt of four alone is none beyond these; one in all is."""
    uneven = np.repeat(PLAIN, 4, axis=1)
    uneven[:, :1] = gaining(60)
    even = gaining(15, prompts=4)
    plain = np.repeat(PLAIN, 4, axis=1)
    each = Recommendation({"uneven": uneven, "even": even}, plain, "uneven")
    assert each.changes["uneven"].value == each.changes["even"].value == 0.075
    assert each.changes["uneven"].p == Crossed.of(uneven.astype(float) - plain).p
    assert each.recommended == "even"
    assert "than the model, by +7.5 points" in each.sentence  # not in these prompts alone
    names = [estimate.name for estimate in each.of_group("even")]
    assert names[1:3] == [CHANGE, "prompt 1"]


def test_a_worse_candidate_and_a_limit_are_named() -> None:
    worse = {"0,2": gaining(0, 30)}
    each = Recommendation(worse, PLAIN, "0,2")
    assert each.recommended == MODEL
    assert each.sentence.startswith(
        "Recommended: the model as it is. 0,2 answers fewer questions correctly, in this prompt: "
    )
    limited = Recommendation(worse, PLAIN, "0,2", limit="at most 2 layers")
    assert limited.recommended == "0,2"
    assert limited.sentence.startswith(
        "Of at most 2 layers: 0,2, which answers fewer questions correctly, in this prompt: −15.0 "
    )
    better = Recommendation({"0,2": gaining(30)}, PLAIN, "0,2", limit="at most 2 layers")
    assert better.sentence.startswith("Recommended: 0,2. It answers more")


def test_the_model_alone_is_recommended() -> None:
    each = Recommendation({MODEL: PLAIN}, PLAIN, MODEL)
    assert each.recommended == MODEL
    assert each.sentence == "Recommended: the model as it is. Nothing else was found."


def test_noise_is_not_recommended() -> None:
    """Of eight paths that change a sixth of the answers at random."""
    random = np.random.default_rng(0)
    recommended = 0
    for _ in range(200):
        plain = random.random((100, 4)) < 0.5
        flipped = random.random((8, 100, 4)) < 1 / 6
        right = {f"0,{i}": np.where(flipped[i], ~plain, plain) for i in range(8)}
        recommended += Recommendation(right, plain, "0,1").recommended != MODEL
    assert recommended <= 10
