"""Qwen: dense, with experts, and with Gated DeltaNets beside attention."""

from cola_jax.formats import decoder
from cola_jax.formats.attributes import Attribute, extend, ignored, of_kind, renamed, written
from cola_jax.formats.decoder import BIAS, DECODER, DELTA_NET, DELTA_QKV, LLAMA, joined
from cola_jax.formats.family import family
from cola_jax.formats.ropes import one_rope
from cola_jax.formats.table import Row, make_table

SHARED_EXPERT = make_table(
    Row("gate", "model.layers.{i}.mlp.shared_expert.gate_proj.weight", "F D -> D F"),
    Row("up", "model.layers.{i}.mlp.shared_expert.up_proj.weight", "F D -> D F"),
    Row("down", "model.layers.{i}.mlp.shared_expert.down_proj.weight", "D F -> F D"),
    Row("shared_gate", "model.layers.{i}.mlp.shared_expert_gate.weight", "1 D -> D"),
)

# the gate of each head follows its query; layers of kind 1 are Gated DeltaNets

QWEN_HYBRID = make_table(
    *joined(
        "model.layers.{i}.self_attn.q_proj.weight",
        ("H", "H"),
        dict.fromkeys(("q", "output_gate"), "(N H) D -> D N H"),
        groups="N",
    ),
    *joined(
        f"{DELTA_NET}.conv1d.weight",
        DELTA_QKV,
        {f"{name}_taps.1": f"({n}) 1 W -> {n} W" for name, n in zip("qkv", DELTA_QKV, strict=True)},
    ),
    Row("o.1", f"{DELTA_NET}.out_proj.weight", "D (N U) -> N U D"),
    Row("forget_bias.1", f"{DELTA_NET}.dt_bias", "N -> N"),
    Row("forget_rate.1", f"{DELTA_NET}.A_log", "N -> N"),
    Row("value_norm.1", f"{DELTA_NET}.norm.weight", "U -> U"),
    base=LLAMA,
)

QWEN3_5 = make_table(
    *joined(
        f"{DELTA_NET}.in_proj_qkv.weight",
        DELTA_QKV,
        {f"{name}.1": f"({n}) D -> D {n}" for name, n in zip("qkv", DELTA_QKV, strict=True)},
    ),
    Row("output_gate.1", f"{DELTA_NET}.in_proj_z.weight", "(N U) D -> D N U"),
    Row("write.1", f"{DELTA_NET}.in_proj_b.weight", "N D -> D N"),
    Row("forget.1", f"{DELTA_NET}.in_proj_a.weight", "N D -> D N"),
    base=QWEN_HYBRID,
)

# each key head has its G value heads beside it
QWEN3_NEXT = make_table(
    *joined(
        f"{DELTA_NET}.in_proj_qkvz.weight",
        ("H", "H", "G U", "G U"),
        {
            **dict.fromkeys(("q.1", "k.1"), "(K H) D -> D K H"),
            **dict.fromkeys(("v.1", "output_gate.1"), "(N U) D -> D N U"),
        },
        groups="K",
    ),
    *joined(
        f"{DELTA_NET}.in_proj_ba.weight",
        ("G", "G"),
        dict.fromkeys(("write.1", "forget.1"), "N D -> D N"),
        groups="K",
    ),
    base={**QWEN_HYBRID, **SHARED_EXPERT},
)


QWEN_WINDOWS = extend(
    decoder.WINDOWS,
    decoder.USE_WINDOW,
    # for readers that ignore `layer_types`
    Attribute("windows", "max_window_layers", None, lambda x, f: (*map(bool, x), True).index(True)),
)
EXPERTS = extend(decoder.EXPERTS, renamed(expert_width="moe_intermediate_size"))
ALL_EXPERTS = extend(
    EXPERTS,
    renamed(normalised_routing="norm_topk_prob"),
    written(decoder_sparse_step=1, mlp_only_layers=[]),  # else some layers have none
)
SHARED_WIDTH = renamed(mlp_width="shared_expert_intermediate_size")
# gated attention, and Gated DeltaNets
HYBRID = extend(
    DECODER,
    BIAS,
    decoder.PARTLY_ROTATED,
    # positions in three parts, equal for text
    one_rope("partial_rotary_factor", "mrope_section", "mrope_interleaved"),
    decoder.DELTA_NETS,
    of_kind(1, head_norms=False, output_gate=False),
    head_norms=True,
    output_gate=True,
    norm_offset=1.0,
)

QWENS = {
    "qwen2": family("Qwen2", LLAMA, DECODER, QWEN_WINDOWS, qkv_bias=True),
    "qwen3": family("Qwen3", LLAMA, DECODER, BIAS, QWEN_WINDOWS, head_norms=True),
    "qwen2_moe": family(
        "Qwen2Moe",
        {**LLAMA, **SHARED_EXPERT},
        DECODER,
        QWEN_WINDOWS,
        ALL_EXPERTS,
        SHARED_WIDTH,
        renamed(qkv_bias="qkv_bias"),
    ),
    "qwen3_moe": family(
        "Qwen3Moe",
        LLAMA,
        DECODER,
        BIAS,
        decoder.WINDOW,
        decoder.USE_WINDOW,
        ignored("layer_types", "max_window_layers"),  # without effect
        ALL_EXPERTS,
        ignored("num_local_experts"),  # another name of num_experts
        Attribute("expert_width", "intermediate_size", read=None),
        mlp_width=0,
        head_norms=True,
    ),
    "qwen3_5_text": family("Qwen3_5", QWEN3_5, HYBRID, outside=("mtp.",)),
    "qwen3_5_moe_text": family(
        "Qwen3_5Moe",
        {**QWEN3_5, **SHARED_EXPERT},
        HYBRID,
        EXPERTS,
        SHARED_WIDTH,
        normalised_routing=True,
        outside=("mtp.",),
    ),
    "qwen3_next": family(
        "Qwen3Next", QWEN3_NEXT, HYBRID, ALL_EXPERTS, SHARED_WIDTH, outside=("mtp.",)
    ),
}
