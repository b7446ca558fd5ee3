"""Gemma: how each config is read, and its table."""

from collections.abc import Mapping
from typing import Any

from cola_jax.config import Rope
from cola_jax.errors import InputError, shown
from cola_jax.formats.attributes import Attributes, read_windows
from cola_jax.formats.decoder import (
    ATTENTION_KINDS,
    POST_NORMS,
    joined_experts,
    read_bias,
    read_decoder,
    read_ropes,
)
from cola_jax.formats.table import Row, make_table

GEMMA = make_table(
    Row("mlp_norm", "model.layers.{i}.pre_feedforward_layernorm.weight", "D -> D"),
    base=POST_NORMS,
)

# layers of kind 1 see all tokens; those of kinds 2 and 3 share keys and values of kinds 0 and 1
GEMMA4 = make_table(
    Row("layer_embedding", "model.embed_tokens_per_layer.weight", "V (L P) -> V L P"),
    Row("layer_projection", "model.per_layer_model_projection.weight", "(L P) D -> D L P"),
    Row("layer_norm", "model.per_layer_projection_norm.weight", "P -> P"),
    Row("input_gate", "model.layers.{i}.per_layer_input_gate.weight", "P D -> D P"),
    Row("input_up", "model.layers.{i}.per_layer_projection.weight", "D P -> P D"),
    Row("input_norm", "model.layers.{i}.post_per_layer_input_norm.weight", "D -> D"),
    Row("output_scale", "model.layers.{i}.layer_scalar", "1 -> 1"),
    Row("router", "model.layers.{i}.router.proj.weight", "E D -> D E"),
    Row("router_norm", "model.layers.{i}.router.scale", "D -> D"),
    Row("expert_scale", "model.layers.{i}.router.per_expert_scale", "E -> E"),
    *joined_experts("model.layers.{i}.experts.gate_up_proj"),
    Row("expert_down", "model.layers.{i}.experts.down_proj", "E D X -> E X D"),
    Row("experts_norm", "model.layers.{i}.pre_feedforward_layernorm_2.weight", "D -> D"),
    Row("experts_post_norm", "model.layers.{i}.post_feedforward_layernorm_2.weight", "D -> D"),
    Row("dense_post_norm", "model.layers.{i}.post_feedforward_layernorm_1.weight", "D -> D"),
    base=GEMMA,
)


def read_gemma(attributes: Attributes, ropes: tuple[Rope, ...] | None = None) -> dict[str, Any]:
    """Read the fields of Gemma 2 and 3: windows by layer, and four norms per layer."""
    if attributes.get("hidden_activation") != "gelu_pytorch_tanh":
        raise InputError("hidden_activation must be gelu_pytorch_tanh.")
    if attributes.get("use_bidirectional_attention"):
        raise InputError("use_bidirectional_attention is not supported.")
    fields = read_decoder(attributes, ropes) | read_bias(attributes)
    fields |= {
        "windows": read_windows(attributes),
        "embedding_scale": fields["width"] ** 0.5,
        "query_scale": (fields["head_dim"] / attributes.get("query_pre_attn_scalar")) ** 0.5,
    }
    return fields | {"post_norms": True, "norm_offset": 1.0, "activation": "gelu_tanh"}


def read_gemma2(attributes: Attributes) -> dict[str, Any]:
    """Read Gemma 2, which caps attention's scores and logits."""
    caps = map(attributes.get, ("attn_logit_softcapping", "final_logit_softcapping"))
    names = "attention_softcap", "logit_softcap"
    return dict(read_gemma(attributes), **dict(zip(names, caps, strict=True)))


def read_gemma3_text(attributes: Attributes) -> dict[str, Any]:
    """Read Gemma 3: layers with a window have a rope of their own."""
    attributes.get("rope_local_base_freq")  # an older name of the theta of the second rope
    fields = read_gemma(attributes, read_ropes(attributes))
    fields["layer_ropes"] = tuple(int(window is not None) for window in fields["windows"])
    return dict(fields, head_norms=True)


def read_gemma4_text(attributes: Attributes) -> dict[str, Any]:
    """Read Gemma 4: layers without a window are kind 1, with heads of their own."""
    get = attributes.get
    for name in ("global_head_dim", "num_global_key_value_heads"):
        get(name)  # is in the attributes of layers
    if attributes.values.get("expert_intermediate_size") is None:
        get("expert_intermediate_size")  # in the first releases
    if get("use_bidirectional_attention") == "all":
        raise InputError("use_bidirectional_attention is not supported.")
    if get("hidden_activation") != "gelu_pytorch_tanh":
        raise InputError("hidden_activation must be gelu_pytorch_tanh.")
    types, windows = attributes.values.get("layer_types"), read_windows(attributes)
    if types and types[-1] != ATTENTION_KINDS[0]:
        raise InputError(
            f"layer_types ends with {shown(types[-1])}, but transformers gives the last layer of "
            f"Gemma 4 {ATTENTION_KINDS[0]}: end with such a layer."
        )
    differ = "head_dim", "num_key_value_heads"
    full, part = (attributes.of_layers(kind, *differ) for kind in ATTENTION_KINDS)
    fields = read_decoder(part, read_ropes(attributes)) | read_bias(attributes)
    width = full.get("head_dim")
    kind = {
        "num_kv_heads": full.get("num_key_value_heads"),
        "head_dim": width,
        "query_scale": width**0.5,
        "keys_as_values": get("attention_k_eq_v"),
    }
    is_full = tuple(int(window is None) for window in windows)
    fields |= {
        **{"windows": windows, "kinds": (kind,), "layer_kinds": is_full},
        "layer_ropes": tuple(1 - x for x in is_full),
        **{"embedding_scale": fields["width"] ** 0.5, "query_scale": fields["head_dim"] ** 0.5},
        "logit_softcap": get("final_logit_softcapping"),
    }
    experts = {
        "experts": get("num_experts"),
        "experts_per_token": get("top_k_experts"),
        "expert_width": get("moe_intermediate_size"),
        **{"parallel_experts": True, "normalised_routing": True, "shared_gate": False},
    }
    if get("enable_moe_block"):
        fields |= experts
    fields |= read_layer_input(attributes)
    fields |= read_shared_keys(attributes, fields)
    norms = dict.fromkeys(("head_norms", "value_norms", "post_norms", "output_scales"), True)
    return dict(fields, **norms, norm_offset=0.0, activation="gelu_tanh")


def read_layer_input(attributes: Attributes) -> dict[str, Any]:
    """Read the width of the embeddings that layers have of their own."""
    width, vocab = map(
        attributes.get, ("hidden_size_per_layer_input", "vocab_size_per_layer_input")
    )
    if width and vocab != attributes.get("vocab_size"):
        raise InputError(f"vocab_size_per_layer_input is {vocab}, and must be that of vocab_size.")
    return {"layer_input": width or 0}


def read_shared_keys(attributes: Attributes, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read the last layers, which attend to keys and values that others leave in the state.

    Those are of the last layer before them of the same kind.
    """
    wide, count = map(attributes.get, ("use_double_wide_mlp", "num_kv_shared_layers"))
    if not count:
        return {}
    kinds, own = fields["layer_kinds"], fields["num_layers"] - count
    if not {*kinds[max(own, 0) :]} <= {*kinds[: max(own, 0)]}:
        raise InputError(
            f"num_kv_shared_layers is {count}, but no layer before them has keys and values of "
            "the same kind."
        )
    (full,) = fields["kinds"]
    places = fields["width"], fields["width"] + 2 * fields["num_kv_heads"] * fields["head_dim"]
    shares: dict[str, Any] = {
        "own_keys": False,
        "mlp_width": (1 + bool(wide)) * fields["mlp_width"],
    }
    full = {**full, "shared_at": places[1]}
    last = {kind: max(i for i in range(own) if kinds[i] == kind) for kind in {*kinds}}
    return {
        "shared_at": places[0],
        "kinds": (full, shares, full | shares),
        "layer_kinds": tuple(kind + 2 * (i >= own) for i, kind in enumerate(kinds)),
        "keys_of": tuple(last[kind] if i >= own else None for i, kind in enumerate(kinds)),
    }


def read_gemma1(attributes: Attributes) -> dict[str, Any]:
    """Read Gemma 1: Llama with other norms and activation, and scaled embeddings."""
    names = "hidden_act", "hidden_activation"  # the second prevails in older versions
    activations = {attributes.get(names[0]), attributes.values.get(names[1])} - {None}
    attributes.get(names[1])
    if activations != {"gelu_pytorch_tanh"}:
        raise InputError(f"{' and '.join(names)} must be gelu_pytorch_tanh.")
    if attributes.get("use_bidirectional_attention"):
        raise InputError("use_bidirectional_attention is not supported.")
    fields = read_decoder(attributes) | read_bias(attributes)
    fields["embedding_scale"] = fields["width"] ** 0.5
    return dict(fields, norm_offset=1.0, activation="gelu_tanh")
