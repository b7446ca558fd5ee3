"""Families with experts."""

from cola_jax.errors import InputError
from cola_jax.formats import decoder
from cola_jax.formats.attributes import (
    Attribute,
    Fields,
    extend,
    ignored,
    of_kind,
    renamed,
    required,
    written,
)
from cola_jax.formats.decoder import DECODER, LLAMA, LOCAL_EXPERTS, OWN_CODE, PARTLY_ROTATED
from cola_jax.formats.dense import MULTIPLIERS
from cola_jax.formats.family import family
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
    *decoder.joined(
        "model.layers.{i}.mlp.experts.gate_up_proj",
        decoder.GATES,
        dict.fromkeys(("expert_gate", "expert_up"), "E D X -> E D X"),
        axis=2,
        interleaved=True,
    ),
    *decoder.joined(
        "model.layers.{i}.mlp.experts.gate_up_proj_bias",
        decoder.GATES,
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
    *decoder.joined_experts("model.layers.{i}.block_sparse_moe.input_linear.weight"),
    Row("expert_down", "model.layers.{i}.block_sparse_moe.output_linear.weight", "E D X -> E X D"),
    base=LLAMA,
)

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
    base={**DENSE_FIRST, **decoder.PAIRS},
)


def check_attention(types: list[int], fields: Fields) -> None:
    """Raise InputError for other attention than that which transformers computes."""
    if {*types} - {1}:
        raise InputError("attn_type_list must be of 1 alone.")


# the first layers have an MLP without experts: kind 1
FIRST_DENSE = Attribute(
    "layer_kinds",
    "first_k_dense_replace",
    lambda x, f: tuple(int(i < x) for i in range(f["num_layers"])),
    lambda x, f: (*x, 0).index(0),
)
# and so have the last ones, and those between every n-th
LAST_DENSE = Attribute(
    "layer_kinds",
    "moe_layer_end_index",
    lambda x, f: tuple(int(kind or i > x) for i, kind in enumerate(f["layer_kinds"])),
    lambda x, f: len(x) - 1 - (*reversed(x), 0).index(0),
)
MOST_DENSE = Attribute(
    "layer_kinds",
    "moe_layer_interval",
    lambda x, f: tuple(int(kind or i % x > 0) for i, kind in enumerate(f["layer_kinds"], 1)),
    write=None,
)
# beside the experts, as wide as so many of them
SHARED = Attribute(
    "mlp_width",
    "n_shared_experts",
    lambda x, f: f["expert_width"] * (x or 0),
    lambda x, f: x // f["expert_width"],
)
SOME_DENSE = extend(
    renamed(expert_width="moe_intermediate_size"),
    of_kind(
        1, renamed(mlp_width="intermediate_size"), experts=0, experts_per_token=0, choice_bias=False
    ),
    choice_bias=True,
    shared_gate=False,
)

MIXTURES = {
    "mixtral": family("Mixtral", MIXTRAL, DECODER, LOCAL_EXPERTS, decoder.WINDOW),
    "granitemoe": family(
        "GraniteMoe", GRANITE_MOE, DECODER, decoder.BIAS, MULTIPLIERS, LOCAL_EXPERTS
    ),
    "minimax_m2": family(
        "MiniMaxM2",
        MINIMAX_M2,
        DECODER,
        OWN_CODE,
        PARTLY_ROTATED,
        LOCAL_EXPERTS,
        ignored("rotary_dim"),  # from which transformers makes the factor
        ignored("use_mtp", "num_mtp_modules", "mtp_transformer_layers"),  # are not run
        # their own code has other values as well
        required(scoring_func="sigmoid", use_routing_bias=True, shared_intermediate_size=0),
        required(use_qk_norm=True, qk_norm_type="per_layer"),
        Attribute("", "attn_type_list", check_attention, None, default=[]),
        sigmoid_routing=True,
        choice_bias=True,
        projection_norms=True,
    ),
    "glm4_moe": family(
        "Glm4Moe",
        GLM4_MOE,
        DECODER,
        decoder.QKV_BIAS,
        PARTLY_ROTATED,
        renamed(head_norms="use_qk_norm", experts="n_routed_experts"),
        decoder.PER_TOKEN,
        renamed(normalised_routing="norm_topk_prob", routed_scale="routed_scaling_factor"),
        SOME_DENSE,
        SHARED,
        FIRST_DENSE,
        ignored("num_nextn_predict_layers"),  # are not run
        required(n_group=1, topk_group=1),
        sigmoid_routing=True,
        outside=("model.layers.{L}.",),
    ),
    "ernie4_5_moe": family(
        "Ernie4_5_Moe",
        ERNIE_MOE,
        DECODER,
        OWN_CODE,
        renamed(experts="moe_num_experts", experts_per_token="moe_k"),
        SOME_DENSE,
        SHARED._replace(theirs="moe_num_shared_experts"),
        FIRST_DENSE._replace(theirs="moe_layer_start_index"),
        LAST_DENSE,
        MOST_DENSE,
        written(use_bias=False),
        # of their own code alone
        ignored("use_rmsnorm", "moe_capacity", "moe_gate", "moe_use_aux_free"),
        ignored("num_nextn_predict_layers"),
        normalised_routing=True,
        outside=("model.mtp_",),
    ),
    "gpt_oss": family(
        "GptOss",
        GPT_OSS,
        DECODER,
        decoder.BIAS,
        decoder.WINDOWS,
        LOCAL_EXPERTS,
        renamed(swiglu_limit="swiglu_limit"),
        required(swiglu_alpha=1.702),
        ignored("experts_per_token", "initial_context_length"),  # repeat other attributes
        # tensors in it are widened when they are read
        Attribute(
            "",
            "quantization_config",
            write=None,
            only=(None, "mxfp4"),
            place="quantization_config.quant_method",
        ),
        sinks=True,
        expert_bias=True,
        norm_offset=0.0,
        activation="quick_gelu",
    ),
}
