"""States of prompts after the first layers, against layers run one by one on each prompt alone."""

import jax.numpy as jnp
import numpy as np
import pytest

from cola_jax.errors import InputError
from cola_jax.execute.prompt_states import prompt_states, state_batches
from cola_jax.model import embed, run_layer, view
from cola_jax.prompts import Prompts
from cola_jax.scoring.scorer import pack

ROWS = [[5, 9, 2, 7, 11], list(range(3, 43)), [8, 1, 6, 6, 2, 9, 30]]
PACKED = Prompts.stack([pack(row, [[4, 4, 7], [9, 2]])[0] for row in ROWS])  # with options


@pytest.fixture(scope="module")
def model(pair):
    return pair("llama-gqa").ours


def expected_states(model, ids, layers):
    """Run the first layers one by one, on a prompt alone."""
    prompts = Prompts.plain(np.array([ids]))
    h, mask_view = embed(model, prompts), view(model.config, prompts)
    for i in range(layers):
        h = run_layer(model, jnp.int32(i), h, mask_view)
    h = np.asarray(h[0], np.float64)
    return h / np.sqrt((h**2).mean(axis=-1, keepdims=True) + 1e-6)


def test_states_are_those_of_prompts_alone_and_zeros_at_padding(model):
    left = {
        "input_ids": [[0] * (40 - len(ids)) + ids for ids in ROWS],
        "attention_mask": [[0] * (40 - len(ids)) + [1] * len(ids) for ids in ROWS],
    }
    for layers, prompts in ((0, PACKED), (2, PACKED), (2, left)):
        wanted, seen = [expected_states(model, ids, layers) for ids in ROWS], []
        for rows, states, lengths in state_batches(model, prompts, layers):
            for b, h, length in zip(rows.tolist(), np.asarray(states), lengths, strict=False):
                assert length == len(ROWS[b])
                np.testing.assert_allclose(h[:length], wanted[b], atol=1e-4)
                assert not h[length:].any()
                seen.append(b)
        assert sorted(seen) == [0, 1, 2]
    last = prompt_states(model, [pack(ids, [[1, 2]])[0] for ids in ROWS], 2)
    np.testing.assert_allclose(last, [h[-1] for h in wanted], atol=1e-4)


def test_state_batches_refuse_empty_prompts_and_missing_layers(model):
    empty = Prompts.stack([pack(ROWS[0], [])[0], pack([], [[1, 2]])[0]])
    with pytest.raises(InputError, match="prompt 1 has no tokens"):
        next(state_batches(model, empty, 1))
    for layers in (-1, 99):
        with pytest.raises(InputError, match=f"states after {layers} layers cannot be read"):
            next(state_batches(model, PACKED, layers))
