"""Granite 4: attention, Mamba-2 or both, with experts or without; its config and its table."""

from typing import Any

from cola_jax.errors import InputError, shown
from cola_jax.formats.attributes import Attributes
from cola_jax.formats.decoder import HALVES, joined, read_experts, read_recurrent
from cola_jax.formats.dense import read_granite
from cola_jax.formats.experts import GRANITE_MOE
from cola_jax.formats.table import Row, make_table

MAMBA = "model.layers.{i}.mamba"
MAMBA_SIZES = tuple(
    f"mamba_{name}" for name in ("n_heads", "n_groups", "d_state", "d_head", "d_conv")
)
XBC = {"v": "N U", "k": "K H", "q": "K H"}  # in the order in which they are joined

GRANITE_HYBRID = make_table(
    *joined(
        "model.layers.{i}.shared_mlp.input_linear.weight",
        HALVES,
        dict.fromkeys(("gate", "up"), "F D -> D F"),
    ),
    Row("down", "model.layers.{i}.shared_mlp.output_linear.weight", "D F -> F D"),
    *joined(
        f"{MAMBA}.in_proj.weight",
        ("N U", *XBC.values(), "N"),
        {
            "output_gate.1": "(N U) D -> D N U",
            **{f"{name}.1": f"({heads}) D -> D {heads}" for name, heads in XBC.items()},
            "forget.1": "N D -> D N",
        },
    ),
    *joined(
        f"{MAMBA}.conv1d.weight",
        tuple(XBC.values()),
        {f"{name}_taps.1": f"({heads}) 1 W -> {heads} W" for name, heads in XBC.items()},
    ),
    *joined(
        f"{MAMBA}.conv1d.bias",
        tuple(XBC.values()),
        {f"{name}_taps_bias.1": f"({heads}) -> {heads}" for name, heads in XBC.items()},
    ),
    Row("o.1", f"{MAMBA}.out_proj.weight", "D (N U) -> N U D"),
    Row("forget_bias.1", f"{MAMBA}.dt_bias", "N -> N"),
    Row("forget_rate.1", f"{MAMBA}.A_log", "N -> N"),
    Row("skip.1", f"{MAMBA}.D", "N -> N"),
    Row("value_norm.1", f"{MAMBA}.norm.weight", "(N U) -> N U"),
    base=GRANITE_MOE,
)


def read_granitemoehybrid(attributes: Attributes) -> dict[str, Any]:
    """Read Granite 4: layers of Mamba-2 are kind 1, and the others rotate or do not.

    The MLP of a layer with experts is beside them, without a gate.
    """
    get = attributes.get
    fields = read_granite(attributes)
    rope = 0 if get("position_embedding_type") == "rope" else None
    fields["layer_ropes"] = (rope,) * fields["num_layers"]
    if get("num_local_experts"):
        fields |= read_experts(attributes)
        fields |= {"expert_width": fields["mlp_width"], "normalised_routing": True}
        fields["shared_gate"] = False
    of_mamba = [name for name in attributes.values if name.startswith("mamba_")]
    for name in ("num_experts_per_tok", "time_step_limit", *of_mamba):
        get(name)
    if {*get("layer_types")} != {"full_attention"}:
        fields |= read_mamba(attributes)
    return dict(fields, mlp_width=get("shared_intermediate_size"))


def read_mamba(attributes: Attributes) -> dict[str, Any]:
    """Read the layers of Mamba-2."""
    get = attributes.get
    for name, value in (("conv_bias", True), ("proj_bias", False)):
        if get(f"mamba_{name}") != value:
            raise InputError(f"mamba_{name} must be {str(value).lower()}.")
    if get("time_step_limit") not in (None, (0.0, float("inf"))):
        raise InputError(f"time_step_limit is {shown(get('time_step_limit'))}: not supported.")
    plain = dict.fromkeys(("qkv_bias", "output_bias"), False)
    return read_recurrent(attributes, MAMBA_SIZES, mamba=True, **plain)
