"""Baseline accuracy beside transformers' own: `python -m experiments.baseline --help`.

Scores the options of a task with transformers as lm-evaluation-harness would, one plain forward
pass for each option, nothing packed and nothing shared, on the weights of the same GGUF file; and
compares verdicts and log-likelihoods with those of `cola_jax` from one packed pass.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import torch
import tyro
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import cola_jax
from cola_jax.path import identity
from cola_jax.tasks import Question, encode, load_questions


@dataclasses.dataclass(frozen=True)
class Baseline:
    """Compare the pretrained model's option scores with transformers'."""

    gguf: Path
    """The GGUF file that the checkpoint was converted from."""
    model: Path
    """The checkpoint that `cola convert` made of it."""
    task: str
    """A JSONL file of ARC's fields, or arc-easy, arc-challenge."""
    limit: int | None = None
    """Take only the first so many questions."""


def oracle_scores(model, tokenizer, question: Question) -> np.ndarray:
    """Log-likelihood of each option: lm-evaluation-harness's split, one forward pass an option."""
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


def our_scores(model, encoded) -> np.ndarray:
    """Log-likelihood of each option from one packed pass."""
    prompts = jax.tree.map(lambda x: x[None], encoded.prompts)
    readings = cola_jax.run_paths(model, prompts, [[identity(model.config.num_layers)]])
    logprob = np.asarray(readings.logprob)[0, 0]
    return np.bincount(encoded.option, weights=logprob.astype(np.float64))


def main(settings: Baseline) -> None:
    questions = load_questions(settings.task, limit=settings.limit)
    theirs_tokenizer = AutoTokenizer.from_pretrained(
        settings.gguf.parent, gguf_file=settings.gguf.name
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        settings.gguf.parent, gguf_file=settings.gguf.name, dtype=torch.float32
    ).eval()
    ours = cola_jax.load(settings.model, dtype="float32")
    tokenizer = cola_jax.load_tokenizer(settings.model)
    lengths = [np.array([len(option) for option in q.options]) for q in questions]
    gold = np.array([q.answer for q in questions])
    scores = {
        "transformers": [oracle_scores(theirs, theirs_tokenizer, q) for q in questions],
        "cola-jax": [our_scores(ours, e) for e in encode(questions, tokenizer, "options")],
    }
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
