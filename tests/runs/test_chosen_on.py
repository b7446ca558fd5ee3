"""`ChosenOn`: keys of questions and wordings, known of runs of this and of earlier versions."""

import dataclasses
from pathlib import Path

import pytest

from cola_jax.question import Question, open_question
from cola_jax.runs.chosen_on import ChosenOn, question_key
from cola_jax.runs.run import Run
from cola_jax.tasks.task import load_questions
from cola_jax.tasks.wordings import wording_facts, wording_key
from tests.small_runs import EVALUATE, WHOLE, evaluated_run, letters, make_run, run  # noqa: F401

EARLIER = Path(__file__).parent / "earlier"
ASKED = Question("q", "Which?", ("sun", "moon"), 1)
SHOTS = {"prompt": {"format": "harness", "shots": ["a", "b"]}}


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"id": "other"}, True),
        ({"text": " Which?\n"}, True),
        ({"options": ("moon", "sun"), "answer": 0}, True),
        ({"text": "Why?"}, False),
        ({"options": ("sun", "star")}, False),
        ({"picture": b"png"}, False),
    ],
)
def test_question_key_is_that_of_what_is_asked(changes, same):
    other = dataclasses.replace(ASKED, **changes)
    assert (question_key(other) == question_key(ASKED)) is same


def test_question_key_of_an_open_question_is_that_of_any_decoy():
    question = open_question("q", "1 + 1", "2")
    assert question_key(question) == question_key(question.with_decoy("7"))


@pytest.mark.parametrize(
    ("record", "other", "same"),
    [
        (SHOTS, {"prompt": {"format": "harness", "shots": ["b", "a"]}}, True),
        (SHOTS, {"prompt": {"format": {"name": "harness", "stop": []}, "shots": ["a", "b"]}}, True),
        (SHOTS, {"prompt": {"format": "plain", "shots": ["a", "b"]}}, False),
        (SHOTS, {"prompt": {"format": "harness", "shots": ["a", "c"]}}, False),
        (SHOTS, SHOTS | {"chat": {"add_generation_prompt": True}}, False),
        ({}, {"prompt": {"format": "plain", "shots": []}}, True),
        # a draw orders the options of a prompt that lists them
        ({"scorer": "letter"}, {"scorer": "letter", "prompt_set": "measure 0, seed 0"}, False),
        ({"scorer": "options"}, {"scorer": "options", "prompt_set": "measure 0, seed 0"}, True),
        ({"scorer": "options"}, {"scorer": "letter"}, False),
    ],
)
def test_wording_key_is_that_of_what_is_shown(record, other, same):
    assert (wording_key(record) == wording_key(other)) is same


def test_wording_facts_name_what_is_shown():
    record = {"prompt": {"format": {"name": "gsm8k"}, "shots": ["a", "b"]}, "chat": True}
    facts = {"format": "gsm8k", "shots": 2, "chat": True, "draw": "choose 0, seed 0"}
    facts["key"] = wording_key(record) or ""
    assert wording_facts(record | {"prompt_set": "choose 0, seed 0"}) == facts
    plain = {"format": "plain", "shots": 0, "chat": False, "key": wording_key({})}
    assert wording_facts({"scorer": "options"}) == plain
    unknown = wording_facts({"prompt": {"format": "plain", "num_fewshot": 2}})
    assert unknown == {"format": "plain", "shots": 2, "chat": False}


def test_wording_key_is_unknown_where_shots_were_not_recorded():
    assert wording_key({"prompt": {"format": "plain", "num_fewshot": 2}}) is None
    assert wording_key({"prompt": {"format": "plain", "shots": [], "num_fewshot": 2}}) is None


def test_chosen_on_has_all_prompts_of_a_choice_and_says_what_is_not_known():
    drawn = [SHOTS, {"prompt": {"format": "plain", "shots": []}}]
    several = ChosenOn.of([ASKED], SHOTS | {"choose_prompts": drawn})
    assert (len(several.questions), len(several.wordings)) == (1, 2)
    assert several.describe() == "1 question in 2 prompts"
    unknown = ChosenOn.of([ASKED], {"prompt": {"format": "plain", "num_fewshot": 2}})
    assert unknown.describe() == "1 question in prompts that were not recorded"
    both = several | unknown
    assert both.describe() == "1 question in 2 prompts or more"
    assert ChosenOn.from_json(both.to_json()) == both
    common = several.overlap(ChosenOn.of([], SHOTS))
    assert (len(common.questions), len(common.wordings)) == (0, 1)


def test_a_run_is_chosen_on_its_questions_and_a_single_path_on_none(run, evaluated_run, tmp_path):  # noqa: F811
    for made, questions in ((run, 5), (evaluated_run, 2)):
        chosen_on = ChosenOn.from_json(made.summary().run["chosen_on"])
        assert (len(chosen_on.questions), len(chosen_on.wordings)) == (questions, 1)
    one = letters("q1", [(WHOLE, 0, True)])
    single = make_run(tmp_path, one, **EVALUATE | {"paths": [list(WHOLE)]})
    assert "chosen_on" not in single.summary().run


@pytest.mark.parametrize(("name", "complete"), [("evaluate", True), ("variants", False)])
def test_runs_of_earlier_versions_have_the_same_keys(name, complete):
    chosen_on = Run(EARLIER / name).chosen_on()
    asked = map(question_key, load_questions(str(EARLIER / "task.jsonl")))
    assert chosen_on.questions <= {*asked}
    assert chosen_on.questions
    assert chosen_on.complete is complete
