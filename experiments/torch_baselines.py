"""Baselines with transformers: a random Llama whose layers are permuted along paths."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import transformers

from cola_jax.config import ModelConfig
from cola_jax.execute.benchmark import Paths, Program


def random_llama(config: ModelConfig, dtype: str) -> Any:
    """Makes a random Llama of the same shape, on the GPU if there is one."""
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
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.LlamaForCausalLM._from_config(theirs, dtype=getattr(torch, dtype))
    return model.eval()


@contextlib.contextmanager
def permuted(model: Any, path: tuple[int, ...]) -> Iterator[None]:
    """Rebuilds a model along a path, each position with a KV cache of its own."""
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
    """Copies a block, sharing its weights, so that it uses the KV cache of a position."""
    block = copy.copy(block)
    block._modules = dict(block._modules)
    block.self_attn = copy.copy(block.self_attn)
    block.self_attn.layer_idx = position
    return block


def forward_baseline(model: Any, ids: np.ndarray, paths: Paths) -> Program:
    """One forward pass per path, without a cache."""
    batch = torch.as_tensor(ids, device=model.device)

    def run() -> None:
        with torch.inference_mode():
            for path in paths:
                with permuted(model, path):
                    model(batch, use_cache=False).logits.cpu()

    return Program("transformers, one forward pass per path", run, len(paths))


def generate_baseline(model: Any, ids: np.ndarray, paths: Paths, tokens: int) -> Program:
    """Greedy generation of a fixed number of tokens, as the peers evaluate a path."""
    batch = torch.as_tensor(ids, device=model.device)

    def run() -> None:
        with torch.inference_mode():
            for path in paths:
                with permuted(model, path):
                    generate_exactly(model, batch, tokens)

    return Program(f"transformers, generate {tokens} tokens per path", run, len(paths))


def generate_exactly(model: Any, batch: Any, tokens: int) -> None:
    """Decodes exactly that many tokens greedily, after a torch batch of ids."""
    model.generate(
        batch,
        attention_mask=batch.new_ones(batch.shape),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
