"""Tokens per second of decoding along paths: `python -m experiments.decoding_speed --help`.

Decodes as many rows as there are different paths, all in one process and in turns: with this
library, with transformers one row and path at a time (its layers permuted, a cache of its own for
each place), and with transformers' batched generation on the identity path, which knows no others.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import torch
import tyro

import cola_jax
from cola_jax.benchmark.rivals import decode, permuted, transformers_model
from cola_jax.benchmark.shapes import SHAPES, random_model
from cola_jax.benchmark.timing import Contender, take_turns
from cola_jax.edits import random_paths
from cola_jax.path import identity


@dataclasses.dataclass(frozen=True)
class DecodingSpeed:
    """Times the decoding of the same rows."""

    model: str = "smollm2-135m"
    """A named shape with random weights; speed does not depend on them."""
    rows: int = 64
    tokens: int = 96
    """Of each prompt."""
    new_tokens: int = 32
    edits: int = 3
    """The most edits of a path."""
    rounds: int = 3
    alone: int = 8
    """Of the rows, those that are also decoded one by one: the rest would take as long each."""


def ours(name: str, model: Any, ids: np.ndarray, paths: list, tokens: int) -> Contender:
    def run() -> None:
        cola_jax.generate(model, ids, [[path] for path in paths], max_new_tokens=tokens)

    return Contender(name, run, len(paths) * tokens)


def theirs(model: Any, ids: np.ndarray, tokens: int) -> None:
    batch = torch.from_numpy(ids.astype(np.int64))
    with torch.inference_mode():
        decode(model, batch, tokens)


def main(settings: DecodingSpeed) -> None:
    config = SHAPES[settings.model]
    model = random_model(config, "float32", None)
    other = transformers_model(config, "float32", "cpu")
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (settings.rows, settings.tokens))
    ids = ids.astype(np.int32)
    paths = random_paths(config.num_layers, settings.rows, 0, edits=settings.edits)
    plain = [identity(config.num_layers)] * settings.rows
    new, alone = settings.new_tokens, settings.alone

    def one_by_one() -> None:
        for row, path in zip(ids[:alone], paths[:alone], strict=True):
            with permuted(other, path):
                theirs(other, row[None], new)

    contenders = [
        ours("ours, a path a row", model, ids, paths, new),
        ours("ours, identity", model, ids, plain, new),
        Contender("transformers, a path a row", one_by_one, alone * new),
        Contender(
            "transformers, batch, identity", lambda: theirs(other, ids, new), ids.shape[0] * new
        ),
    ]
    mean = np.mean([len(path) for path in paths])
    print(
        f"jax {jax.__version__}, torch {torch.__version__}; paths of {mean:.1f} layers on average"
    )
    timings = take_turns(contenders, settings.rounds)
    first = timings[contenders[0].name]
    for name, timing in timings.items():
        over = timing.over(first)
        print(
            f"{name}: {1 / timing.median:.1f} tokens/s, time for a token over ours "
            f"{over['ratio']:.2f} ({over['least']:.2f} to {over['most']:.2f})"
        )


if __name__ == "__main__":
    main(tyro.cli(DecodingSpeed))
