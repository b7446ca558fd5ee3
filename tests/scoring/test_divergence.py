"""The divergence from the pretrained model's predictions, against transformers' own logits."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers

import cola_jax
from cola_jax.engine.evaluator import EngineEvaluator
from cola_jax.engine.local import LocalEngine
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.question_set import QuestionSet
from cola_jax.execute.decoder import Stop
from cola_jax.execute.inputs import pad_paths
from cola_jax.path import pad_lists, random_paths
from cola_jax.scoring import Completions, Options, divergence
from cola_jax.scoring.divergence import (
    NOT_FINITE,
    Divergence,
    divergences,
    label_free_encoder,
    read_prompt,
    unanswered,
)
from cola_jax.scoring.encoder import Encoder
from tests import oracle, tiny

PATHS = random_paths(tiny.LAYERS, 5, seed=2)
QUESTIONS = tiny.questions(6)
PROMPT = "Question: {}\nAnswer:"


@pytest.fixture(scope="module")
def theirs(tiny_checkpoint):
    """The tiny model in transformers."""
    folder = tiny_checkpoint.parent / "theirs"
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def expected(theirs, ids, path, start, most):
    """Compute KL(identity || path) of a text, the mean over evenly spaced positions."""
    p, q = (
        torch.from_numpy(oracle.logits(theirs, [ids], layers)[0]).log_softmax(-1)
        for layers in (range(tiny.LAYERS), path)
    )
    each = (p.exp() * (p - q)).sum(-1)[start:]
    spaced = {i * (len(each) - 1) // (most - 1) for i in range(most)}
    return each[sorted(spaced)].mean()


@pytest.mark.parametrize(("asks", "most"), [("options", 64), ("options", 3), ("completions", 64)])
def test_divergence_is_that_of_transformers(model, words, theirs, monkeypatch, asks, most):
    monkeypatch.setattr(divergence, "READS", most)
    if asks == "options":
        inner, texts = Options(words), [PROMPT.format(q.text) for q in QUESTIONS]
    else:  # the prompts of a scorer that decodes are read, not continued
        stop = Stop((), (), tokenizer=words)
        inner, texts = Completions(words, stop=stop, max_new_tokens=4), [q.text for q in QUESTIONS]
    ids = [words(text).input_ids for text in texts]
    encoder = label_free_encoder(Encoder((inner,)), QUESTIONS, None)
    encoded = encoder(QUESTIONS, None)
    start = int(encoded[0].prompts.read[0])
    assert start > 3
    assert all(row[:start] == ids[0][:start] for row in ids)
    assert len({row[start] for row in ids}) > 1
    handle = ModelHandle.of(model)
    asked = QuestionSet.of(QUESTIONS, encoder, handle)
    evaluate = EngineEvaluator(LocalEngine(), handle, asked)
    few = pad_lists([[PATHS[0]], *[[]] * 5], 12)
    assert divergences(evaluate(few))[0, 0] > 0.01  # the identity path of one question has run
    every = pad_paths([*PATHS, range(tiny.LAYERS)], len(QUESTIONS), tiny.LAYERS)
    got = divergences(evaluate(every))
    for c, path in enumerate(PATHS):
        want = [expected(theirs, row, path, start, most) for row in ids]
        np.testing.assert_allclose(got[:, c], want, rtol=1e-3, atol=1e-5)
    assert np.abs(got[:, -1]).max() < 1e-5  # the model's own path


def test_divergence_knows_no_answers(words):
    """Of questions that differ in options and gold alone, all that is run and stored is equal."""
    scorer, (question, *_) = Divergence(Options(words)), QUESTIONS
    other = cola_jax.Question(question.id, question.text, ("rock", "leaf bird"), 1)
    first, second = scorer.encode(question), scorer.encode(other)
    assert first.question == second.question
    assert first.prompt_hash == second.prompt_hash
    assert first.prompts.ids.tolist() == second.prompts.ids.tolist()
    after_shots = read_prompt(second, 5)  # other positions: another measurement
    assert after_shots.prompt_hash != first.prompt_hash


def test_label_free_encoder_skips_what_the_prompts_of_a_group_share(words):
    *questions, first_shot, second_shot = tiny.questions(26)
    scorers = Options(words, shots=[first_shot]), Options(words, shots=[first_shot, second_shot])
    encoder = Encoder(scorers)
    free = label_free_encoder(encoder, questions, None)
    assert 20 < free.skips[0] < free.skips[1]
    for question, row in zip(questions, free(questions, None), strict=True):
        group = encoder.group(question)
        ids, first = row.prompts.ids.tolist(), int(row.prompts.read[0])
        assert words.decode(ids[:first]).count("Question:") == group + 2
        assert words.decode(ids[:first]).endswith("which of the")
        assert row.question == unanswered(question)
        assert row.prompt_hash == read_prompt(scorers[group].encode(question), first).prompt_hash
    sizes = free.sizes(questions, free.check(questions))
    assert sizes == free.sizes(
        [unanswered(question) for question in questions], free.check(questions)
    )
    short = cola_jax.Question("s", "", ("a", "b"))  # ends before the shared tokens of others do
    (row,) = dataclasses.replace(free, skips=(1000, 1000))([short], None)
    assert row.prompts.read.tolist() == [row.num_tokens - 1]
    assert isinstance(free.scorer, Divergence)


def test_divergence_from_a_model_that_is_not_finite_is_the_worst(model, words):
    (stack,) = model.layers
    layers = (stack.replace(down=stack.down.at[3].set(np.nan)),)
    scorer, broken = Divergence(Options(words)), model.replace(layers=layers)
    verdicts = cola_jax.evaluate(broken, QUESTIONS[:2], [(0, 1), (0, 3)], scorer=scorer).verdicts
    assert (divergences(verdicts) == NOT_FINITE).all()
