"""Qwen2 and 2.5 (biases of q, k and v), Qwen3 (head norms), and their models with experts."""

from collections.abc import Callable

from cola_jax.config import ModelConfig
from cola_jax.errors import InputError, shown
from cola_jax.formats import llama
from cola_jax.formats.attributes import Attributes, read_windows
from cola_jax.formats.table import Row

HEAD_NORMS = (
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "H -> H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "H -> H"),
)
SHARED_EXPERT = (
    Row("gate", "model.layers.{i}.mlp.shared_expert.gate_proj.weight", "F D -> D F"),
    Row("up", "model.layers.{i}.mlp.shared_expert.up_proj.weight", "F D -> D F"),
    Row("down", "model.layers.{i}.mlp.shared_expert.down_proj.weight", "D F -> F D"),
    Row("shared_gate", "model.layers.{i}.mlp.shared_expert_gate.weight", "1 D -> D"),
)


def rows(config: ModelConfig) -> tuple[Row, ...]:
    """Extend Llama's table by head norms, and replace its MLP by experts, where there are any."""
    common = llama.MOE if config.experts else llama.LLAMA
    norms = HEAD_NORMS if config.head_norms else ()
    return llama.rows(config, (*common, *(SHARED_EXPERT if config.shared_expert else ()), *norms))


def read_window(attributes: Attributes) -> int | None:
    """Read the width of the sliding window; None where `use_sliding_window` turns it off."""
    if attributes.boolean("use_sliding_window", False):
        return attributes.window("sliding_window", 4096)
    attributes.get("sliding_window")
    return None


def read_layer_windows(
    attributes: Attributes,
    layers: int,
    slides: Callable[[int, int], bool] = lambda i, first: i >= first,
) -> tuple[int | None, ...]:
    """Read each layer's window.

    `layer_types` says which layers have one; else `slides` does, given the layer and
    `max_window_layers`.
    """
    window = read_window(attributes)
    first = attributes.get("max_window_layers", 28)
    if window is not None and type(first) is not int:
        raise InputError(f"max_window_layers must be a number, got {shown(first)}.")
    sliding = [window is not None and slides(i, first) for i in range(layers)]
    return read_windows(attributes, window, sliding)


def read_qwen2(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `qwen2`; biases of q, k and v are not optional."""
    fields = llama.read_decoder(attributes, context=32768, kv_heads=32)
    fields["windows"] = read_layer_windows(attributes, fields["num_layers"])
    return ModelConfig(**fields, qkv_bias=True)


def read_qwen3(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `qwen3`."""
    bias = attributes.boolean("attention_bias", False)
    fields = llama.read_decoder(attributes, context=32768, kv_heads=32)
    fields["head_dim"] = attributes.integer("head_dim", 128)  # whatever the model's width
    fields["windows"] = read_layer_windows(attributes, fields["num_layers"])
    return ModelConfig(**fields, qkv_bias=bias, output_bias=bias, head_norms=True)


def refuse_dense_layers(attributes: Attributes) -> None:
    """Raise InputError for models that have experts in some of their layers only."""
    step, dense = attributes.get("decoder_sparse_step", 1), attributes.get("mlp_only_layers")
    if step != 1 or dense:
        raise InputError(
            f"decoder_sparse_step is {shown(step)} and mlp_only_layers "
            f"{shown(dense)}, so some layers have experts and others do not. Only models whose "
            "layers are all of one kind can be converted."
        )


def read_qwen2_moe(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `qwen2_moe`, which Qwen1.5-MoE-A2.7B has too."""
    refuse_dense_layers(attributes)
    attributes.set_defaults(intermediate_size=5632)  # of layers without experts, unused
    fields = llama.read_decoder(attributes, context=32768, kv_heads=16)
    fields |= llama.read_experts(attributes, experts=60, per_token=4)
    fields["expert_width"] = attributes.integer("moe_intermediate_size", 1408)
    fields["mlp_width"] = attributes.integer("shared_expert_intermediate_size", 5632)
    fields["windows"] = read_layer_windows(
        attributes, fields["num_layers"], lambda i, first: i % 2 == 0 and i < first
    )
    return ModelConfig(**fields, qkv_bias=attributes.boolean("qkv_bias", True))


def read_qwen3_moe(attributes: Attributes) -> ModelConfig:
    """Read a config of model_type `qwen3_moe`: all layers have the same window, or none."""
    refuse_dense_layers(attributes)
    attributes.set_defaults(intermediate_size=6144)
    attributes.get("max_window_layers")  # present in released configs, without effect
    bias = attributes.boolean("attention_bias", False)
    fields = llama.read_decoder(attributes, context=32768, kv_heads=4)
    fields |= llama.read_experts(attributes, experts=128, per_token=8)
    fields["expert_width"] = attributes.integer("moe_intermediate_size", 768)
    fields["mlp_width"] = 0
    fields["windows"] = (read_window(attributes),) * fields["num_layers"]
    return ModelConfig(**fields, qkv_bias=bias, output_bias=bias, head_norms=True)
