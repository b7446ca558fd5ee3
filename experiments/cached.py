"""Decoding with a KV cache against running whole texts: `python -m experiments.cached --help`.

For every tiny model of the tests and every kind of path, decodes after prompts of several lengths
and prints the largest difference between the logits from which tokens were chosen and those of
`run_path` on the same text, relative to the largest logit. With `--model`, counts the rows that
decode other tokens in a batch than alone, in bfloat16.
"""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import cola_jax
from cola_jax.execute import decoder, generate
from cola_jax.execute.readouts import ChosenToken
from cola_jax.formats.conversion import convert
from cola_jax.model import unembed
from cola_jax.path import pad_path, random_paths
from cola_jax.prompts import Prompts
from cola_jax.tasks import load_questions
from tests import oracle

KINDS = {
    **oracle.PATHS,
    "block twice over": (0, 1, 2, 1, 2, 3, 1, 2, 1, 2, 3, 4, 5),
    "without the first": (1, 2, 3, 4, 5),
    "without the last": (0, 1, 2, 3, 4),
}
LENGTHS, NEW = (12, 3, 7), 16


@dataclasses.dataclass(frozen=True)
class Cached:
    """Compare cached with uncached decoding."""

    model: Path | None = None
    """Converted model with which to compare a batch with rows decoded alone."""
    task: str = "arithmetic"
    """Task whose questions that model is given."""
    limit: int = 64
    """Number of questions, from the first."""


class RecordingDecoder(decoder.Decoder):
    """A decoder that keeps the logits from which each row chose its tokens."""

    logits: list[tuple[list[int], np.ndarray]]

    def sample(self, slots: np.ndarray) -> list[ChosenToken]:
        logits = unembed(self.worker.model, self.states)[:, 0]
        RecordingDecoder.logits.append((slots.reshape(-1).tolist(), np.asarray(logits)))
        return super().sample(slots)


def prompts() -> Prompts:
    """Makes plain prompts of random tokens."""
    rows = []
    for seed, length in enumerate(LENGTHS):
        ids = oracle.random_ids(1, length, seed)[0]
        rows.append(Prompts(ids=ids, positions=np.arange(length), branch=np.zeros(length)))
    return Prompts.stack(rows)


def errors(model: cola_jax.Model) -> Iterator[tuple[str, float]]:
    """Yields each kind of path with its largest error."""
    batch = prompts()
    for kind, path in KINDS.items():
        worst = 0.0
        for b, length in enumerate(LENGTHS):
            prompt = np.asarray(batch.ids)[b, :length]
            RecordingDecoder.logits = []
            out = cola_jax.generate(model, prompt[None], [[path]], max_new_tokens=NEW)
            cached = np.stack([logits[slots[0]] for slots, logits in RecordingDecoder.logits])
            whole = np.concatenate([prompt, out.tokens[0, 0]])
            padded = np.pad(whole, (0, 32 - len(whole)))[None].astype(np.int32)
            uncached = cola_jax.run_path(model, padded, pad_path(path, 13))[0]
            uncached = np.asarray(uncached)[length - 1 : length - 1 + NEW]
            worst = max(worst, oracle.relative_error(cached[:NEW], uncached))
        yield kind, worst


def compare_batch_with_alone(directory: Path, task: str, limit: int) -> str:
    """Decodes rows in a batch and alone in bfloat16, and compares the tokens."""
    model = cola_jax.load(directory, dtype="bfloat16")
    tokenizer = cola_jax.load_tokenizer(directory)
    texts = [q.text for q in load_questions(task, limit=limit)]
    rows = [np.asarray(tokenizer(f"{text} =").input_ids, np.int32) for text in texts]
    batch = Prompts.stack([Prompts(r, np.arange(len(r)), np.zeros(len(r), np.int32)) for r in rows])
    paths = random_paths(model.config.num_layers, len(rows), seed=0)
    together = cola_jax.generate(model, batch, [[path] for path in paths], max_new_tokens=24)
    differ = 0
    for b, (row, path) in enumerate(zip(rows, paths, strict=True)):
        alone = cola_jax.generate(model, row[None], [[path]], max_new_tokens=24)
        differ += bool((alone.tokens[0, 0] != together.tokens[b, 0]).any())
    return f"bfloat16: {differ} of {len(rows)} rows decode other tokens in a batch than alone"


def main(settings: Cached) -> None:
    jax.config.update("jax_default_matmul_precision", "highest")
    console = Console(width=160)
    if settings.model is not None:
        console.print(compare_batch_with_alone(settings.model, settings.task, settings.limit))
        return
    generate.Decoder = RecordingDecoder
    table = Table(title=f"cached against uncached logits, {jax.devices()[0].device_kind}")
    table.add_column("model")
    for kind in KINDS:
        table.add_column(kind, justify="right")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for variant in oracle.VARIANTS:
            theirs = Path(folder) / variant
            oracle.make(variant, theirs)
            convert(str(theirs), theirs.with_name(f"{variant}-ours"))
            by_kind = dict(errors(cola_jax.load(theirs.with_name(f"{variant}-ours"))))
            worst = max(worst, *by_kind.values())
            table.add_row(variant, *(f"{by_kind[kind]:.1e}" for kind in KINDS))
    console.print(table)
    console.print(f"worst {worst:.1e}")


if __name__ == "__main__":
    main(tyro.cli(Cached))
