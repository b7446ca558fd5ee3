"""Drawn wordings: distinct, the same for a seed, and none both to choose and to measure."""

import dataclasses

import pytest

from cola_jax.errors import InputError
from cola_jax.tasks import TaskConfig
from tests import tiny

SUMS = TaskConfig("arithmetic", limit=12, level=1)


def prepare(config, several=False, context=400, **options):
    make = config.prepare_prompts if several else config.prepare
    return make(tiny.tokenizer(), context=context, stop_tokens=lambda: (1, 7), **options)


def choices(write, count):
    rows = [
        {"id": str(i), "question": f"number {i}?", "options": list("wxyz"), "answer": "y"}
        for i in range(count)
    ]
    return str(write(*rows))


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


def test_drawn_wordings_keep_the_shots_that_they_may_show_alone():
    again = prepare(SUMS, again=True).again
    assert len(again) == 4
    for worded in again:
        shots = worded.scorer.shots
        assert len(shots.pool[None]) == shots.count + 2


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
    config = TaskConfig(choices(write, 4), scorer="letter", prompts=6)
    every = prepare(config, several=True)
    orders = {each.questions[0].options for each in every}
    assert len(orders) > 1
    assert {each.questions[0].gold for each in every} == {"y"}
    assert {each.scorer.format for each in every} == {"harness", "plain"}


def test_paths_are_asked_again_in_orders_of_each_questions_own_options(write):
    config = TaskConfig(choices(write, 12), scorer="letter", choose_prompts=3, prompts=2)
    prepared = prepare(config, again=True)
    assert len({question.options for question in prepared.questions}) > 1
    for worded in prepared.again:
        for question in prepared.questions:
            asked = worded.ask(question)
            listed = [question.options[i] for i in worded.order(question)]
            assert (listed, asked.gold) == (list(asked.options), question.gold)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 4),  # where they exist, and they do: 3 formats, and 2 messages of a chat
        ({"prompts": 5}, 5),
        ({"prompts": 0}, 0),
        ({"scorer": "letter"}, 4),
        ({"format": "short"}, 1),  # the chat template
        ({"scorer": "letter", "format": "plain", "prompts": 7}, 7),
    ],
)
def test_a_search_asks_again_in_other_wordings(write, settings, expected):
    prepared = prepare(TaskConfig(choices(write, 5), **settings), again=True)
    assert len(prepared.again) == expected
    assert prepared.settings().get("prompts", 0) == expected
    texts = [prompts_of(prepared)]
    texts += [[each.prompts.ids.tolist() for each in sample] for sample in prepared.again.values()]
    assert len(set(map(str, texts))) == 1 + expected
    assert not prepare(TaskConfig(choices(write, 5), **settings)).again


def test_few_wordings_are_counted_for_what_they_are(write):
    """Orders of the same shots are one, and so are formats that a chat shows alike."""
    shots = [{"prompt": f"{i} + 1 =", "answer": f"{i + 1}"} for i in range(4)]
    file = write(*shots, name="shots")
    sums = TaskConfig(
        write({"prompt": "7 + 1 =", "answer": "8"}), shots=3, shots_file=file, scorer="exact"
    )
    with pytest.raises(InputError, match="has 7 other wordings, but 8 are wanted"):
        prepare(dataclasses.replace(sums, prompts=8), several=True)
    measured = prepare(dataclasses.replace(sums, prompts=7), several=True)
    shown = [(each.scorer.chat, *sorted(each.record["prompt"]["shots"])) for each in measured]
    assert len(set(shown)) == 7
    with pytest.raises(InputError, match="has 5 other wordings, but 6 are wanted"):
        prepare(TaskConfig(choices(write, 5), prompts=6), several=True)


def test_the_chat_is_no_reason_for_too_few_wordings(write):
    file = choices(write, 5)
    config = TaskConfig(file, shots=1, shots_file=file, prompts=20)
    with pytest.raises(InputError, match="wordings, but 20 are wanted: show solved"):
        prepare(config, again=True)  # in a chat, options show no shots


def test_a_usual_number_of_wordings_is_as_many_as_there_are(write, caplog):
    config = TaskConfig(choices(write, 5))
    assert len(prepare(config, several=True, usual=8)) == 5
    assert "has 5 other wordings, in which results are measured" in caplog.text


def test_a_wording_that_exceeds_the_context_is_left_out(write):
    rows = [
        {"id": name, "question": text, "options": ["w", "x"], "answer": "w"}
        for name, text in (("a", "number?"), ("b", "which number is it? " * 4))
    ]
    config = TaskConfig(write(*rows))
    context = max(int(each.prompts.positions.max()) + 1 for each in prepare(config).sample)
    fewer = prepare(config, again=True, context=context)
    assert {worded.scorer.format for worded in fewer.again} <= {"short", "bare"}
    assert 0 < len(fewer.again) < 4
    with pytest.raises(InputError, match=r"but 4 are wanted \(question b has .* give --prompts 2"):
        prepare(dataclasses.replace(config, prompts=4), again=True, context=context)
    resumed = prepare(dataclasses.replace(config, prompts=2), again=True, context=context)
    assert resumed.settings() == fewer.settings()


def test_a_search_that_is_resumed_chooses_over_the_same_prompts(write):
    config = TaskConfig(choices(write, 5), choose_prompts=2)
    first = prepare(config, again=True)
    number = first.settings()["prompts"]
    resumed = prepare(dataclasses.replace(config, prompts=number), again=True)
    assert resumed.settings() == first.settings()


def test_no_other_prompts_measure_a_result_in_the_task_s_own(write):
    config = TaskConfig(choices(write, 5), prompts=0)
    assert len(prepare(config, several=True, usual=8)) == 1


def test_a_task_without_other_prompts_is_refused(write):
    config = TaskConfig(str(write({"prompt": "1 + 1 =", "answer": "2"})), prompts=2)
    with pytest.raises(InputError, match=r"1 other wording, but 2 .*--num-fewshot 1"):
        prepare(config, several=True)
    alone = config.with_prompts(4, 8)
    assert (alone.choose_prompts, alone.prompts) == (1, 2)
    assert SUMS.with_prompts(4, 8).prompts == 8
    for name, count in (("prompts", -1), ("choose_prompts", 0), ("prompts", 1_000_000_000)):
        with pytest.raises(InputError, match=f"{name} must be from . to 1,000, it is "):
            dataclasses.replace(config, **{name: count})
