"""Prompts that are drawn: distinct, the same for a seed, and none both to choose and to measure."""

import dataclasses

import pytest

from cola_jax.errors import InputError
from cola_jax.tasks import TaskConfig
from tests import tiny

SUMS = TaskConfig("arithmetic", limit=12, level=1)


def prepare(config, several=False):
    make = config.prepare_prompts if several else config.prepare
    return make(tiny.tokenizer(), context=400, stop_tokens=lambda: (1, 7))


def prompts_of(prepared):
    encoded = prepared.encoder.tokenize(prepared.questions)
    return [each.prompts.ids.tolist() for each in encoded]


def test_prompts_are_distinct_and_depend_on_the_seed_alone():
    five = prepare(dataclasses.replace(SUMS, prompts=5), several=True)
    assert len({str(prompts_of(each)) for each in five}) == 5
    assert len({each.settings()["prompt_set"] for each in five}) == 5
    assert [prompts_of(each) for each in five[:3]] == [
        prompts_of(each) for each in prepare(dataclasses.replace(SUMS, prompts=3), several=True)
    ]
    other = dataclasses.replace(SUMS, prompts=3, shots_seed=1)
    assert not {str(prompts_of(each)) for each in five} & {
        str(prompts_of(each)) for each in prepare(other, several=True)
    }


def test_one_prompt_is_the_task_s_own():
    (alone,) = prepare(SUMS, several=True)
    assert prompts_of(alone) == prompts_of(prepare(SUMS))


def test_questions_are_chosen_over_prompts_that_measure_nothing():
    chosen = prepare(dataclasses.replace(SUMS, choose_prompts=3))
    asked = {tuple(shots["prompt"]["shots"]) for shots in chosen.settings()["choose_prompts"]}
    measured = prepare(dataclasses.replace(SUMS, prompts=8), several=True)
    assert len(asked) == 3
    assert not asked & {tuple(each.record["prompt"]["shots"]) for each in measured}
    more = prepare(dataclasses.replace(SUMS, choose_prompts=3, limit=15))
    assert prompts_of(more)[:12] == prompts_of(chosen)  # a run of more questions goes on


def test_letters_are_asked_in_other_orders_and_formats(write):
    rows = [
        {"id": str(i), "question": f"number {i}?", "options": list("wxyz"), "answer": "y"}
        for i in range(4)
    ]
    config = TaskConfig(str(write(*rows)), scorer="letter", prompts=6)
    every = prepare(config, several=True)
    orders = {each.questions[0].options for each in every}
    assert len(orders) > 1
    assert {each.questions[0].gold for each in every} == {"y"}
    assert {each.scorer.harness for each in every} == {True, False}


def test_variants_keep_the_options_of_each_prompt(write):
    rows = [
        {"id": str(i), "question": f"number {i}?", "options": list("wxyz"), "answer": "y"}
        for i in range(12)
    ]
    config = TaskConfig(str(write(*rows)), scorer="letter", choose_prompts=3, variants=("order",))
    prepared = prepare(config)
    (variant,) = prepared.variants
    assert len({question.options for question in prepared.questions}) > 1
    for question in prepared.questions:
        changed, places = variant.change(question)
        assert [changed.options[place] for place in places] == list(question.options)


def test_a_task_without_other_prompts_is_refused(write):
    config = TaskConfig(str(write({"prompt": "1 + 1 =", "answer": "2"})), prompts=2)
    with pytest.raises(InputError, match=r"0 other prompts .* but 2 .*--num-fewshot 1"):
        prepare(config, several=True)
    alone = config.with_prompts(4, 8)
    assert (alone.choose_prompts, alone.prompts) == (1, 2)
    assert SUMS.with_prompts(4, 8).prompts == 8
    with pytest.raises(InputError, match="leave out --variants or --prompts"):
        prepare(dataclasses.replace(SUMS, prompts=2, variants=("shots",)), several=True)
    for count in (0, 1_000_000_000):
        with pytest.raises(InputError, match="prompts must be from 1 to 1,000 prompts, it is "):
            dataclasses.replace(config, prompts=count)


def test_check_names_the_flags_that_give_a_task_more_prompts(write):
    choices = str(write({"question": "which?", "options": ["a", "b"], "answer": "b"}))
    for config, message in (
        (TaskConfig(choices, prompts=2), "2 --shots-file FILE, to show examples, or --scorer lett"),
        (TaskConfig(choices, choose_prompts=3), "one prompt, and 3 are wanted"),
        (TaskConfig("gsm8k", prompts=2), "give --num-fewshot 2, to show examples.$"),
        (TaskConfig("arithmetic", shots=0, prompts=2), "give --num-fewshot 2, to show examples.$"),
    ):
        with pytest.raises(InputError, match=message):
            config.check()
    TaskConfig(choices, scorer="letter", prompts=2).check()
    TaskConfig(choices, shots=1, prompts=2).check()
    TaskConfig(choices, prompts=1).check()
    SUMS.with_prompts(4, 8).check()


def test_draw_ends_where_a_task_has_no_further_prompts(write):
    rows = [{"question": f"number {i}?", "options": list("wxyz"), "answer": "y"} for i in range(3)]
    config = TaskConfig(str(write(*rows)), scorer="options", prompts=1000)
    with pytest.raises(InputError, match=r"0 other prompts .* but 1000 .*--num-fewshot 1"):
        prepare(config, several=True)
