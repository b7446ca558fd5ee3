"""Gemma 1 to 4."""

from typing import Any

from cola_jax.errors import InputError, shown
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
from cola_jax.formats.decoder import BIAS, DECODER
from cola_jax.formats.family import family
from cola_jax.formats.ropes import BY_TYPE, OF_TYPE, TWO_ROPES
from cola_jax.formats.table import Row, make_table

GEMMA = make_table(
    Row("mlp_norm", "model.layers.{i}.pre_feedforward_layernorm.weight", "D -> D"),
    base=decoder.POST_NORMS,
)

# layers of kind 1 see all tokens; those of kinds 2 and 3 share keys and values of kinds 0 and 1
GEMMA4 = make_table(
    Row("layer_embedding", "model.embed_tokens_per_layer.weight", "V (L P) -> V L P"),
    Row("layer_projection", "model.per_layer_model_projection.weight", "(L P) D -> D L P"),
    Row("layer_norm", "model.per_layer_projection_norm.weight", "P -> P"),
    Row("input_gate", "model.layers.{i}.per_layer_input_gate.weight", "P D -> D P"),
    Row("input_up", "model.layers.{i}.per_layer_projection.weight", "D P -> P D"),
    Row("input_norm", "model.layers.{i}.post_per_layer_input_norm.weight", "D -> D"),
    Row("output_scale", "model.layers.{i}.layer_scalar", "1 -> 1"),
    Row("router", "model.layers.{i}.router.proj.weight", "E D -> D E"),
    Row("router_norm", "model.layers.{i}.router.scale", "D -> D"),
    Row("expert_scale", "model.layers.{i}.router.per_expert_scale", "E -> E"),
    *decoder.joined_experts("model.layers.{i}.experts.gate_up_proj"),
    Row("expert_down", "model.layers.{i}.experts.down_proj", "E D X -> E X D"),
    Row("experts_norm", "model.layers.{i}.pre_feedforward_layernorm_2.weight", "D -> D"),
    Row("experts_post_norm", "model.layers.{i}.post_feedforward_layernorm_2.weight", "D -> D"),
    Row("dense_post_norm", "model.layers.{i}.post_feedforward_layernorm_1.weight", "D -> D"),
    base=GEMMA,
)


def query_scalar(scale: float, fields: Fields) -> float:
    """Return Gemma's scale of queries, which is a whole number in most models."""
    scalar = fields["head_dim"] / scale**2
    return round(scalar) if abs(scalar - round(scalar)) < 1e-6 else scalar


CAUSAL = Attribute("", "use_bidirectional_attention", write=None, only=(None, False))
GELU = extend(
    written(hidden_activation="gelu_pytorch_tanh"),
    activation="gelu_tanh",
    embedding_scale=lambda f: f["width"] ** 0.5,
)
GEMMA2 = extend(
    DECODER,
    BIAS,
    CAUSAL,
    GELU,
    ignored("hidden_act"),  # in releases of Gemma 2, without effect
    # which has to be a number, even where no layer has a window
    decoder.WINDOW._replace(write=lambda x, f: decoder.window_of(x, f) or f["context"]),
    decoder.LAYER_TYPES,
    Attribute(
        "query_scale",
        "query_pre_attn_scalar",
        lambda x, f: (f["head_dim"] / x) ** 0.5,
        query_scalar,
    ),
    renamed(attention_softcap="attn_logit_softcapping", logit_softcap="final_logit_softcapping"),
    post_norms=True,
    norm_offset=1.0,
)


def check_differences(names: Any, fields: Fields) -> None:
    """Raise InputError where layers of two types differ in more than the heads of their keys."""
    if unknown := {*names} - {"head_dim", "num_key_value_heads"}:
        raise InputError(f"layers differ in {shown(sorted(unknown))}, which is not supported.")


def read_layer_input(vocabulary: int, fields: Fields) -> int:
    """Return the width of the embeddings that layers have of their own."""
    if fields["layer_input"] and vocabulary != fields["vocab_size"]:
        raise InputError(
            f"vocab_size_per_layer_input is {vocabulary}, and must be that of vocab_size."
        )
    return fields["layer_input"]


def read_shared_keys(count: int, fields: Fields) -> tuple[int | None, ...]:
    """Return the layers whose keys and values each of the last layers attends to.

    That is the last one of the same type before them.
    """
    if not count:
        return ()
    windows = fields["windows"]
    own = max(len(windows) - count, 0)
    if not {*windows[own:]} <= {*windows[:own]}:
        raise InputError(
            f"num_kv_shared_layers is {count}, but no layer before them has keys and values of "
            "the same kind."
        )
    last = {window: i for i, window in enumerate(windows[:own])}
    return (*(None,) * own, *(last[window] for window in windows[own:]))


def read_kinds(fields: Fields) -> tuple[int, ...]:
    """Return the kind of each layer: whether it has no window, and 2 more where it shares keys."""
    windows = fields["windows"]
    sources = fields["keys_of"] or (None,) * len(windows)
    each = zip(windows, sources, strict=True)
    return tuple((window is None) + 2 * (source is not None) for window, source in each)


def kinds_of_layers(fields: Fields) -> tuple[dict[str, Any], ...]:
    """Return the kinds of layers: with full attention, and both that share keys and values."""
    names = "num_kv_heads", "head_dim", "query_scale", "keys_as_values"
    full = {name: fields[f"{name}.1"] for name in names}
    if not fields["keys_of"]:
        return (full,)
    shares = {"own_keys": False, "mlp_width": fields["mlp_width.2"]}
    keys = 2 * fields["num_kv_heads"] * fields["head_dim"]
    full |= {"shared_at": fields["width"] + keys}
    return full, shares, full | shares


SLIDING = "per_layer_config.sliding_attention"
FULL = "per_layer_config.full_attention"
GEMMA4_ATTRIBUTES = extend(
    Attribute("", "per_layer_attributes", check_differences, None, default=()),
    DECODER,
    BIAS,
    CAUSAL._replace(only=(None, "vision")),
    GELU,
    TWO_ROPES,
    decoder.WINDOWS,
    Attribute("head_dim", "head_dim", place=f"{SLIDING}.head_dim"),
    Attribute("num_kv_heads", "num_key_value_heads", place=f"{SLIDING}.num_key_value_heads"),
    of_kind(
        1,
        Attribute("head_dim", "global_head_dim", place=f"{FULL}.head_dim"),
        Attribute(
            "num_kv_heads", "num_global_key_value_heads", place=f"{FULL}.num_key_value_heads"
        ),
        renamed(keys_as_values="attention_k_eq_v"),
        query_scale=lambda f: f["head_dim.1"] ** 0.5,
    ),
    renamed(logit_softcap="final_logit_softcapping", parallel_experts="enable_moe_block"),
    Attribute("experts", "num_experts", lambda x, f: x if f["parallel_experts"] else 0),
    decoder.PER_TOKEN._replace(theirs="top_k_experts"),
    decoder.PER_TOKEN._replace(ours="expert_width", theirs="moe_intermediate_size"),
    Attribute("", "expert_intermediate_size", write=None, only=(None,)),  # in the first releases
    Attribute("layer_input", "hidden_size_per_layer_input", lambda x, f: x or 0),
    Attribute(
        "layer_input", "vocab_size_per_layer_input", read_layer_input, lambda x, f: f["vocab_size"]
    ),
    Attribute(
        "keys_of",
        "num_kv_shared_layers",
        read_shared_keys,
        lambda x, f: sum(source is not None for source in x),
    ),
    Attribute(
        "mlp_width.2",
        "use_double_wide_mlp",
        lambda x, f: f["mlp_width"] * (2 if x else 1),
        lambda x, f: x > f["mlp_width"],
        default=False,
    ),
    layer_kinds=read_kinds,
    shared_at=lambda f: f["width"] if f["keys_of"] else None,
    kinds=kinds_of_layers,
    query_scale=lambda f: f["head_dim"] ** 0.5,
    normalised_routing=lambda f: f["parallel_experts"],
    shared_gate=lambda f: not f["parallel_experts"],
    head_norms=True,
    value_norms=True,
    post_norms=True,
    output_scales=True,
    norm_offset=0.0,
)
GEMMAS = {
    "gemma": family(
        "Gemma",
        decoder.LLAMA,
        DECODER,
        BIAS,
        CAUSAL,
        GELU,
        required(hidden_act="gelu_pytorch_tanh", hidden_activation="gelu_pytorch_tanh"),
        norm_offset=1.0,
    ),
    "gemma2": family("Gemma2", GEMMA, GEMMA2),
    "gemma3_text": family(
        "Gemma3",
        GEMMA,
        GEMMA2,
        written(attn_logit_softcapping=None, final_logit_softcapping=None),
        # layers with a window have a rope of their own, whose theta has an older name
        BY_TYPE._replace(write=None),
        OF_TYPE,
        Attribute("ropes", "rope_local_base_freq", None, lambda x, f: x[1].theta),
        head_norms=True,
    ),
    "gemma4_text": family("Gemma4", GEMMA4, GEMMA4_ATTRIBUTES),
    "gemma4_unified_text": family("Gemma4Unified", GEMMA4, GEMMA4_ATTRIBUTES),
}
