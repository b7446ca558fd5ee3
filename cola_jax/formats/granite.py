"""Granite 4: attention, Mamba-2 or both, with experts or without."""

import math
from typing import Any

from cola_jax.formats import decoder
from cola_jax.formats.attributes import Attribute, Fields, ignored, of_kind, renamed, required
from cola_jax.formats.dense import MULTIPLIERS
from cola_jax.formats.experts import GRANITE_MOE
from cola_jax.formats.family import family
from cola_jax.formats.table import Row, make_table

MAMBA = "model.layers.{i}.mamba"
XBC = {"v": "N U", "k": "K H", "q": "K H"}  # in the order in which they are joined

GRANITE_HYBRID = make_table(
    *decoder.joined(
        "model.layers.{i}.shared_mlp.input_linear.weight",
        decoder.HALVES,
        dict.fromkeys(("gate", "up"), "F D -> D F"),
    ),
    Row("down", "model.layers.{i}.shared_mlp.output_linear.weight", "D F -> F D"),
    *decoder.joined(
        f"{MAMBA}.in_proj.weight",
        ("N U", *XBC.values(), "N"),
        {
            "output_gate.1": "(N U) D -> D N U",
            **{f"{name}.1": f"({heads}) D -> D {heads}" for name, heads in XBC.items()},
            "forget.1": "N D -> D N",
        },
    ),
    *decoder.joined(
        f"{MAMBA}.conv1d.weight",
        tuple(XBC.values()),
        {f"{name}_taps.1": f"({heads}) 1 W -> {heads} W" for name, heads in XBC.items()},
    ),
    *decoder.joined(
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


def of_mamba(value: Any, fields: Fields) -> Any:
    """Return a value where layers are Mamba-2, else None."""
    return value if any(fields["layer_kinds"]) else None


GRANITES = {
    "granitemoehybrid": family(
        "GraniteMoeHybrid",
        GRANITE_HYBRID,
        decoder.DECODER,
        decoder.BIAS,
        MULTIPLIERS,
        Attribute(
            "layer_ropes",
            "position_embedding_type",
            lambda x, f: (0 if x == "rope" else None,) * f["num_layers"],
            lambda x, f: "nope" if None in x else "rope",
        ),
        renamed(experts="num_local_experts", mlp_width="shared_intermediate_size"),
        decoder.PER_TOKEN,
        Attribute(
            "expert_width",
            "intermediate_size",
            lambda x, f: x if f["experts"] else 0,
            lambda x, f: x or f["mlp_width"],
        ),
        decoder.RECURRENT,
        of_kind(
            1,
            # the default number of heads may not divide the width
            Attribute("num_heads", "mamba_n_heads", of_mamba, default=1),
            Attribute("num_kv_heads", "mamba_n_groups", of_mamba, default=1),
            Attribute("head_dim", "mamba_d_state", of_mamba, default=256),
            Attribute("value_dim", "mamba_d_head", of_mamba, default="auto"),
            Attribute("convolution", "mamba_d_conv", of_mamba, default=4),
            Attribute(
                "value_dim",
                "mamba_expand",
                None,
                lambda x, f: f["num_heads.1"] * x // f["width"],
                default=2,
            ),
            mamba=lambda f: of_mamba(True, f),
            qkv_bias=lambda f: of_mamba(False, f),
            output_bias=lambda f: of_mamba(False, f),
        ),
        required(mamba_conv_bias=True, mamba_proj_bias=False),
        Attribute("", "time_step_limit", write=None, only=(None, (0.0, math.inf))),
        ignored("mamba_chunk_size"),
        normalised_routing=lambda f: bool(f["experts"]),
        shared_gate=lambda f: not f["experts"],
    )
}
