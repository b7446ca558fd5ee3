"""Hidden states of prompts: those of the first layers, without what is packed after the prompts."""

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.deploy.prompt_states import prompt_states, state_batches
from cola_jax.errors import InputError
from cola_jax.model import block, embed, view
from cola_jax.params import layer_at
from cola_jax.prompts import Prompts
from cola_jax.scoring.scorer import pack

ROWS = [list(range(3, 8)), list(range(5, 14)), list(range(2, 42))]
TAILS = [[1, 2, 3], [4, 5]]  # options


@pytest.fixture(scope="module")
def model(pair):
    return pair("llama-gqa").ours


def expected(model, ids, layers):
    """Run the first layers one by one, on a prompt alone."""
    prompts = Prompts.plain(np.array([ids]))
    h, mask_view = embed(model, prompts.ids), view(model.config, prompts)
    for i in range(layers):
        h = block(model.config, layer_at(model.config, model.layers, jnp.int32(i)), h, mask_view)
    h = np.asarray(h[0], np.float64)
    return h / np.sqrt((h**2).mean(axis=-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("layers", [0, 2])
def test_prompt_states_are_those_of_the_last_prompt_token(model, layers):
    states = prompt_states(model, [pack(ids, TAILS)[0] for ids in ROWS], layers)
    last = [expected(model, ids, layers)[-1] for ids in ROWS]
    np.testing.assert_allclose(states, last, rtol=1e-4, atol=1e-4)


def test_state_batches_have_all_states_and_zeros_at_padding(model):
    left = {
        "input_ids": [[0] * (40 - len(ids)) + ids for ids in ROWS],
        "attention_mask": [[0] * (40 - len(ids)) + [1] * len(ids) for ids in ROWS],
    }
    packed = Prompts.stack([pack(ids, TAILS)[0] for ids in ROWS])
    for prompts in (packed, left):
        seen = []
        for rows, states, lengths in state_batches(model, prompts, 2):
            for b, h, length in zip(rows.tolist(), np.asarray(states), lengths, strict=False):
                assert length == len(ROWS[b])
                np.testing.assert_allclose(h[:length], expected(model, ROWS[b], 2), atol=1e-4)
                assert not h[length:].any()
                seen.append(b)
        assert sorted(seen) == [0, 1, 2]


def test_state_batches_refuse_rows_without_a_prompt(model):
    prompts = Prompts.stack([pack(ROWS[0], [])[0], pack([], TAILS)[0]])
    with pytest.raises(InputError, match="prompt 1 has no tokens"):
        next(state_batches(model, prompts, 1))


@pytest.mark.parametrize("layers", [-1, 99])
def test_state_batches_refuse_layers_that_the_model_lacks(model, layers):
    with pytest.raises(InputError, match=f"states after {layers} layers cannot be read"):
        next(state_batches(model, Prompts.plain(np.array([ROWS[0]])), layers))
