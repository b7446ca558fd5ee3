"""The fields and the table that all families share, as Llama has them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cola_jax.config import Rope
from cola_jax.errors import InputError, shown
from cola_jax.formats.attributes import Attributes, read_rope
from cola_jax.formats.table import Part, Row, make_table

ATTENTION_KINDS = "full_attention", "sliding_attention"  # of layers, in the order of their ropes


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

# norms of outputs, by the names that most families with them have
POST_NORMS = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
    base=LLAMA,
)

# of Gated DeltaNets
DELTA_NET, DELTA_QKV = "model.layers.{i}.linear_attn", ("K H", "K H", "N U")
DELTA_SIZES = (
    *("linear_num_value_heads", "linear_num_key_heads"),
    *("linear_key_head_dim", "linear_value_head_dim", "linear_conv_kernel_dim"),
)

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


def read_decoder(attributes: Attributes, ropes: tuple[Rope, ...] | None = None) -> dict[str, Any]:
    """Read the fields that all families have; `ropes` are given by families with several."""
    get = attributes.get
    layers, width, heads = map(get, ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    return {
        "vocab_size": get("vocab_size"),
        "num_layers": layers,
        "width": width,
        "num_heads": heads,
        "num_kv_heads": get("num_key_value_heads"),
        "head_dim": get("head_dim") or width // heads,
        "mlp_width": get("intermediate_size"),
        "context": get("max_position_embeddings"),
        "norm_eps": get("rms_norm_eps"),
        "ropes": ropes or (read_rope(get("rope_parameters")),),
        "layer_ropes": (0,) * layers,
        "windows": (None,) * layers,
        "tied": get("tie_word_embeddings"),
    }


def read_ropes(attributes: Attributes) -> tuple[Rope, ...]:
    """Read the ropes of layers without and with a window."""
    ropes = attributes.get("rope_parameters")
    if unknown := set(ropes) - set(ATTENTION_KINDS):
        raise InputError(f"rope_parameters has {shown(sorted(unknown))}, not kinds of layer.")
    return tuple(read_rope(ropes[kind]) for kind in ATTENTION_KINDS)


def read_bias(attributes: Attributes) -> dict[str, Any]:
    """Read whether the projections of attention have biases, as most families spell it."""
    return dict.fromkeys(("qkv_bias", "output_bias"), attributes.get("attention_bias"))


def read_experts(attributes: Attributes) -> dict[str, Any]:
    """Read the fields that all families with experts have."""
    names = "num_experts", "num_local_experts"  # the second is not an older name in all families
    return {
        "experts": next(filter(None, map(attributes.get, names)), 0),
        "experts_per_token": attributes.get("num_experts_per_tok"),
        "normalised_routing": attributes.get("norm_topk_prob"),
    }


def read_llama(attributes: Attributes) -> dict[str, Any]:
    """Read Llama 2 to 3.2, or SmolLM2."""
    fields = read_decoder(attributes) | read_bias(attributes)
    return dict(fields, mlp_bias=attributes.get("mlp_bias"))


def read_partly_rotated(
    attributes: Attributes, parameters: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read the fields of a decoder that rotates the first channels of a head.

    `parameters` are those of its rope, as the config has them by default.
    """
    partial, rope = "partial_rotary_factor", parameters or dict(attributes.get("rope_parameters"))
    attributes.get(partial)
    fields = read_decoder(attributes, (read_rope(rope, (partial,)),))
    rotary = int(fields["head_dim"] * rope.get(partial, 1.0))
    return fields | {"rotary_dim": None if rotary == fields["head_dim"] else rotary}


def read_recurrent(attributes: Attributes, sizes: Sequence[str], **fields: Any) -> dict[str, Any]:
    """Read which layers are recurrent, as kind 1.

    `sizes` name the value heads, key heads, their widths, keys first, and the convolution; `fields`
    are others that the layers have.
    """
    types = attributes.get("layer_types")
    if unknown := {*types} - {"full_attention", "linear_attention"}:
        raise InputError(f"layer_types has {shown(sorted(unknown))}, which is not supported.")
    names = "num_heads", "num_kv_heads", "head_dim", "value_dim", "convolution"
    fields |= dict(zip(names, map(attributes.get, sizes), strict=True))
    return {
        "kinds": (fields,),
        "layer_kinds": tuple(int(kind == "linear_attention") for kind in types),
    }
