"""States at the end of prompts, without what is packed after them."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from cola_jax.deploy.prompt_state import prompt_states
from cola_jax.model import block, embed, view
from cola_jax.params import layer_at
from cola_jax.prompts import Prompts


def test_states_are_those_of_the_last_prompt_token(pair: Callable[[str], Any]) -> None:
    model = pair("llama-gqa").ours
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
        got = prompt_states(model, rows, layers)
        for b, length in enumerate((5, 9, 40)):
            prompts = Prompts.plain(np.asarray(rows[b].ids)[None, :length])
            h = embed(model, jnp.asarray(prompts.ids))
            for i in range(layers):
                h = block(
                    model.config,
                    layer_at(model.config, model.layers, i),
                    h,
                    view(model.config, prompts),
                )
            last = np.asarray(h)[0, -1]
            expected = last / np.sqrt((last**2).mean() + 1e-6)
            np.testing.assert_allclose(got[b], expected, rtol=1e-4, atol=1e-5)
