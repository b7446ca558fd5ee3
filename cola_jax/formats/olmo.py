"""OLMo 2 (norms after attention and MLP instead of before them) and OLMoE (experts)."""

from cola_jax.config import ModelConfig
from cola_jax.formats import llama
from cola_jax.formats.attributes import Attributes
from cola_jax.formats.table import Row

POST_NORMS = (
    Row("attention_post_norm", "model.layers.{i}.post_attention_layernorm.weight", "D -> D"),
    Row("mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm.weight", "D -> D"),
)
PROJECTION_NORMS = (
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "(N H) -> N H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "(K H) -> K H"),
)


def olmo2_rows(config: ModelConfig) -> tuple[Row, ...]:
    """Return Llama's table with norms after attention and MLP, and of queries and keys."""
    common = (*llama.ATTENTION, *llama.MLP, *POST_NORMS, *PROJECTION_NORMS)
    return llama.rows(config, common)


def olmoe_rows(config: ModelConfig) -> tuple[Row, ...]:
    """Return Llama's table with experts, and with norms of queries and keys."""
    return llama.rows(config, (*llama.MOE, *PROJECTION_NORMS))


def read_decoder(attributes: Attributes, context: int) -> dict:
    """Read the fields that both families have."""
    attributes.set_defaults(rms_norm_eps=1e-5)
    bias = attributes.boolean("attention_bias", False)
    fields = llama.read_decoder(attributes, context=context)
    return {**fields, "qkv_bias": bias, "output_bias": bias, "projection_norms": True}


def read_olmo2(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `olmo2`."""
    fields = read_decoder(attributes, 2048)
    return ModelConfig(**fields, pre_norms=False, post_norms=True, norm_offset=0.0)


def read_olmoe(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `olmoe`, whose `intermediate_size` is an expert's width."""
    fields = read_decoder(attributes, 4096)
    fields |= llama.read_experts(attributes, experts=64, per_token=8)
    fields |= {"expert_width": fields["mlp_width"], "mlp_width": 0}
    bound = attributes.get("clip_qkv")
    clip = None if bound is None else float(attributes.number("clip_qkv"))
    return ModelConfig(**fields, clip_qkv=clip)
