"""What a layer with experts costs, beside the least and the most that it could cost.

`python -m experiments.experts` has the shape of OLMoE-1B-7B's layer; run it from a checkout.
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
    """Times the experts of one layer on the default device."""

    width: int = 2048
    expert_width: int = 1024
    experts: int = 64
    each: int = 8
    """Experts of a token."""
    tokens: int = 96
    dtype: str = "float32"
    repeats: int = 5
    """The least time of so many is printed."""


def main(options: Experts) -> None:
    config, layer = random_layer(options)
    x = jax.random.normal(jax.random.key(1), (options.tokens, options.width), options.dtype)
    ways = {
        "blocks of rows (what the library does)": lambda layer, x: mixture(config, layer, x[None]),
        "jax.lax.ragged_dot": lambda layer, x: ragged(config, layer, x),
        "all experts on all tokens": lambda layer, x: every(config, layer, x),
        "one expert on as many rows (the floor)": lambda layer, x: dense(config, layer, x),
    }
    flops = 6 * options.tokens * options.each * options.width * options.expert_width
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
    facts: dict[str, Any] = {
        **{"vocab_size": 1, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 2},
        **{"width": options.width, "mlp_width": 0, "context": 1, "norm_eps": 1e-5, "tied": True},
        **{"ropes": (Rope(1e4),), "layer_ropes": (0,), "windows": (None,)},
        **{"experts": options.experts, "experts_per_token": options.each},
    }
    config = ModelConfig(**facts, expert_width=options.expert_width)
    fields: dict[str, Any] = {field.name: None for field in dataclasses.fields(Layer)}
    for i, name in enumerate(OPTIONAL["experts"]):
        _, *shape = shapes(config)[name]
        drawn = jax.random.normal(jax.random.key(i), shape, options.dtype)
        fields[name] = drawn / shape[-2] ** 0.5
    return config, Layer(**fields | {"first_expert": jnp.int32(0)})


def least_time(run: Callable[..., Any], *arguments: Any, repeats: int) -> float:
    """Returns seconds of the fastest call, after one that compiles."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        jax.block_until_ready(run(*arguments))
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def ragged(config: ModelConfig, layer: Any, x: jax.Array) -> jax.Array:
    """As `mixture`, with one product of groups of rows for each of the three weights."""
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
    """The same floating-point operations with the weights of one expert."""
    rows = jnp.repeat(x, config.experts_per_token, axis=0)
    gate, up, down = (w[0] for w in (layer.expert_gate, layer.expert_up, layer.expert_down))
    return (jax.nn.silu(rows @ gate) * (rows @ up)) @ down


if __name__ == "__main__":
    main(tyro.cli(Experts))
