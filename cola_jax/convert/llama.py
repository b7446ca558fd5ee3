"""Llama 2, 3, 3.1, 3.2 and SmolLM2, Mistral: the common decoder that other families extend."""

from cola_jax.config import ModelConfig, Rope
from cola_jax.convert.attributes import Attributes, read_rope
from cola_jax.convert.table import Row

ATTENTION = (  # what all families call by these names
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
    """Returns the table for a config: the family's rows and those of the parts it has."""
    return (
        *common,
        *(HEAD if not config.tied else ()),
        *(QKV_BIAS if config.qkv_bias else ()),
        *(OUTPUT_BIAS if config.output_bias else ()),
        *(MLP_BIAS if config.mlp_bias else ()),
    )


def decoder(
    attributes: Attributes,
    *,
    context: int,
    kv_heads: int | None = None,
    ropes: tuple[Rope, ...] | None = None,
) -> dict:
    """Reads what all families have; `context` and `kv_heads` are a family's defaults.

    `ropes` are given where a family has more than one.
    """
    heads = attributes.whole("num_attention_heads")
    layers = attributes.whole("num_hidden_layers")
    width = attributes.whole("hidden_size")
    return {
        "vocab_size": attributes.whole("vocab_size"),
        "num_layers": layers,
        "width": width,
        "num_heads": heads,
        "num_kv_heads": attributes.whole("num_key_value_heads", kv_heads or heads),
        "head_dim": attributes.whole("head_dim", width // heads),
        "mlp_width": attributes.whole("intermediate_size"),
        "context": attributes.whole("max_position_embeddings", context),
        "norm_eps": float(attributes.number("rms_norm_eps", 1e-6)),
        "ropes": ropes or (read_rope(attributes),),
        "layer_ropes": (0,) * layers,
        "windows": (None,) * layers,
        "tied": attributes.flag("tie_word_embeddings", False),
    }


def read_llama(attributes: Attributes) -> ModelConfig:
    """Reads a config of model_type `llama`; defaults are those of `LlamaConfig` in transformers."""
    attention_bias = attributes.flag("attention_bias", False)
    return ModelConfig(
        **decoder(attributes, context=2048),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        mlp_bias=attributes.flag("mlp_bias", False),
    )


def read_mistral(attributes: Attributes) -> ModelConfig:
    """Reads a config of model_type `mistral`: every layer has the same window, or none has."""
    fields = decoder(attributes, context=131072, kv_heads=8)
    # a config that leaves the window out means 4096 to `MistralConfig`, and null means none
    window = attributes.window("sliding_window", 4096)
    return ModelConfig(**{**fields, "windows": (window,) * fields["num_layers"]})
