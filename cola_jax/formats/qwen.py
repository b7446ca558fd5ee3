"""Qwen: dense, with experts, and with Gated DeltaNets beside attention."""

from typing import Any

from cola_jax.errors import InputError, shown
from cola_jax.formats.attributes import Attributes, read_windows
from cola_jax.formats.decoder import (
    DELTA_NET,
    DELTA_QKV,
    DELTA_SIZES,
    LLAMA,
    joined,
    read_bias,
    read_decoder,
    read_experts,
    read_partly_rotated,
    read_recurrent,
)
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


def read_qwen2(attributes: Attributes) -> dict[str, Any]:
    """Read Qwen2 or 2.5; biases of q, k and v are not optional."""
    fields = read_decoder(attributes)
    fields["windows"] = read_windows(attributes)
    return dict(fields, qkv_bias=True)


def read_qwen3(attributes: Attributes) -> dict[str, Any]:
    """Read a dense Qwen3, which normalises heads."""
    fields = read_decoder(attributes) | read_bias(attributes)
    fields["windows"] = read_windows(attributes)
    return dict(fields, head_norms=True)


def read_qwen_experts(attributes: Attributes) -> dict[str, Any]:
    """Read the fields of experts in Qwen's families.

    Raises InputError for models that have experts in some of their layers only.
    """
    step, dense = attributes.get("decoder_sparse_step"), attributes.get("mlp_only_layers")
    if step != 1 or dense:
        raise InputError(
            f"decoder_sparse_step is {shown(step)} and mlp_only_layers "
            f"{shown(dense)}, so some layers have experts and others do not. Only models whose "
            "layers are all of one kind can be converted."
        )
    return read_experts(attributes) | {"expert_width": attributes.get("moe_intermediate_size")}


def read_qwen2_moe(attributes: Attributes) -> dict[str, Any]:
    """Read Qwen1.5-MoE or Qwen2-MoE, with a shared expert."""
    fields = read_decoder(attributes) | read_qwen_experts(attributes)
    fields["mlp_width"] = attributes.get("shared_expert_intermediate_size")
    fields["windows"] = read_windows(attributes)
    return dict(fields, qkv_bias=attributes.get("qkv_bias"))


def read_qwen3_moe(attributes: Attributes) -> dict[str, Any]:
    """Read Qwen3-MoE: all layers have the same window, or none."""
    fields = read_decoder(attributes) | read_qwen_experts(attributes) | read_bias(attributes)
    fields["mlp_width"] = 0
    attributes.get("layer_types")  # released configs have max_window_layers, without effect
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    return dict(fields, head_norms=True)


def read_qwen_hybrid(attributes: Attributes) -> dict[str, Any]:
    """Read the fields of Qwen's hybrids: gated attention, and Gated DeltaNets as kind 1."""
    plain = dict.fromkeys(("head_norms", "qkv_bias", "output_bias", "output_gate"), False)
    rope = dict(attributes.get("rope_parameters"))
    for name in ("mrope_section", "mrope_interleaved"):  # positions in three parts, equal for text
        rope.pop(name, None)
    fields = read_partly_rotated(attributes, rope) | read_bias(attributes)
    fields |= read_recurrent(attributes, DELTA_SIZES, **plain)
    return fields | {"head_norms": True, "output_gate": True, "norm_offset": 1.0}


def read_qwen3_5_text(attributes: Attributes) -> dict[str, Any]:
    """Read the text part of a dense Qwen3.5 or 3.6."""
    return read_qwen_hybrid(attributes)


def read_qwen3_5_moe_text(attributes: Attributes) -> dict[str, Any]:
    """Read the text part of a Qwen3.5 or 3.6 with experts, one of them shared."""
    fields = read_qwen_hybrid(attributes) | read_experts(attributes)
    width, shared = "moe_intermediate_size", "shared_expert_intermediate_size"
    fields |= {"expert_width": attributes.get(width), "mlp_width": attributes.get(shared)}
    fields["normalised_routing"] = True
    return fields


def read_qwen3_next(attributes: Attributes) -> dict[str, Any]:
    """Read Qwen3-Next, all of whose layers have experts."""
    fields = read_qwen_hybrid(attributes) | read_qwen_experts(attributes)
    fields["mlp_width"] = attributes.get("shared_expert_intermediate_size")
    return fields
