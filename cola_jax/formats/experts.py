"""Families with experts: how each config is read, and its table."""

from collections.abc import Iterable
from typing import Any

from cola_jax.errors import InputError
from cola_jax.formats.attributes import Attributes, read_windows
from cola_jax.formats.decoder import (
    GATES,
    LLAMA,
    PAIRS,
    joined,
    joined_experts,
    read_bias,
    read_decoder,
    read_experts,
    read_partly_rotated,
)
from cola_jax.formats.dense import read_granite
from cola_jax.formats.olmo import OLMO
from cola_jax.formats.table import Row, make_table

MIXTRAL = make_table(
    Row("router", "model.layers.{i}.block_sparse_moe.gate.weight", "E D -> D E"),
    Row("expert_gate", "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight", "X D -> D X"),
    Row("expert_up", "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight", "X D -> D X"),
    Row("expert_down", "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight", "D X -> X D"),
    base=LLAMA,
)

GPT_OSS = make_table(
    Row("sinks", "model.layers.{i}.self_attn.sinks", "N -> N"),
    Row("router", "model.layers.{i}.mlp.router.weight", "E D -> D E"),
    Row("router_bias", "model.layers.{i}.mlp.router.bias", "E -> E"),
    *joined(
        "model.layers.{i}.mlp.experts.gate_up_proj",
        GATES,
        dict.fromkeys(("expert_gate", "expert_up"), "E D X -> E D X"),
        axis=2,
        interleaved=True,
    ),
    *joined(
        "model.layers.{i}.mlp.experts.gate_up_proj_bias",
        GATES,
        dict.fromkeys(("expert_gate_bias", "expert_up_bias"), "E X -> E X"),
        axis=1,
        interleaved=True,
    ),
    Row("expert_down", "model.layers.{i}.mlp.experts.down_proj", "E X D -> E X D"),
    Row("expert_down_bias", "model.layers.{i}.mlp.experts.down_proj_bias", "E D -> E D"),
    base=LLAMA,
)

GRANITE_MOE = make_table(
    Row("router", "model.layers.{i}.block_sparse_moe.router.layer.weight", "E D -> D E"),
    *joined_experts("model.layers.{i}.block_sparse_moe.input_linear.weight"),
    Row("expert_down", "model.layers.{i}.block_sparse_moe.output_linear.weight", "E D X -> E X D"),
    base=LLAMA,
)

MINIMAX = {  # what transformers computes; their own code has other values as well
    **{"scoring_func": "sigmoid", "use_routing_bias": True, "shared_intermediate_size": 0},
    **{"use_qk_norm": True, "qk_norm_type": "per_layer"},
}

MINIMAX_M2 = make_table(
    *(OLMO[name] for name in ("q_norm", "k_norm")),
    Row("router_bias", "model.layers.{i}.block_sparse_moe.e_score_correction_bias", "E -> E"),
    base=MIXTRAL,
)

MLP = "gate", "up", "down"

DENSE_FIRST = make_table(  # layers of kind 1 have no experts
    *(LLAMA[name]._replace(ours=f"{name}.1") for name in MLP),
    *(
        Row(name, row.theirs.replace(".mlp.", ".mlp.shared_experts."), row.pattern)
        for name, row in LLAMA.items()
        if name in MLP
    ),
    base=LLAMA,
)

GLM4_MOE = make_table(
    Row("router_bias", "model.layers.{i}.mlp.gate.e_score_correction_bias", "E -> E"),
    base=DENSE_FIRST,
)

ERNIE_MOE = make_table(
    Row("router_bias", "model.layers.{i}.mlp.moe_statics.e_score_correction_bias", "1 E -> E"),
    base={**DENSE_FIRST, **PAIRS},
)


def read_mixtral(attributes: Attributes) -> dict[str, Any]:
    """Read Mixtral, whose `intermediate_size` is an expert's width."""
    fields = read_decoder(attributes) | read_experts(attributes)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0, "normalised_routing": True}
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    return fields


def read_granitemoe(attributes: Attributes) -> dict[str, Any]:
    """Read a Granite 3 with experts, whose `intermediate_size` is an expert's width."""
    fields = read_granite(attributes) | read_experts(attributes)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0, "normalised_routing": True}
    return fields


def read_minimax_m2(attributes: Attributes) -> dict[str, Any]:
    """Read MiniMax-M2, which routes by sigmoids."""
    attributes.get("rotary_dim")  # from which transformers makes the factor
    of_mtp = "use_mtp", "num_mtp_modules", "mtp_transformer_layers"  # not run by transformers
    for name in ("auto_map", *of_mtp):
        attributes.get(name)
    layers = attributes.get("num_hidden_layers")
    for name, value in {**MINIMAX, "attn_type_list": [1] * layers}.items():
        if attributes.values.get(name) == value:
            attributes.get(name)
    fields = read_partly_rotated(attributes) | read_experts(attributes)
    fields |= dict.fromkeys(("normalised_routing", "sigmoid_routing", "choice_bias"), True)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0, "projection_norms": True}
    return fields


def with_dense_layers(
    fields: dict[str, Any], width: int, shared: int | None, dense: Iterable[bool]
) -> dict[str, Any]:
    """Return the config of a model whose layers have an MLP, or experts of `width`.

    The MLP is that of `fields`. Beside the experts is another, as wide as `shared` of them.
    """
    mlp = {
        "mlp_width": fields["mlp_width"],
        "experts": 0,
        "experts_per_token": 0,
        "choice_bias": False,
    }
    fields |= {"expert_width": width, "mlp_width": width * (shared or 0), "shared_gate": False}
    return dict(fields, choice_bias=True, kinds=(mlp,), layer_kinds=tuple(map(int, dense)))


def read_glm4_moe(attributes: Attributes) -> dict[str, Any]:
    """Read GLM-4.5 to 4.7, whose first layers have no experts."""
    get = attributes.get
    get("num_nextn_predict_layers")  # not run by transformers
    if (get("n_group"), get("topk_group")) != (1, 1):
        raise InputError("n_group and topk_group must be 1: groups of experts are not supported.")
    fields = read_partly_rotated(attributes) | {
        "qkv_bias": get("attention_bias"),
        "head_norms": get("use_qk_norm"),
        "experts": get("n_routed_experts"),
        "experts_per_token": get("num_experts_per_tok"),
        "normalised_routing": get("norm_topk_prob"),
        "routed_scale": get("routed_scaling_factor"),
        "sigmoid_routing": True,
    }
    first = get("first_k_dense_replace")
    dense = (i < first for i in range(fields["num_layers"]))
    return with_dense_layers(fields, get("moe_intermediate_size"), get("n_shared_experts"), dense)


def read_ernie4_5_moe(attributes: Attributes) -> dict[str, Any]:
    """Read ERNIE 4.5 with experts, some of whose layers have none."""
    get = attributes.get
    others = "moe_capacity", "moe_gate", "moe_use_aux_free", "num_nextn_predict_layers"
    for name in ("auto_map", "use_rmsnorm", *others):  # read by their own code alone
        get(name)
    fields = read_decoder(attributes) | {
        "experts": get("moe_num_experts"),
        "experts_per_token": get("moe_k"),
        "normalised_routing": True,
    }
    ends = get("moe_layer_start_index"), get("moe_layer_end_index")
    interval, width = get("moe_layer_interval"), get("moe_intermediate_size")
    dense = (
        not ends[0] <= i <= ends[1] or (i + 1) % interval > 0 for i in range(fields["num_layers"])
    )
    return with_dense_layers(fields, width, get("moe_num_shared_experts"), dense)


def read_gpt_oss(attributes: Attributes) -> dict[str, Any]:
    """Read gpt-oss, with sinks in attention, and biases and bounds in its experts."""
    for name in ("experts_per_token", "initial_context_length"):  # repeat other attributes
        attributes.get(name)
    stored = attributes.values.get("quantization_config")
    if isinstance(stored, dict) and stored.get("quant_method") == "mxfp4":
        attributes.get("quantization_config")  # tensors in it are widened when they are read
    if attributes.get("swiglu_alpha") != 1.702:
        raise InputError("swiglu_alpha must be 1.702.")
    fields = read_decoder(attributes) | read_bias(attributes) | read_experts(attributes)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0, "normalised_routing": True}
    fields |= {"windows": read_windows(attributes), "swiglu_limit": attributes.get("swiglu_limit")}
    fields |= {"sinks": True, "expert_bias": True, "norm_offset": 0.0, "activation": "quick_gelu"}
    return fields
