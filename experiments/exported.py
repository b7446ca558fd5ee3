"""Exported models in transformers: their logits, sizes, latency and memory.

`python -m experiments.exported check --help` exports paths of a checkpoint and compares what reads
them with `run_path`; `speed` measures folders of exported models, each in a process of its own, in
turn. Both need the `test` extra.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

import cola_jax
from cola_jax.convert import convert
from cola_jax.deploy.destination import folder_bytes
from cola_jax.deploy.export import export, read_path
from cola_jax.deploy.export_gguf import export_gguf
from cola_jax.scoring import Options
from cola_jax.tasks import load_questions
from experiments.baseline import transformers_scores
from tests.oracle import relative_error

TEXT = (
    "The capital of France is Paris, and the capital of Japan is Tokyo. Question: which of these "
    "is a mammal? A. shark B. whale C. frog D. hen Answer: B. def fibonacci(n): return n if n < 2 "
)
console = Console(width=140)


@dataclasses.dataclass(frozen=True)
class Check:
    """Export paths in every format; compare logits with `run_path`, and list sizes."""

    model: Path
    """Checkpoint, as `cola convert` makes it."""
    paths: tuple[str, ...]
    """Paths to export."""
    gguf: Path | None = None
    """GGUF file of the same model, to export as well."""
    task: str | None = None
    """A JSONL file of ARC's fields: compares accuracy along each path."""
    limit: int = 50
    """Number of questions, from the first."""
    out: Path | None = None
    """Folder to keep the exports in; a temporary one by default."""

    def run(self) -> None:
        jax.config.update("jax_default_matmul_precision", "highest")
        table = Table(
            title=f"{self.model.name}: largest error of a logit against run_path, float32"
        )
        for name in ("path", "format", "MB", "read by", "error", "accuracy, ours"):
            table.add_column(name, overflow="fold")
        with tempfile.TemporaryDirectory() as folder:
            for text in self.paths:
                for row in self.rows(text, (self.out or Path(folder)) / text):
                    table.add_row(text, *row)
        console.print(table)

    def rows(self, text: str, folder: Path) -> list[tuple[str, ...]]:
        """Exports one path; returns format, size, reader, error and accuracies of each."""
        model = cola_jax.load(self.model, dtype="float32")
        tokenizer = cola_jax.load_tokenizer(self.model)
        path = read_path(text, model.config.num_layers)
        ids = np.array([tokenizer(TEXT).input_ids])
        expected = np.asarray(cola_jax.run_path(model, ids, path))
        ours = self.our_accuracy(model, tokenizer, path)
        export(self.model, path, folder / "hf", command="")
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder / "hf").eval()
        accuracy = "" if ours is None else f"{self.accuracy(theirs, tokenizer):.3f}, {ours:.3f}"
        error = f"{relative_error(logits(theirs, ids), expected):.1e}"
        rows = [("hf", megabytes(folder / "hf"), "transformers", error, accuracy)]
        if len(set(path)) < len(path):
            rows.append(self.shared(path, folder / "shared", ids, expected))
        if self.gguf is not None:
            rows += self.from_gguf(path, folder / "path.gguf", ids, expected)
        return rows

    def shared(
        self, path: tuple[int, ...], folder: Path, ids: np.ndarray, expected: np.ndarray
    ) -> tuple[str, ...]:
        """Exports with layers shared, where PEFT can; returns its row."""
        try:
            export(self.model, path, folder, command="", share=True)
        except ValueError as error:
            return ("hf --share", "", "", f"refused: {error}"[:90] + "...", "")
        error = relative_error(logits(read(folder), ids), expected)
        return ("hf --share", megabytes(folder), "PEFT", f"{error:.1e}", "")

    def from_gguf(
        self, path: tuple[int, ...], file: Path, ids: np.ndarray, expected: np.ndarray
    ) -> list[tuple[str, ...]]:
        """Exports the GGUF file; returns a row for each of its readers."""
        try:
            export_gguf(self.gguf or file, path, file)
        except ValueError as error:
            return [("gguf", "", "", f"refused: {error}"[:90] + "...", "")]
        with tempfile.TemporaryDirectory() as folder:
            convert(str(file), Path(folder) / "read")
            ours = cola_jax.load(Path(folder) / "read")
        again = cola_jax.run_path(ours, ids, range(len(path)))
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32
        )
        size = f"{file.stat().st_size / 1e6:,.1f}"
        return [
            ("gguf", size, "cola convert", f"{relative_error(again, expected):.1e}", ""),
            (
                "gguf",
                size,
                "transformers",
                f"{relative_error(logits(theirs, ids), expected):.1e}",
                "",
            ),
        ]

    def our_accuracy(self, model: Any, tokenizer: Any, path: Sequence[int]) -> float | None:
        """Returns the accuracy of a path on the task, None without one."""
        if self.task is None:
            return None
        questions = load_questions(self.task, limit=self.limit)
        found = cola_jax.evaluate(model, questions, [path], scorer=Options(tokenizer)).verdicts
        right = [
            row.argmax() == q.answer for row, q in zip(found.scores[:, 0], questions, strict=True)
        ]
        return float(np.mean(right))

    def accuracy(self, theirs: Any, tokenizer: Any) -> float:
        """Returns the accuracy of a model of transformers on the task."""
        questions = load_questions(self.task or "", limit=self.limit)
        right = [transformers_scores(theirs, tokenizer, q).argmax() == q.answer for q in questions]
        return float(np.mean(right))


@dataclasses.dataclass(frozen=True)
class Speed:
    """Measure exported folders, each in a process of its own, in turn; ratios to the first."""

    folders: Positional[tuple[Path, ...]]
    """Folders that `cola export` wrote; the first is the original, exported along its own path."""
    rounds: int = 5
    """Processes for each folder."""
    tokens: int = 32
    """Tokens to decode."""

    def run(self) -> None:
        rounds = [[self.measure(folder) for folder in self.folders] for _ in range(self.rounds)]
        table = Table(title=f"medians of {self.rounds} rounds; ratios within a round, to the first")
        names = ("prefill", "decode", "weights", "peak")
        for name in ("folder", "MB on disk", "prefill, ms", "ratio", "decode, ms a token", "ratio"):
            table.add_column(name)
        for name in ("weights in memory, MB", "peak memory of the process, MB"):
            table.add_column(name)
        for i, folder in enumerate(self.folders):
            of = {name: [r[i][name] for r in rounds] for name in names}
            ratio = {n: statistics.median(r[i][n] / r[0][n] for r in rounds) for n in names}
            middle = {name: statistics.median(values) for name, values in of.items()}
            table.add_row(
                str(folder),
                megabytes(folder),
                f"{1000 * middle['prefill']:.0f}",
                f"{ratio['prefill']:.2f}",
                f"{1000 * middle['decode']:.1f}",
                f"{ratio['decode']:.2f}",
                f"{middle['weights'] / 1e6:,.1f}",
                f"{middle['peak'] / 1e6:,.0f}",
            )
        console.print(table)

    def measure(self, folder: Path) -> dict[str, float]:
        """Runs `One` in a process of its own."""
        arguments = [sys.executable, "-m", "experiments.exported", "one", str(folder)]
        done = subprocess.run(
            [*arguments, "--tokens", str(self.tokens)], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])


@dataclasses.dataclass(frozen=True)
class One:
    """Measure one folder and print JSON: seconds and bytes; `speed` runs it."""

    folder: Positional[Path]
    """Folder that `cola export` wrote."""
    tokens: int = 32
    """Tokens to decode."""
    repeats: int = 5
    """Times of which the median counts."""

    def run(self) -> None:
        model = read(self.folder)
        ids = torch.arange(128)[None] + 1000
        weights = {p.data_ptr(): p.nbytes for p in model.parameters()}
        print(
            json.dumps(
                {
                    "prefill": self.median(lambda: model(ids, use_cache=False)),
                    "decode": self.median(lambda: decode(model, ids[:, :8], self.tokens))
                    / self.tokens,
                    "weights": sum(weights.values()),
                    "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                }
            )
        )

    def median(self, run: Any) -> float:
        """Returns the median time of calls, after one that warms up."""
        seconds = []
        with torch.inference_mode():
            run()
            for _ in range(self.repeats):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
        return statistics.median(seconds)


def decode(model: Any, ids: torch.Tensor, tokens: int) -> None:
    """Decodes greedily, exactly that many tokens."""
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )


def read(folder: Path) -> Any:
    """Loads an exported folder: a model, or an adapter with the base beside it."""
    if not (folder / "adapter_config.json").exists():
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    from peft import PeftModel

    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    return PeftModel.from_pretrained(base, folder).eval()


def logits(model: Any, ids: np.ndarray) -> np.ndarray:
    """Returns float32 logits [B, T, V]."""
    with torch.no_grad():
        batch = torch.from_numpy(ids.astype(np.int64))
        return model(input_ids=batch, use_cache=False).logits.float().numpy()


def megabytes(folder: Path) -> str:
    """Returns the size of a directory."""
    return f"{folder_bytes(folder) / 1e6:,.1f}"


if __name__ == "__main__":
    tyro.cli(Check | Speed | One).run()
