"""Llama 2 to 3.2, SmolLM2 and Mistral; the rows and fields that the other families build on."""

from cola_jax.config import ModelConfig, Rope
from cola_jax.formats.attributes import Attributes, read_rope
from cola_jax.formats.table import Row

ATTENTION = (  # the same names in all families
    Row("embedding", "model.embed_tokens.weight", "V D -> V D"),
    Row("q", "model.layers.{i}.self_attn.q_proj.weight", "(N H) D -> D N H"),
    Row("k", "model.layers.{i}.self_attn.k_proj.weight", "(K H) D -> D K H"),
    Row("v", "model.layers.{i}.self_attn.v_proj.weight", "(K H) D -> D K H"),
    Row("o", "model.layers.{i}.self_attn.o_proj.weight", "D (N H) -> N H D"),
    Row("norm", "model.norm.weight", "D -> D"),
)
PRE_NORMS = (
    Row("attention_norm", "model.layers.{i}.input_layernorm.weight", "D -> D"),
    Row("mlp_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
)
MLP = (
    Row("gate", "model.layers.{i}.mlp.gate_proj.weight", "F D -> D F"),
    Row("up", "model.layers.{i}.mlp.up_proj.weight", "F D -> D F"),
    Row("down", "model.layers.{i}.mlp.down_proj.weight", "D F -> F D"),
)
LLAMA = (*ATTENTION, *PRE_NORMS, *MLP)
EXPERTS = (
    Row("router", "model.layers.{i}.mlp.gate.weight", "E D -> D E"),
    Row("expert_gate", "model.layers.{i}.mlp.experts.{e}.gate_proj.weight", "X D -> D X"),
    Row("expert_up", "model.layers.{i}.mlp.experts.{e}.up_proj.weight", "X D -> D X"),
    Row("expert_down", "model.layers.{i}.mlp.experts.{e}.down_proj.weight", "D X -> X D"),
)
MOE = (*ATTENTION, *PRE_NORMS, *EXPERTS)
HEAD = (Row("head", "lm_head.weight", "V D -> D V"),)
QKV_BIAS = (
    Row("q_bias", "model.layers.{i}.self_attn.q_proj.bias", "(N H) -> N H"),
    Row("k_bias", "model.layers.{i}.self_attn.k_proj.bias", "(K H) -> K H"),
    Row("v_bias", "model.layers.{i}.self_attn.v_proj.bias", "(K H) -> K H"),
)
OUTPUT_BIAS = (Row("o_bias", "model.layers.{i}.self_attn.o_proj.bias", "D -> D"),)
MLP_BIAS = (
    Row("gate_bias", "model.layers.{i}.mlp.gate_proj.bias", "F -> F"),
    Row("up_bias", "model.layers.{i}.mlp.up_proj.bias", "F -> F"),
    Row("down_bias", "model.layers.{i}.mlp.down_proj.bias", "D -> D"),
)


def rows(config: ModelConfig, common: tuple[Row, ...] = LLAMA) -> tuple[Row, ...]:
    """Return the table for a config: `common` rows, and those of the optional parts it has."""
    return (
        *common,
        *(HEAD if not config.tied else ()),
        *(QKV_BIAS if config.qkv_bias else ()),
        *(OUTPUT_BIAS if config.output_bias else ()),
        *(MLP_BIAS if config.mlp_bias else ()),
    )


def read_decoder(
    attributes: Attributes,
    *,
    context: int,
    kv_heads: int | None = None,
    ropes: tuple[Rope, ...] | None = None,
) -> dict:
    """Read the fields that all families have.

    `context` and `kv_heads` are the family's defaults; `ropes` is given by families that have
    several.
    """
    heads = attributes.integer("num_attention_heads")
    layers = attributes.layers()
    width = attributes.integer("hidden_size")
    return {
        "vocab_size": attributes.integer("vocab_size"),
        "num_layers": layers,
        "width": width,
        "num_heads": heads,
        "num_kv_heads": attributes.integer("num_key_value_heads", kv_heads or heads),
        "head_dim": attributes.integer("head_dim", width // heads),
        "mlp_width": attributes.integer("intermediate_size"),
        "context": attributes.integer("max_position_embeddings", context),
        "norm_eps": float(attributes.number("rms_norm_eps", 1e-6)),
        "ropes": ropes or (read_rope(attributes),),
        "layer_ropes": (0,) * layers,
        "windows": (None,) * layers,
        "tied": attributes.boolean("tie_word_embeddings", False),
    }


def read_experts(attributes: Attributes, *, experts: int, per_token: int) -> dict:
    """Read the fields that all families with experts have; the keywords are their defaults."""
    count = attributes.integer("num_local_experts", experts)  # a newer name of num_experts
    return {
        "experts": attributes.integer("num_experts", count),
        "experts_per_token": attributes.integer("num_experts_per_tok", per_token),
        "normalised_routing": attributes.boolean("norm_topk_prob", False),
    }


def read_llama(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `llama`, with the defaults of `LlamaConfig` in transformers."""
    attention_bias = attributes.boolean("attention_bias", False)
    return ModelConfig(
        **read_decoder(attributes, context=2048),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=attributes.boolean("mlp_bias", False),
    )


def read_mistral(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `mistral`: all layers have the same window, or none."""
    fields = read_decoder(attributes, context=131072, kv_heads=8)
    # `MistralConfig` takes a missing window for 4096, and null for none
    window = attributes.window("sliding_window", 4096)
    return ModelConfig(**{**fields, "windows": (window,) * fields["num_layers"]})
