"""The `config.json` of a model whose layers are those of a path."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cola_jax.config import ModelConfig, Rope
from cola_jax.errors import InputError
from cola_jax.formats.attributes import ROPES
from cola_jax.formats.decoder import ATTENTION_KINDS
from cola_jax.formats.families import FAMILIES, read_config

# which transformers reads of Gemma 4, and keeps in each layer's own config
GEMMA4_TYPES = "gemma4_text", "gemma4_unified_text"
GLOBAL_HEADS = {"global_head_dim", "num_global_key_value_heads"}
GGUF_LLAMA3 = (1.0, 4.0, 8192)  # low, high and original context of all Llama 3.1 to 3.3


def select_layers(config: ModelConfig, path: Sequence[int]) -> ModelConfig:
    """Return the config of the model whose layers are those of a path, with their attributes.

    Kinds of layers that share keys are left out where the path has none of them.
    """
    keys_of: list[int | None] = []
    for place, layer in enumerate(path if config.keys_of else ()):
        source = config.keys_of[layer]
        before = [i for i in range(place) if path[i] == source]
        keys_of.append(before[-1] if before else None)
    changes: dict[str, Any] = {}
    if config.keys_of and not any(source is not None for source in keys_of):
        own = [kind for kind in config.kinds if kind.own_keys is None]  # the first ones
        kinds = tuple(dataclasses.replace(kind, shared_at=None) for kind in own)
        changes, keys_of = {"kinds": kinds, "shared_at": None}, []
    return dataclasses.replace(
        config,
        **changes,
        num_layers=len(path),
        windows=tuple(config.windows[layer] for layer in path),
        layer_ropes=tuple(config.layer_ropes[layer] for layer in path),
        layer_kinds=tuple(config.layer_kinds[layer] for layer in path if config.kinds),
        keys_of=tuple(keys_of),
        rooted_scales=False,  # the roots are the scales of the copies
    )


def write_config(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """Return the attributes of a `config.json` of the same model.

    The names are those of files on the Hub, which all versions of transformers read. Raises
    InputError where the attributes would not read back as this very config.
    """
    model_type = model_type_of(config)
    known = config_fields(model_type)
    ropes = config.ropes
    if "original_max_position_embeddings" not in known:  # of longrope
        ropes = tuple(with_llama3(rope, config.head_dim) for rope in ropes)
    config = dataclasses.replace(config, ropes=ropes, model_type=model_type)
    values = {
        "architectures": [f"{FAMILIES[model_type].name}ForCausalLM"],
        "model_type": model_type,
        "dtype": dtype,
        **{name: write(config) for name, write in COMMON.items()},
        **{name: write(config) for name, write in SPECIFIC.items() if name in known},
        **rope_values(model_type, config),
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


def config_fields(model_type: str) -> set[str]:
    """Return the names of the attributes that a family's config has in transformers."""
    from transformers import CONFIG_MAPPING

    names = {field.name for field in dataclasses.fields(CONFIG_MAPPING[model_type])}
    return names | (GLOBAL_HEADS if model_type in GEMMA4_TYPES else set())


def model_type_of(config: ModelConfig) -> str:
    """Return the model_type that the config was read from, or whose blocks it describes."""
    if config.model_type is not None:
        return config.model_type
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


def rope_values(model_type: str, config: ModelConfig) -> dict[str, Any]:
    """Return the attributes of ropes, by the older names where these can hold them."""
    first = config.ropes[0]
    parameters = [
        {"rope_theta": rope.theta, **(rope_scaling(rope) or {"rope_type": "default"})}
        for rope in config.ropes
    ]
    # the older names give a window's rope the default theta
    if model_type in ("olmo3", *GEMMA4_TYPES):
        return {"rope_parameters": dict(zip(ATTENTION_KINDS, parameters, strict=True))}
    if model_type == "olmo_hybrid":  # and one that is null
        theta = None if None in config.layer_ropes else first.theta
        return {"rope_parameters": parameters[0] | {"rope_theta": theta}}
    values: dict[str, Any] = {"rope_theta": first.theta, "rope_scaling": rope_scaling(first)}
    if model_type == "gemma3_text":
        values["rope_local_base_freq"] = config.ropes[1].theta
    if model_type == "ministral3":
        beta = 0.0 if config.query_growth is None else config.query_growth[0]
        values["rope_scaling"] = parameters[0] | {"llama_4_scaling_beta": beta}
    if model_type in ("phi3", "glm", "glm4", "minimax_m2") or config.kinds:
        rotated = config.rotary_width if first.pairs is None else 2 * first.pairs
        values["partial_rotary_factor"] = rotated / config.head_dim
    return values


def rope_scaling(rope: Rope) -> dict[str, Any] | None:
    """Return the `rope_scaling` of a rotary embedding, None for a plain one."""
    if rope.llama3 is not None:
        return {"rope_type": "llama3", **dict(zip(ROPES["llama3"], rope.llama3, strict=True))}
    if rope.yarn is not None:
        named = dict(zip(ROPES["yarn"], rope.yarn, strict=False))
        return {"rope_type": "yarn", **named, "attention_factor": rope.scale}
    if rope.divisors is not None:  # longrope, of which the checkpoint has no long factors
        factors = {name: list(rope.divisors) for name in ("short_factor", "long_factor")}
        return {"rope_type": "longrope", **factors, "attention_factor": rope.scale}
    scaling: dict[str, Any] = {}
    if rope.linear_factor != 1.0:
        scaling = {"rope_type": "linear", "factor": rope.linear_factor}
    if rope.rotated_share != 1.0:
        scaling |= {"rope_type": "proportional", "partial_rotary_factor": rope.rotated_share}
    return scaling or None


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


def window_of(config: ModelConfig) -> int | None:
    """Return the width of the windows, None where no layer has one."""
    return next(filter(None, config.windows), None)


def first_window(config: ModelConfig) -> int:
    """Return the first layer with a window, for readers that ignore `layer_types`."""
    return next((i for i, window in enumerate(config.windows) if window), config.num_layers)


def query_scalar(config: ModelConfig) -> float:
    """Return Gemma's scale of queries, which is a whole number in most models."""
    scalar = config.head_dim / config.query_scale**2
    return round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar


def rounded(quotient: float) -> float:
    """Return the decimal number that a quotient was before it was divided."""
    return float(f"{quotient:.12g}")


def first_with_experts(config: ModelConfig) -> int:
    """Return the first layer with experts, where some have an MLP of another kind alone."""
    return next(iter(config.layers_of(0)), config.num_layers)


def layer_types(config: ModelConfig) -> list[str]:
    """Return the kind of attention of each layer, as most families name it."""
    kinds = [
        "full_attention" if window is None else "sliding_attention" for window in config.windows
    ]
    recurrent = [bool(config.each_kind[config.kind_of(i)].convolution) for i in range(len(kinds))]
    pairs = zip(kinds, recurrent, strict=True)
    return ["linear_attention" if is_recurrent else kind for kind, is_recurrent in pairs]


def mamba_width(config: ModelConfig) -> int:
    """Return the channels of all heads of a Mamba-2."""
    return config.each_kind[-1].num_heads * config.each_kind[-1].value_dim


def intermediate_size(config: ModelConfig) -> int:
    """Return the width of the MLP of the last kind of layers with keys of their own.

    That of experts in layers without one, and in Granite 4, whose shared expert has a name.
    """
    width = [each.mlp_width for each in config.each_kind if each.own_keys][-1]
    is_granite = config.model_type == "granitemoehybrid" and config.experts
    return config.expert_width if is_granite or not width else width


COMMON: dict[str, Callable[[ModelConfig], Any]] = {
    "vocab_size": lambda c: c.vocab_size,
    "num_hidden_layers": lambda c: c.num_layers,
    "hidden_size": lambda c: c.width,
    "intermediate_size": intermediate_size,
    "num_attention_heads": lambda c: c.num_heads,
    "num_key_value_heads": lambda c: c.num_kv_heads,
    "head_dim": lambda c: c.head_dim,
    "max_position_embeddings": lambda c: c.context,
    "rms_norm_eps": lambda c: c.norm_eps,
    "tie_word_embeddings": lambda c: c.tied,
}
# where the family's config in transformers has them
SPECIFIC: dict[str, Callable[[ModelConfig], Any]] = {
    "attention_bias": lambda c: c.qkv_bias,
    **dict.fromkeys(("attention_out_bias", "use_bias"), lambda c: c.output_bias),
    "qkv_bias": lambda c: c.qkv_bias,
    "mlp_bias": lambda c: c.mlp_bias,
    "clip_qkv": lambda c: c.clip_qkv,
    "use_sliding_window": lambda c: window_of(c) is not None,
    # Gemma 3 and EXAONE 4 need a number, even where no layer has a window
    "sliding_window": lambda c: (
        window_of(c) or (c.context if c.norm_offset or None in c.layer_ropes else None)
    ),
    "max_window_layers": first_window,
    "layer_types": layer_types,
    "linear_num_value_heads": lambda c: c.each_kind[1].num_heads,
    "linear_num_key_heads": lambda c: c.each_kind[1].num_kv_heads,
    "linear_key_head_dim": lambda c: c.each_kind[1].head_dim,
    "linear_value_head_dim": lambda c: c.each_kind[1].value_dim,
    "linear_allow_neg_eigval": lambda c: c.each_kind[1].write_scale == 2,
    "linear_conv_kernel_dim": lambda c: c.each_kind[1].convolution,
    "global_head_dim": lambda c: c.each_kind[1].head_dim,
    "num_global_key_value_heads": lambda c: c.each_kind[1].num_kv_heads,
    "attention_k_eq_v": lambda c: c.each_kind[1].keys_as_values,
    "num_kv_shared_layers": lambda c: sum(source is not None for source in c.keys_of),
    "use_double_wide_mlp": lambda c: c.each_kind[-1].mlp_width > c.mlp_width,
    "hidden_size_per_layer_input": lambda c: c.layer_input,
    "vocab_size_per_layer_input": lambda c: c.vocab_size,
    "no_rope_layers": lambda c: [int(rope is not None) for rope in c.layer_ropes],
    **dict.fromkeys(("num_experts", "num_local_experts"), lambda c: c.experts),
    **dict.fromkeys(("n_routed_experts", "moe_num_experts"), lambda c: c.experts),
    **dict.fromkeys(
        ("n_shared_experts", "moe_num_shared_experts"), lambda c: c.mlp_width // c.expert_width
    ),
    **dict.fromkeys(("first_k_dense_replace", "moe_layer_start_index"), first_with_experts),
    "moe_layer_end_index": lambda c: max(c.layers_of(0), default=-1),
    "moe_k": lambda c: c.experts_per_token,
    "routed_scaling_factor": lambda c: c.routed_scale,
    "use_qk_norm": lambda c: c.head_norms,
    "enable_moe_block": lambda c: c.parallel_experts,
    "top_k_experts": lambda c: c.experts_per_token,
    "swiglu_limit": lambda c: c.swiglu_limit,
    "num_experts_per_tok": lambda c: c.experts_per_token,
    "norm_topk_prob": lambda c: c.normalised_routing,
    "moe_intermediate_size": lambda c: c.expert_width,
    "shared_expert_intermediate_size": lambda c: c.mlp_width,
    "decoder_sparse_step": lambda c: 1,
    "mlp_only_layers": lambda c: [],
    "hidden_activation": lambda c: "gelu_pytorch_tanh",
    "query_pre_attn_scalar": query_scalar,
    "embedding_multiplier": lambda c: c.embedding_scale,
    "attention_multiplier": lambda c: rounded(c.query_scale / c.head_dim**0.5),
    "residual_multiplier": lambda c: c.residual_scale,
    "logits_scaling": lambda c: rounded(1 / c.logit_scale),
    "original_max_position_embeddings": lambda c: c.context,
    "shared_intermediate_size": lambda c: c.mlp_width,
    "position_embedding_type": lambda c: "nope" if None in c.layer_ropes else "rope",
    # of no layer; the default number of heads may not divide the width
    "mamba_n_heads": lambda c: c.each_kind[-1].num_heads if c.kinds else 1,
    "mamba_n_groups": lambda c: c.each_kind[-1].num_kv_heads if c.kinds else 1,
    "mamba_d_state": lambda c: c.each_kind[-1].head_dim,
    "mamba_d_head": lambda c: c.each_kind[-1].value_dim if c.kinds else "auto",
    "mamba_d_conv": lambda c: c.each_kind[-1].convolution or 4,
    "mamba_expand": lambda c: mamba_width(c) // c.width if c.kinds else 2,
    "attn_logit_softcapping": lambda c: c.attention_softcap,
    "final_logit_softcapping": lambda c: c.logit_softcap,
}
