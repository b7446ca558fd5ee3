"""Qwen2 and 2.5 (biases on q, k and v), Qwen3 (head norms); upper layers may have a window."""

from cola_jax.config import ModelConfig
from cola_jax.convert import llama
from cola_jax.convert.attributes import Attributes
from cola_jax.convert.table import Row

HEAD_NORMS = (
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "H -> H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "H -> H"),
)


def rows(config: ModelConfig) -> tuple[Row, ...]:
    """Extends Llama's table with the head norms of Qwen3."""
    return (*llama.rows(config), *(HEAD_NORMS if config.head_norms else ()))


def windows(attributes: Attributes, layers: int) -> tuple[int | None, ...]:
    """Reads each layer's window, from `layer_types` where given, else `max_window_layers`."""
    enabled = attributes.flag("use_sliding_window", False)
    window = attributes.window("sliding_window", 4096)
    if not enabled:
        window = None
    first = attributes.get("max_window_layers", 28)
    types = attributes.get("layer_types")
    if types is None:
        if window is not None and type(first) is not int:
            raise ValueError(f"config.json: max_window_layers must be a number, it is {first!r}.")
        return tuple(window if window and i >= first else None for i in range(layers))
    known = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != layers or any(x not in known for x in types):
        raise ValueError(
            f"config.json: layer_types must name full_attention or sliding_attention for each of "
            f"{layers} layers, it is {types}."
        )
    if window is None and "sliding_attention" in types:
        raise ValueError("config.json: layer_types has sliding_attention, but there is no window.")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def read_qwen2(attributes: Attributes) -> ModelConfig:
    """Reads a config of model_type `qwen2`, which has biases on q, k and v and no flag for them."""
    fields = llama.decoder(attributes, context=32768, kv_heads=32)
    fields["windows"] = windows(attributes, fields["num_layers"])
    return ModelConfig(**fields, qkv_bias=True)


def read_qwen3(attributes: Attributes) -> ModelConfig:
    """Reads a config of model_type `qwen3`; heads are as wide as `head_dim` says."""
    bias = attributes.flag("attention_bias", False)
    # `Qwen3Config` has a head width of its own, which does not follow from the model's width
    fields = llama.decoder(attributes, context=32768, kv_heads=32)
    fields["head_dim"] = attributes.whole("head_dim", 128)
    fields["windows"] = windows(attributes, fields["num_layers"])
    return ModelConfig(**fields, qkv_bias=bias, output_bias=bias, head_norms=True)
