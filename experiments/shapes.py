"""Shapes of known models, and models of these shapes with random weights."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from cola_jax.config import ModelConfig, Rope
from cola_jax.params import Int8, Model, assemble, cast, float_dtype, shapes, sharding


def llama(
    layers: int, width: int, heads: int, kv: int, mlp: int, vocab: int, **other: Any
) -> ModelConfig:
    """Make the config of a Llama of that shape."""
    return ModelConfig(
        vocab_size=vocab,
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=kv,
        head_dim=other.pop("head_dim", width // heads),
        mlp_width=mlp,
        context=8192,
        norm_eps=1e-5,
        ropes=(Rope(500000.0),),
        layer_ropes=(0,) * layers,
        windows=(None,) * layers,
        tied=other.pop("tied", True),
        **other,
    )


SHAPES = {
    "smollm2-135m": llama(30, 576, 9, 3, 1536, 49152),
    "llama-3.2-1b": llama(16, 2048, 32, 8, 8192, 128256),
    "llama-3.2-3b": llama(28, 3072, 24, 8, 8192, 128256, head_dim=128),
    "llama-3-8b": llama(32, 4096, 32, 8, 14336, 128256, tied=False),
    "qwen3-8b": llama(36, 4096, 32, 8, 12288, 151936, head_dim=128, tied=False, head_norms=True),
}


def random_model(config: ModelConfig, dtype: str, mesh: Mesh | None = None) -> Model:
    """Make a model with small normal weights, each generated on the devices that hold it."""
    seed = jax.random.key(0, impl="rbg")  # the generator that compiles and runs fastest
    wide = float_dtype(dtype)

    def draw(name: str, shape: tuple[int, ...], number: int) -> jax.Array | Int8:
        place = sharding(name, shape, mesh)
        if name.endswith("norm"):
            return jnp.ones(shape, wide, device=place)
        make = jax.jit(
            lambda key: (0.02 * jax.random.normal(key, shape)).astype(wide), out_shardings=place
        )
        return cast(name, make(jax.random.fold_in(seed, number)), dtype, mesh)

    every = enumerate(shapes(config).items())
    return assemble(config, {name: draw(name, shape, i) for i, (name, shape) in every})
