"""Variants of a task: what each changes, and which are refused."""

from pathlib import Path

import pytest

from cola_jax import checkpoint
from cola_jax.question import Question
from cola_jax.tasks.task import TaskConfig
from cola_jax.tasks.variants import FIELD, reordered
from tests import tiny


@pytest.fixture(scope="module")
def words(tiny_checkpoint):
    return checkpoint.read_tokenizer(tiny_checkpoint)


@pytest.fixture(scope="module")
def choice(tmp_path_factory):
    return str(tiny.write_questions(tmp_path_factory.mktemp("task") / "arc.jsonl", 4))


def prepare(config, tokenizer):
    return config.prepare(tokenizer, context=2000, stop_tokens=lambda: (1, 7))


def texts(encoder, questions):
    return [encoder.scorer.tokenizer.decode(e.prompts.ids) for e in encoder.tokenize(questions)]


def changed(variant, questions):
    return [variant.change(question)[0] for question in questions]


def test_variants_ask_the_same_questions_otherwise(words, choice, tmp_path):
    template = tmp_path / "mine.txt"
    template.write_text(f"Think.\n{FIELD} Say.\n")
    names = ("chat", "instruction", str(template))
    prepared = prepare(TaskConfig(choice, variants=names), words)
    chat, instruction, mine = prepared.variants
    assert [variant.name for variant in prepared.variants] == list(names)
    questions = prepared.questions
    plain = texts(prepared.encoder, questions)
    assert texts(prepare(TaskConfig(choice), words).encoder, questions) == plain
    told = texts(instruction.encoder, changed(instruction, questions))
    assert all("user:" in text for text in texts(chat.encoder, changed(chat, questions)))
    assert all("Read the question with care" in text for text in told)
    ours = texts(mine.encoder, changed(mine, questions))
    for asked_again, before in zip(ours, plain, strict=True):
        assert asked_again.startswith("<s>Question: Think.\nwhich of")
        assert "? Say.\nAnswer:" in asked_again
        assert "Think" not in before
    for variant in prepared.variants:
        for question in questions:
            other, places = variant.change(question)
            assert (other.options, other.answer) == (question.options, question.answer)
            assert places == tuple(range(len(question.options)))
    again = prepare(TaskConfig(choice, chat=True, variants=("plain",)), words)
    assert texts(next(iter(again.variants)).encoder, questions) == plain
    settings = prepared.settings()
    assert settings["variants"] == sorted(names)
    assert len(set(settings["variant_records"].values())) == 3


def test_order_turns_the_options(words, choice):
    config = TaskConfig(choice, scorer="letter", variants=("order",))
    prepared = prepare(config, words)
    (order,) = prepared.variants
    turns = set()
    for before in prepared.questions:
        asked_again, places = order.change(before)
        assert asked_again.options != before.options
        assert [asked_again.options[place] for place in places] == list(before.options)
        assert asked_again.gold == before.gold
        turns.add(places[0])
    same = Question("q", "?", ("a", "a", "b"), 2)  # options that read the same keep their places
    turned, places = reordered(same)
    assert turned.gold == "b"
    assert sorted(places) == [0, 1, 2]
    with pytest.raises(ValueError, match="'order' cannot be made: question one has one option"):
        order.check([Question("one", "?", ("a",), 0)], [])


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("polite", "'polite' is not one of plain, chat"),
        ("plain", "asks just as the task does"),
        ("order", "'order' cannot be made.*does not list the options"),
        ("shots", "'shots' cannot be made.*give a file of shots"),
        ("chat", "'chat' cannot be made: the tokenizer has no chat"),
        ("bare.txt", r"bare\.txt .*does not say \{question\}"),
        ("latin.txt", r"latin\.txt .*can't decode"),
    ],
)
def test_variants_that_cannot_be_made_are_refused(choice, tmp_path, monkeypatch, variant, message):
    monkeypatch.chdir(tmp_path)
    Path("bare.txt").write_text("Think.")
    Path("latin.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=message):
        prepare(TaskConfig(choice, variants=(variant,)), tiny.tokenizer(chat=False))
