"""Largest relative error of the logits against transformers, by family and kind of path.

Run it from a checkout as `python -m experiments.parity`, with the `test` extra installed.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
import tyro
from rich.console import Console
from rich.table import Table

import cola_jax
from cola_jax.formats.conversion import convert
from cola_jax.path import pad_path
from tests import oracle

PRETRAINED = {  # paths of the kinds of `oracle.PATHS`
    "SmolLM2-135M-Instruct.Q4_1.gguf": {
        "identity": tuple(range(30)),
        "skip": (*range(9), *range(12, 30)),
        "repeat": (*range(8), 7, 7, *range(8, 30)),
        "block repeat": (*range(14), 10, 11, 12, 13, *range(14, 30)),
        "reordered": (*range(5), 7, 5, 6, *range(8, 30)),
    },
    "gemma-3-270m-q4_k_m.gguf": {  # of which layers 5, 11 and 17 see everything
        "identity": tuple(range(18)),
        "skip": (*range(5), *range(8, 18)),
        "repeat": (*range(6), 5, 5, *range(6, 18)),
        "block repeat": (*range(13), 10, 11, 12, *range(13, 18)),
        "reordered": (*range(4), 5, 4, *range(6, 18)),
    },
}
TEXTS = (
    "The capital of France is Paris, and the capital of Japan is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Question: which of these is a mammal?\nA. shark\nB. whale\nC. frog\nD. hen\nAnswer:",
)


@dataclasses.dataclass(frozen=True)
class Parity:
    """Print the largest |ours - theirs| / max |theirs| over all logits, in float32."""

    models: Path | None = None
    """Folder with SmolLM2-135M-Instruct.Q4_1.gguf or gemma-3-270m-q4_k_m.gguf, to compare as well
    (needs accelerate)."""
    batches: int = 4
    """Batches of random tokens for each tiny model."""


def main(options: Parity) -> None:
    """Compare every tiny model, and the pretrained ones of a folder if one is given."""
    jax.config.update("jax_default_matmul_precision", "highest")
    table = Table(title=f"logits against transformers {transformers.__version__}, {device()}")
    table.add_column("model")
    for kind in oracle.PATHS:
        table.add_column(kind, justify="right")
    for variant, errors in compare(options):
        table.add_row(variant, *(f"{errors[kind]:.1e}" for kind in oracle.PATHS))
    Console(width=120).print(table)


def device() -> str:
    return f"jax {jax.__version__} on {jax.devices()[0].device_kind}"


def compare(options: Parity) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield each model's name and its largest error by kind of path."""
    with tempfile.TemporaryDirectory() as folder:
        for variant in oracle.VARIANTS:
            theirs = oracle.make(variant, Path(folder) / variant)
            ours = converted(Path(folder) / variant)
            batches = [oracle.random_ids(4, seed=seed) for seed in range(options.batches)]
            yield variant, largest_errors(ours, theirs, batches, oracle.PATHS)
        if options.models is None:
            return
        present = [name for name in PRETRAINED if (options.models / name).exists()]
        if not present:
            raise ValueError(f"{options.models} has none of {list(PRETRAINED)}.")
        for name in present:
            yield (
                Path(name).stem,
                compare_pretrained(options.models, name, Path(folder) / "pretrained"),
            )


def compare_pretrained(models: Path, name: str, destination: Path) -> dict[str, float]:
    """Compare a converted GGUF file with transformers' own loading of it."""
    ours = converted(models / name, destination)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        models, gguf_file=name, dtype=torch.float32
    )
    tokenizer = cola_jax.load_tokenizer(destination)
    batches = [np.array([tokenizer(text).input_ids], np.int32) for text in TEXTS]
    return largest_errors(ours, theirs, batches, PRETRAINED[name])


def converted(source: Path, destination: Path | None = None) -> cola_jax.Model:
    destination = destination or source.with_name(f"{source.name}-converted")
    convert(str(source), destination, overwrite=True)
    return cola_jax.load(destination)


def largest_errors(
    ours: cola_jax.Model,
    theirs: Any,
    batches: list[np.ndarray],
    paths: Mapping[str, tuple[int, ...]],
) -> dict[str, float]:
    """Return the largest error over the batches for every path; all paths share a compilation."""
    longest = max(map(len, paths.values()))
    return {
        kind: max(
            oracle.relative_error(
                cola_jax.run_path(ours, ids, pad_path(path, longest)),
                oracle.logits(theirs, ids, path),
            )
            for ids in batches
        )
        for kind, path in paths.items()
    }


if __name__ == "__main__":
    main(tyro.cli(Parity))
