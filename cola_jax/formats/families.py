"""The supported families: how the config of each is read, and its table of weights."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, nearest, shown
from cola_jax.formats.attributes import Attributes
from cola_jax.formats.decoder import LLAMA, PAIRS, POST_NORMS, read_llama
from cola_jax.formats.dense import (
    GLM,
    GLM4,
    PHI3,
    read_arcee,
    read_cwm,
    read_ernie4_5,
    read_exaone4,
    read_glm,
    read_glm4,
    read_granite,
    read_helium,
    read_ministral,
    read_ministral3,
    read_mistral,
    read_phi3,
    read_seed_oss,
    read_smollm3,
)
from cola_jax.formats.experts import (
    ERNIE_MOE,
    GLM4_MOE,
    GPT_OSS,
    GRANITE_MOE,
    MINIMAX_M2,
    MIXTRAL,
    read_ernie4_5_moe,
    read_glm4_moe,
    read_gpt_oss,
    read_granitemoe,
    read_minimax_m2,
    read_mixtral,
)
from cola_jax.formats.gemma import (
    GEMMA,
    GEMMA4,
    read_gemma1,
    read_gemma2,
    read_gemma3_text,
    read_gemma4_text,
)
from cola_jax.formats.granite import GRANITE_HYBRID, read_granitemoehybrid
from cola_jax.formats.olmo import (
    OLMO,
    OLMO_HYBRID,
    read_flex_olmo,
    read_olmo2,
    read_olmo3,
    read_olmo_hybrid,
    read_olmoe,
)
from cola_jax.formats.qwen import (
    QWEN3_5,
    QWEN3_NEXT,
    SHARED_EXPERT,
    read_qwen2,
    read_qwen2_moe,
    read_qwen3,
    read_qwen3_5_moe_text,
    read_qwen3_5_text,
    read_qwen3_moe,
    read_qwen3_next,
)
from cola_jax.formats.table import Row, Table, rows_of


def read_text_config(attributes: Attributes, kind: str, names: Iterable[str]) -> dict[str, Any]:
    """Read the text part, of a model_type, of a model whose other parts `names` are about."""
    for name in ("text_config", "vision_config", *names):
        attributes.get(name)
    tied = attributes.get("tie_word_embeddings")
    text = {"tie_word_embeddings": tied, **attributes.values.get("text_config", {})}
    return read_attributes(kind, text)


def read_text_part(attributes: Attributes) -> dict[str, Any]:
    """Read the text part of a multimodal Qwen3.5; pictures are not supported."""
    names = "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"
    return read_text_config(attributes, f"{attributes.theirs.model_type}_text", names)


def read_gemma3(attributes: Attributes) -> dict[str, Any]:
    """Read the text part of a multimodal Gemma 3; images are not supported."""
    names = "boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image"
    return read_text_config(attributes, "gemma3_text", names)


def read_gemma4(attributes: Attributes) -> dict[str, Any]:
    """Read the text part of a multimodal Gemma 4; pictures, video and sound are not supported."""
    tokens = [name for name in attributes.values if name.endswith(("_token_id", "_token_index"))]
    names = *tokens, "audio_config", "vision_soft_tokens_per_image"
    return read_text_config(attributes, f"{attributes.theirs.model_type}_text", names)


def read_mistral3(attributes: Attributes) -> dict[str, Any]:
    """Read the text part of a multimodal Ministral 3 or Mistral Small; images are not supported."""
    projector = "projector_hidden_act", "multimodal_projector_bias", "spatial_merge_size"
    for name in ("vision_config", "vision_feature_layer", "image_token_index", *projector):
        attributes.get(name)
    text, tied = attributes.get("text_config").model_type, "tie_word_embeddings"
    if text not in ("mistral", "ministral3"):
        raise InputError(f"model_type {shown(text)} of text_config is not supported.")
    values = attributes.values.get("text_config", {})
    if attributes.get(tied) is not None and tied in attributes.values:
        values = values | {tied: attributes.values[tied]}
    return read_attributes(text, values)


def read_beside_tower(attributes: Attributes) -> dict[str, Any]:
    """Read the text part of LLaVA, Idefics 3 or SmolVLM; pictures are embeddings of tokens."""
    llava = "image_seq_length", "vision_feature_layer", "vision_feature_select_strategy"
    llava += "image_token_index", "projector_hidden_act", "multimodal_projector_bias"
    smolvlm = "image_token_id", "scale_factor", "use_reentrant_checkpointing"
    text = attributes.get("text_config")
    if text.model_type not in ("llama", "mistral", "qwen2"):
        raise InputError(
            f"text_config has model_type {shown(text.model_type)}: text parts of a "
            f"{attributes.theirs.model_type} may be llama, mistral or qwen2."
        )
    names = *llava, *smolvlm, "vocab_size", "ignore_index"
    return read_text_config(attributes, text.model_type, names)


class Family(NamedTuple):
    """A model_type: how its config is read, and its table of weights."""

    name: str  # of its class in transformers, without ForCausalLM
    read: Callable[[Attributes], dict[str, Any]]  # the fields of its ModelConfig
    table: Table
    ignored: tuple[str, ...] = ()  # prefixes of tensors outside the decoder


def text_part(table: Table, part: str = "language_model") -> Table:
    """Return the table of a text model for files that hold a vision model beside it."""
    return {
        name: row._replace(theirs=re.sub(r"^model\.", f"model.{part}.", row.theirs))
        for name, row in table.items()
    }


def add_prefix(table: Table) -> Table:
    """Return the table of the text part of a multimodal model."""
    return {n: row._replace(theirs=f"language_model.{row.theirs}") for n, row in table.items()}


VISION = "vision_tower.", "multi_modal_projector."

GEMMA4_PARTS = tuple(
    f"model.{part}."
    for part in ("vision_tower", "vision_embedder", "embed_vision", "audio_tower", "embed_audio")
)

IDEFICS = Family(
    "",
    read_beside_tower,
    text_part(LLAMA, "text_model"),
    ("model.vision_model.", "model.connector."),
)

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

FAMILIES = {
    "llama": Family("Llama", read_llama, LLAMA),
    "mistral": Family("Mistral", read_mistral, LLAMA),
    "qwen2": Family("Qwen2", read_qwen2, LLAMA),
    "qwen3": Family("Qwen3", read_qwen3, LLAMA),
    "qwen2_moe": Family("Qwen2Moe", read_qwen2_moe, {**LLAMA, **SHARED_EXPERT}),
    "qwen3_moe": Family("Qwen3Moe", read_qwen3_moe, LLAMA),
    "gemma2": Family("Gemma2", read_gemma2, GEMMA),
    "qwen3_5_text": Family("Qwen3_5", read_qwen3_5_text, QWEN3_5, ("mtp.",)),
    "qwen3_5_moe_text": Family(
        "Qwen3_5Moe", read_qwen3_5_moe_text, {**QWEN3_5, **SHARED_EXPERT}, ("mtp.",)
    ),
    "qwen3_5": Family("", read_text_part, text_part(QWEN3_5), ("model.visual.", "mtp.")),
    "qwen3_5_moe": Family(
        "", read_text_part, text_part({**QWEN3_5, **SHARED_EXPERT}), ("model.visual.", "mtp.")
    ),
    "qwen3_next": Family("Qwen3Next", read_qwen3_next, QWEN3_NEXT, ("mtp.",)),
    "gemma3_text": Family("Gemma3", read_gemma3_text, GEMMA),
    # read only: its text part is written as gemma3_text
    "gemma3": Family(
        "",
        read_gemma3,
        add_prefix(GEMMA),
        VISION,
    ),
    "gemma4_text": Family("Gemma4", read_gemma4_text, GEMMA4),
    "gemma4": Family("", read_gemma4, text_part(GEMMA4), GEMMA4_PARTS),
    "gemma4_unified_text": Family("Gemma4Unified", read_gemma4_text, GEMMA4),
    "gemma4_unified": Family("", read_gemma4, text_part(GEMMA4), GEMMA4_PARTS),
    "mistral3": Family("", read_mistral3, add_prefix(LLAMA), VISION),  # as gemma3
    "llava": Family("", read_beside_tower, add_prefix(LLAMA), VISION),
    "smolvlm": IDEFICS,
    "idefics3": IDEFICS,
    "olmo2": Family("Olmo2", read_olmo2, OLMO),
    "flex_olmo": Family("FlexOlmo", read_flex_olmo, OLMO),
    "granitemoehybrid": Family("GraniteMoeHybrid", read_granitemoehybrid, GRANITE_HYBRID),
    "arcee": Family("Arcee", read_arcee, LLAMA),
    "granitemoe": Family("GraniteMoe", read_granitemoe, GRANITE_MOE),
    "minimax_m2": Family("MiniMaxM2", read_minimax_m2, MINIMAX_M2),
    "gpt_oss": Family("GptOss", read_gpt_oss, GPT_OSS),
    "olmoe": Family("Olmoe", read_olmoe, OLMO),
    "olmo3": Family("Olmo3", read_olmo3, OLMO),
    "olmo_hybrid": Family("OlmoHybrid", read_olmo_hybrid, OLMO_HYBRID),
    "smollm3": Family("SmolLM3", read_smollm3, LLAMA),
    "granite": Family("Granite", read_granite, LLAMA),
    "phi3": Family("Phi3", read_phi3, PHI3),
    "ministral": Family("Ministral", read_ministral, LLAMA),
    "ministral3": Family("Ministral3", read_ministral3, LLAMA),
    "mixtral": Family("Mixtral", read_mixtral, MIXTRAL),
    "gemma": Family("Gemma", read_gemma1, LLAMA),
    "seed_oss": Family("SeedOss", read_seed_oss, LLAMA),
    "exaone4": Family("Exaone4", read_exaone4, POST_NORMS),
    "ernie4_5": Family("Ernie4_5", read_ernie4_5, {**LLAMA, **PAIRS}),
    "helium": Family("Helium", read_helium, {**LLAMA, **PAIRS}),
    "cwm": Family("Cwm", read_cwm, LLAMA),
    "glm": Family("Glm", read_glm, GLM),
    "glm4": Family("Glm4", read_glm4, GLM4),
    "glm4_moe": Family("Glm4Moe", read_glm4_moe, GLM4_MOE, ("model.layers.{L}.",)),
    "ernie4_5_moe": Family("Ernie4_5_Moe", read_ernie4_5_moe, ERNIE_MOE, ("model.mtp_",)),
}


def read_config(values: Mapping[str, Any]) -> tuple[ModelConfig, tuple[Row, ...]]:
    """Read a Hugging Face config; return ours and the table of its weights.

    Raises InputError for a family or an attribute that is not supported.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        differs = f", as it has {NOT_AS_TEXT[kind]}" if kind in NOT_AS_TEXT else ""
        near = nearest(str(kind), FAMILIES)
        differs += f" (nearest: {near})" if near else ""
        raise InputError(
            f"model_type {shown(kind)} is not supported{differs}. Supported: "
            f"{', '.join(sorted(FAMILIES))}. convert/README.md shows how to add a family."
        )
    config = ModelConfig.from_fields(read_attributes(kind, values))
    return config, rows_of(FAMILIES[kind].table, config)


def read_attributes(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Read the fields of a config of a model_type; InputError for those that it does not handle."""
    attributes = Attributes(kind, values)
    fields = FAMILIES[kind].read(attributes)
    attributes.refuse_unknown()
    return {"model_type": kind, **fields}
