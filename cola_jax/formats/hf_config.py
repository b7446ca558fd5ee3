"""Read and write a Hugging Face `config.json`: the supported families."""

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
    attributes: tuple[str, ...]  # to write, besides those that all families have
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
        **{name: write(config) for name, write in COMMON.items()},
        **{name: SPECIFIC[name](config) for name in FAMILIES[model_type].attributes},
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
    """Return the model_type whose blocks compute what the config describes."""
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


def first_window(config: ModelConfig) -> int:
    """Return the first layer with a window, for readers that ignore `layer_types`."""
    layers = (i for i, window in enumerate(config.windows) if window is not None)
    return next(layers, config.num_layers)


def query_scalar(config: ModelConfig) -> float:
    """Return Gemma's scale of queries, which is a whole number in most models."""
    scalar = config.head_dim / config.query_scale**2
    return round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar


COMMON = {
    "vocab_size": lambda c: c.vocab_size,
    "num_hidden_layers": lambda c: c.num_layers,
    "hidden_size": lambda c: c.width,
    "intermediate_size": lambda c: c.mlp_width or c.expert_width,
    "num_attention_heads": lambda c: c.num_heads,
    "num_key_value_heads": lambda c: c.num_kv_heads,
    "head_dim": lambda c: c.head_dim,
    "max_position_embeddings": lambda c: c.context,
    "rms_norm_eps": lambda c: c.norm_eps,
    "rope_theta": lambda c: c.ropes[0].theta,
    "rope_scaling": lambda c: rope_scaling(c.ropes[0]),
    "tie_word_embeddings": lambda c: c.tied,
}
# those of some families
SPECIFIC: dict[str, Callable[[ModelConfig], Any]] = {
    "attention_bias": lambda c: c.output_bias,
    "qkv_bias": lambda c: c.qkv_bias,
    "mlp_bias": lambda c: c.mlp_bias,
    "clip_qkv": lambda c: c.clip_qkv,
    "use_sliding_window": lambda c: window_of(c) is not None,
    # Gemma 3 needs a number, even where no layer has a window
    "sliding_window": lambda c: window_of(c) or (c.context if c.norm_offset else None),
    "max_window_layers": first_window,
    "layer_types": layer_types,
    "num_experts": lambda c: c.experts,
    "num_experts_per_tok": lambda c: c.experts_per_token,
    "norm_topk_prob": lambda c: c.normalised_routing,
    "moe_intermediate_size": lambda c: c.expert_width,
    "shared_expert_intermediate_size": lambda c: c.mlp_width,
    "decoder_sparse_step": lambda c: 1,
    "mlp_only_layers": lambda c: [],
    "hidden_activation": lambda c: "gelu_pytorch_tanh",
    "query_pre_attn_scalar": query_scalar,
    "rope_local_base_freq": lambda c: c.ropes[1].theta,
}
BIAS = ("attention_bias",)
EXPERTS = ("num_experts", "num_experts_per_tok", "norm_topk_prob")
QWEN_EXPERTS = (*EXPERTS, "moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers")
WINDOW = ("use_sliding_window", "sliding_window")
WINDOWS = (*WINDOW, "max_window_layers", "layer_types")
GEMMA = (
    *("hidden_activation", "attention_bias", "query_pre_attn_scalar"),
    *("rope_local_base_freq", "sliding_window", "layer_types"),
)
QWEN2_MOE = (*QWEN_EXPERTS, *WINDOWS, "shared_expert_intermediate_size", "qkv_bias")
QWEN3_MOE = (*QWEN_EXPERTS, *BIAS, *WINDOW)

FAMILIES = {
    "llama": Family("Llama", llama.read_llama, llama.rows, (*BIAS, "mlp_bias")),
    "mistral": Family("Mistral", llama.read_mistral, llama.rows, ("sliding_window",)),
    "qwen2": Family("Qwen2", qwen.read_qwen2, qwen.rows, WINDOWS),
    "qwen3": Family("Qwen3", qwen.read_qwen3, qwen.rows, (*BIAS, *WINDOWS)),
    "gemma3_text": Family("Gemma3", gemma.read_gemma3_text, gemma.rows, GEMMA),
    # read only: its text part is written as gemma3_text
    "gemma3": Family("", gemma.read_gemma3, gemma.multimodal_rows, (), gemma.VISION),
    "olmo2": Family("Olmo2", olmo.read_olmo2, olmo.olmo2_rows, BIAS),
    "olmoe": Family("Olmoe", olmo.read_olmoe, olmo.olmoe_rows, (*BIAS, "clip_qkv", *EXPERTS)),
    "qwen2_moe": Family("Qwen2Moe", qwen.read_qwen2_moe, qwen.rows, QWEN2_MOE),
    "qwen3_moe": Family("Qwen3Moe", qwen.read_qwen3_moe, qwen.rows, QWEN3_MOE),
}
