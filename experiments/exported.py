"""Exported models in transformers: their logits, sizes, latency and memory.

`python -m experiments.exported check --help` exports a path of a checkpoint and compares its
readers with `run_path`; `speed` measures folders of exported models, each in a process of its own,
in turn. Both need the `test` extra.
"""

import dataclasses
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import torch
import transformers
import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

import cola_jax
from cola_jax.deploy.destination import folder_bytes
from cola_jax.deploy.export import export, read_path
from cola_jax.deploy.export_gguf import export_gguf
from cola_jax.scoring import Options
from cola_jax.tasks import load_questions
from tests.oracle import convert_in_memory, relative_error

TEXT = (
    "The capital of France is Paris, and the capital of Japan is Tokyo. Question: which of these "
    "is a mammal? A. shark B. whale C. frog D. hen Answer: B. def fibonacci(n): return n if n < 2 "
)
console = Console(width=140)


@dataclasses.dataclass(frozen=True)
class Check:
    """Export a path; compare the logits of its readers with `run_path`, and print sizes."""

    model: Path
    """Checkpoint, as `cola convert` makes it."""
    path: str
    """Path to export."""
    formats: tuple[Literal["hf", "share", "gguf"], ...] = ("hf", "share")
    """Format to export."""
    gguf: Path | None = None
    """GGUF file of the same model, for the format gguf."""
    task: str | None = None
    """A JSONL file of ARC's fields: compares the accuracy of format hf with ours."""
    limit: int = 50
    """Number of questions, from the first."""
    out: Path | None = None
    """Folder to keep the exports in; a temporary one by default."""

    def run(self) -> None:
        jax.config.update("jax_default_matmul_precision", "highest")
        model = cola_jax.load(self.model, dtype="float32")
        tokenizer = cola_jax.load_tokenizer(self.model)
        path = read_path(self.path, model.config.num_layers)
        ids = np.array([tokenizer(TEXT).input_ids])
        expected = np.asarray(cola_jax.run_path(model, ids, path))
        with tempfile.TemporaryDirectory() as folder:
            for name in self.formats:
                out = (self.out or Path(folder)) / (f"{name}.gguf" if name == "gguf" else name)
                self.write(name, path, out)
                console.print(f"{self.model.name} {self.path} {name}: {size(out) / 1e6:,.1f} MB")
                for reader, theirs in readings(out, ids):
                    error = relative_error(theirs, expected)
                    console.print(f"  read by {reader}: worst error of a logit {error:.1e}")
            if self.task is not None:
                theirs = read((self.out or Path(folder)) / "hf")
                console.print(
                    f"accuracy on {self.limit} questions: {self.accuracy(theirs, tokenizer):.3f}, "
                    f"ours {self.our_accuracy(model, tokenizer, path):.3f}"
                )

    def write(self, name: str, path: tuple[int, ...], out: Path) -> None:
        """Export in one format."""
        if name != "gguf":
            export(self.model, path, out, command="", share=name == "share")
        elif self.gguf is None:
            raise ValueError("the format gguf copies tensors from a file: give --gguf.")
        else:
            export_gguf(self.gguf, path, out)

    def our_accuracy(self, model: Any, tokenizer: Any, path: Sequence[int]) -> float:
        """Return the accuracy of a path on the task."""
        questions = load_questions(self.task or "", limit=self.limit)
        verdicts = cola_jax.evaluate(model, questions, [path], scorer=Options(tokenizer)).verdicts
        answers = [
            scores[: len(q.options)].argmax()
            for scores, q in zip(verdicts.scores[:, 0], questions, strict=True)
        ]
        return float(np.mean([a == q.answer for a, q in zip(answers, questions, strict=True)]))

    def accuracy(self, theirs: Any, tokenizer: Any) -> float:
        """Return the accuracy of a model of transformers on the task."""
        questions = load_questions(self.task or "", limit=self.limit)
        right = [transformers_scores(theirs, tokenizer, q).argmax() == q.answer for q in questions]
        return float(np.mean(right))


@dataclasses.dataclass(frozen=True)
class Speed:
    """Measure exported folders, each in a process of its own, in turn; ratios to the first.

    Times are of the CPU on one thread, which other processes on the machine disturb less than they
    do the clock.
    """

    folders: Positional[tuple[Path, ...]]
    """Folders that `cola export` wrote; the first is the original, exported along its own path."""
    rounds: int = 5
    """Processes for each folder."""
    tokens: int = 16
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
                f"{folder_bytes(folder) / 1e6:,.1f}",
                f"{1000 * middle['prefill']:.0f}",
                f"{ratio['prefill']:.2f}",
                f"{1000 * middle['decode']:.1f}",
                f"{ratio['decode']:.2f}",
                f"{middle['weights'] / 1e6:,.1f}",
                f"{middle['peak'] / 1e6:,.0f}",
            )
        console.print(table)

    def measure(self, folder: Path) -> dict[str, float]:
        """Run `One` in a process of its own."""
        arguments = [sys.executable, "-m", "experiments.exported", "one", str(folder)]
        done = subprocess.run(
            [*arguments, "--tokens", str(self.tokens)], capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout.splitlines()[-1])


@dataclasses.dataclass(frozen=True)
class One:
    """Measure one folder and print JSON: seconds of CPU time and bytes; `speed` runs it."""

    folder: Positional[Path]
    """Folder that `cola export` wrote."""
    tokens: int = 16
    """Tokens to decode."""
    repeats: int = 3
    """Time of which the median counts."""

    def run(self) -> None:
        torch.set_num_threads(1)
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
        """Return the median CPU time of calls, after one that warms up."""
        seconds = []
        with torch.inference_mode():
            run()
            for _ in range(self.repeats):
                start = time.process_time()
                run()
                seconds.append(time.process_time() - start)
        return statistics.median(seconds)


def transformers_scores(model: Any, tokenizer: Any, question: cola_jax.Question) -> np.ndarray:
    """Return the log-likelihood of each option, of one forward pass each."""
    prompt = f"Question: {question.text}\nAnswer:"
    length = len(tokenizer(prompt).input_ids)
    scores = []
    for option in question.options:
        ids = torch.tensor([tokenizer(f"{prompt} {option}").input_ids])
        with torch.no_grad():
            logprobs = model(ids[:, :-1], use_cache=False).logits[0].log_softmax(-1)
        targets = ids[0, length:]
        scores.append(logprobs[length - 1 :].gather(1, targets[:, None]).sum().item())
    return np.array(scores)


def decode(model: Any, ids: torch.Tensor, tokens: int) -> None:
    """Decode greedily, exactly that many tokens."""
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )


def read(folder: Path) -> Any:
    """Load an exported folder: a model, or an adapter with the base beside it."""
    if not (folder / "adapter_config.json").exists():
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    from peft import PeftModel

    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    return PeftModel.from_pretrained(base, folder).eval()


def readings(out: Path, ids: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the logits of everything that reads an export."""
    if out.suffix != ".gguf":
        yield "transformers" if out.name == "hf" else "PEFT", logits(read(out), ids)
        return
    ours = convert_in_memory(out)
    layers = range(ours.config.num_layers)
    yield "cola convert", np.asarray(cola_jax.run_path(ours, ids, layers))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        out.parent, gguf_file=out.name, dtype=torch.float32
    )
    yield "transformers", logits(theirs.eval(), ids)


def logits(model: Any, ids: np.ndarray) -> np.ndarray:
    """Return float32 logits [B, T, V]."""
    with torch.no_grad():
        batch = torch.from_numpy(ids.astype(np.int64))
        return model(input_ids=batch, use_cache=False).logits.float().numpy()


def size(out: Path) -> int:
    """Return the bytes of a file, or of all files below a directory."""
    return folder_bytes(out) if out.is_dir() else out.stat().st_size


if __name__ == "__main__":
    tyro.cli(Check | Speed | One).run()
