"""Block influence against the states that transformers' layers take and give."""

import numpy as np
import torch

from cola_jax.execute.influence import block_influence
from cola_jax.prompts import Prompts


def test_influence_is_that_of_transformers_layers(pair):
    models = pair("llama-gqa")
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, models.ours.config.vocab_size, n) for n in (5, 9)]
    expected, tokens = np.zeros(models.ours.config.num_layers), 0

    def hook(i):
        def add(layer, args, kwargs, output):
            before, after = args[0] if args else kwargs["hidden_states"], output
            after = after[0] if isinstance(after, tuple) else after
            expected[i] += (1 - torch.cosine_similarity(before, after, dim=-1)).sum().item()

        return add

    hooks = [
        layer.register_forward_hook(hook(i), with_kwargs=True)
        for i, layer in enumerate(models.theirs.model.layers)
    ]
    for ids in rows:
        with torch.no_grad():
            models.theirs(torch.from_numpy(ids)[None], use_cache=False)
        tokens += len(ids)
    for handle in hooks:
        handle.remove()
    prompts = Prompts.stack([Prompts.plain(np.asarray(ids, np.int32)) for ids in rows])
    np.testing.assert_allclose(block_influence(models.ours, prompts), expected / tokens, atol=1e-5)
