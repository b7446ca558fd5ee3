"""Features: hidden states of prompts along paths, without what is packed after them."""

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.deploy.router import features
from cola_jax.deploy.router.targets import path_of_counts
from cola_jax.model import block, embed, view
from cola_jax.params import layer_at
from cola_jax.prompts import Prompts
from cola_jax.scoring.encode import pack

PROMPT = [5, 9, 2, 7, 11, 3, 8, 6, 4, 10, 12]


@pytest.fixture(scope="module")
def model(pair):
    return pair("llama-gqa").ours


def plain(*rows):
    return Prompts.stack([pack(row, [])[0].replace(read=None, targets=None) for row in rows])


def states(model, prompts, path):
    """Runs layers one by one, without padding: what the features must agree with."""
    h, here = embed(model, jnp.asarray(prompts.ids)), view(model.config, prompts)
    for i in path:
        h = block(model.config, layer_at(model.config, model.layers, jnp.int32(i)), h, here)
    h = np.asarray(h, np.float64)
    return h / np.sqrt((h**2).mean(axis=-1, keepdims=True))


def test_prompt_alone_drops_options_and_keeps_prompts():
    packed = Prompts.stack([pack(PROMPT, [[1, 2, 3], [4, 5]])[0], pack(PROMPT[:4], [[6, 7]])[0]])
    alone, expected = features.prompt_alone(packed), plain(PROMPT, PROMPT[:4])
    assert alone.read is None
    assert alone.targets is None
    for name in ("ids", "positions", "branch"):
        np.testing.assert_array_equal(getattr(alone, name), getattr(expected, name))


def test_prompt_alone_takes_padding_on_the_left():
    encoding = {
        "input_ids": [[0, 0, 5, 9], [5, 9, 2, 7]],
        "attention_mask": [[0, 0, 1, 1], [1] * 4],
    }
    alone = features.prompt_alone(encoding)
    assert alone.ids.tolist() == [[5, 9, 0, 0], [5, 9, 2, 7]]
    assert alone.branch.tolist() == [[0, 0, -1, -1], [0, 0, 0, 0]]


def test_prompt_alone_refuses_rows_without_a_prompt():
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        features.prompt_alone(Prompts.stack([pack(PROMPT, [])[0], pack([], [[1, 2]])[0]]))


@pytest.mark.parametrize("length", [1, 3, 8, 11, 29])
def test_window_weights_average_every_token(length):
    weights = features.window_weights(jnp.arange(32)[None] < length)[0]
    assert weights.shape == (8, 32)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)
    assert np.asarray(weights.any(axis=0)).tolist() == [t < length for t in range(32)]


def test_windows_along_follow_each_row_own_path(model):
    L = model.config.num_layers
    counts = np.array([[1, 2, 0, 1, 1, 1], [0, 1, 1, 2, 1, 0]], np.int8)
    prompts = plain(PROMPT, PROMPT[:9])
    found = features.windows_along(model, features.on_devices(model, prompts, 32), counts)
    assert found.shape == (2, L, 8, model.config.width)
    for row, length in enumerate((11, 9)):
        weights = np.asarray(features.window_weights(jnp.ones((1, length), bool)))[0]
        for layer in range(L):
            path = path_of_counts(counts[row, :layer])
            expected = states(model, plain(PROMPT[:length]), path)
            np.testing.assert_allclose(found[row, layer], weights @ expected[0], atol=1e-4)


def test_states_after_are_those_of_the_first_layers(model):
    prompts = features.on_devices(model, plain(PROMPT, PROMPT[:5]), 16)
    found = features.states_after(model, prompts, 2)
    np.testing.assert_allclose(found[:1, :11], states(model, plain(PROMPT), (0, 1)), atol=1e-4)
    assert not found[1, 5:].any()


def test_features_do_not_see_the_answer(model):
    rows = [pack(PROMPT, options)[0] for options in ([[1, 2, 3]], [[7, 8], [9, 3]])]
    alone = [features.prompt_alone(Prompts.stack([row])) for row in rows]
    one, other = (features.on_devices(model, prompts, 16) for prompts in alone)
    np.testing.assert_array_equal(
        features.states_after(model, one, 2), features.states_after(model, other, 2)
    )


def test_prompt_states_are_those_of_the_last_prompt_token(model):
    random, rows = np.random.default_rng(0), []
    for length in (5, 9, 40):
        ids = random.integers(0, 90, length).astype(np.int32)
        tail = np.array([7, 8], np.int32)
        where = np.arange(length, dtype=np.int32)
        rows.append(
            Prompts(
                ids=np.concatenate([ids, tail]),
                positions=np.concatenate([where, [length, length]]).astype(np.int32),
                branch=np.array([0] * length + [1, 2], np.int32),
            )
        )
    for layers in (0, 2):
        got = features.prompt_states(model, rows, layers)
        for b, length in enumerate((5, 9, 40)):
            prompts = Prompts.plain(np.asarray(rows[b].ids)[None, :length])
            h = states(model, prompts, range(layers))
            last = np.asarray(h)[0, -1]
            expected = last / np.sqrt((last**2).mean() + 1e-6)
            np.testing.assert_allclose(got[b], expected, rtol=1e-4, atol=1e-5)
