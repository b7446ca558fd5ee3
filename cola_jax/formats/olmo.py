"""OLMo: dense, with experts, and with Gated DeltaNets beside attention."""

from collections.abc import Mapping
from typing import Any

from cola_jax.config import Rope
from cola_jax.formats import decoder
from cola_jax.formats.attributes import Attribute, Fields, extend, ignored, of_kind, renamed
from cola_jax.formats.decoder import DELTA_NET, DELTA_QKV
from cola_jax.formats.family import family
from cola_jax.formats.ropes import TWO_ROPES, read_rope, write_rope
from cola_jax.formats.table import Row, make_table

OLMO = make_table(
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "(N H) -> N H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "(K H) -> K H"),
    base=decoder.POST_NORMS,
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


OLMO_ATTRIBUTES = extend(decoder.DECODER, decoder.BIAS, projection_norms=True)
# norms after attention and MLP instead of before them
NORMS_AFTER = extend(pre_norms=False, post_norms=True, norm_offset=0.0)
OLMOE = extend(
    OLMO_ATTRIBUTES,
    decoder.EXPERTS,
    ignored("num_local_experts"),  # another name of num_experts
    renamed(normalised_routing="norm_topk_prob", expert_width="intermediate_size"),
    mlp_width=0,
)


def read_optional_rope(parameters: Mapping[str, Any] | None, fields: Fields) -> tuple[Rope]:
    """Read the rope of OLMo Hybrid, where a theta of null is no rope."""
    if not parameters or parameters.get("rope_theta") is None:
        return (Rope(theta=1.0),)
    return (read_rope(parameters),)


def write_optional_rope(ropes: tuple[Rope, ...], fields: Fields) -> dict[str, Any]:
    """Return the parameters of a rope, with a theta of null where layers do not rotate."""
    values = write_rope(ropes[0])
    return values | {"rope_theta": None} if None in fields["layer_ropes"] else values


OLMOS = {
    "olmo2": family("Olmo2", OLMO, OLMO_ATTRIBUTES, NORMS_AFTER),
    "olmo3": family("Olmo3", OLMO, OLMO_ATTRIBUTES, NORMS_AFTER, decoder.WINDOWS, TWO_ROPES),
    "olmoe": family("Olmoe", OLMO, OLMOE, renamed(clip_qkv="clip_qkv")),
    "flex_olmo": family("FlexOlmo", OLMO, OLMOE, NORMS_AFTER),
    "olmo_hybrid": family(
        "OlmoHybrid",
        OLMO_HYBRID,
        OLMO_ATTRIBUTES,
        NORMS_AFTER,
        Attribute("ropes", "rope_parameters", read_optional_rope, write_optional_rope),
        Attribute(
            "layer_ropes",
            "",
            lambda x, f: (None if x is None else 0,) * f["num_layers"],
            place="rope_parameters.rope_theta",
        ),
        ignored("rope_theta", "rope_scaling"),
        decoder.DELTA_NETS,
        of_kind(
            1,
            Attribute(
                "write_scale",
                "linear_allow_neg_eigval",
                lambda x, f: 2.0 if x else 1.0,
                lambda x, f: x == 2,
            ),
            value_norm_eps=1e-5,
            pre_norms=True,
            post_norms=False,
            projection_norms=False,
        ),
        # of random weights
        ignored("linear_a_log_min", "linear_a_log_max"),
        ignored("linear_dt_min", "linear_dt_max", "linear_dt_init_floor"),
    ),
}
