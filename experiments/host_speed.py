"""What the host does for an evaluation: `python -m experiments.host_speed --help`.

Searches, and evaluates the same number of random paths, with a model of `--layers` narrow layers
whose device programs return at once, and prints the CPU time of the host, that of selection, and
the functions in which the host spends it. The calls of the programs, with all their arguments, are
the host's own, and count. A first search compiles.
"""

import dataclasses
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import tyro

import cola_jax
from cola_jax.engine.devices import Devices
from cola_jax.engine.evaluator import EngineEvaluator
from cola_jax.engine.local import LocalEngine
from cola_jax.engine.model import ModelHandle
from cola_jax.engine.question_set import QuestionSet
from cola_jax.execute import driver, run_paths, worker
from cola_jax.execute.inputs import pad_paths
from cola_jax.path import random_paths
from cola_jax.report.tables import markdown_table
from cola_jax.scoring import Options
from cola_jax.scoring.encoder import Encoder
from experiments.cpu_parts import HOST, CpuParts
from experiments.shapes import llama, random_model

WIDTH = 8  # of the model


@dataclasses.dataclass(frozen=True)
class HostSpeed:
    """Measure the host's share of a search."""

    model: str
    """Checkpoint whose tokenizer is used."""
    task: str
    """Multiple-choice questions, as a JSONL file."""
    questions: int = 64
    layers: int = 28
    simulations: int = 48
    leaves: int = 16
    tile_tokens: int = 2048
    """Tokens of a tile, those of an accelerator by default."""
    places: int = 15
    """Functions to name."""


@jax.jit
def no_readouts(*arguments: Any) -> Any:
    """Return readouts of zeros in place of `unembed_queries`."""
    shapes = jax.eval_shape(unembed_queries, *arguments)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


unembed_queries = run_paths.unembed_queries
no_forward = jax.jit(
    lambda config, shape, layers, table, i, states, cache, mode, source=None: (states, cache),
    static_argnames=("config", "shape"),
    donate_argnames=("states", "cache"),
    keep_unused=True,
)
no_embeddings = jax.jit(
    lambda model, slots, ids, embedded, *, dtype: slots,
    static_argnames="dtype",
    donate_argnames="slots",
    keep_unused=True,
)
STUBS = (
    (worker, "forward_tile", no_forward),
    (driver, "embed_prompts", no_embeddings),
    (run_paths, "unembed_queries", no_readouts),
)


def main(settings: HostSpeed) -> None:
    tokenizer = cola_jax.load_tokenizer(settings.model)
    model = random_model(llama(settings.layers, WIDTH, 1, 1, WIDTH, len(tokenizer)), "float32")
    questions = cola_jax.load_questions(settings.task, limit=settings.questions)
    scorer = Options(tokenizer)
    handle = ModelHandle.of(model)
    asked = QuestionSet.of(questions, Encoder((scorer,)), handle)
    drawn = random_paths(settings.layers, settings.simulations * len(asked), 0)
    paths = [drawn[i :: len(asked)] for i in range(len(asked))]
    search = {"simulations": settings.simulations, "leaves": settings.leaves, "control": "none"}
    engine = LocalEngine(Devices(tile_tokens=settings.tile_tokens), batch_size=len(asked))
    rows: list[tuple[str, ...]] = []
    for stub in STUBS:
        mock.patch.object(*stub).start()

    def measure(name: str, run: Any) -> CpuParts:
        parts = CpuParts(0.002)
        with parts:
            count = run()
        ms = {part: 1e3 * seconds / count for part, seconds in parts.parts.items()}
        cells = [f"{ms.get(part, 0):.3f}" for part in (HOST, "selection", "compile", "device")]
        rows.append((name, str(count), *cells))
        return parts

    def searched() -> int:
        options: Any = {"scorer": scorer, "engine": engine, "progress": False, **search}
        return sum(len(outcome.paths) for outcome in cola_jax.search(model, questions, **options))

    def evaluated() -> int:
        evaluate = EngineEvaluator(engine, handle, asked)
        for i in range(0, settings.simulations, settings.leaves):
            wave = [row[i : i + settings.leaves] for row in paths]
            evaluate(pad_paths(wave, len(asked), settings.layers))
        return settings.simulations * len(asked)

    searched()
    evaluated()
    parts = measure("search", searched)
    measure("evaluations alone", evaluated)
    head = ("CPU ms an evaluation", "evaluations", "host", "selection", "compile", "other threads")
    print("\n".join(markdown_table(head, rows)))
    total = parts.parts[HOST]
    print("\nwhere the host spends it, in a search:")
    for place, seconds in sorted(parts.places.items(), key=lambda each: -each[1])[
        : settings.places
    ]:
        print(f"{seconds / total:6.1%}  {place}")


if __name__ == "__main__":
    main(tyro.cli(HostSpeed, description=__doc__))
