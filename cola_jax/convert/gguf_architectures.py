"""The architectures of GGUF files: each is a table of weights and the meaning of its own keys."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cola_jax.config import ModelConfig
from cola_jax.convert.table import Row


class Architecture(NamedTuple):
    """How to read one `general.architecture`, which is also the prefix of its keys."""

    model_type: str  # of the Hugging Face config that the keys are turned into
    rows: tuple[Row, ...]  # the head, which every architecture calls the same, comes on top
    keys: Mapping[str, str | None]  # as such a config spells them; None where it has no say
    finish: Callable[[ModelConfig], ModelConfig] = lambda config: config  # adds what no key says


COMMON = (
    Row("embedding", "token_embd.weight", "V D -> V D"),
    Row("v", "blk.{i}.attn_v.weight", "(K H) D -> D K H"),
    Row("o", "blk.{i}.attn_output.weight", "D (N H) -> N H D"),
    Row("gate", "blk.{i}.ffn_gate.weight", "F D -> D F"),
    Row("up", "blk.{i}.ffn_up.weight", "F D -> D F"),
    Row("down", "blk.{i}.ffn_down.weight", "D F -> F D"),
)
HEAD = Row("head", "output.weight", "V D -> D V")
LLAMA = (
    *COMMON,
    # stored with the two halves of each head interleaved, for rope on pairs
    Row("q", "blk.{i}.attn_q.weight", "(N h two) D -> D N (two h)"),
    Row("k", "blk.{i}.attn_k.weight", "(K h two) D -> D K (two h)"),
    Row("attention_norm", "blk.{i}.attn_norm.weight", "D -> D"),
    Row("mlp_norm", "blk.{i}.ffn_norm.weight", "D -> D"),
    Row("norm", "output_norm.weight", "D -> D"),
)
GEMMA3 = (
    *COMMON,
    Row("q", "blk.{i}.attn_q.weight", "(N H) D -> D N H"),
    Row("k", "blk.{i}.attn_k.weight", "(K H) D -> D K H"),
    # norms are stored with the 1 that the model adds
    Row("q_norm", "blk.{i}.attn_q_norm.weight", "H -> H", -1.0),
    Row("k_norm", "blk.{i}.attn_k_norm.weight", "H -> H", -1.0),
    Row("attention_norm", "blk.{i}.attn_norm.weight", "D -> D", -1.0),
    Row("attention_post_norm", "blk.{i}.post_attention_norm.weight", "D -> D", -1.0),
    Row("mlp_norm", "blk.{i}.ffn_norm.weight", "D -> D", -1.0),
    Row("mlp_post_norm", "blk.{i}.post_ffw_norm.weight", "D -> D", -1.0),
    Row("norm", "output_norm.weight", "D -> D", -1.0),
)

KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
    "vocab_size": None,
    "rope.dimension_count": None,
    "attention.value_length": None,
    "rope.scaling.type": None,
    "rope.scaling.factor": None,
    "rope.scaling.original_context_length": None,
    "rope.scaling.finetuned": None,
}
GEMMA3_KEYS = {
    **KEYS,
    "attention.sliding_window": "sliding_window",
    "rope.freq_base_swa": "rope_local_base_freq",
}
GEMMA3_27B = 62  # its layers, by which llama.cpp knows it


def scale_queries(config: ModelConfig) -> ModelConfig:
    """Sets what queries are scaled by, which files of Gemma 3 leave to the reader."""
    if config.num_layers != GEMMA3_27B:
        return dataclasses.replace(config, query_scale=1.0)
    per_head = config.width // config.num_heads
    return dataclasses.replace(config, query_scale=(config.head_dim / per_head) ** 0.5)


ARCHITECTURES = {
    "llama": Architecture("llama", LLAMA, KEYS),
    "gemma3": Architecture("gemma3_text", GEMMA3, GEMMA3_KEYS, scale_queries),
}
