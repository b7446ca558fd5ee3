"""Write a Hugging Face `config.json`: `read_config` backwards, and checked by reading it again."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.config import ModelConfig, Rope
from cola_jax.errors import InputError
from cola_jax.formats.huggingface import read_config

GGUF_LLAMA3 = (1.0, 4.0, 8192)  # low, high and original context of all Llama 3.1 to 3.3


class Family(NamedTuple):
    """How to write a model_type: its class in transformers, and the attributes only it has."""

    architecture: str
    attributes: Callable[[ModelConfig], dict[str, Any]]


def select_layers(config: ModelConfig, path: Sequence[int]) -> ModelConfig:
    """Return the config of the model whose layers are those of a path, with their attributes."""
    return dataclasses.replace(
        config,
        num_layers=len(path),
        windows=tuple(config.windows[layer] for layer in path),
        layer_ropes=tuple(config.layer_ropes[layer] for layer in path),
    )


def write_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the attributes of a `config.json` of the same model.

    The names are those of files on the Hub, which all versions of transformers read. Raises
    ValueError where the attributes would not read back as this very config.
    """
    config = dataclasses.replace(
        config, ropes=tuple(with_llama3(rope, config.head_dim) for rope in config.ropes)
    )
    model_type = model_type_of(config)
    family = FAMILIES[model_type]
    values = {
        "architectures": [family.architecture],
        "model_type": model_type,
        "dtype": dtype,
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width or config.expert_width,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.ropes[0].theta,
        "rope_scaling": rope_scaling(config.ropes[0]),
        "tie_word_embeddings": config.tied,
        **family.attributes(config),
    }
    read, _ = read_config(values)
    if read != config:
        fields = [f.name for f in dataclasses.fields(config)]
        wrong = {n: getattr(config, n) for n in fields if getattr(config, n) != getattr(read, n)}
        raise InputError(
            f"a config.json of model_type {model_type} cannot hold {wrong}: this model cannot be "
            "written in Hugging Face layout."
        )
    return values


def model_type_of(config: ModelConfig) -> str:
    """Return the model_type whose blocks compute what the config says."""
    if config.norm_offset == 1.0:
        return "gemma3_text"
    if config.projection_norms:
        return "olmoe" if config.experts else "olmo2"
    if config.experts:
        return "qwen3_moe" if config.head_norms else "qwen2_moe"
    if config.head_norms:
        return "qwen3"
    if config.qkv_bias and not config.output_bias:
        return "qwen2"
    return "llama" if config.windows == (None,) * config.num_layers else "mistral"


def rope_scaling(rope: Rope) -> dict[str, Any] | None:
    """Return the `rope_scaling` of a rotary embedding, None for a plain one."""
    if rope.llama3 is not None:
        factor, low, high, original = rope.llama3
        return {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low,
            "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }
    if rope.linear_factor != 1.0:
        return {"rope_type": "linear", "factor": rope.linear_factor}
    return None


def with_llama3(rope: Rope, head_dim: int) -> Rope:
    """Return a rope with the divisors of a GGUF file as the llama3 rope that they came from.

    Raises InputError for other divisors, which no config.json of these families can hold.
    """
    if rope.divisors is None:
        return rope
    named = dataclasses.replace(
        rope, divisors=None, llama3=(round(max(rope.divisors), 4), *GGUF_LLAMA3)
    )
    if not np.allclose(named.frequencies(head_dim), rope.frequencies(head_dim), rtol=1e-6, atol=0):
        raise InputError(
            "the rotary embedding has divisors that are not those of Llama 3.1 to 3.3, and "
            "config.json cannot hold them: export from a checkpoint that was converted from "
            "safetensors."
        )
    return named


def layer_types(config: ModelConfig) -> list[str]:
    """Return each layer's kind of attention."""
    return ["full_attention" if w is None else "sliding_attention" for w in config.windows]


def window_of(config: ModelConfig) -> int | None:
    """Return the width of the windows, None where no layer has one."""
    return next((window for window in config.windows if window is not None), None)


def qwen_windows(
    config: ModelConfig, slides: Callable[[int, int], bool] = lambda i, first: i >= first
) -> dict[str, Any]:
    """Return what the Qwen families say about windows.

    `max_window_layers` says the same as `layer_types` wherever it can, to readers that know only
    it; `slides` is the family's rule.
    """
    sliding = [window is not None for window in config.windows]
    layers = config.num_layers
    same = (n for n in range(layers) if [slides(i, n) for i in range(layers)] == sliding)
    return {
        "use_sliding_window": any(sliding),
        "sliding_window": window_of(config),
        "max_window_layers": next(same, layers),
        "layer_types": layer_types(config),
    }


def qwen2_moe_slides(i: int, first: int) -> bool:
    """Say whether layer i of a Qwen2-MoE has a window, as its config in transformers says."""
    return i % 2 == 0 and i < first


def experts(config: ModelConfig) -> dict[str, Any]:
    """Return what all families with experts say."""
    return {
        "num_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "norm_topk_prob": config.normalised_routing,
    }


def qwen_experts(config: ModelConfig) -> dict[str, Any]:
    """Return what the Qwen families say about experts."""
    return {
        **experts(config),
        "moe_intermediate_size": config.expert_width,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def gemma3(config: ModelConfig) -> dict[str, Any]:
    """Return what Gemma 3 says: the rope of layers with a window, and the scale of queries."""
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": config.qkv_bias,
        "query_pre_attn_scalar": nearest(config.head_dim / config.query_scale**2),
        "rope_local_base_freq": config.ropes[1].theta,
        "sliding_window": window_of(config) or config.context,
        "layer_types": layer_types(config),
    }


def nearest(value: float) -> int | float:
    """Round a number that was computed from a whole one."""
    return round(value) if abs(value - round(value)) < 1e-6 else value


FAMILIES = {
    "llama": Family(
        "LlamaForCausalLM",
        lambda c: {"attention_bias": c.output_bias, "mlp_bias": c.mlp_bias},
    ),
    "mistral": Family("MistralForCausalLM", lambda c: {"sliding_window": window_of(c)}),
    "qwen2": Family("Qwen2ForCausalLM", qwen_windows),
    "qwen3": Family(
        "Qwen3ForCausalLM", lambda c: {"attention_bias": c.output_bias, **qwen_windows(c)}
    ),
    "gemma3_text": Family("Gemma3ForCausalLM", gemma3),
    "olmo2": Family("Olmo2ForCausalLM", lambda c: {"attention_bias": c.output_bias}),
    "olmoe": Family(
        "OlmoeForCausalLM",
        lambda c: {"attention_bias": c.output_bias, "clip_qkv": c.clip_qkv, **experts(c)},
    ),
    "qwen2_moe": Family(
        "Qwen2MoeForCausalLM",
        lambda c: {
            **qwen_experts(c),
            **qwen_windows(c, qwen2_moe_slides),
            "shared_expert_intermediate_size": c.mlp_width,
            "qkv_bias": c.qkv_bias,
        },
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        lambda c: {
            **qwen_experts(c),
            "attention_bias": c.output_bias,
            "use_sliding_window": window_of(c) is not None,
            "sliding_window": window_of(c),
        },
    ),
}
