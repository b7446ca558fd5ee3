"""Layers with experts: what the families that have them share, and Qwen2-MoE and Qwen3-MoE."""

from cola_jax.config import ModelConfig
from cola_jax.convert import llama, qwen
from cola_jax.convert.attributes import Attributes
from cola_jax.convert.table import Row

EXPERTS = (
    Row("router", "model.layers.{i}.mlp.gate.weight", "E D -> D E"),
    Row("expert_gate", "model.layers.{i}.mlp.experts.{e}.gate_proj.weight", "X D -> D X"),
    Row("expert_up", "model.layers.{i}.mlp.experts.{e}.up_proj.weight", "X D -> D X"),
    Row("expert_down", "model.layers.{i}.mlp.experts.{e}.down_proj.weight", "D X -> X D"),
)
SHARED_EXPERT = (
    Row("gate", "model.layers.{i}.mlp.shared_expert.gate_proj.weight", "F D -> D F"),
    Row("up", "model.layers.{i}.mlp.shared_expert.up_proj.weight", "F D -> D F"),
    Row("down", "model.layers.{i}.mlp.shared_expert.down_proj.weight", "D F -> F D"),
    Row("shared_gate", "model.layers.{i}.mlp.shared_expert_gate.weight", "1 D -> D"),
)
LAYERS = (*llama.ATTENTION, *llama.PRE_NORMS, *EXPERTS)


def qwen2_rows(config: ModelConfig) -> tuple[Row, ...]:
    """Puts experts, one of them shared, in place of Llama's MLP."""
    return llama.rows(config, (*LAYERS, *SHARED_EXPERT))


def qwen3_rows(config: ModelConfig) -> tuple[Row, ...]:
    """Puts experts in place of the MLP of Qwen3."""
    return (*llama.rows(config, LAYERS), *qwen.HEAD_NORMS)


def read_experts(attributes: Attributes, *, experts: int, per_token: int) -> dict:
    """Reads what all these families have; `experts` and `per_token` are a family's defaults."""
    count = attributes.whole("num_local_experts", experts)  # a newer name of the next
    return {
        "experts": attributes.whole("num_experts", count),
        "experts_per_token": attributes.whole("num_experts_per_tok", per_token),
        "normalised_routing": attributes.flag("norm_topk_prob", False),
    }


def refuse_dense_layers(attributes: Attributes) -> None:
    """Raises ValueError for stacks of which some layers have an MLP and the others experts."""
    step, dense = attributes.get("decoder_sparse_step", 1), attributes.get("mlp_only_layers")
    if step != 1 or dense:
        raise ValueError(
            f"config.json: decoder_sparse_step is {step!r} and mlp_only_layers {dense!r}, so some "
            "layers have experts and others do not. Only models whose layers are all of one kind "
            "can be converted."
        )


def read_qwen2_moe(attributes: Attributes) -> ModelConfig:
    """Reads a config of model_type `qwen2_moe`, as Qwen1.5-MoE-A2.7B has it."""
    refuse_dense_layers(attributes)
    attributes.assume(intermediate_size=5632)  # of layers without experts: read and not used
    fields = llama.decoder(attributes, context=32768, kv_heads=16)
    fields |= read_experts(attributes, experts=60, per_token=4)
    fields["expert_width"] = attributes.whole("moe_intermediate_size", 1408)
    fields["mlp_width"] = attributes.whole("shared_expert_intermediate_size", 5632)
    fields["windows"] = qwen.windows(
        attributes, fields["num_layers"], lambda i, first: i % 2 == 0 and i < first
    )
    return ModelConfig(**fields, qkv_bias=attributes.flag("qkv_bias", True))


def read_qwen3_moe(attributes: Attributes) -> ModelConfig:
    """Reads a config of model_type `qwen3_moe`; every layer has the window, or none has."""
    refuse_dense_layers(attributes)
    attributes.assume(intermediate_size=6144)
    attributes.get("max_window_layers")  # in released configs, and without effect
    bias = attributes.flag("attention_bias", False)
    fields = llama.decoder(attributes, context=32768, kv_heads=4)
    fields |= read_experts(attributes, experts=128, per_token=8)
    fields["expert_width"] = attributes.whole("moe_intermediate_size", 768)
    fields["mlp_width"] = 0
    fields["windows"] = (qwen.sliding_window(attributes),) * fields["num_layers"]
    return ModelConfig(**fields, qkv_bias=bias, output_bias=bias, head_norms=True)
