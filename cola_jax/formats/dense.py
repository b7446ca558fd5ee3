"""Families whose layers have one MLP: how each config is read, and its table."""

import dataclasses
from typing import Any

from cola_jax.errors import InputError
from cola_jax.formats.attributes import Attributes, read_rope, read_windows
from cola_jax.formats.decoder import (
    JOINED_MLP,
    PAIRS,
    QKV,
    joined,
    read_bias,
    read_decoder,
    read_llama,
    read_partly_rotated,
)
from cola_jax.formats.table import Row, make_table

PHI3 = make_table(
    *joined(
        "model.layers.{i}.self_attn.qkv_proj.weight",
        QKV,
        {"q": "(N H) D -> D N H", **dict.fromkeys("kv", "(K H) D -> D K H")},
    ),
    base=JOINED_MLP,
)

GLM = {**JOINED_MLP, **PAIRS}

GLM4 = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_self_attn_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_mlp_layernorm.weight", "D -> D"),
    base=GLM,
)


def read_mistral(attributes: Attributes) -> dict[str, Any]:
    """Read Mistral: all layers have the same window, or none."""
    fields = read_decoder(attributes)
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    return fields


def read_smollm3(attributes: Attributes) -> dict[str, Any]:
    """Read SmolLM3: Llama, some of whose layers do not rotate."""
    fields = read_decoder(attributes) | read_bias(attributes)
    attributes.get("no_rope_layer_interval")  # from which transformers makes the list
    rotated = attributes.get("no_rope_layers")[: fields["num_layers"]]
    fields["layer_ropes"] = tuple(0 if rotates else None for rotates in rotated)
    fields["windows"] = read_windows(attributes)
    return dict(fields, mlp_bias=attributes.get("mlp_bias"))


def read_granite(attributes: Attributes) -> dict[str, Any]:
    """Read Granite 3: Llama with four multipliers."""
    get, fields = attributes.get, read_decoder(attributes) | read_bias(attributes)
    return dict(
        fields,
        # Granite with experts has no such attribute
        mlp_bias=bool(get("mlp_bias")),
        embedding_scale=get("embedding_multiplier"),
        query_scale=get("attention_multiplier") * fields["head_dim"] ** 0.5,
        residual_scale=get("residual_multiplier"),
        logit_scale=1 / get("logits_scaling"),
    )


def read_arcee(attributes: Attributes) -> dict[str, Any]:
    """Read Arcee's AFM: Llama, whose MLP has a squared relu and no gate."""
    if attributes.get("hidden_act") != "relu2":
        raise InputError("hidden_act must be relu2.")
    return dict(read_llama(attributes), activation="relu", gated_mlp=False)


def read_phi3(attributes: Attributes) -> dict[str, Any]:
    """Read Phi-3, Phi-3.5, Phi-4 or Phi-4-mini.

    With longrope, the context is the original one: longer prompts have other frequencies.
    """
    get, parameters = attributes.get, dict(attributes.get("rope_parameters"))
    get("auto_map")  # the code in these repositories is older than transformers' own
    original = get("original_max_position_embeddings")
    is_long = parameters["rope_type"] == "longrope"
    if is_long:
        parameters.setdefault("factor", get("max_position_embeddings") / original)
    fields = read_partly_rotated(attributes, parameters)
    fields |= {"context": original} if is_long else {}
    fields["windows"] = (get("sliding_window"),) * fields["num_layers"]
    return fields


def read_ministral(attributes: Attributes) -> dict[str, Any]:
    """Read Ministral 8B, Mistral whose layers may differ in their window."""
    fields = read_decoder(attributes)
    fields["windows"] = read_windows(attributes)
    return fields


def read_ministral3(attributes: Attributes) -> dict[str, Any]:
    """Read Ministral 3 or Devstral 2: Mistral, whose queries grow with their position."""
    parameters, beta = attributes.get("rope_parameters"), "llama_4_scaling_beta"
    rope = read_rope(parameters, (beta, "max_position_embeddings"))
    fields = read_decoder(attributes, (rope,))
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    if parameters.get(beta):
        context = parameters["original_max_position_embeddings"]
        fields["query_growth"] = parameters[beta], context
    return fields


def read_seed_oss(attributes: Attributes) -> dict[str, Any]:
    """Read Seed-OSS: Llama with other biases."""
    return dict(
        read_decoder(attributes),
        qkv_bias=attributes.get("attention_bias"),
        output_bias=attributes.get("attention_out_bias"),
        mlp_bias=attributes.get("mlp_bias"),
    )


def read_exaone4(attributes: Attributes) -> dict[str, Any]:
    """Read EXAONE 4: if some layers have a window, those without one do not rotate."""
    fields = read_decoder(attributes)
    windows = read_windows(attributes)
    if attributes.get("sliding_window") is not None:
        fields["layer_ropes"] = tuple(None if window is None else 0 for window in windows)
    fields["windows"] = windows
    return dict(fields, head_norms=True, pre_norms=False, post_norms=True)


def read_ernie4_5(attributes: Attributes) -> dict[str, Any]:
    """Read a dense ERNIE 4.5."""
    attributes.get("auto_map")  # the code in these repositories is older than transformers' own
    biased, fields = attributes.get("use_bias"), read_decoder(attributes)
    return dict(fields, qkv_bias=biased, output_bias=biased, mlp_bias=biased)


def read_helium(attributes: Attributes) -> dict[str, Any]:
    """Read Helium: Llama without a bias of outputs, whose norms apply in float32."""
    biases = {"qkv_bias": attributes.get("attention_bias"), "mlp_bias": attributes.get("mlp_bias")}
    return dict(read_decoder(attributes), **biases, norm_offset=0.0)


def read_cwm(attributes: Attributes) -> dict[str, Any]:
    """Read CWM: Llama, some of whose layers have a window."""
    fields = read_decoder(attributes)
    fields["windows"] = read_windows(attributes)
    return dict(fields, mlp_bias=attributes.get("mlp_bias"))


def read_glm(attributes: Attributes) -> dict[str, Any]:
    """Read GLM-4 of 2024, which rotates the first half of a head."""
    fields = read_partly_rotated(attributes)
    pairs = (fields.pop("rotary_dim") or fields["head_dim"]) // 2
    fields["ropes"] = (dataclasses.replace(*fields["ropes"], pairs=pairs),)
    return dict(fields, qkv_bias=attributes.get("attention_bias"))


def read_glm4(attributes: Attributes) -> dict[str, Any]:
    """Read GLM-4-0414: GLM with norms of outputs."""
    return dict(read_glm(attributes), post_norms=True)
