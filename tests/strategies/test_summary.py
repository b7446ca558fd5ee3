"""The sentence of searches, and the rows beside it: never W→C without the number expected."""

import dataclasses

import numpy as np

from cola_jax.scoring.preference import Preference
from cola_jax.strategies.reached import Case, Reached, Ways
from cola_jax.strategies.summary import SearchSummary

NEVER, TWO = Reached(None, None), Reached(2, None)
GOLD, OWN, OTHER = 0, 1, 2
LAYERS = 4


def case(number: int = 0, *, gold: Reached = NEVER, other: Reached = NEVER, right: bool = False):
    """Make a question with three options, whose gold and control are equally preferred."""
    searches = {GOLD: gold} if right else {GOLD: gold, OTHER: other, OWN: TWO}
    answer = GOLD if right else OWN
    scores = np.array([[-1.0 if j == answer else -2.0 for j in range(3)]])
    return Case(f"q{number}", GOLD, right, [answer], scores, searches)


def summary_of(*cases: Case, weighted: bool = True) -> SearchSummary:
    return SearchSummary.of(Ways.of(list(cases), weighted=weighted), LAYERS)


def test_sentence_shows_what_is_beyond_expectation():
    better = summary_of(*(case(i, gold=TWO) for i in range(12)))
    assert better.sentence.startswith(
        "Shown: the searches found a correct path for 12 of the 12 questions that the model got "
        "wrong, and 6.0 were expected by chance. Difference: +50.0 points (95 % interval "
    )
    worse = summary_of(*(case(i, other=TWO) for i in range(12)))
    assert worse.sentence.startswith(
        "Shown to be fewer than expected: the searches found a correct path for 0 of the 12 "
        "questions that the model got wrong, but 6.0 were expected by chance. Difference: −50.0"
    )


def test_sentence_needs_p_and_interval():
    better = summary_of(*(case(i, gold=TWO) for i in range(12)))
    for fields, words in (
        ({"p": 0.06}, "which the correction for several tests undoes"),
        ({"interval": (-0.1, 0.9)}, "6.0 were expected by chance, as searches reach wrong options"),
        ({"effective": 1.0}, "preference alone nearly decides which option is the correct one"),
    ):
        net = better.net._replace(**fields)
        sentence = dataclasses.replace(better, nets={"once": net}).sentence
        assert sentence.startswith("Nothing shown: ")
        assert words in sentence


def test_sentence_gives_the_reason_of_the_expected_number():
    few = [case(0, gold=TWO), case(1, other=TWO)]
    assert "(too few questions for an interval, p 1.000)" in summary_of(*few).sentence
    second = "the correct one is often the model's second choice"
    assert second not in summary_of(*few).sentence  # as preferred as the control
    ways = Ways.of(few, weighted=True)
    assert second in SearchSummary.of(ways, LAYERS, Preference(0.5, 0.1)).sentence
    assert "as searches reach wrong answers too." in summary_of(*few, weighted=False).sentence


def test_sentence_without_a_comparison():
    alone = case(gold=TWO)._replace(searches={GOLD: TWO, OWN: TWO})
    assert "for 1 of 1 questions that the model got wrong, but none of these questions has a" in (
        summary_of(alone).sentence
    )
    unscored = case(gold=TWO)._replace(scores=np.full((1, 3), np.nan))
    assert "scores, which the comparison needs, are not stored" in summary_of(unscored).sentence
    assert summary_of(case(right=True, gold=TWO)).sentence == (
        "Nothing to correct: the model was right before on the only question."
    )
    assert summary_of().sentence == "Nothing shown: no question was graded before."


def test_sentence_counts_the_questions_that_cannot_be_compared():
    compared = [case(i, gold=TWO) for i in range(2)]
    alone = [case(i, gold=TWO)._replace(searches={GOLD: TWO, OWN: TWO}) for i in range(2, 5)]
    sentence = summary_of(*compared, *alone).sentence
    assert "for 2 of the 2 questions that can be compared, of 5 that the model got wrong, " in (
        sentence
    )


def test_sentence_of_a_search_in_all_variants():
    def sentence(*cases):
        return SearchSummary.of(Ways.of(list(cases), weighted=True, combined=True), LAYERS).sentence

    scores = np.array([[-1.0, -2.0, -3.0]] * 2)
    wrong = case(gold=Reached(2, True))._replace(answers=[OWN, OWN], scores=scores)
    mixed = wrong._replace(id="mixed", answers=[GOLD, OWN])
    right = wrong._replace(id="right", answers=[GOLD, GOLD], baseline=True)
    assert sentence(mixed) == (
        "Nothing to compare: the model got no question wrong in all wordings."
    )
    assert sentence(right, mixed).startswith("Nothing to compare: ")
    assert sentence(right).startswith("Nothing to correct: the model was right before on the only")
    assert "a path that is correct in all wordings for 1 of the 1 question that the model got " in (
        sentence(wrong, mixed)
    )
    assert "got wrong in all wordings, but " in sentence(wrong, mixed)


def test_rows_have_the_expected_number_below_the_reached_one():
    summary = summary_of(case(0, gold=TWO), case(1, other=TWO), case(2, right=True, gold=TWO))
    reached, expected, difference, p = summary.rows()
    assert reached.cells[0] == expected.cells[0] == "50.0 %"
    assert difference.cells[0].endswith("0.0")
    assert p.cells[0] == "1.000"
    assert [row.control for row in summary.rows()] == [False, True, False, False]
    undecided = dataclasses.replace(summary, nets={"once": summary.net._replace(informative=99)})
    assert undecided.rows()[2].cells[0] == "undecided"
    alone = summary_of(case(gold=TWO)._replace(searches={GOLD: TWO}))
    assert [row.label for row in alone.rows()][1] == "expected: no control to compare with"


def test_repr_is_short_and_html_is_escaped():
    ways = Ways.of([case(0, gold=TWO), case(1, other=TWO)], weighted=True)
    summary = SearchSummary.of(ways, LAYERS, Preference(0.5, 0.1))
    lines = repr(summary).splitlines()
    assert lines[0] == summary.sentence
    assert len(lines) < 8
    html = summary._repr_html_()
    assert "model&#x27;s second choice" in html
    assert "expected" in html
