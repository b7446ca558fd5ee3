"""Why products of few rows run below a CPU's rate: packing of weights, or reading them from memory.

`python -m experiments.cpu_products` times the matrix products of a layer, SmolLM2's by default, for
some numbers of rows: with one layer's weights again and again, which stay in the cache, and with
those of many layers in turn, which come from memory; joined, transposed, and in huge pages. What a
product takes beside its operations is the time for no rows, extrapolated from two numbers of them.
"""

import dataclasses
import mmap
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from cola_jax.report.tables import markdown_table

Weights = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class CpuProducts:
    """Measure the products of a layer."""

    width: int = 576
    heads: int = 576
    """Columns of the queries' weight."""
    kv: int = 192
    """Columns of the keys' and of the values' weight."""
    mlp: int = 1536
    layers: int = 30
    rows: tuple[int, ...] = (48, 96, 192, 384, 2048)
    rounds: int = 15

    def shapes(self) -> list[tuple[int, int]]:
        """Return the shapes of a layer's weights: q, k, v, o, gate, up, down."""
        width, heads, kv, mlp = self.width, self.heads, self.kv, self.mlp
        return [
            (width, heads),
            (width, kv),
            (width, kv),
            (heads, width),
            (width, mlp),
            (width, mlp),
            (mlp, width),
        ]

    def joined(self) -> list[tuple[int, int]]:
        """Return the same with q, k and v in one, and gate and up."""
        width, mlp = self.width, self.mlp
        one = (width, self.heads + 2 * self.kv)
        return [one, (self.heads, width), (width, 2 * mlp), (mlp, width)]


@jax.jit
def products(x: dict[int, jax.Array], weights: Weights) -> list[jax.Array]:
    """Multiply rows by each weight."""
    return [x[w.shape[0]] @ w for w in weights]


@jax.jit
def transposed_products(x: dict[int, jax.Array], weights: Weights) -> list[jax.Array]:
    """Multiply rows by weights whose rows are the columns of the product."""
    return [x[w.shape[1]] @ w.T for w in weights]


@jax.jit
def read(_: dict[int, jax.Array], weights: Weights) -> list[jax.Array]:
    """Read weights once, and do next to nothing with them."""
    return [jnp.max(w) for w in weights]


def random_weights(shapes: Sequence[tuple[int, int]]) -> Weights:
    """Make a layer's weights."""
    generator = np.random.default_rng(0)
    return tuple(jnp.asarray(generator.normal(size=s).astype(np.float32)) for s in shapes)


def in_huge_pages(weights: Weights) -> Weights:
    """Copy weights to memory for which the kernel was asked for huge pages."""
    size = 2**21
    total = sum(-(-w.nbytes // 64) * 64 for w in weights)
    memory = mmap.mmap(-1, -(-total // size) * size + size)
    memory.madvise(mmap.MADV_HUGEPAGE)
    flat = np.frombuffer(memory, np.uint8)
    start = -flat.ctypes.data % size
    out = []
    for w in weights:
        view = flat[start : start + w.nbytes].view(np.float32).reshape(w.shape)
        view[:] = w
        out.append(jnp.from_dlpack(view))
        start += -(-w.nbytes // 64) * 64
    return tuple(out)


def seconds_a_layer(run: Callable, x: dict[int, jax.Array], layers: Sequence[Weights]) -> float:
    """Run every layer in turn; return the seconds of one."""
    begun = time.perf_counter()
    jax.block_until_ready([run(x, weights) for weights in layers][-1])
    return (time.perf_counter() - begun) / len(layers)


def main(settings: CpuProducts) -> None:
    shapes = settings.shapes()
    plain = [random_weights(shapes) for _ in range(settings.layers)]
    joined = [random_weights(settings.joined()) for _ in range(settings.layers)]
    ways: dict[str, tuple[Callable, list[Weights]]] = {
        "in the cache": (products, plain[:1] * settings.layers),
        "from memory": (products, plain),
        "joined": (products, joined),
        "transposed": (
            transposed_products,
            [tuple(jnp.array(w.T) for w in one) for one in plain],
        ),
        "huge pages": (products, [in_huge_pages(one) for one in plain]),
        "read only": (read, plain),
    }
    flops = 2 * sum(a * b for a, b in shapes)
    seconds: dict[tuple[int, str], list[float]] = {}
    for turn in range(settings.rounds + 1):  # the first compiles
        for rows in settings.rows:
            x = {n: jnp.ones((rows, n)) for n in {a for a, _ in shapes}}
            for name, (run, layers) in ways.items():
                spent = seconds_a_layer(run, x, layers)
                if turn:
                    seconds.setdefault((rows, name), []).append(spent)
    median = {key: statistics.median(values) for key, values in seconds.items()}
    lines = [
        (str(rows), *(cell(median[rows, name], flops * rows, name) for name in ways))
        for rows in settings.rows
    ]
    print("\n".join(markdown_table(("rows", *ways), lines)))
    low, high = settings.rows[0], settings.rows[-1]
    rate = (high - low) / (median[high, "in the cache"] - median[low, "in the cache"])
    print(f"\nmilliseconds for no rows, at {rate * flops / 1e9:.0f} GFLOP/s of the others:")
    for name in list(ways)[:-1]:
        print(f"{name}: {1e3 * (median[low, name] - low / rate):.2f}")


def cell(seconds: float, flops: float, name: str) -> str:
    """Write milliseconds a layer, and GFLOP/s."""
    text = f"{1e3 * seconds:.2f}"
    return text if name == "read only" else f"{text} ({flops / seconds / 1e9:.0f})"


if __name__ == "__main__":
    main(tyro.cli(CpuProducts, description=__doc__))
