"""Qwen2 and 2.5 (biases on q, k and v), Qwen3 (head norms); upper layers may have a window."""

from collections.abc import Callable

from cola_jax.config import ModelConfig
from cola_jax.convert import llama
from cola_jax.convert.attributes import Attributes, read_windows
from cola_jax.convert.table import Row

HEAD_NORMS = (
    Row("q_norm", "model.layers.{i}.self_attn.q_norm.weight", "H -> H"),
    Row("k_norm", "model.layers.{i}.self_attn.k_norm.weight", "H -> H"),
)


def rows(config: ModelConfig) -> tuple[Row, ...]:
    """Extends Llama's table with the head norms of Qwen3."""
    return (*llama.rows(config), *(HEAD_NORMS if config.head_norms else ()))


def sliding_window(attributes: Attributes) -> int | None:
    """Reads the window of the layers that have one; None unless it is in use."""
    if attributes.flag("use_sliding_window", False):
        return attributes.window("sliding_window", 4096)
    attributes.get("sliding_window")
    return None


def windows(
    attributes: Attributes,
    layers: int,
    slides: Callable[[int, int], bool] = lambda i, first: i >= first,
) -> tuple[int | None, ...]:
    """Reads each layer's window, from `layer_types` where given, else by `max_window_layers`."""
    window = sliding_window(attributes)
    first = attributes.get("max_window_layers", 28)
    if window is not None and type(first) is not int:
        raise ValueError(f"config.json: max_window_layers must be a number, it is {first!r}.")
    sliding = [window is not None and slides(i, first) for i in range(layers)]
    return read_windows(attributes, window, sliding)


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
