"""OLMo 2 (norms after attention and MLP instead of before them) and OLMoE (experts)."""

from typing import Any

from cola_jax.config import ModelConfig
from cola_jax.formats import llama
from cola_jax.formats.attributes import Attributes
from cola_jax.formats.table import Row, make_table

TABLE = make_table(
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "(N H) -> N H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "(K H) -> K H"),
    base=llama.TABLE,
)


def read_decoder(attributes: Attributes) -> dict[str, Any]:
    """Read the fields that both families have."""
    fields = llama.read_decoder(attributes) | llama.read_bias(attributes)
    return fields | {"projection_norms": True}


def read_olmo2(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `olmo2`."""
    fields = read_decoder(attributes)
    return ModelConfig(**fields, pre_norms=False, post_norms=True, norm_offset=0.0)


def read_olmoe(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `olmoe`, whose `intermediate_size` is an expert's width."""
    fields = read_decoder(attributes) | llama.read_experts(attributes)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0}
    return ModelConfig(**fields, clip_qkv=attributes.get("clip_qkv"))
