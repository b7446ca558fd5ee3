"""Gemma 3: four norms per layer, two kinds of attention; the text part of multimodal models."""

from cola_jax.config import ModelConfig, Rope
from cola_jax.errors import InputError, shown
from cola_jax.formats import llama
from cola_jax.formats.attributes import Attributes, read_rope, read_windows
from cola_jax.formats.table import Row, make_table

TABLE = make_table(
    Row("attention_norm", "model.layers.{i}.input_layernorm.weight", "D -> D"),
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_norm", "model.layers.{i}.pre_feedforward_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
    base=llama.TABLE,
)
MULTIMODAL_TABLE = {
    name: row._replace(theirs=f"language_model.{row.theirs}") for name, row in TABLE.items()
}
IMAGE_TOKENS = ("boi_token_index", "eoi_token_index", "image_token_index")
VISION = ("vision_tower.", "multi_modal_projector.")


def read_gemma3_text(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `gemma3_text`; layers with a window have a rope of their own."""
    if attributes.get("hidden_activation") != "gelu_pytorch_tanh":
        raise InputError("hidden_activation must be gelu_pytorch_tanh.")
    if attributes.get("use_bidirectional_attention"):
        raise InputError("use_bidirectional_attention is not supported.")
    ropes = read_ropes(attributes)
    fields = llama.read_decoder(attributes, ropes) | llama.read_bias(attributes)
    windows = read_windows(attributes)
    fields |= {
        "windows": windows,
        "layer_ropes": tuple(int(window is not None) for window in windows),
        "embedding_scale": fields["width"] ** 0.5,
        "query_scale": (fields["head_dim"] / attributes.get("query_pre_attn_scalar")) ** 0.5,
    }
    norms = {"head_norms": True, "post_norms": True, "norm_offset": 1.0}
    return ModelConfig(**fields, **norms, activation="gelu_tanh")


def read_ropes(attributes: Attributes) -> tuple[Rope, Rope]:
    """Read the rope of layers with full attention, and that of layers with a window."""
    attributes.get("rope_local_base_freq")  # an older name of the theta of the second
    by_kind = attributes.get("rope_parameters")
    kinds = "full_attention", "sliding_attention"
    if unknown := set(by_kind) - set(kinds):
        raise InputError(f"rope_parameters has {shown(sorted(unknown))}, not kinds of layer.")
    full, local = (read_rope(by_kind[kind]) for kind in kinds)
    return full, local


def read_gemma3(attributes: Attributes) -> ModelConfig:
    """Read the text part of a config of model_type `gemma3`; images are not supported."""
    for name in ("vision_config", "mm_tokens_per_image", *IMAGE_TOKENS):
        attributes.get(name)
    tied = attributes.get("tie_word_embeddings")
    attributes.get("text_config")
    text = {"tie_word_embeddings": tied, **attributes.values.get("text_config", {})}
    read = Attributes("gemma3_text", text)
    config = read_gemma3_text(read)
    read.refuse_unknown()
    return config
