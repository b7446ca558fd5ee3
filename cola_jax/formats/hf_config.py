"""Read and write a Hugging Face `config.json`: the supported families, and what each holds."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cola_jax.config import ModelConfig, Rope
from cola_jax.errors import InputError, shown
from cola_jax.formats import gemma, llama, olmo, qwen
from cola_jax.formats.attributes import Attributes
from cola_jax.formats.table import Row

GGUF_LLAMA3 = (1.0, 4.0, 8192)  # low, high and original context of all Llama 3.1 to 3.3


class Family(NamedTuple):
    """A model_type: how to read its config, its table of weights, and how to write its config."""

    name: str  # of its class in transformers, without ForCausalLM
    read: Callable[[Attributes], ModelConfig]
    rows: Callable[[ModelConfig], tuple[Row, ...]]
    attributes: Callable[[ModelConfig], dict[str, Any]]  # those that not all families have
    ignored: tuple[str, ...] = ()  # prefixes of tensors outside the decoder


def read_config(values: Mapping[str, Any]) -> tuple[ModelConfig, tuple[Row, ...]]:
    """Read a Hugging Face config; return ours and its table of weights.

    Raises InputError for a family or an attribute that is not supported.
    """
    family = family_of(values)
    attributes = Attributes(values)
    config = family.read(attributes)
    attributes.refuse_unknown()
    return config, family.rows(config)


def family_of(values: Mapping[str, Any]) -> Family:
    """Return the family of a config; raise InputError for one that is not supported."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"model_type {shown(kind)} is not supported. Supported: "
            f"{', '.join(sorted(FAMILIES))}. convert/README.md shows how to add a family."
        )
    return FAMILIES[kind]


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
    InputError where the attributes would not read back as this very config.
    """
    ropes = tuple(with_llama3(rope, config.head_dim) for rope in config.ropes)
    config = dataclasses.replace(config, ropes=ropes)
    model_type = model_type_of(config)
    values = {
        "architectures": [f"{FAMILIES[model_type].name}ForCausalLM"],
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
        "rope_theta": ropes[0].theta,
        "rope_scaling": rope_scaling(ropes[0]),
        "tie_word_embeddings": config.tied,
        **FAMILIES[model_type].attributes(config),
    }
    read, _ = read_config(values)
    if read != config:
        wanted, stored = dataclasses.asdict(config), dataclasses.asdict(read)
        wrong = {name: value for name, value in wanted.items() if stored[name] != value}
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
    return "llama" if window_of(config) is None else "mistral"


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
    llama3 = (round(max(rope.divisors), 4), *GGUF_LLAMA3)
    named = dataclasses.replace(rope, divisors=None, llama3=llama3)
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


def biases(config: ModelConfig) -> dict[str, Any]:
    """Return what most families say about biases of attention."""
    return {"attention_bias": config.output_bias}


def windows(config: ModelConfig) -> dict[str, Any]:
    """Return what the Qwen families say about windows."""
    width = window_of(config)
    return {"use_sliding_window": width is not None, "sliding_window": width}


def layer_windows(config: ModelConfig) -> dict[str, Any]:
    """Return what the Qwen families say about windows of some layers.

    `max_window_layers` is for readers that do not know `layer_types`: all layers from there on have
    a window.
    """
    sliding = (i for i, window in enumerate(config.windows) if window is not None)
    return {
        **windows(config),
        "max_window_layers": next(sliding, config.num_layers),
        "layer_types": layer_types(config),
    }


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
    scalar = config.head_dim / config.query_scale**2
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        **biases(config),
        # computed from a whole number in most models
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar,
        "rope_local_base_freq": config.ropes[1].theta,
        "sliding_window": window_of(config) or config.context,
        "layer_types": layer_types(config),
    }


FAMILIES = {
    "llama": Family(
        "Llama", llama.read_llama, llama.rows, lambda c: biases(c) | {"mlp_bias": c.mlp_bias}
    ),
    "mistral": Family(
        "Mistral", llama.read_mistral, llama.rows, lambda c: {"sliding_window": window_of(c)}
    ),
    "qwen2": Family("Qwen2", qwen.read_qwen2, qwen.rows, layer_windows),
    "qwen3": Family("Qwen3", qwen.read_qwen3, qwen.rows, lambda c: biases(c) | layer_windows(c)),
    "gemma3_text": Family("Gemma3", gemma.read_gemma3_text, gemma.rows, gemma3),
    # read only: its text part is written as gemma3_text
    "gemma3": Family("", gemma.read_gemma3, gemma.multimodal_rows, gemma3, gemma.VISION),
    "olmo2": Family("Olmo2", olmo.read_olmo2, olmo.olmo2_rows, biases),
    "olmoe": Family(
        "Olmoe",
        olmo.read_olmoe,
        olmo.olmoe_rows,
        lambda c: biases(c) | experts(c) | {"clip_qkv": c.clip_qkv},
    ),
    "qwen2_moe": Family(
        "Qwen2Moe",
        qwen.read_qwen2_moe,
        qwen.rows,
        lambda c: {
            **qwen_experts(c),
            **layer_windows(c),
            "shared_expert_intermediate_size": c.mlp_width,
            "qkv_bias": c.qkv_bias,
        },
    ),
    "qwen3_moe": Family(
        "Qwen3Moe",
        qwen.read_qwen3_moe,
        qwen.rows,
        lambda c: qwen_experts(c) | biases(c) | windows(c),
    ),
}
