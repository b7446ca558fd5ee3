"""Time of a layer with experts, against alternatives and a lower bound.

`python -m experiments.experts` has the shape of a layer of OLMoE-1B-7B.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from rich.console import Console
from rich.table import Table

from cola_jax.config import ModelConfig, Rope
from cola_jax.moe import mixture, route
from cola_jax.params import OPTIONAL, Layer, shapes


@dataclasses.dataclass(frozen=True)
class Experts:
    """Time the experts of one layer on the default device."""

    width: int = 2048
    """Width of the hidden states, D."""
    expert_width: int = 1024
    """Width of an expert's MLP."""
    experts: int = 64
    """Number of experts, E."""
    experts_per_token: int = 8
    """Number of experts chosen for each token."""
    tokens: int = 96
    """Number of tokens, T."""
    dtype: str = "float32"
    """Dtype of weights and states."""
    repeats: int = 5
    """Number of timed calls, of which the fastest is printed."""


def main(options: Experts) -> None:
    config, layer = random_layer(options)
    x = jax.random.normal(jax.random.key(1), (options.tokens, options.width), options.dtype)
    ways = {
        "blocks of rows (the library)": lambda layer, x: mixture(config, layer, x[None]),
        "jax.lax.ragged_dot": lambda layer, x: ragged(config, layer, x),
        "all experts on all tokens": lambda layer, x: every(config, layer, x),
        "one expert on as many rows (lower bound)": lambda layer, x: dense(config, layer, x),
    }
    flops = 6 * options.tokens * options.experts_per_token * options.width * options.expert_width
    title = f"{options.tokens} tokens, {flops / 1e9:.1f} GFLOP, jax {jax.__version__} on {device()}"
    table = Table("way", "ms", "GFLOP/s", title=title)
    for name, way in ways.items():
        seconds = least_time(jax.jit(way), layer, x, repeats=options.repeats)
        table.add_row(name, f"{1e3 * seconds:.1f}", f"{flops / seconds / 1e9:.0f}")
    Console(width=100).print(table)


def device() -> str:
    return jax.devices()[0].device_kind


def random_layer(options: Experts) -> tuple[ModelConfig, Layer]:
    """Draws the weights of one layer's experts."""
    fields: dict[str, Any] = {
        **{"vocab_size": 1, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 2},
        **{"width": options.width, "mlp_width": 0, "context": 1, "norm_eps": 1e-5, "tied": True},
        **{"ropes": (Rope(1e4),), "layer_ropes": (0,), "windows": (None,)},
        **{"experts": options.experts, "experts_per_token": options.experts_per_token},
    }
    config = ModelConfig(**fields, expert_width=options.expert_width)
    weights: dict[str, Any] = {field.name: None for field in dataclasses.fields(Layer)}
    for i, name in enumerate(OPTIONAL["experts"]):
        _, *shape = shapes(config)[name]
        drawn = jax.random.normal(jax.random.key(i), shape, options.dtype)
        weights[name] = drawn / shape[-2] ** 0.5
    return config, Layer(**weights | {"first_expert": jnp.int32(0)})


def least_time(run: Callable[..., Any], *arguments: Any, repeats: int) -> float:
    """Returns the seconds of the fastest call, after one that compiles."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def ragged(config: ModelConfig, layer: Any, x: jax.Array) -> jax.Array:
    """Computes `mixture` with one `ragged_dot` for each of the three weights."""
    chosen, weights = route(config, layer, x)
    order = jnp.argsort(chosen.reshape(-1))
    sizes = jnp.bincount(chosen.reshape(-1), length=config.experts)
    rows = x[order // config.experts_per_token]
    gate, up = (jax.lax.ragged_dot(rows, w, sizes) for w in (layer.expert_gate, layer.expert_up))
    out = jax.lax.ragged_dot(jax.nn.silu(gate) * up, layer.expert_down, sizes)
    mixed = out[jnp.argsort(order)].reshape(*chosen.shape, -1)
    return jnp.einsum("tad,ta->td", mixed, weights)


def every(config: ModelConfig, layer: Any, x: jax.Array) -> jax.Array:
    """Runs every expert on every token and drops what was not chosen."""
    chosen, weights = route(config, layer, x)
    share = jnp.zeros((len(x), config.experts), x.dtype)
    share = share.at[jnp.arange(len(x))[:, None], chosen].set(weights)
    gate, up = (jnp.einsum("td,edx->tex", x, w) for w in (layer.expert_gate, layer.expert_up))
    hidden = jax.nn.silu(gate) * up * share[..., None]
    return jnp.einsum("tex,exd->td", hidden, layer.expert_down)


def dense(config: ModelConfig, layer: Any, x: jax.Array) -> jax.Array:
    """Runs as many floating-point operations with the weights of one expert."""
    rows = jnp.repeat(x, config.experts_per_token, axis=0)
    gate, up, down = (w[0] for w in (layer.expert_gate, layer.expert_up, layer.expert_down))
    return (jax.nn.silu(rows @ gate) * (rows @ up)) @ down


if __name__ == "__main__":
    main(tyro.cli(Experts))
