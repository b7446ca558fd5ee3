"""Shapes of known models, and models of these shapes with random weights."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cola_jax.config import ModelConfig, Rope
from cola_jax.params import Int8, Model, assemble, cast, field_of, float_dtype, shapes, sharding


def llama(
    layers: int, width: int, heads: int, kv: int, mlp: int, vocab: int, **other: Any
) -> ModelConfig:
    """Make the config of a Llama of that shape; `other` are further fields."""
    fields = {
        "vocab_size": vocab,
        "num_layers": layers,
        "width": width,
        "num_heads": heads,
        "num_kv_heads": kv,
        "head_dim": width // heads,
        "mlp_width": mlp,
        "context": 8192,
        "norm_eps": 1e-5,
        "ropes": (Rope(500000.0),),
        "layer_ropes": (0,) * layers,
        "windows": (None,) * layers,
        "tied": True,
    }
    return ModelConfig.from_fields(fields | other)


def hybrid(every: int, layers: int, width: int, *of: int) -> ModelConfig:
    """Return the config of a Qwen3.5 of that shape, which attends in each `every`-th layer."""
    delta = {
        "num_heads": width // 64,
        "num_kv_heads": width // 64,
        "head_dim": 64,
        "value_dim": 64,
        "convolution": 4,
        "head_norms": False,
        "output_gate": False,
    }
    return llama(
        layers,
        width,
        *of,
        rotary_dim=16,
        head_norms=True,
        norm_offset=1.0,
        kinds=(delta,),
        layer_kinds=tuple(int((i + 1) % every > 0) for i in range(layers)),
        output_gate=True,
        model_type="qwen3_5_text",
    )


SHAPES = {
    "smollm2-135m": llama(30, 576, 9, 3, 1536, 49152),
    "hybrid-135m": hybrid(4, 28, 576, 9, 3, 1536, 49152),
    "llama-3.2-1b": llama(16, 2048, 32, 8, 8192, 128256),
    "llama-3.2-3b": llama(28, 3072, 24, 8, 8192, 128256, head_dim=128),
    "llama-3-8b": llama(32, 4096, 32, 8, 14336, 128256, tied=False),
    "qwen3-8b": llama(36, 4096, 32, 8, 12288, 151936, head_dim=128, tied=False, head_norms=True),
}


OLMOE = {"experts": 64, "experts_per_token": 8, "expert_width": 1024, "projection_norms": True}
SHAPES["olmoe-1b-7b"] = llama(16, 2048, 16, 16, 0, 50304, tied=False, **OLMOE)
SHAPES["hybrid-2b"] = hybrid(4, 24, 2048, 16, 2, 6144, 151936)


def random_model(config: ModelConfig, dtype: str, mesh: Mesh | None = None) -> Model:
    """Make a model with small normal weights, each generated on the devices that hold it."""
    seed = jax.random.key(0, impl="rbg")  # the generator that compiles and runs fastest
    wide = float_dtype(dtype)

    def draw(name: str, shape: tuple[int, ...], number: int) -> jax.Array | Int8:
        place = sharding(name, shape, mesh)
        if field_of(name).endswith("norm"):
            return jnp.ones(shape, wide, device=place)
        make = jax.jit(
            lambda key: (0.02 * jax.random.normal(key, shape)).astype(wide), out_shardings=place
        )
        return cast(name, make(jax.random.fold_in(seed, number)), dtype, mesh)

    every = enumerate(shapes(config).items())
    return assemble(config, {name: draw(name, shape, i) for i, (name, shape) in every})
