"""The tables of weights and attributes that families share, as Llama has them."""

from collections.abc import Iterator, Mapping
from typing import Any

from cola_jax.errors import InputError
from cola_jax.formats.attributes import (
    Attribute,
    Fields,
    each_layer,
    extend,
    ignored,
    of_kind,
    renamed,
    required,
)
from cola_jax.formats.ropes import ATTENTION_KINDS, one_rope
from cola_jax.formats.table import Part, Row, make_table


def joined(
    theirs: str, sizes: tuple[str, ...], patterns: Mapping[str, str], **how: Any
) -> Iterator[Row]:
    """Yield the rows of weights that a tensor joins, in their order; `how` are fields of `Part`."""
    for index, (ours, pattern) in enumerate(patterns.items()):
        yield Row(ours, theirs, pattern, part=Part(sizes, index, **how))


GATES = "X", "X"  # the two first matrices of an expert


def joined_experts(theirs: str) -> Iterator[Row]:
    """Yield the rows of experts' first matrices, one after the other in a tensor of all experts."""
    patterns: dict[str, str] = dict.fromkeys(("expert_gate", "expert_up"), "E X D -> E D X")
    return joined(theirs, GATES, patterns, axis=1)


# also weights that Llama lacks, by the names that are the same in the other families
LLAMA = make_table(
    Row("embedding", "model.embed_tokens.weight", "V D -> V D"),
    Row("norm", "model.norm.weight", "D -> D"),
    Row("head", "lm_head.weight", "V D -> D V"),
    Row("q", "model.layers.{i}.self_attn.q_proj.weight", "(N H) D -> D N H"),
    Row("k", "model.layers.{i}.self_attn.k_proj.weight", "(K H) D -> D K H"),
    Row("v", "model.layers.{i}.self_attn.v_proj.weight", "(K H) D -> D K H"),
    Row("o", "model.layers.{i}.self_attn.o_proj.weight", "D (N H) -> N H D"),
    Row("q_bias", "model.layers.{i}.self_attn.q_proj.bias", "(N H) -> N H"),
    Row("k_bias", "model.layers.{i}.self_attn.k_proj.bias", "(K H) -> K H"),
    Row("v_bias", "model.layers.{i}.self_attn.v_proj.bias", "(K H) -> K H"),
    Row("o_bias", "model.layers.{i}.self_attn.o_proj.bias", "D -> D"),
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "H -> H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "H -> H"),
    Row("attention_norm", "model.layers.{i}.input_layernorm.weight", "D -> D"),
    Row("mlp_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("gate", "model.layers.{i}.mlp.gate_proj.weight", "F D -> D F"),
    Row("up", "model.layers.{i}.mlp.up_proj.weight", "F D -> D F"),
    Row("down", "model.layers.{i}.mlp.down_proj.weight", "D F -> F D"),
    Row("gate_bias", "model.layers.{i}.mlp.gate_proj.bias", "F -> F"),
    Row("up_bias", "model.layers.{i}.mlp.up_proj.bias", "F -> F"),
    Row("down_bias", "model.layers.{i}.mlp.down_proj.bias", "D -> D"),
    Row("router", "model.layers.{i}.mlp.gate.weight", "E D -> D E"),
    Row("expert_gate", "model.layers.{i}.mlp.experts.{e}.gate_proj.weight", "X D -> D X"),
    Row("expert_up", "model.layers.{i}.mlp.experts.{e}.up_proj.weight", "X D -> D X"),
    Row("expert_down", "model.layers.{i}.mlp.experts.{e}.down_proj.weight", "D X -> X D"),
)

NORM_BIASES = make_table(
    Row("norm_bias", "model.norm.bias", "D -> D"),
    Row("attention_norm_bias", "model.layers.{i}.input_layernorm.bias", "D -> D"),
    Row("mlp_norm_bias", "model.layers.{i}.post_attention_layernorm.bias", "D -> D"),
    base=LLAMA,
)

# norms of outputs, by the names that most families with them have
POST_NORMS = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
    base=LLAMA,
)

# of Gated DeltaNets
DELTA_NET, DELTA_QKV = "model.layers.{i}.linear_attn", ("K H", "K H", "N U")

QKV, HALVES = ("N H", "K H", "K H"), ("F", "F")

JOINED_MLP = make_table(
    *joined(
        "model.layers.{i}.mlp.gate_up_proj.weight",
        HALVES,
        dict.fromkeys(("gate", "up"), "F D -> D F"),
    ),
    base=LLAMA,
)

# neighbours rotate together in their layout, halves of a head in ours
PAIRS = make_table(
    Row("q", "model.layers.{i}.self_attn.q_proj.weight", "(N h two) D -> D N (two h)"),
    Row("k", "model.layers.{i}.self_attn.k_proj.weight", "(K h two) D -> D K (two h)"),
    Row("q_bias", "model.layers.{i}.self_attn.q_proj.bias", "(N h two) -> N (two h)"),
    Row("k_bias", "model.layers.{i}.self_attn.k_proj.bias", "(K h two) -> K (two h)"),
)


DECODER = extend(
    renamed(vocab_size="vocab_size", num_layers="num_hidden_layers", width="hidden_size"),
    renamed(num_heads="num_attention_heads", num_kv_heads="num_key_value_heads"),
    Attribute("head_dim", "head_dim", lambda x, f: x or f["width"] // f["num_heads"]),
    renamed(mlp_width="intermediate_size", context="max_position_embeddings"),
    renamed(norm_eps="rms_norm_eps", tied="tie_word_embeddings"),
    one_rope(),
    ignored("partial_rotary_factor"),  # is among the parameters of the rope
    required(hidden_act="silu", normalization_function="rmsnorm", moe_norm_min=1e-12),
    required(attention_bias=False, mlp_bias=False, use_bias=False, lm_head_bias=False),
    required(rope_interleaved=False, qk_layer_norms=False, use_resampler=False),
    required(full_attn_mod=1, interpolate_factor=1),  # of Phi-4-mini, without effect
    required(is_encoder_decoder=False, tie_encoder_decoder=False, add_cross_attention=False),
    required(cross_attention_hidden_size=None, chunk_size_feed_forward=0),
    required(residual_multiplier=1.0, embedding_multiplier=1.0, logits_scaling=1.0),
    required(final_logit_softcapping=None, attn_logit_softcapping=None, quantization_config=None),
    windows=lambda f: (None,) * f["num_layers"],
    layer_ropes=lambda f: (0,) * f["num_layers"],
)
BIAS = Attribute("qkv_bias output_bias", "attention_bias")
QKV_BIAS = Attribute("qkv_bias", "attention_bias")
MLP_BIAS = Attribute("mlp_bias", "mlp_bias")
OWN_CODE = ignored("auto_map")  # in repositories from before transformers had the family


def read_windows(types: list[str], fields: Fields) -> tuple[int | None, ...]:
    """Return the window of each layer by its type; `windows` has the one that they share."""
    window = fields["windows"][0] or None
    if window is None and "sliding_attention" in types:
        raise InputError("layer_types has sliding_attention, but there is no window.")
    read, _ = each_layer({"full_attention": None, "sliding_attention": window})
    return read(types, fields)


def window_of(windows: tuple[int | None, ...], fields: Fields) -> int | None:
    """Return the width of the windows, None where no layer has one."""
    return next(filter(None, windows), None)


# of all layers, or of those that types name
WINDOW = Attribute("windows", "sliding_window", lambda x, f: (x,) * f["num_layers"], window_of)
LAYER_TYPES = extend(
    Attribute(
        "windows",
        "layer_types",
        read_windows,
        lambda x, f: [ATTENTION_KINDS[window is not None] for window in x],
    ),
    # from which transformers makes the types
    ignored("use_sliding_window", "max_window_layers", "sliding_window_pattern"),
    ignored("sliding_window_size"),
)
WINDOWS = extend(WINDOW, LAYER_TYPES)
USE_WINDOW = Attribute("windows", "use_sliding_window", None, lambda x, f: any(x))

# where there are any
PER_TOKEN = Attribute(
    "experts_per_token", "num_experts_per_tok", lambda x, f: x if f["experts"] else 0
)
EXPERTS = extend(renamed(experts="num_experts"), PER_TOKEN)
# as wide as `intermediate_size`
LOCAL_EXPERTS = extend(
    renamed(experts="num_local_experts", expert_width="intermediate_size"),
    PER_TOKEN,
    mlp_width=0,
    normalised_routing=True,
)


def read_rotated(share: float, fields: Fields) -> int | None:
    """Return the channels of a head that rotate, the first ones; None for all."""
    rotary = int(fields["head_dim"] * share)
    return None if rotary == fields["head_dim"] else rotary


PARTIAL = Attribute(
    "rotary_dim",
    "partial_rotary_factor",
    read_rotated,
    lambda x, f: x / f["head_dim"],
    default=1.0,
    place="rope_parameters.partial_rotary_factor",
)
PARTLY_ROTATED = extend(one_rope("partial_rotary_factor"), PARTIAL)

# layers of kind 1 in place of attention, and those that are Gated DeltaNets
RECURRENT = Attribute(
    "layer_kinds", "layer_types", *each_layer({"full_attention": 0, "linear_attention": 1})
)
DELTA_NETS = extend(
    RECURRENT,
    ignored("full_attention_interval"),  # from which transformers makes the types
    of_kind(
        1,
        renamed(num_heads="linear_num_value_heads", num_kv_heads="linear_num_key_heads"),
        renamed(head_dim="linear_key_head_dim", value_dim="linear_value_head_dim"),
        renamed(convolution="linear_conv_kernel_dim"),
        qkv_bias=False,
        output_bias=False,
    ),
)
