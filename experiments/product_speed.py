"""How fast a CPU multiplies, and how much of that `run_paths` reaches.

`python -m experiments.product_speed forms --model CHECKPOINT --out FILE` times the products of the
model's layers by the form of the weight, the dtype and the rows of a tile; flags of XLA are read
from XLA_FLAGS, and named in the CSV.

`python -m experiments.product_speed floor --model CHECKPOINT --task arc_easy.jsonl` runs each
question's own random paths, and divides the time of the products that these need, at the fastest
rate that the machine showed between the calls, by the CPU seconds taken. Attention, norms, padding
and the host's work are what is lost.

`python -m experiments.product_speed parts --model CHECKPOINT` compares the CPU seconds of paths
without half or all of their attentions, or of their MLPs, with the ratio of operations: all prompts
on the path, and every other one on whole layers in the same batch.
"""

import csv
import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import cola_jax
from cola_jax.config import ModelConfig
from cola_jax.path import LayerPath, random_paths
from cola_jax.prompts import Prompts
from cola_jax.runs.session import Session
from cola_jax.scoring import Encoded
from cola_jax.steps import ATTENTION, MLP, WHOLE, Step, part_of
from cola_jax.tasks.task import TaskConfig

Form = Literal["stored", "turned", "swapped", "rounded", "wide"]
Weights = list[jax.Array]  # of the products of a layer [D, F], or turned
LAYERS = 6  # with weights of their own, which no cache holds together
REPEATS = 6
RATE_ROWS = 1024


@dataclasses.dataclass
class Forms:
    """Time the products of a layer, one after the other, in GFLOP a CPU second."""

    model: str
    """Checkpoint directory, or a name; only its config is read."""
    out: Path
    """CSV to append to."""
    rows: tuple[int, ...] = (144, 288, 576)
    """Rows of a tile."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    """Dtypes of weights and activations."""
    forms: tuple[Form, ...] = ("stored", "turned", "swapped", "rounded", "wide")
    """Weights as they are stored [D, F] or turned [F, D], alone or as the first factor; with sums
    in the dtype, not in float32; and weights and activations converted to float32 first."""

    def run(self) -> None:
        """Write a row for each form, dtype and number of rows."""
        config = Session.prepare(self.model, TaskConfig("demo").prepare).model.config
        new = not self.out.exists()
        with self.out.open("a", newline="") as file:
            table = csv.writer(file)
            if new:
                table.writerow(("jax", "flags", "form", "dtype", "rows", "GFLOP a CPU second"))
            flags = os.environ.get("XLA_FLAGS", "")
            for dtype, form, rows in itertools.product(self.dtypes, self.forms, self.rows):
                rate = product_rate(config, dtype, rows, form)
                table.writerow((jax.__version__, flags, form, dtype, rows, f"{rate:.1f}"))
                print(dtype, form, rows, f"{rate:.1f}", flush=True)


@dataclasses.dataclass
class Floor:
    """Compare the CPU seconds of `run_paths` with those of the products that it needs."""

    model: str
    """Checkpoint directory, or a name."""
    task: str
    """A JSONL file or a task's name."""
    questions: int = 24
    """Questions."""
    paths: int = 16
    """Random paths of each question."""
    rounds: int = 3
    """Calls after the first, which compiles."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of weights and activations."""

    def run(self) -> None:
        """Print each call."""
        task = TaskConfig(self.task, limit=self.questions, scorer="options")
        session = Session.prepare(self.model, task.prepare, dtype=self.dtype)
        encoded = session.asked.encode(session.model)
        prompts = Prompts.stack([each.prompts for each in encoded])
        config = session.model.config
        drawn = random_paths(config.num_layers, self.paths * len(encoded), 3)
        own = [drawn[i :: len(encoded)] for i in range(len(encoded))]
        flop = useful_flop(config, encoded, own)
        model = session.model.load()
        shares = []
        for number in range(1 + self.rounds):
            began = time.process_time()
            cola_jax.run_paths(model, prompts, own, dtype=self.dtype, progress=False)
            seconds = time.process_time() - began
            rate = product_rate(config, self.dtype, RATE_ROWS, "wide")
            least = flop / rate / 1e9
            shares.append(least / seconds)
            print(
                f"call {number}: {seconds:.1f} CPU s, products alone {least:.1f} at {rate:.0f} "
                f"GFLOP a CPU second: {shares[-1]:.2f}",
                flush=True,
            )
        print(f"best of the later calls: {max(shares[1:]):.2f}")


@dataclasses.dataclass
class Parts:
    """Compare the CPU seconds of paths of parts with those of whole layers, and the operations."""

    model: str
    """Checkpoint directory, or a name; of layers of one kind, without windows."""
    tokens: int = 512
    """Tokens of a prompt, drawn at random."""
    questions: int = 4
    """Prompts, an even number of them."""
    rounds: int = 3
    """Rounds after the first, which compiles."""

    def run(self) -> None:
        """Print the medians of the rounds."""
        model = cola_jax.load(self.model)
        config = model.config
        generator = np.random.default_rng(0)
        ids = generator.integers(0, config.vocab_size, (self.questions, self.tokens), np.int32)
        last = np.full((self.questions, 1), self.tokens - 1)
        prompts = Prompts.plain(ids).replace(read=last, targets=last)
        paths = {name: alternating_path(config.num_layers, *of) for name, of in PARTS_OF.items()}
        alone: dict[str, list[float]] = {name: [] for name in paths}
        beside: dict[str, list[float]] = {name: [] for name in paths}
        for number in range(1 + self.rounds):
            for name, path in paths.items():
                for seconds, other in (alone, path), (beside, paths[ALL]):
                    own = [[path], [other]] * (self.questions // 2)
                    taken = cpu_seconds(
                        functools.partial(cola_jax.run_paths, model, prompts, own, progress=False)
                    )
                    if number:
                        seconds[name].append(taken)
        whole = float(np.median(alone[ALL] + beside[ALL]))
        operations = path_flop(config, self.tokens, paths[ALL])
        for name, path in paths.items():
            share = float(np.median(alone[name])) / whole
            in_batch = 2 * float(np.median(beside[name])) / whole - 1  # of half of the prompts
            expected = path_flop(config, self.tokens, path) / operations
            print(
                f"{name}: {share:.3f} of the CPU seconds of whole layers, {in_batch:.3f} beside "
                f"them; {expected:.3f} of the operations"
            )


ALL = "whole layers"
PARTS_OF = {  # the parts of even and of odd layers
    ALL: (WHOLE, WHOLE),
    "attention alone": (ATTENTION, ATTENTION),
    "MLPs alone": (MLP, MLP),
    "without half of the attentions": (MLP, WHOLE),
    "without half of the MLPs": (ATTENTION, WHOLE),
}


def alternating_path(num_layers: int, even: int, odd: int) -> LayerPath:
    """Return the path of these parts, whose last layer is whole."""
    parts = [(even, odd)[layer % 2] for layer in range(num_layers - 1)]
    return tuple(Step(layer, part).id for layer, part in enumerate([*parts, WHOLE]))


def path_flop(config: ModelConfig, tokens: int, path: LayerPath) -> float:
    """Count the operations of a prompt on a path, those of attention to earlier tokens too."""
    sizes = product_sizes(config)
    attention = sum(a * b for a, b in sizes[:4]) * tokens
    attention += 2 * sizes[0][1] * tokens * (tokens + 1) // 2
    mlp = sum(a * b for a, b in sizes[4:]) * tokens
    of_part = {WHOLE: attention + mlp, ATTENTION: attention, MLP: mlp}
    return 2.0 * sum(of_part[part_of(step)] for step in path)


def product_rate(config: ModelConfig, dtype: str, rows: int, form: Form) -> float:
    """Return GFLOP a CPU second of the products of a layer on so many rows."""
    sizes = product_sizes(config)
    generator = np.random.default_rng(0)
    turned = form in ("turned", "swapped")
    layers: list[Weights] = []
    for _ in range(LAYERS):
        drawn = [generator.standard_normal(size, np.float32) for size in sizes]
        layers.append([jnp.asarray(w.T.copy() if turned else w, dtype) for w in drawn])
    inputs = {width: jnp.ones((rows, width), dtype) for width, _ in sizes}
    multiply = jax.jit(form_of(form))

    def run() -> None:
        out = [
            multiply(inputs[width], weight)
            for weights in layers
            for (width, _), weight in zip(sizes, weights, strict=True)
        ]
        jax.block_until_ready(out)

    run()
    best = min(cpu_seconds(run) for _ in range(REPEATS))
    return 2 * rows * LAYERS * sum(a * b for a, b in sizes) / best / 1e9


def form_of(form: Form) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Return the function that multiplies rows by a weight of a form."""

    def multiply(x: jax.Array, weight: jax.Array) -> jax.Array:
        if form == "rounded":
            return jnp.einsum("nd,df->nf", x, weight)
        if form == "wide":
            return jnp.einsum("nd,df->nf", x.astype(np.float32), weight.astype(np.float32)).astype(
                x.dtype
            )
        axes = {"stored": "nd,df->nf", "turned": "nd,fd->nf"}.get(form)
        if axes is None:
            product = jnp.einsum("fd,nd->fn", weight, x, preferred_element_type=jnp.float32).T
        else:
            product = jnp.einsum(axes, x, weight, preferred_element_type=jnp.float32)
        return product.astype(x.dtype)

    return multiply


def cpu_seconds(run: Callable[[], Any]) -> float:
    """Return the CPU seconds of a call."""
    began = time.process_time()
    run()
    return time.process_time() - began


def product_sizes(config: ModelConfig) -> list[tuple[int, int]]:
    """Return the sizes of the products of a layer of attention and an MLP."""
    (kind,) = config.kinds
    heads = kind.num_heads * kind.head_dim
    keys = kind.num_kv_heads * kind.head_dim
    width = config.width
    mlp = [(width, kind.mlp_width), (width, kind.mlp_width), (kind.mlp_width, width)]
    return [(width, heads), (width, keys), (width, keys), (heads, width), *mlp]


def useful_flop(
    config: ModelConfig, encoded: Sequence[Encoded], paths: Sequence[Sequence[LayerPath]]
) -> float:
    """Count the operations of products that paths need, each state and position read once.

    A last layer needs keys and values of all tokens, and the rest where the model is read.
    """
    sizes = product_sizes(config)
    layer = sum(a * b for a, b in sizes)
    keys = sizes[1][0] * sizes[1][1] + sizes[2][0] * sizes[2][1]
    head = config.width * config.vocab_size
    products = 0
    for each, row in zip(encoded, paths, strict=True):
        tokens = each.num_tokens
        reads = len(np.unique(np.asarray(each.prompts.read)))
        inner = len(set(prefixes(row)))
        products += inner * tokens * layer
        products += len(set(row)) * (tokens * keys + reads * (layer - keys + head))
    return 2.0 * products


def prefixes(paths: Sequence[LayerPath]) -> Iterator[LayerPath]:
    """Yield the beginnings of paths, but for the paths themselves."""
    for path in paths:
        for n in range(1, len(path)):
            yield path[:n]


Measured = (
    Annotated[Forms, tyro.conf.subcommand("forms")]
    | Annotated[Floor, tyro.conf.subcommand("floor")]
    | Annotated[Parts, tyro.conf.subcommand("parts")]
)

if __name__ == "__main__":
    measured: Any = Measured
    tyro.cli(measured, description=__doc__).run()
