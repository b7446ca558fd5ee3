"""Qwen2 and 2.5 (biases of q, k and v), Qwen3 (head norms), and their models with experts."""

from typing import Any

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, shown
from cola_jax.formats import llama
from cola_jax.formats.attributes import Attributes, read_windows
from cola_jax.formats.table import Row, make_table

MOE_TABLE = make_table(
    Row("gate", "model.layers.{i}.mlp.shared_expert.gate_proj.weight", "F D -> D F"),
    Row("up", "model.layers.{i}.mlp.shared_expert.up_proj.weight", "F D -> D F"),
    Row("down", "model.layers.{i}.mlp.shared_expert.down_proj.weight", "D F -> F D"),
    Row("shared_gate", "model.layers.{i}.mlp.shared_expert_gate.weight", "1 D -> D"),
    base=llama.TABLE,
)


def read_qwen2(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `qwen2`; biases of q, k and v are not optional."""
    fields = llama.read_decoder(attributes)
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, qkv_bias=True)


def read_qwen3(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `qwen3`."""
    fields = llama.read_decoder(attributes) | llama.read_bias(attributes)
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, head_norms=True)


def read_mixture(attributes: Attributes) -> dict[str, Any]:
    """Read the fields of both families with experts.

    Raises InputError for models that have experts in some of their layers only.
    """
    step, dense = attributes.get("decoder_sparse_step"), attributes.get("mlp_only_layers")
    if step != 1 or dense:
        raise InputError(
            f"decoder_sparse_step is {shown(step)} and mlp_only_layers "
            f"{shown(dense)}, so some layers have experts and others do not. Only models whose "
            "layers are all of one kind can be converted."
        )
    fields = llama.read_decoder(attributes) | llama.read_experts(attributes)
    return fields | {"expert_width": attributes.get("moe_intermediate_size")}


def read_qwen2_moe(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `qwen2_moe`, which Qwen1.5-MoE-A2.7B has too."""
    fields = read_mixture(attributes)
    fields["mlp_width"] = attributes.get("shared_expert_intermediate_size")
    fields["windows"] = read_windows(attributes)
    return ModelConfig(**fields, qkv_bias=attributes.get("qkv_bias"))


def read_qwen3_moe(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `qwen3_moe`: all layers have the same window, or none."""
    fields = read_mixture(attributes) | llama.read_bias(attributes)
    fields["mlp_width"] = 0
    attributes.get("layer_types")  # released configs have max_window_layers, without effect
    fields["windows"] = (attributes.get("sliding_window"),) * fields["num_layers"]
    return ModelConfig(**fields, head_norms=True)
