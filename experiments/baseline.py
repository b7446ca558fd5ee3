"""Accuracy of the pretrained model against transformers: `python -m experiments.baseline --help`.

Scores the options of a task with transformers as lm-evaluation-harness does, one plain forward pass
per option without packing or sharing, on the weights of the same GGUF file, and compares verdicts
and log-likelihoods with those of `cola_jax` from one packed pass.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import cola_jax
from cola_jax.path import identity
from cola_jax.scoring import Options
from cola_jax.tasks import load_questions


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Compare the pretrained model's option scores with transformers'."""

    gguf: Path
    """GGUF file that the checkpoint was converted from."""
    model: Path
    """Checkpoint that `cola convert` made of it."""
    task: str
    """A JSONL file of ARC's fields, or arc-easy, arc-challenge."""
    limit: int | None = None
    """Number of questions, from the first."""


def transformers_scores(model: Any, tokenizer: Any, question: cola_jax.Question) -> np.ndarray:
    """Computes the log-likelihood of each option: one forward pass each, split as the harness."""
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


def cola_scores(directory: Path, questions: list[cola_jax.Question]) -> list[np.ndarray]:
    """Computes the log-likelihood of each option of each question from one packed pass."""
    model = cola_jax.load(directory, dtype="float32")
    scorer = Options(cola_jax.load_tokenizer(directory))
    paths = [identity(model.config.num_layers)]
    scores = cola_jax.evaluate(model, questions, paths, scorer=scorer).verdicts.scores[:, 0]
    return [row[: len(q.options)] for row, q in zip(scores, questions, strict=True)]


def main(settings: Baseline) -> None:
    questions = load_questions(settings.task, limit=settings.limit)
    folder, name = settings.gguf.parent, settings.gguf.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    theirs = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    scores = {
        "transformers": [transformers_scores(theirs.eval(), tokenizer, q) for q in questions],
        "cola-jax": cola_scores(settings.model, questions),
    }
    lengths = [np.array([len(option) for option in q.options]) for q in questions]
    gold = np.array([q.answer for q in questions])
    console = Console()
    answers = {}
    for name, rows in scores.items():
        raw = answers[name] = np.array([row.argmax() for row in rows])
        normed = np.array([(row / n).argmax() for row, n in zip(rows, lengths, strict=True)])
        console.print(
            f"{name}: acc {(raw == gold).mean():.3f}  acc_norm {(normed == gold).mean():.3f}"
        )
    worst = max(
        np.abs(a - b).max() for a, b in zip(scores["transformers"], scores["cola-jax"], strict=True)
    )
    same = int((answers["transformers"] == answers["cola-jax"]).sum())
    console.print(
        f"same answer on {same} of {len(questions)}; largest difference of a log-likelihood "
        f"{worst:.2e}"
    )


if __name__ == "__main__":
    main(tyro.cli(Baseline))
