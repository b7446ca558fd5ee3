"""Exported models in transformers: their logits, sizes and accuracy.

`python -m experiments.exported --help` exports a path of a checkpoint and compares its readers with
`run_path`. It needs the `test` extra.
"""

import dataclasses
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import torch
import transformers
import tyro
from rich.console import Console

import cola_jax
from cola_jax.deploy.adapter import export_adapter
from cola_jax.deploy.export import export
from cola_jax.deploy.path_file import read_path
from cola_jax.extras.export_gguf import export_gguf
from cola_jax.files import written_bytes
from cola_jax.scoring import Options
from cola_jax.tasks import load_questions
from tests.oracle import convert_in_memory, relative_error

TEXT = (
    "The capital of France is Paris, and the capital of Japan is Tokyo. Question: which of these "
    "is a mammal? A. shark B. whale C. frog D. hen Answer: B. def fibonacci(n): return n if n < 2 "
)
console = Console(width=140)


@dataclasses.dataclass(frozen=True)
class Exported:
    """Export a path; compare the logits of its readers with `run_path`, and print sizes."""

    model: Path
    """Checkpoint, as `cola convert` makes it."""
    path: str
    """Path to export."""
    formats: tuple[Literal["hf", "peft", "gguf"], ...] = ("hf", "peft")
    """Formats to export."""
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
                size = written_bytes(out) / 1e6
                console.print(f"{self.model.name} {self.path} {name}: {size:,.1f} MB")
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
        if name == "hf":
            export(self.model, path, out)
        elif name == "peft":
            export_adapter(self.model, path, out)
        elif self.gguf is None:
            raise ValueError("the format gguf copies tensors from a file: give --gguf.")
        else:
            export_gguf(self.gguf, path, out)

    def our_accuracy(self, model: Any, tokenizer: Any, path: Sequence[int]) -> float:
        """Return the accuracy of a path on the task."""
        questions = load_questions(self.task or "", limit=self.limit)
        results = cola_jax.evaluate(model, questions, [path], scorer=Options(tokenizer))
        return float(results.verdicts.verdict.mean())

    def accuracy(self, theirs: Any, tokenizer: Any) -> float:
        """Return the accuracy of a model of transformers on the task."""
        questions = load_questions(self.task or "", limit=self.limit)
        right = [transformers_scores(theirs, tokenizer, q).argmax() == q.answer for q in questions]
        return float(np.mean(right))


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


def read(folder: Path) -> Any:
    """Load an exported folder: a model, or an adapter with the base beside it."""
    if not (folder / "adapter_config.json").exists():
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    from peft import PeftModel

    base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    settings = json.loads((folder / "adapter_config.json").read_text())
    layers = [i for start, stop in settings["layer_replication"] for i in range(start, stop)]
    if types := getattr(base.config, "layer_types", None):
        base.config.layer_types = [types[i] for i in layers]
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


if __name__ == "__main__":
    tyro.cli(Exported).run()
