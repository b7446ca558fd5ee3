import numpy as np
import pytest
from scipy.stats import norm

from cola_jax.deploy.verify.power import Components, check_size, plan
from cola_jax.errors import InputError
from cola_jax.scoring.statistics import Crossed


def draw(random, n: int, prompts: int, mean: float, parts: Components) -> Crossed:
    """Draw a trial of the normal model."""
    return Crossed.of(
        mean
        + random.normal(0, parts.prompt_sd, prompts)
        + random.normal(0, parts.question_sd, (n, 1))
        + random.normal(0, parts.residual_sd, (n, prompts))
    )


def test_plan_of_one_prompt_is_the_textbook_sample_size():
    parts = Components()
    variance = parts.question_sd**2 + parts.residual_sd**2
    size = (norm.ppf(0.975) + norm.ppf(0.8)) ** 2 * variance / 0.06**2
    assert size < plan(0.06, 1).questions < size + 4  # Student's t takes two questions more


def test_plan_shows_its_difference_four_times_in_five():
    parts, random = Components(prompt_sd=0.03), np.random.default_rng(0)
    questions = plan(0.06, 8, parts).questions
    assert questions is not None
    shown = [draw(random, questions, 8, 0.06, parts).p <= 0.05 for _ in range(400)]
    assert np.mean(shown) == pytest.approx(0.8, abs=0.05)


def test_plan_needs_prompts_where_no_number_of_questions_suffices():
    assert plan(0.06, 4).questions is None
    least = plan(0.06, 4).least_prompts
    assert least == 8
    assert plan(0.06, least).questions is not None
    assert plan(0.06, least - 1).questions is None
    assert plan(0.0001, 8) == (None, None)


def test_plan_counts_the_tests_of_the_trial():
    assert plan(0.1, 8, tests=10).questions > plan(0.1, 8).questions


def test_components_are_those_of_an_earlier_trial():
    parts, random = Components(0.05, 0.2, 0.3), np.random.default_rng(0)
    found = Components.of(draw(random, 2000, 60, 0.0, parts))
    assert found.prompt_sd == pytest.approx(0.05, rel=0.2)
    assert (found.question_sd, found.residual_sd) == pytest.approx((0.2, 0.3), rel=0.05)
    assert Components.of(Crossed.of(np.zeros((50, 8)))) == Components(0, 0, 0)
    assert plan(0.05, 8, Components(0, 0, 0)).questions > 50  # changes nothing that was seen


@pytest.mark.parametrize(
    ("margin", "questions", "prompts", "message"),
    [
        (0.1, 70, 8, "70 questions in 8 prompts would not show .* 10 points.*: take 74 questions"),
        (0.03, 5000, 8, "no number of questions suffices: take 30 prompts or more"),
        (0.0001, 100, 3, "no number of questions and prompts suffices: take a larger --margin"),
        (0.03, 1, 1, "1 question in 1 prompt .*: take 1,322 questions.* or --pilot"),
    ],
)
def test_a_trial_must_show_a_difference_of_its_margin(margin, questions, prompts, message):
    with pytest.raises(InputError, match=message):
        check_size(plan(margin, prompts, tests=2), margin, questions, prompts)
    check_size(plan(0.1, 8, tests=2), 0.1, 74, 8)


def test_bad_input_names_the_differences_that_can_be_planned_for():
    with pytest.raises(InputError, match="a difference of 0 points"):
        plan(0.0, 8)
