"""Pictures in the prompts of scorers."""

import dataclasses

import numpy as np
import pytest
import torch

pytest.importorskip("PIL")

import cola_jax
from cola_jax import checkpoint
from cola_jax.errors import InputError
from cola_jax.execute.decoder import Stop
from cola_jax.prompts import Prompts
from cola_jax.scoring import Letter, Options
from cola_jax.scoring.generation import Completions
from cola_jax.scoring.pictures import with_pictures
from cola_jax.scoring.verdicts import Completion
from tests import pictures, tiny


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COLA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(seeing):
    return seeing("smolvlm")


@pytest.fixture
def tokenizer(folder):
    return checkpoint.read_tokenizer(str(folder / "ours"))


@pytest.mark.parametrize("name", ["llava-llama", "smolvlm"])
def test_evaluator_scores_options_after_a_picture(seeing, name):
    """As transformers scores each option alone, beside a question without a picture."""
    folder, path = seeing(name), (0, 1, 1, 2, 3)
    theirs, processor = pictures.loaded(folder)
    model = cola_jax.load(str(folder / "ours"))
    questions = [pictures.question(1), tiny.questions(1)[0], pictures.question(2)]
    evaluation = cola_jax.evaluate(model, questions, [path], scorer="options")
    scores = evaluation.verdicts.scores[:, 0]
    for question, ours in zip(questions, scores, strict=True):
        prompt = f"Question: {question.text}\nAnswer:"
        seen = {} if question.picture is None else {"images": [pictures.rgb(question.picture)]}
        start = processor(text=prompt, **seen, return_tensors="pt")["input_ids"].shape[1]
        for option, score in zip(question.options, ours, strict=False):
            inputs = processor(text=f"{prompt} {option}", **seen, return_tensors="pt")
            logprobs = torch.from_numpy(pictures.logits(theirs, inputs, path)[0]).log_softmax(-1)
            targets = inputs["input_ids"][0][start:]
            expected = logprobs[start - 1 : -1].gather(1, targets[:, None]).sum()
            assert abs(score - expected) < 1e-4


def test_with_pictures_refuses_prompts_that_show_another_number(folder, tokenizer):
    question, place = pictures.question(1), str(folder / "ours")
    blind = dataclasses.replace(question, picture=None)
    scorer = Options(tokenizer)
    with pytest.raises(InputError, match="q1: its prompt says <image> 1 time, but it has no"):
        with_pictures(scorer, [scorer.encode(blind)], place)
    shots = Options(tokenizer, shots=[pictures.question(2)])
    with pytest.raises(InputError, match=r"says <image> 2 times, but it has one.*--num-fewshot 0"):
        with_pictures(shots, [shots.encode(question)], place)
    broken = dataclasses.replace(question, picture=b"broken")
    with pytest.raises(InputError, match="question q1: the picture is broken"):
        with_pictures(scorer, [scorer.encode(broken)], place)
    short = Options(tokenizer, context=30)
    with pytest.raises(InputError, match=r"question q1 has .* tokens, but the model's context"):
        with_pictures(short, [short.encode(question)], place)


def test_text_models_are_not_asked_about_pictures(tiny_checkpoint):
    model = cola_jax.load(str(tiny_checkpoint))
    with pytest.raises(InputError, match="reads text alone"):
        cola_jax.evaluate(model, [pictures.question(1)], scorer="letter")


def test_chat_shows_a_picture_as_its_template_wants(folder, tokenizer):
    tokenizer.chat_template = (
        "{% for m in messages %}U:{% for part in m['content'] %}"
        "{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %} "
        "{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}A:"
    )
    scorer = Letter(tokenizer, chat=True)
    (encoded,) = with_pictures(scorer, [scorer.encode(pictures.question(1))], str(folder / "ours"))
    assert encoded.prompt.startswith("U:<image> which of the sun?\nA. water ice")
    text = tokenizer.decode(np.asarray(encoded.prompts.ids))
    assert text.startswith("U:<fake_token_around_image><row_1_col_1><image>")
    assert "<fake_token_around_image> which of the sun?\nA. water ice" in text
    assert (np.asarray(encoded.prompts.positions) == np.arange(len(encoded.prompts.ids))).all()


def test_completions_follow_a_picture(folder, tokenizer):
    """As transformers decodes, and read again with the picture in its place."""
    theirs, processor = pictures.loaded(folder)
    model, path = cola_jax.load(str(folder / "ours")), (0, 1, 2, 3)
    scorer = Completions(tokenizer, stop=Stop(), max_new_tokens=4)
    question = dataclasses.replace(pictures.question(1), options=(), answer=0, open=True)
    (encoded,) = with_pictures(scorer, [scorer.encode(question)], str(folder / "ours"))
    out = cola_jax.generate(model, Prompts.stack([encoded.prompts]), path, max_new_tokens=4)
    inputs = processor(
        text=question.text, images=[pictures.rgb(question.picture)], return_tensors="pt"
    )
    length = inputs["input_ids"].shape[1]
    decoded = theirs.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    tokens = tuple(decoded[0, length:].tolist())
    assert out.tokens[0].tolist() == list(tokens)
    made = Completion("", None, "length", True, None, tokens, 0.0)
    again = scorer.reread(encoded, made).prompts
    readings = cola_jax.run_paths(model, Prompts.stack([again]), [path])
    assert readings.token[0, 0].tolist() == list(tokens)
