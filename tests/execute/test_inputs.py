"""Prompts and paths in every form, those that are refused, and the buckets of their sizes."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cola_jax
from cola_jax.execute import inputs
from cola_jax.execute.inputs import check_batch, pad_paths
from cola_jax.model import unembed
from cola_jax.params import Origin
from cola_jax.path import STOP
from cola_jax.prompts import NO_READ, PADDING, Prompts
from tests import oracle
from tests.execute import batches
from tests.execute.test_reference import LENGTHS, PAD, PATH, encoding_of

TEXTS = ["the sun and the moon", "the sun"]
EDITED = (0, 1, 1, 2, 3, 4)


def test_as_prompts_takes_ids_prompts_and_encodings():
    encoding = encoding_of("left")
    prompts = inputs.as_prompts(encoding)
    assert inputs.as_prompts(prompts) is prompts
    assert np.array_equal(prompts.branch == PADDING, encoding["attention_mask"].numpy() == 0)
    plain = inputs.as_prompts(encoding["input_ids"].numpy())
    assert (np.asarray(plain.branch) == 0).all()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2, 3], [PAD, PAD, 3]], "row 1 begins"),
        ([[PAD, PAD, 3], [PAD, PAD, 3]], "row 0 begins"),
        ([[1, 2, 3], [1, 2, PAD]], "row 1 ends"),
        ([[1, PAD, PAD]], "row 0 ends"),
        ([[PAD, 2, 3], [PAD, 1, 1]], None),  # the first token of every text
        ([[1, 2, PAD]], None),
        ([[PAD]], None),
        ([[1, PAD, PAD, 2]], None),
    ],
)
def test_as_prompts_refuses_visible_padding(ids, message):
    ids = np.array(ids)
    inputs.as_prompts(ids)
    inputs.as_prompts({"input_ids": ids, "attention_mask": np.ones_like(ids)}, PAD)
    jax.eval_shape(lambda ids: inputs.as_prompts(ids, PAD), ids)
    refused = contextlib.nullcontext()
    if message is not None:
        refused = pytest.raises(ValueError, match=f"{message} with the pad token {PAD}")
    for prompts in (ids, jnp.asarray(ids), {"input_ids": ids}):
        with refused:
            inputs.as_prompts(prompts, PAD)


def test_padded_right_moves_the_padding_alone():
    left = inputs.as_prompts(encoding_of("left"))
    read, targets = np.array([[11, NO_READ], [11, 5], [11, 11]]), np.arange(6).reshape(3, 2)
    right = inputs.padded_right(left.replace(read=read, targets=targets))
    expected = inputs.as_prompts(encoding_of("right"))
    expected = expected.replace(read=np.array([[11, NO_READ], [6, 0], [0, 0]]), targets=targets)
    batches.assert_identical(right, jax.tree.map(np.asarray, expected))
    batches.assert_identical(inputs.padded_right(right), right)


def test_generate_honours_the_attention_mask(pair):
    models, encoding = pair("qwen2-window"), encoding_of("left")
    out = cola_jax.generate(models.ours, encoding, [[PATH]] * 3, max_new_tokens=3)
    for b, length in enumerate(LENGTHS):
        ids = encoding["input_ids"].numpy()[b : b + 1, -length:]
        theirs = oracle.decode(models.theirs, ids, PATH, 3)
        np.testing.assert_array_equal(out.tokens[b, 0], theirs[0])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ((0, 6), r"layer ids \[6\], but the model has layers 0\.\.5"),
        (np.array([STOP, STOP]), "at least one layer"),
        ([0, 1, STOP], r"layer ids \[-1\], .*\(-1 pads arrays alone\)"),
        (np.array([[0, 1]]), r"path has shape \(1, 2\)"),
        (np.array([0.0, 1.5]), "whole numbers"),
    ],
)
def test_paths_are_checked(model, questions, path, message):
    with pytest.raises(ValueError, match=message):
        cola_jax.run_path(model, oracle.random_ids(1), path)
    with pytest.raises(ValueError, match=message):
        cola_jax.run_paths(model, questions, [[path]] * 3)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (np.array([PATH] * 3), r"shape \(3, 6\), but must be ids \[B, C, P\]"),
        (np.array([[PATH]] * 3, float), r"float64 of shape \(3, 1, 6\), but must be ids"),
        (np.array([[(0, STOP, 1)]] * 3), r"layer ids \[-1\], but the model has"),
        ([[PATH]] * 2, "paths for 2 questions, but 3 prompts"),
    ],
)
def test_pad_paths_refuses_bad_arrays(paths, message):
    with pytest.raises(ValueError, match=message):
        pad_paths(paths, 3, oracle.LAYERS)


IDS = oracle.random_ids(2)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (IDS[0], r"ids is int32 of shape \(12,\), but must be integers \[B, T\]"),
        (np.where(np.arange(12) == 3, 97, IDS), r"97.*vocabulary is 0\.\.96"),
        (np.where(np.arange(12) == 3, -1, IDS), r"-1.*vocabulary is 0\.\.96"),
        (oracle.random_ids(1, 129), "129 tokens, but the model's context is 128"),
        (
            Prompts.plain(IDS).replace(branch=np.where(np.arange(12) == 3, PADDING, 0 * IDS)),
            "padding between two tokens",
        ),
    ],
)
def test_run_path_refuses_bad_prompts(model, prompts, message):
    with pytest.raises(ValueError, match=message):
        cola_jax.run_path(model, prompts, PATH)


def test_check_batch_refuses_bad_prompts(model, questions):
    cases = [
        ({"targets": None}, "give prompts both `read` and `targets`"),
        ({"targets": np.full_like(questions.targets, 97)}, r"targets run from 97 to 97.*0\.\.96"),
        ({"branch": questions.branch[:, ::-1]}, "padded on the right"),
    ]
    embeddings = np.zeros((3, 2, model.config.width))
    for wrong, message in [
        ({"embeddings": embeddings}, r"embeddings \[3, 2, 32\] at places \[\]"),
        ({"embeddings": embeddings[:1], "places": np.array([[0, 1]])}, r"at \[B, I\] for 3 rows"),
        (
            {"embeddings": embeddings, "places": np.array([[0, 1], [0, -1], [1, 5]])},
            r"given embeddings at .*\[1, 5\]",
        ),
    ]:
        cases.append((wrong, message))
    for place in (12, 99, -2):  # the first question has twelve tokens, its row has more
        read = np.where(questions.read == 11, place, questions.read)
        cases.append(({"read": read}, rf"read at .*{place}.* but have \[12, 40, 5\] tokens"))
    for change, message in cases:
        with pytest.raises(ValueError, match=message):
            check_batch(model, questions.replace(**change), [[PATH]] * 3)


@pytest.fixture(scope="module")
def texted(tiny_checkpoint):
    """A model with a tokenizer."""
    return cola_jax.load(tiny_checkpoint)


@pytest.fixture(scope="module")
def tokenizer(tiny_checkpoint):
    return cola_jax.load_tokenizer(tiny_checkpoint)


def test_run_path_takes_texts(texted, tokenizer):
    both = cola_jax.run_path(texted, TEXTS, "0,1,1,2-4")
    for b, text in enumerate(TEXTS):
        alone = cola_jax.run_path(texted, tokenizer([text], return_tensors="np"), EDITED)[0]
        np.testing.assert_allclose(both[b, : len(alone)], alone, atol=1e-5)
    single = cola_jax.run_path(texted, TEXTS[1], list(EDITED))[0]
    np.testing.assert_allclose(single, alone, atol=1e-5)


def test_texts_need_a_tokenizer(texted, monkeypatch):
    with pytest.raises(ValueError, match="was not loaded from a checkpoint with a tokenizer"):
        cola_jax.run_path(texted.replace(origin=Origin()), "the sun", "0-4")
    with pytest.raises(ValueError, match=r"names layer 9, but the model has layers 0\.\.4"):
        cola_jax.run_path(texted, "the sun", "0-9")
    monkeypatch.setattr(inputs, "tokenizer_of", lambda _: lambda texts: {"input_ids": [[1], []]})
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        cola_jax.run_path(texted, TEXTS, "0-4")


def test_run_path_returns_states(texted):
    """The logit lens: each state through the unembedding."""
    padded = np.array([*EDITED, -1, -1])
    logits, states = cola_jax.run_path(texted, TEXTS[:1], padded, return_states=True)
    assert states.shape == (1 + len(EDITED), *logits.shape[:2], texted.config.width)
    np.testing.assert_allclose(unembed(texted, states[-1]), logits, atol=1e-5)
    for end in (1, 3):
        shorter = cola_jax.run_path(texted, TEXTS[:1], np.array([*EDITED[:end], *[-1] * (8 - end)]))
        np.testing.assert_allclose(unembed(texted, states[end]), shorter, atol=1e-5)


@pytest.mark.parametrize(
    ("paths", "wanted"),
    [
        ("0-2", [[(0, 1, 2)]] * 2),
        (range(3), [[(0, 1, 2)]] * 2),
        (np.array([0, 1, 2]), [[(0, 1, 2)]] * 2),
        (["0-2", [0, 2]], [[(0, 1, 2), (0, 2)]] * 2),
        ([(0, 1), (0, 2)], [[(0, 1), (0, 2)]] * 2),
        ([["0-2"], [(0, 1), "0,2"]], [[(0, 1, 2)], [(0, 1), (0, 2)]]),
        ([[], ["0-2"]], [[], [(0, 1, 2)]]),
    ],
)
def test_pad_paths_takes_paths_in_every_form(paths, wanted):
    padded = pad_paths(paths, 2, 5)
    lists = [[tuple(c[c >= 0].tolist()) for c in row if (c >= 0).any()] for row in padded]
    assert lists == wanted


def test_run_paths_asks_about_the_next_token(texted, tokenizer):
    readings = cola_jax.run_paths(texted, TEXTS, ["0-4", EDITED])
    logits = cola_jax.run_path(texted, TEXTS, EDITED)
    ids = tokenizer(TEXTS)["input_ids"]
    for b, row in enumerate(ids):
        logprobs = jax.nn.log_softmax(logits[b, : len(row) - 1])
        wanted = [float(logprobs[t, row[t + 1]]) for t in range(len(row) - 1)]
        np.testing.assert_allclose(readings.logprob[b, 1, : len(wanted)], wanted, atol=1e-4)
    with pytest.raises(ValueError, match="a prompt of one token has none after it"):
        cola_jax.run_paths(texted, np.array([[3]]), ["0-4"])


def test_generate_returns_texts(texted, tokenizer):
    out = cola_jax.generate(texted, TEXTS, max_new_tokens=3)
    tokens = out.tokens[0, : out.length[0]].tolist()
    assert out.text[0] == tokenizer.decode(tokens)
    frame = out.to_pandas()
    assert frame.text.tolist() == out.text.tolist()
    assert frame.tokens[0] == tokens
    bare = cola_jax.generate(texted.replace(origin=Origin()), oracle.random_ids(1, 3), "0-4")
    assert bare.text.tolist() == [""]


def test_generate_has_no_axis_of_paths_for_one_path(texted):
    single = cola_jax.generate(texted, TEXTS, "0-1,3-4", max_new_tokens=3)
    several = cola_jax.generate(texted, TEXTS, ["0-1,3-4"], max_new_tokens=3)
    assert isinstance(single.text[0], str)
    for field, every in zip(single, several, strict=True):
        np.testing.assert_array_equal(field, every[:, 0])
    assert single.to_pandas().equals(several.to_pandas())
    assert cola_jax.generate(texted, TEXTS[0], max_new_tokens=3).text.shape == (1,)
