"""How fast a CPU multiplies, and how much of that `run_paths` reaches.

`python -m experiments.product_speed forms --model CHECKPOINT --out FILE` times the products of the
model's layers by the form of the weight, the dtype and the rows of a tile; flags of XLA are read
from XLA_FLAGS, and named in the CSV.

`python -m experiments.product_speed floor --model CHECKPOINT --task arc_easy.jsonl` runs each
question's own random paths, and divides the time of the products that these need, at the fastest
rate that the machine showed between the calls, by the CPU seconds taken. Attention, norms, padding
and the host's work are what is lost.

`python -m experiments.product_speed parts --model CHECKPOINT` runs paths without half of their
attentions, or of their MLPs, in one batch with others of whole layers, and compares the CPU seconds
that they add with those of as many paths of whole layers, and with the ratio of operations.
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
from cola_jax.metrics import compilations
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
    """Prompts, which all run the same paths."""
    paths: int = 6
    """Paths of each kind."""
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
        drawn = random_paths(config.num_layers, 2 * self.paths, seed=0)
        beside, whole = drawn[: self.paths], drawn[self.paths :]
        without: dict[str, list[LayerPath]] = {"whole layers": whole}
        for name, part in (("half of the attentions", MLP), ("half of the MLPs", ATTENTION)):
            without[name] = [halved(path, part, generator) for path in whole]
        seconds: dict[str, list[float]] = {name: [] for name in ("beside", *without)}
        programs: dict[str, int] = {}
        for number in range(1 + self.rounds):
            for name in seconds:
                every = beside + without.get(name, [])
                before = compilations()
                taken = cpu_seconds(
                    functools.partial(cola_jax.run_paths, model, prompts, every, progress=False)
                )
                if number:
                    seconds[name].append(taken)
                else:
                    programs[name] = compilations() - before
        of_round = {name: np.array(each) for name, each in seconds.items()}
        flop = {
            name: path_flop(config, self.tokens, beside + paths) for name, paths in without.items()
        }
        least = path_flop(config, self.tokens, beside)
        full = of_round["whole layers"] - of_round["beside"]
        for name in without:
            ratio = float(np.median((of_round[name] - of_round["beside"]) / full))
            operations = (flop[name] - least) / (flop["whole layers"] - least)
            print(
                f"{name}: {np.median(of_round[name]):.1f} CPU s, {ratio:.3f} of those added by "
                f"whole layers; {operations:.3f} of the operations; {programs[name]} programs "
                "compiled by the first call"
            )


def halved(path: LayerPath, part: int, generator: np.random.Generator) -> LayerPath:
    """Leave this part alone of half of the steps of a path of whole layers."""
    steps = list(path)
    for place in generator.permutation(len(path))[: len(path) // 2]:
        steps[place] = Step(path[place], part).id
    return tuple(steps)


def path_flop(config: ModelConfig, tokens: int, paths: Sequence[LayerPath]) -> float:
    """Count the operations of a prompt on paths, whose common beginnings run once.

    Those of attention to earlier tokens too; the last step of a path counts as others do.
    """
    sizes = product_sizes(config)
    attention = sum(a * b for a, b in sizes[:4]) * tokens
    attention += 2 * sizes[0][1] * tokens * (tokens + 1) // 2
    mlp = sum(a * b for a, b in sizes[4:]) * tokens
    of_part = {WHOLE: attention + mlp, ATTENTION: attention, MLP: mlp}
    states = {path[:n] for path in paths for n in range(1, len(path) + 1)}
    return 2.0 * sum(of_part[part_of(state[-1])] for state in states)


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
