"""OLMo: how each config is read, and its table."""

from typing import Any

from cola_jax.config import Rope
from cola_jax.formats.attributes import Attributes, read_rope, read_windows
from cola_jax.formats.decoder import (
    DELTA_NET,
    DELTA_QKV,
    DELTA_SIZES,
    POST_NORMS,
    read_bias,
    read_decoder,
    read_experts,
    read_recurrent,
    read_ropes,
)
from cola_jax.formats.table import Row, make_table

OLMO = make_table(
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "(N H) -> N H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "(K H) -> K H"),
    base=POST_NORMS,
)

# layers of kind 1 are Gated DeltaNets, with norms before them
OLMO_HYBRID = make_table(
    Row(
        "attention_post_norm",
        "model.layers.{i}.post_attention_layernorm.weight",
        "D -> D",
        older="model.layers.{i}.feedforward_layer_norm.weight",  # as transformers writes it
    ),
    *(
        Row(f"{ours}.1", f"{DELTA_NET}.{ours}_proj.weight", f"({heads}) D -> D {heads}")
        for ours, heads in zip("qkv", DELTA_QKV, strict=True)
    ),
    *(
        Row(f"{ours}_taps.1", f"{DELTA_NET}.{ours}_conv1d.weight", f"({heads}) 1 W -> {heads} W")
        for ours, heads in zip("qkv", DELTA_QKV, strict=True)
    ),
    Row("o.1", f"{DELTA_NET}.o_proj.weight", "D (N U) -> N U D"),
    Row("output_gate.1", f"{DELTA_NET}.g_proj.weight", "(N U) D -> D N U"),
    Row("write.1", f"{DELTA_NET}.b_proj.weight", "N D -> D N"),
    Row("forget.1", f"{DELTA_NET}.a_proj.weight", "N D -> D N"),
    Row("forget_bias.1", f"{DELTA_NET}.dt_bias", "N -> N"),
    Row("forget_rate.1", f"{DELTA_NET}.A_log", "N -> N"),
    Row("value_norm.1", f"{DELTA_NET}.o_norm.weight", "U -> U"),
    Row("attention_norm.1", "model.layers.{i}.attention_layer_norm.weight", "D -> D"),
    Row("mlp_norm.1", "model.layers.{i}.feedforward_layer_norm.weight", "D -> D"),
    base=OLMO,
)


def read_olmo(attributes: Attributes, ropes: tuple[Rope, ...] | None = None) -> dict[str, Any]:
    """Read the fields of OLMo 2, OLMo 3 and OLMoE."""
    fields = read_decoder(attributes, ropes) | read_bias(attributes)
    return fields | {"projection_norms": True}


def read_olmo2(attributes: Attributes) -> dict[str, Any]:
    """Read OLMo 2, with norms after attention and MLP instead of before them."""
    fields = read_olmo(attributes)
    return dict(fields, pre_norms=False, post_norms=True, norm_offset=0.0)


def read_olmoe(attributes: Attributes) -> dict[str, Any]:
    """Read OLMoE, whose `intermediate_size` is an expert's width."""
    fields = read_olmo(attributes) | read_experts(attributes)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0}
    return dict(fields, clip_qkv=attributes.get("clip_qkv"))


def read_olmo3(attributes: Attributes) -> dict[str, Any]:
    """Read OLMo 3: OLMo 2 with windows, whose layers have a rope of their own."""
    fields = read_olmo(attributes, read_ropes(attributes))
    windows = read_windows(attributes)
    fields |= {"windows": windows, "layer_ropes": tuple(int(x is not None) for x in windows)}
    return dict(fields, pre_norms=False, post_norms=True, norm_offset=0.0)


def read_flex_olmo(attributes: Attributes) -> dict[str, Any]:
    """Read FlexOlmo: OLMoE with the norms of OLMo 2."""
    norms = {"pre_norms": False, "post_norms": True, "norm_offset": 0.0}
    return dict(read_olmoe(attributes), **norms)


def read_olmo_hybrid(attributes: Attributes) -> dict[str, Any]:
    """Read OLMo Hybrid: OLMo 3 without windows, and Gated DeltaNets; a theta of null is no rope."""
    get, parameters = attributes.get, dict(attributes.get("rope_parameters") or {})
    for name in ("a_log_min", "a_log_max", "dt_min", "dt_max", "dt_init_floor"):
        get(f"linear_{name}")  # of random weights
    rotates = parameters.get("rope_theta") is not None
    rope = read_rope(parameters if rotates else {"rope_type": "default", "rope_theta": 1.0})
    fields = read_olmo(attributes, (rope,)) | read_recurrent(
        attributes,
        DELTA_SIZES,
        write_scale=2.0 if get("linear_allow_neg_eigval") else 1.0,
        value_norm_eps=1e-5,
        **{"pre_norms": True, "post_norms": False, "projection_norms": False},
        **dict.fromkeys(("qkv_bias", "output_bias"), False),
    )
    fields["layer_ropes"] = (0 if rotates else None,) * fields["num_layers"]
    return dict(fields, pre_norms=False, post_norms=True, norm_offset=0.0)
