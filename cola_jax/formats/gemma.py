"""Gemma 3: four norms per layer, two kinds of attention; the text part of multimodal models."""

from cola_jax.config import ModelConfig, Rope
from cola_jax.errors import InputError, shown
from cola_jax.formats import llama, qwen
from cola_jax.formats.attributes import Attributes, read_rope, read_windows
from cola_jax.formats.table import Row

NORMS = (
    Row("attention_norm", "model.layers.{i}.input_layernorm.weight", "D -> D"),
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_norm", "model.layers.{i}.pre_feedforward_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
)
VISION = ("vision_tower.", "multi_modal_projector.")
# the defaults of `Gemma3TextConfig`, which multimodal configs rely on
DEFAULTS = {
    **{"vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216},
    **{"num_hidden_layers": 26, "num_attention_heads": 8, "head_dim": 256},
    **{"query_pre_attn_scalar": 256, "sliding_window": 4096, "tie_word_embeddings": True},
}


def rows(config: ModelConfig) -> tuple[Row, ...]:
    """Return Llama's table with the norms of Gemma."""
    common = (*llama.ATTENTION, *llama.MLP, *NORMS, *qwen.HEAD_NORMS)
    return llama.rows(config, common)


def multimodal_rows(config: ModelConfig) -> tuple[Row, ...]:
    """Return the same table with the names of multimodal models."""
    return tuple(row._replace(theirs=f"language_model.{row.theirs}") for row in rows(config))


def read_gemma3_text(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `gemma3_text`; layers with a window have a rope of their own."""
    attributes.set_defaults(**DEFAULTS)
    if attributes.get("hidden_activation", "gelu_pytorch_tanh") != "gelu_pytorch_tanh":
        raise InputError("hidden_activation must be gelu_pytorch_tanh.")
    if attributes.get("use_bidirectional_attention"):
        raise InputError("use_bidirectional_attention is not supported.")
    bias = attributes.boolean("attention_bias", False)
    fields = llama.read_decoder(
        attributes, context=131072, kv_heads=4, ropes=read_ropes(attributes)
    )
    windows = read_layer_windows(attributes, fields["num_layers"])
    fields |= {
        "windows": windows,
        "layer_ropes": tuple(int(window is not None) for window in windows),
        "embedding_scale": fields["width"] ** 0.5,
        "query_scale": (fields["head_dim"] / attributes.number("query_pre_attn_scalar")) ** 0.5,
    }
    norms = {"head_norms": True, "post_norms": True, "norm_offset": 1.0}
    return ModelConfig(**fields, **norms, activation="gelu_tanh", qkv_bias=bias, output_bias=bias)


def read_layer_windows(attributes: Attributes, layers: int) -> tuple[int | None, ...]:
    """Read each layer's window; older configs give the period of the layers without one."""
    saved = attributes.integer("_sliding_window_pattern", 6)
    pattern = attributes.integer("sliding_window_pattern", saved)
    sliding = [i % pattern != 0 for i in range(1, layers + 1)]
    return read_windows(attributes, attributes.window("sliding_window", 4096), sliding)


def read_ropes(attributes: Attributes) -> tuple[Rope, Rope]:
    """Read the rope of layers with full attention, and that of layers with a window."""
    by_kind = attributes.mapping("rope_parameters")
    if unknown := set(by_kind) - {"full_attention", "sliding_attention"}:
        raise InputError(f"rope_parameters has {shown(sorted(unknown))}, not kinds of layer.")
    full = {
        "rope_theta": attributes.number("rope_theta", 1e6),
        "rope_scaling": attributes.get("rope_scaling"),
        "rope_parameters": by_kind.get("full_attention"),
    }
    local = {
        "rope_theta": attributes.number("rope_local_base_freq", 1e4),
        "rope_parameters": by_kind.get("sliding_attention"),
    }
    return read_rope(Attributes(full)), read_rope(Attributes(local))


def read_gemma3(attributes: Attributes) -> ModelConfig:
    """Read the text part of a config of model_type `gemma3`; images are not supported."""
    text = Attributes(attributes.mapping("text_config"))
    for name in ("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index"):
        attributes.get(name)
    attributes.get("image_token_index")
    tied = attributes.boolean("tie_word_embeddings", True)
    text.set_defaults(tie_word_embeddings=tied)
    config = read_gemma3_text(text)
    text.refuse_unknown()
    return config
