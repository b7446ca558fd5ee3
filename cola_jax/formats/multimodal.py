"""Multimodal families, of which the text part is read; it is written as a model of its own."""

from cola_jax.formats.attributes import Attribute, Attributes, extend, ignored
from cola_jax.formats.decoder import LLAMA
from cola_jax.formats.family import Family, add_prefix, text_part
from cola_jax.formats.gemma import GEMMA, GEMMA4
from cola_jax.formats.qwen import QWEN3_5, SHARED_EXPERT

SEEING = "idefics3", "llava", "smolvlm"  # whose masks and positions are those of text

NOT_AS_TEXT = {  # families with pictures, and what differs
    **dict.fromkeys(
        (
            *("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"),
            *("glm4v", "glm4v_moe"),
        ),
        "rotary positions in three parts",
    ),
    **dict.fromkeys(
        ("gemma3", "gemma4", "gemma4_unified", "paligemma"), "two-way masks over a picture"
    ),
}

# attributes beside those of the text part
OTHERS: Attributes = extend(
    Attribute("tied", "tie_word_embeddings"),
    ignored("text_config", "vision_config", "audio_config", "ignore_index", "vocab_size"),
    ignored("image_token_id", "image_token_index", "video_token_id", "audio_token_id"),
    ignored("vision_start_token_id", "vision_end_token_id"),
    ignored("boi_token_id", "boi_token_index", "eoi_token_id", "eoi_token_index"),
    ignored("boa_token_id", "boa_token_index", "eoa_token_id", "eoa_token_index"),
    ignored("mm_tokens_per_image", "vision_soft_tokens_per_image", "image_seq_length"),
    ignored("projector_hidden_act", "multimodal_projector_bias", "spatial_merge_size"),
    ignored("vision_feature_layer", "vision_feature_select_strategy", "scale_factor"),
    ignored("use_reentrant_checkpointing"),
)
VISION = "vision_tower.", "multi_modal_projector."
GEMMA4_PARTS = tuple(
    f"model.{part}."
    for part in ("vision_tower", "vision_embedder", "embed_vision", "audio_tower", "embed_audio")
)
QWEN_PARTS = "model.visual.", "mtp."
LLAMAS = "llama", "mistral", "qwen2"
IDEFICS = Family(
    "", text_part(LLAMA, "text_model"), OTHERS, ("model.vision_model.", "model.connector."), LLAMAS
)

MULTIMODAL = {
    "qwen3_5": Family("", text_part(QWEN3_5), OTHERS, QWEN_PARTS, ("qwen3_5_text",)),
    "qwen3_5_moe": Family(
        "", text_part({**QWEN3_5, **SHARED_EXPERT}), OTHERS, QWEN_PARTS, ("qwen3_5_moe_text",)
    ),
    "gemma3": Family("", add_prefix(GEMMA), OTHERS, VISION, ("gemma3_text",)),
    "gemma4": Family("", text_part(GEMMA4), OTHERS, GEMMA4_PARTS, ("gemma4_text",)),
    "gemma4_unified": Family("", text_part(GEMMA4), OTHERS, GEMMA4_PARTS, ("gemma4_unified_text",)),
    "mistral3": Family("", add_prefix(LLAMA), OTHERS, VISION, ("mistral", "ministral3")),
    "llava": Family("", add_prefix(LLAMA), OTHERS, VISION, LLAMAS),
    "smolvlm": IDEFICS,
    "idefics3": IDEFICS,
}
