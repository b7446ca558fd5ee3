"""Other ways to run the same paths: one by one, by vmap, and with transformers."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cola_jax.benchmark.timing import Contender
from cola_jax.config import ModelConfig
from cola_jax.execute.reference import path_readings, run_reference
from cola_jax.params import Model
from cola_jax.path import pad_path
from cola_jax.prompts import Prompts

Paths = Sequence[tuple[int, ...]]


def one_by_one(model: Model, prompts: Prompts, paths: Paths) -> Contender:
    """`run_path` in a loop."""
    return Contender(
        "run_path one by one", lambda: run_reference(model, prompts, [paths]), len(paths)
    )


def vmapped(model: Model, prompts: Prompts, paths: Paths) -> Contender:
    """`vmap` over `run_path`, which gives every path its own copy of each layer's weights."""
    longest = max(map(len, paths))
    padded = jnp.asarray(np.stack([pad_path(path, longest) for path in paths]))
    prompts = jax.tree.map(jnp.asarray, prompts)

    @jax.jit
    def run(model, prompts, padded):
        return jax.vmap(lambda path: path_readings(model, prompts, path))(padded)

    return Contender("vmap of run_path", lambda: run(model, prompts, padded), len(paths))


def transformers_model(config: ModelConfig, dtype: str, device: str) -> Any:
    """Makes a random Llama of the same shape in transformers; None without torch."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    theirs = transformers.LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.width,
        intermediate_size=config.mlp_width,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=config.context,
        tie_word_embeddings=config.tied,
    )
    with torch.device(device):
        model = transformers.LlamaForCausalLM._from_config(theirs, dtype=getattr(torch, dtype))
    return model.eval()


@contextlib.contextmanager
def permuted(model: Any, path: tuple[int, ...]) -> Iterator[None]:
    """Rebuilds a transformers model along a path, each position with a cache of its own."""
    import torch

    layers = model.model.layers
    blocks = [with_cache(layers[layer], position) for position, layer in enumerate(path)]
    model.model.layers = torch.nn.ModuleList(blocks)
    model.config.num_hidden_layers = len(path)
    try:
        yield
    finally:
        model.model.layers = layers
        model.config.num_hidden_layers = len(layers)


def with_cache(block: Any, position: int) -> Any:
    """Copies a block of transformers, its weights shared, so that it uses the cache of a place."""
    block = copy.copy(block)
    block._modules = dict(block._modules)
    block.self_attn = copy.copy(block.self_attn)
    block.self_attn.layer_idx = position
    return block


def forward(model: Any, ids: np.ndarray, paths: Paths) -> Contender:
    """One forward pass of transformers a path, without a cache."""
    import torch

    batch = torch.as_tensor(ids, device=model.device)

    def run() -> None:
        with torch.inference_mode():
            for path in paths:
                with permuted(model, path):
                    model(batch, use_cache=False).logits.cpu()

    return Contender("transformers, a forward pass a path", run, len(paths))


def generate(model: Any, ids: np.ndarray, paths: Paths, tokens: int) -> Contender:
    """Greedy generation of so many tokens with transformers, as the peers evaluate a path."""
    import torch

    batch = torch.as_tensor(ids, device=model.device)

    def run() -> None:
        with torch.inference_mode():
            for path in paths:
                with permuted(model, path):
                    decode(model, batch, tokens)

    return Contender(f"transformers, generate {tokens} tokens a path", run, len(paths))


def decode(model: Any, batch: Any, tokens: int) -> None:
    """Has transformers decode exactly so many tokens greedily, on a torch batch of ids."""
    model.generate(
        batch,
        attention_mask=batch.new_ones(batch.shape),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
