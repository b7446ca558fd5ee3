"""Gemma: how each config is read, and its table."""

from typing import Any

from cola_jax.config import LayerKind, ModelConfig, Rope
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

# layers of kind 1 see all tokens
GEMMA4 = make_table(
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

GEMMA4_EDGE = {
    "num_kv_shared_layers": "layers that attend to the keys and values of others",
    "hidden_size_per_layer_input": "embeddings for each layer",
}


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


def read_gemma2(attributes: Attributes) -> ModelConfig:
    """Read Gemma 2, which caps attention's scores and logits."""
    caps = map(attributes.get, ("attn_logit_softcapping", "final_logit_softcapping"))
    names = "attention_softcap", "logit_softcap"
    return ModelConfig(**read_gemma(attributes), **dict(zip(names, caps, strict=True)))


def read_gemma3_text(attributes: Attributes) -> ModelConfig:
    """Read Gemma 3: layers with a window have a rope of their own."""
    attributes.get("rope_local_base_freq")  # an older name of the theta of the second rope
    fields = read_gemma(attributes, read_ropes(attributes))
    fields["layer_ropes"] = tuple(int(window is not None) for window in fields["windows"])
    return ModelConfig(**fields, head_norms=True)


def read_gemma4_text(attributes: Attributes) -> ModelConfig:
    """Read Gemma 4: layers without a window are kind 1, with heads of their own.

    Raises InputError for the parts that E2B and E4B have beside these.
    """
    get, heads = attributes.get, ("global_head_dim", "num_global_key_value_heads")
    for name in (*heads, "vocab_size_per_layer_input", "use_double_wide_mlp"):
        get(name)  # has no effect, or is in the attributes of layers
    for name, parts in GEMMA4_EDGE.items():
        if get(name):
            raise InputError(
                f"{name} is {shown(get(name))}: {parts}, as in Gemma 4 E2B and E4B, are not "
                "supported. Choose a larger Gemma 4."
            )
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
    kind = LayerKind(
        num_kv_heads=full.get("num_key_value_heads"),
        head_dim=width,
        query_scale=width**0.5,
        keys_as_values=get("attention_k_eq_v"),
    )
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
    norms = dict.fromkeys(("head_norms", "value_norms", "post_norms", "output_scales"), True)
    return ModelConfig(**fields, **norms, norm_offset=0.0, activation="gelu_tanh")


def read_gemma1(attributes: Attributes) -> ModelConfig:
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
    return ModelConfig(**fields, norm_offset=1.0, activation="gelu_tanh")
