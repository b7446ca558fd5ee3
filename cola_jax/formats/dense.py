"""Families whose layers have one MLP."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from cola_jax.config import Rope
from cola_jax.formats import decoder
from cola_jax.formats.attributes import (
    Attribute,
    Fields,
    each_layer,
    extend,
    ignored,
    renamed,
    required,
)
from cola_jax.formats.decoder import BIAS, DECODER, LLAMA, MLP_BIAS, QKV_BIAS, WINDOW, WINDOWS
from cola_jax.formats.family import family
from cola_jax.formats.ropes import one_rope, read_rope, write_rope
from cola_jax.formats.table import Row, make_table

PHI3 = make_table(
    *decoder.joined(
        "model.layers.{i}.self_attn.qkv_proj.weight",
        decoder.QKV,
        {"q": "(N H) D -> D N H", **dict.fromkeys("kv", "(K H) D -> D K H")},
    ),
    base=decoder.JOINED_MLP,
)

GLM = {**decoder.JOINED_MLP, **decoder.PAIRS}

GLM4 = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_self_attn_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_mlp_layernorm.weight", "D -> D"),
    base=GLM,
)


STARCODER2 = make_table(
    Row("up", "model.layers.{i}.mlp.c_fc.weight", "F D -> D F"),
    Row("up_bias", "model.layers.{i}.mlp.c_fc.bias", "F -> F"),
    Row("down", "model.layers.{i}.mlp.c_proj.weight", "D F -> F D"),
    Row("down_bias", "model.layers.{i}.mlp.c_proj.bias", "D -> D"),
    base=decoder.NORM_BIASES,
)

LLAMA_ATTRIBUTES = extend(DECODER, BIAS, MLP_BIAS)


def rounded(quotient: float) -> float:
    """Return the decimal number that a quotient was before it was divided."""
    return float(f"{quotient:.12g}")


MULTIPLIERS = extend(
    renamed(embedding_scale="embedding_multiplier", residual_scale="residual_multiplier"),
    Attribute(
        "query_scale",
        "attention_multiplier",
        lambda x, f: x * f["head_dim"] ** 0.5,
        lambda x, f: rounded(x / f["head_dim"] ** 0.5),
    ),
    Attribute("logit_scale", "logits_scaling", lambda x, f: 1 / x, lambda x, f: rounded(1 / x)),
)


def read_long_rope(parameters: Mapping[str, Any], fields: Fields) -> tuple[Rope]:
    """Read the rope of Phi-3, whose factor may follow from the context."""
    if parameters["rope_type"] == "longrope":
        original = parameters["original_max_position_embeddings"]
        parameters = {"factor": fields["context"] / original, **parameters}
    return (read_rope(parameters, ("partial_rotary_factor",)),)


def read_growth(parameters: Mapping[str, Any], fields: Fields) -> tuple[float, int] | None:
    """Return by how much queries grow with their position."""
    beta = parameters.get("llama_4_scaling_beta")
    return (beta, parameters["original_max_position_embeddings"]) if beta else None


def write_growth(ropes: tuple[Rope, ...], fields: Fields) -> dict[str, Any]:
    """Return `rope_scaling` with the growth of queries."""
    beta, _ = fields["query_growth"] or (0.0, None)
    return write_rope(ropes[0]) | {"llama_4_scaling_beta": beta}


def read_pairs(share: float, fields: Fields) -> tuple[Rope]:
    """Return the rope of GLM, which rotates the first part of a head in pairs."""
    (rope,) = fields["ropes"]
    return (dataclasses.replace(rope, pairs=int(fields["head_dim"] * share) // 2),)


GLM_ATTRIBUTES = extend(
    DECODER,
    QKV_BIAS,
    one_rope("partial_rotary_factor"),
    decoder.PARTIAL._replace(
        ours="ropes", read=read_pairs, write=lambda x, f: 2 * x[0].pairs / f["head_dim"]
    ),
)


def window_or_context(windows: tuple[int | None, ...], fields: Fields) -> int | None:
    """Return the window, or a number where layers do not rotate and none has it."""
    number = fields["context"] if None in fields["layer_ropes"] else None
    return decoder.window_of(windows, fields) or number


DENSE = {
    "llama": family("Llama", LLAMA, LLAMA_ATTRIBUTES),
    "mistral": family("Mistral", LLAMA, DECODER, WINDOW),
    "ministral": family("Ministral", LLAMA, DECODER, WINDOWS),
    "ministral3": family(
        "Ministral3",
        LLAMA,
        DECODER,
        WINDOW,
        one_rope("llama_4_scaling_beta", "max_position_embeddings"),
        Attribute("query_growth", "", read_growth, place="rope_parameters"),
        Attribute("ropes", "rope_scaling", None, write_growth),
    ),
    "smollm3": family(
        "SmolLM3",
        LLAMA,
        LLAMA_ATTRIBUTES,
        WINDOWS,
        decoder.USE_WINDOW,
        Attribute("layer_ropes", "no_rope_layers", *each_layer({1: 0, 0: None})),
        # from which transformers makes the list
        ignored("no_rope_layer_interval"),
    ),
    "cwm": family("Cwm", LLAMA, DECODER, WINDOWS, MLP_BIAS),
    "arcee": family(
        "Arcee",
        LLAMA,
        LLAMA_ATTRIBUTES,
        required(hidden_act="relu2"),
        activation="relu",
        gated_mlp=False,
    ),
    "helium": family(
        "Helium", {**LLAMA, **decoder.PAIRS}, DECODER, QKV_BIAS, MLP_BIAS, norm_offset=0.0
    ),
    "seed_oss": family(
        "SeedOss", LLAMA, DECODER, QKV_BIAS, MLP_BIAS, renamed(output_bias="attention_out_bias")
    ),
    "exaone4": family(
        "Exaone4",
        decoder.POST_NORMS,
        DECODER,
        WINDOW._replace(write=window_or_context),
        decoder.LAYER_TYPES,
        # where a window is set, layers without it do not rotate
        Attribute(
            "layer_ropes",
            "",
            lambda x, f: tuple(None if x and w is None else 0 for w in f["windows"]),
            place="sliding_window",
        ),
        head_norms=True,
        pre_norms=False,
        post_norms=True,
    ),
    "ernie4_5": family(
        "Ernie4_5",
        {**LLAMA, **decoder.PAIRS},
        DECODER,
        decoder.OWN_CODE,
        Attribute("qkv_bias output_bias mlp_bias", "use_bias"),
    ),
    "granite": family("Granite", LLAMA, LLAMA_ATTRIBUTES, MULTIPLIERS),
    "phi3": family(
        "Phi3",
        PHI3,
        DECODER,
        decoder.OWN_CODE,
        WINDOW,
        decoder.PARTLY_ROTATED,
        Attribute("ropes", "rope_parameters", read_long_rope, None),
        # with longrope, longer prompts than the original context have other frequencies
        Attribute(
            "context",
            "original_max_position_embeddings",
            lambda x, f: x if f["ropes"][0].divisors else f["context"],
        ),
    ),
    "starcoder2": family(
        "Starcoder2",
        STARCODER2,
        DECODER,
        WINDOW,
        Attribute("qkv_bias output_bias mlp_bias", "use_bias"),
        renamed(norm_eps="norm_epsilon"),
        required(hidden_act="gelu_pytorch_tanh"),
        ignored("rms_norm_eps", "embedding_dropout"),
        norm_biases=True,
        activation="gelu_tanh",
        gated_mlp=False,
    ),
    "stablelm": family(
        "StableLm",
        decoder.NORM_BIASES,
        DECODER,
        decoder.PARTLY_ROTATED,
        renamed(norm_eps="layer_norm_eps", qkv_bias="use_qkv_bias"),
        required(qk_layernorm=False, use_parallel_residual=False),
        ignored("rms_norm_eps", "hidden_dropout"),
        norm_biases=True,
    ),
    "glm": family("Glm", GLM, GLM_ATTRIBUTES),
    "glm4": family("Glm4", GLM4, GLM_ATTRIBUTES, post_norms=True),
}
