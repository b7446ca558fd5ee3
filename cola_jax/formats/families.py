"""The supported families: how the config of each is read, and its table of weights."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cola_jax.config import ModelConfig, Rope
from cola_jax.errors import InputError, shown
from cola_jax.formats.attributes import Attributes, read_rope, read_windows
from cola_jax.formats.table import Row, Table, make_table, rows_of

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
QWEN_EXPERTS = make_table(
    Row("gate", "model.layers.{i}.mlp.shared_expert.gate_proj.weight", "F D -> D F"),
    Row("up", "model.layers.{i}.mlp.shared_expert.up_proj.weight", "F D -> D F"),
    Row("down", "model.layers.{i}.mlp.shared_expert.down_proj.weight", "D F -> F D"),
    Row("shared_gate", "model.layers.{i}.mlp.shared_expert_gate.weight", "1 D -> D"),
    base=LLAMA,
)
GEMMA = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_norm", "model.layers.{i}.pre_feedforward_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
    base=LLAMA,
)
OLMO = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "(N H) -> N H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "(K H) -> K H"),
    base=LLAMA,
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


def read_bias(attributes: Attributes) -> dict[str, Any]:
    """Read whether the projections of attention have biases, as most families spell it."""
    return dict.fromkeys(("qkv_bias", "output_bias"), attributes.get("attention_bias"))


def read_experts(attributes: Attributes) -> dict[str, Any]:
    """Read the fields that all families with experts have."""
    return {
        "experts": attributes.get("num_experts"),
        "experts_per_token": attributes.get("num_experts_per_tok"),
        "normalised_routing": attributes.get("norm_topk_prob"),
    }


def read_llama(attributes: Attributes) -> ModelConfig:
    """Read Llama 2 to 3.2, or SmolLM2."""
    fields = read_decoder(attributes) | read_bias(attributes)
    return ModelConfig(**fields, mlp_bias=attributes.get("mlp_bias"))


def read_mistral(attributes: Attributes) -> ModelConfig:
    """Read Mistral: all layers have the same window, or none."""
    fields = read_decoder(attributes)
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    return ModelConfig(**fields)


def read_qwen2(attributes: Attributes) -> ModelConfig:
    """Read Qwen2 or 2.5; biases of q, k and v are not optional."""
    fields = read_decoder(attributes)
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, qkv_bias=True)


def read_qwen3(attributes: Attributes) -> ModelConfig:
    """Read a dense Qwen3, which normalises heads."""
    fields = read_decoder(attributes) | read_bias(attributes)
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, head_norms=True)


def read_qwen_experts(attributes: Attributes) -> dict[str, Any]:
    """Read the fields of Qwen's families with experts.

    Raises InputError for models that have experts in some of their layers only.
    """
    step, dense = attributes.get("decoder_sparse_step"), attributes.get("mlp_only_layers")
    if step != 1 or dense:
        raise InputError(
            f"decoder_sparse_step is {shown(step)} and mlp_only_layers "
            f"{shown(dense)}, so some layers have experts and others do not. Only models whose "
            "layers are all of one kind can be converted."
        )
    fields = read_decoder(attributes) | read_experts(attributes)
    return fields | {"expert_width": attributes.get("moe_intermediate_size")}


def read_qwen2_moe(attributes: Attributes) -> ModelConfig:
    """Read Qwen1.5-MoE or Qwen2-MoE, with a shared expert."""
    fields = read_qwen_experts(attributes)
    fields["mlp_width"] = attributes.get("shared_expert_intermediate_size")
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, qkv_bias=attributes.get("qkv_bias"))


def read_qwen3_moe(attributes: Attributes) -> ModelConfig:
    """Read Qwen3-MoE: all layers have the same window, or none."""
    fields = read_qwen_experts(attributes) | read_bias(attributes)
    fields["mlp_width"] = 0
    attributes.get("layer_types")  # released configs have max_window_layers, without effect
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    return ModelConfig(**fields, head_norms=True)


def read_gemma3_text(attributes: Attributes) -> ModelConfig:
    """Read Gemma 3: four norms per layer; layers with a window have a rope of their own."""
    if attributes.get("hidden_activation") != "gelu_pytorch_tanh":
        raise InputError("hidden_activation must be gelu_pytorch_tanh.")
    if attributes.get("use_bidirectional_attention"):
        raise InputError("use_bidirectional_attention is not supported.")
    attributes.get("rope_local_base_freq")  # an older name of the theta of the second rope
    ropes, kinds = attributes.get("rope_parameters"), ("full_attention", "sliding_attention")
    if unknown := set(ropes) - set(kinds):
        raise InputError(f"rope_parameters has {shown(sorted(unknown))}, not kinds of layer.")
    fields = read_decoder(attributes, tuple(read_rope(ropes[kind]) for kind in kinds))
    windows = read_windows(attributes)
    fields |= read_bias(attributes) | {
        "windows": windows,
        "layer_ropes": tuple(int(window is not None) for window in windows),
        "embedding_scale": fields["width"] ** 0.5,
        "query_scale": (fields["head_dim"] / attributes.get("query_pre_attn_scalar")) ** 0.5,
    }
    norms = {"head_norms": True, "post_norms": True, "norm_offset": 1.0}
    return ModelConfig(**fields, **norms, activation="gelu_tanh")


def read_gemma3(attributes: Attributes) -> ModelConfig:
    """Read the text part of a multimodal Gemma 3; images are not supported."""
    tokens = ("boi_token_index", "eoi_token_index", "image_token_index")
    for name in ("text_config", "vision_config", "mm_tokens_per_image", *tokens):
        attributes.get(name)
    tied = attributes.get("tie_word_embeddings")
    text = {"tie_word_embeddings": tied, **attributes.values.get("text_config", {})}
    return read_attributes("gemma3_text", text)


def read_olmo(attributes: Attributes) -> dict[str, Any]:
    """Read the fields of OLMo 2 and OLMoE."""
    fields = read_decoder(attributes) | read_bias(attributes)
    return fields | {"projection_norms": True}


def read_olmo2(attributes: Attributes) -> ModelConfig:
    """Read OLMo 2, with norms after attention and MLP instead of before them."""
    fields = read_olmo(attributes)
    return ModelConfig(**fields, pre_norms=False, post_norms=True, norm_offset=0.0)


def read_olmoe(attributes: Attributes) -> ModelConfig:
    """Read OLMoE, whose `intermediate_size` is an expert's width."""
    fields = read_olmo(attributes) | read_experts(attributes)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0}
    return ModelConfig(**fields, clip_qkv=attributes.get("clip_qkv"))


class Family(NamedTuple):
    """A model_type: how its config is read, and its table of weights."""

    name: str  # of its class in transformers, without ForCausalLM
    read: Callable[[Attributes], ModelConfig]
    table: Table
    ignored: tuple[str, ...] = ()  # prefixes of tensors outside the decoder


FAMILIES = {
    "llama": Family("Llama", read_llama, LLAMA),
    "mistral": Family("Mistral", read_mistral, LLAMA),
    "qwen2": Family("Qwen2", read_qwen2, LLAMA),
    "qwen3": Family("Qwen3", read_qwen3, LLAMA),
    "qwen2_moe": Family("Qwen2Moe", read_qwen2_moe, QWEN_EXPERTS),
    "qwen3_moe": Family("Qwen3Moe", read_qwen3_moe, LLAMA),
    "gemma3_text": Family("Gemma3", read_gemma3_text, GEMMA),
    # read only: its text part is written as gemma3_text
    "gemma3": Family(
        "",
        read_gemma3,
        {n: row._replace(theirs=f"language_model.{row.theirs}") for n, row in GEMMA.items()},
        ("vision_tower.", "multi_modal_projector."),
    ),
    "olmo2": Family("Olmo2", read_olmo2, OLMO),
    "olmoe": Family("Olmoe", read_olmoe, OLMO),
}


def read_config(values: Mapping[str, Any]) -> tuple[ModelConfig, tuple[Row, ...]]:
    """Read a Hugging Face config; return ours and the table of its weights.

    Raises InputError for a family or an attribute that is not supported.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise InputError(
            f"model_type {shown(kind)} is not supported. Supported: "
            f"{', '.join(sorted(FAMILIES))}. convert/README.md shows how to add a family."
        )
    config = read_attributes(kind, values)
    return config, rows_of(FAMILIES[kind].table, config)


def read_attributes(kind: str, values: Mapping[str, Any]) -> ModelConfig:
    """Read the attributes of a model_type; InputError for those that it does not handle."""
    attributes = Attributes(kind, values)
    config = FAMILIES[kind].read(attributes)
    attributes.refuse_unknown()
    return config
