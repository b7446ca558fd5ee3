"""Tokens per second of decoding along paths: `python -m experiments.decoding_speed --help`.

Decodes one row per path, in one process and in turns: with this library, with transformers one row
and path at a time (its layers permuted, each position with a KV cache of its own), and with
transformers' batched generation, which can only run the identity path.
"""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import torch
import tyro

import cola_jax
from cola_jax.path import identity, random_paths
from experiments.random_speed import Program, time_in_turns
from experiments.shapes import SHAPES, random_model
from experiments.torch_baselines import random_theirs
from tests.oracle import generate_exactly, permuted

Path = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class DecodingSpeed:
    """Time the decoding of the same rows."""

    model: str = "smollm2-135m"
    """Named shape with random weights, on which speed does not depend."""
    rows: int = 64
    """Number of rows, each a prompt on a path."""
    tokens: int = 96
    """Tokens of each prompt."""
    new_tokens: int = 32
    """Tokens decoded after each prompt."""
    edits: int = 3
    """Most edits of a path."""
    rounds: int = 3
    """Number of times each program is timed, in turns."""
    alone: int = 8
    """Number of rows that transformers decodes one by one, which takes equally long for each."""


def programs(settings: DecodingSpeed, paths: Sequence[Path]) -> Mapping[str, Program]:
    """Make the timed programs, with the number of rows of each."""
    config = SHAPES[settings.model]
    model, theirs = random_model(config, "float32"), random_theirs(config, "float32")
    new, alone = settings.new_tokens, min(settings.alone, settings.rows)
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (settings.rows, settings.tokens))
    ids = ids.astype(np.int32)
    batch = torch.as_tensor(ids.astype(np.int64), device=theirs.device)
    plain = [identity(config.num_layers)] * settings.rows

    def generate(paths: Sequence[Path]) -> None:
        cola_jax.generate(model, ids, [[path] for path in paths], max_new_tokens=new)

    def one_by_one() -> None:
        with torch.inference_mode():
            for row, path in zip(batch[:alone], paths[:alone], strict=True):
                with permuted(theirs, path):
                    generate_exactly(theirs, row[None], new)

    def batched() -> None:
        with torch.inference_mode():
            generate_exactly(theirs, batch, new)

    return {
        "cola-jax, one path per row": (lambda: generate(paths), settings.rows),
        "cola-jax, identity path": (lambda: generate(plain), settings.rows),
        "transformers, one row and path at a time": (one_by_one, alone),
        "transformers, one batch, identity path": (batched, settings.rows),
    }


def main(settings: DecodingSpeed) -> None:
    layers = SHAPES[settings.model].num_layers
    paths = random_paths(layers, settings.rows, 0, edits=settings.edits)
    mean = np.mean([len(path) for path in paths])
    print(f"jax {jax.__version__}, torch {torch.__version__}; mean path length {mean:.1f} layers")
    timed = programs(settings, paths)
    seconds = time_in_turns(timed, settings.rounds)
    times = {
        name: [each / rows / settings.new_tokens for each in seconds[name]]
        for name, (_, rows) in timed.items()
    }
    first = next(iter(times.values()))
    for name, each in times.items():
        ratios = [a / b for a, b in zip(each, first, strict=True)]
        print(
            f"{name}: {1 / statistics.median(each):.1f} tokens/s, time per token over the first "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main(tyro.cli(DecodingSpeed))
