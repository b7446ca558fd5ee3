"""Tokens per second of decoding along paths: `python -m experiments.decoding_speed --help`.

Decodes one row per path, in one process and in turns: with this library, with transformers one row
and path at a time (its layers permuted, each position with a KV cache of its own), and with
transformers' batched generation, which can only run the identity path.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
import torch
import tyro

import cola_jax
from cola_jax.execute.benchmark import SHAPES, Paths, Program, random_model, time_in_turns
from cola_jax.path import identity, random_paths
from experiments.torch_baselines import generate_exactly, permuted, random_llama


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


def generate_program(
    name: str, model: cola_jax.Model, ids: np.ndarray, paths: Paths, tokens: int
) -> Program:
    """Decode each row along its path with `cola_jax.generate`."""

    def run() -> None:
        cola_jax.generate(model, ids, [[path] for path in paths], max_new_tokens=tokens)

    return Program(name, run, len(paths) * tokens)


def programs(settings: DecodingSpeed, paths: Paths) -> Sequence[Program]:
    """Make the timed programs; work is in tokens."""
    config = SHAPES[settings.model]
    model, theirs = random_model(config, "float32"), random_llama(config, "float32")
    new, alone = settings.new_tokens, settings.alone
    ids = np.random.default_rng(0).integers(3, config.vocab_size, (settings.rows, settings.tokens))
    ids = ids.astype(np.int32)
    batch = torch.as_tensor(ids.astype(np.int64), device=theirs.device)
    plain = [identity(config.num_layers)] * settings.rows

    def one_by_one() -> None:
        with torch.inference_mode():
            for row, path in zip(batch[:alone], paths[:alone], strict=True):
                with permuted(theirs, path):
                    generate_exactly(theirs, row[None], new)

    def batched() -> None:
        with torch.inference_mode():
            generate_exactly(theirs, batch, new)

    return [
        generate_program("cola-jax, one path per row", model, ids, paths, new),
        generate_program("cola-jax, identity path", model, ids, plain, new),
        Program("transformers, one row and path at a time", one_by_one, alone * new),
        Program("transformers, one batch, identity path", batched, settings.rows * new),
    ]


def main(settings: DecodingSpeed) -> None:
    layers = SHAPES[settings.model].num_layers
    paths = random_paths(layers, settings.rows, 0, edits=settings.edits)
    mean = np.mean([len(path) for path in paths])
    print(f"jax {jax.__version__}, torch {torch.__version__}; mean path length {mean:.1f} layers")
    timings = time_in_turns(programs(settings, paths), settings.rounds)
    first = next(iter(timings.values()))
    for name, timing in timings.items():
        ratio = timing.over(first)
        print(
            f"{name}: {1 / timing.median:.1f} tokens/s, time per token over the first "
            f"{ratio['ratio']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"
        )


if __name__ == "__main__":
    main(tyro.cli(DecodingSpeed))
