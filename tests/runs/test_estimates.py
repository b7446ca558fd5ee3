"""Sentences of estimates, and their numbers as text."""

import math
from typing import Any

import pytest

from cola_jax.runs.estimates import (
    BEFORE,
    BEYOND,
    CHANGE,
    CORRECT,
    ELSEWHERE,
    EXPECTED,
    FOUND,
    MODEL,
    PREFERENCE,
    REACHED,
    UNDECIDED,
    UNSCORED,
    Estimate,
    number_text,
    sentences_of,
)
from cola_jax.scoring.statistics import Difference, Share


def searches(beyond: Estimate | None = None, found: int = 12, **others: Any) -> list[Estimate]:
    """Make the estimates of searches on 20 questions, 12 of them wrong, 6 expected."""
    estimates = [Estimate.of(BEFORE, Share(8, 20)), Estimate.of(FOUND, Share(found, 12))]
    if beyond is not None:
        estimates += [
            beyond,
            Estimate.of(REACHED, Share(found, beyond.n or 0)),
            Estimate(EXPECTED, value=0.5, n=beyond.n, control=True),
        ]
    return estimates + [Estimate(name, value=value) for name, value in others.items()]


def beyond(low: float = 0.1, high: float = 0.9, corrected: float = 0.01, **fields: Any) -> Estimate:
    values: dict[str, Any] = {"value": 0.5, "unit": "points", "n": 12}
    return Estimate(BEYOND, low=low, high=high, corrected=corrected, **(values | fields))


def test_sentence_shows_what_is_beyond_expectation():
    [sentence] = sentences_of(searches(beyond()))
    assert sentence == (
        "Shown: the searches found a correct path for 12 of the 12 questions that the model got "
        "wrong, and 6.0 were expected by chance. Difference: +50.0 points (95 % interval +10.0 to "
        "+90.0, p 0.010)."
    )
    [sentence] = sentences_of(searches(beyond(-0.9, -0.1, value=-0.5), found=0))
    assert sentence.startswith("Shown to be fewer than expected: the searches found a correct path")


def test_sentence_needs_p_and_interval():
    for changed, words in (
        (beyond(low=-0.1, corrected=0.06), "Difference: +50.0 points"),
        (beyond(low=-0.1), "6.0 were expected by chance, as searches reach wrong answers too."),
        (beyond(note=UNDECIDED), "preference alone nearly decides which answer is the correct one"),
        (beyond(math.nan, math.nan, 1.0), "(too few questions for an interval, p 1.000)"),
    ):
        [sentence] = sentences_of(searches(changed))
        assert sentence.startswith("Nothing shown: ")
        assert words in sentence


def test_without_an_interval_nothing_is_shown():
    """Few informative questions have a p-value, and no interval that tells the direction."""
    few = beyond(math.nan, math.nan, 0.001)
    assert not few.is_shown
    [sentence] = sentences_of(searches(few))
    assert sentence.startswith("Nothing shown: the searches found a correct path for 12")
    assert "+50.0 points (too few questions for an interval, p 0.001)" in sentence


def test_sentence_gives_the_reason_of_the_expected_number():
    [sentence] = sentences_of(searches(beyond(low=-0.1), **{PREFERENCE: 0.5}))
    assert "too, and the model often prefers the correct one to them. Difference" in sentence
    [sentence] = sentences_of(searches(beyond(n=5), found=5))
    assert "5 of the 5 questions that can be compared, of 12 that the model got wrong" in sentence


def test_sentence_without_a_comparison():
    [sentence] = sentences_of(searches())
    assert "for 12 of 12 questions that the model got wrong, but none of these questions has a" in (
        sentence
    )
    [sentence] = sentences_of(searches(**{UNSCORED: 12}))
    assert "scores, which the comparison needs, are not stored" in sentence
    right = [Estimate.of(BEFORE, Share(1, 1)), Estimate.of(FOUND, Share(0, 0))]
    assert sentences_of(right) == [
        "Nothing to correct: the model was right before on the only question."
    ]
    none = [Estimate.of(BEFORE, Share(0, 0)), Estimate.of(FOUND, Share(0, 0))]
    assert sentences_of(none) == ["Nothing shown: no question was graded before."]


def test_nothing_to_compare_is_not_all_right():
    """A search of an earlier version, whose questions are each wrong in some wordings only."""
    mixed = [Estimate.of(BEFORE, Share(3, 9)), Estimate.of(FOUND, Share(0, 0))]
    [sentence] = sentences_of(mixed)
    assert sentence == "Nothing to compare: the model got no question wrong in all wordings."


def change(group: str, first: int, second: int, corrected: float) -> Estimate:
    return Estimate.of(CHANGE, Difference(first, second, 100), group=group, corrected=corrected)


def test_sentence_of_paths_names_the_best():
    [sentence] = sentences_of([change("0-2", 30, 2, 0.001), change("0,3", 40, 0, 0.2)])
    assert sentence.startswith(
        "Shown: 0-2 answers more questions correctly than the model, in this prompt, by +28"
    )
    assert sentence.endswith(", p 0.001), corrected for 2 comparisons.")
    [sentence] = sentences_of([change("0-2", 2, 30, 0.001)])
    assert sentence.startswith(
        "Shown: 0-2 answers fewer questions correctly than the model, in this prompt, by −28"
    )
    [sentence] = sentences_of([change("0-2", 3, 2, 0.9), change("0,3", 2, 3, 0.9)])
    assert sentence.startswith(
        "Nothing shown: none differs from the model beyond chance, in this prompt; 0-2 is"
    )
    [sentence] = sentences_of([change("0-2", 3, 2, 0.9)])
    assert sentence.startswith(
        "Nothing shown: 0-2 does not differ from the model beyond chance, in this prompt, +1"
    )


@pytest.mark.parametrize(("prompts", "where"), [(2, ", in these 2 prompts"), (3, "")])
def test_sentence_of_paths_says_that_few_prompts_are_no_draws(prompts: int, where: str):
    each = [Estimate(f"prompt {k}", "0-2", 0.2, "points") for k in range(1, prompts + 1)]
    [sentence] = sentences_of([change("0-2", 30, 2, 0.001), *each])
    assert sentence.startswith(
        f"Shown: 0-2 answers more questions correctly than the model{where}, by +28"
    )


def test_sentence_of_paths_leaves_out_those_without_a_graded_question():
    none = Estimate.of(CHANGE, Difference(0, 0, 0), group="0", corrected=math.nan)
    changes = [change("0-1", 20, 0, 0.01), none, change("0-2", 40, 0, 0.01)]
    [sentence] = sentences_of(changes)
    assert sentence.startswith(
        "Shown: 0-2 answers more questions correctly than the model, in this prompt, by +40"
    )
    assert sentence.endswith("corrected for 2 comparisons.")
    assert sentences_of([none])[0].startswith("Nothing compared: no question was graded on both")


def test_sentence_of_one_path_is_its_accuracy():
    [sentence] = sentences_of([Estimate.of(CORRECT, Share(11, 12), group="0,3")])
    assert sentence.startswith("Path 0,3 answers 11 of 12 questions correctly, 91.7 % (95 % interv")
    [sentence] = sentences_of([Estimate.of(CORRECT, Share(0, 0), group=MODEL)])
    assert sentence == "The model was not graded on any question."
    [sentence] = sentences_of([Estimate(CORRECT, MODEL, 2 / 3, n=10)])
    assert (
        sentence
        == "The model answers 66.7 % of 10 questions correctly, in the mean of all prompts."
    )
    two = [Estimate.of(CORRECT, Share(1, 2), group=group) for group in ("0", "1")]
    assert sentences_of(two)[0].startswith("Nothing compared: the identity path")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "share", "0.0 %"),
        (0.0004, "share", "<0.1 %"),
        (0.9999, "share", ">99.9 %"),
        (1.0, "share", "100.0 %"),
        (-0.125, "points", "−12.5"),
        (math.nan, "points", "–"),
        (12345, "count", "12,345"),
        (9.6667, "ms", "9.67 ms"),
        (104.25, "ms", "104 ms"),
        (1.2, "nats more", "+1.20"),
    ],
)
def test_number_text(value: float, unit: str, text: str):
    assert number_text(value, unit) == text


@pytest.mark.parametrize(
    ("p", "low", "is_beside"), [(0.2, 0.01, True), (0.2, -0.01, False), (0.01, 0.01, False)]
)
def test_interval_beside_a_scan_that_shows_nothing_is_no_test(
    p: float, low: float, is_beside: bool
):
    best = Estimate(CHANGE, "skip 1", 0.1, "points", 0.02, 0.2, corrected=p)
    half = Estimate(ELSEWHERE, "", 0.05, "points", low, 0.09, note="skip 1")
    [sentence] = sentences_of([best, half])
    assert sentence.startswith("Nothing shown" if p > 0.05 else "Shown")
    assert (
        sentence.endswith("; this interval is beside the test, and shows nothing alone.")
        is is_beside
    )
