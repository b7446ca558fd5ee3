"""Mathematics against transformers' own generation: `python -m experiments.mathematics --help`.

Decodes the same prompts with `cola_jax.generate` along the identity path and with transformers'
`generate`, on the weights of the same GGUF file in float32; grades both and compares the texts.
Each part is kept in the folder and not computed again.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from transformers import AutoModelForCausalLM

import cola_jax
from cola_jax.checkpoint import stop_tokens
from cola_jax.execute.decoder import TRUNCATED
from cola_jax.path import identity
from cola_jax.prompts import Prompts
from cola_jax.scoring import Encoded, Generation, Grade, Grader
from cola_jax.scoring.answer import Rule, find_answer
from cola_jax.tasks import TaskConfig


@dataclasses.dataclass(frozen=True)
class Mathematics:
    """Compare decoded texts and their grades with transformers'."""

    gguf: Path
    """GGUF file that the checkpoint was converted from."""
    model: str
    """Checkpoint that `cola convert` made of it."""
    task: str
    """A JSONL file of GSM8K's or MATH's fields."""
    out: Path
    """Folder for the texts."""
    format: str = "direct"
    """Prompt format."""
    shots: int = 0
    """Number of questions shown with their answers before each."""
    shots_file: str | None = None
    """JSONL file of the questions shown."""
    limit: int | None = None
    """Number of questions, from the first."""
    max_new_tokens: int | None = None
    """Most tokens decoded; the format's limit by default."""
    batch: int = 16
    """Rows that transformers decodes together, padded on the left."""


def prepare(settings: Mathematics) -> tuple[list[Encoded], Generation]:
    """Encodes the questions."""
    task = TaskConfig(
        settings.task,
        limit=settings.limit,
        scorer="generation",
        format=settings.format,
        shots=settings.shots,
        shots_file=settings.shots_file,
        max_new_tokens=settings.max_new_tokens,
    )
    prepared = task.prepare(
        cola_jax.load_tokenizer(settings.model),
        context=1 << 20,
        stop_tokens=lambda: stop_tokens(settings.model),
    )
    assert isinstance(prepared.scorer, Generation)
    return prepared.encoded, prepared.scorer


def decode_with_cola(
    settings: Mathematics, encoded: list[Encoded], scorer: Generation
) -> list[dict]:
    """Decodes with this library; keeps the margins, to judge differences by."""
    model = cola_jax.load(settings.model, dtype="float32")
    out = cola_jax.generate(
        model,
        Prompts.stack([one.prompts for one in encoded]),
        [[identity(model.config.num_layers)]] * len(encoded),
        max_new_tokens=scorer.max_new_tokens,
        stop=scorer.stop,
    )
    rows = []
    for b in range(len(encoded)):
        count = int(out.length[b, 0])
        margin = (out.logprob - out.rival)[b, 0, :count].tolist()
        tokens = out.tokens[b, 0, :count].tolist()
        truncated = bool(out.finish[b, 0] == TRUNCATED)
        rows.append({"tokens": tokens, "margin": margin, "truncated": truncated})
    return rows


def decode_with_transformers(
    settings: Mathematics, encoded: list[Encoded], scorer: Generation
) -> list[dict]:
    """Decodes with transformers, rows of similar lengths together."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        settings.gguf.parent, gguf_file=settings.gguf.name, dtype=torch.float32
    ).eval()
    ids = [np.asarray(one.prompts.ids) for one in encoded]
    order = sorted(range(len(ids)), key=lambda b: len(ids[b]))
    rows: dict[int, dict] = {}
    for start in range(0, len(order), settings.batch):
        some = order[start : start + settings.batch]
        width = max(len(ids[b]) for b in some)
        batch = torch.zeros((len(some), width), dtype=torch.long)
        mask = torch.zeros_like(batch)
        for i, b in enumerate(some):
            batch[i, width - len(ids[b]) :] = torch.from_numpy(ids[b].astype(np.int64))
            mask[i, width - len(ids[b]) :] = 1
        stop = scorer.stop
        stops = {"stop_strings": list(stop.strings), "tokenizer": stop.tokenizer}
        with torch.inference_mode():
            out = model.generate(
                batch,
                attention_mask=mask,
                max_new_tokens=scorer.max_new_tokens,
                do_sample=False,
                eos_token_id=list(stop.tokens),
                pad_token_id=0,
                **(stops if stop.strings else {}),
            )
        for i, b in enumerate(some):
            tokens = out[i, width:].tolist()
            reached = [stop.reached(tokens[: n + 1]) for n in range(len(tokens))]
            count = reached.index(True) + 1 if any(reached) else len(tokens)
            rows[b] = {"tokens": tokens[:count], "truncated": not any(reached)}
    return [rows[b] for b in range(len(ids))]


def print_grades(
    name: str, grader: Grader, rule: Rule, completions: Sequence[tuple[str, bool]], golds: list[str]
) -> None:
    """Prints how many completions, each a text and whether it is truncated, are right."""
    answers = [find_answer(text, rule, truncated) for text, truncated in completions]
    texts = [answer.text or "" if answer.complete else "" for answer in answers]
    grades = grader.grade(list(zip(texts, golds, strict=True)))
    right = sum(grade is Grade.RIGHT for grade in grades)
    answered = sum(answer.text is not None and answer.complete for answer in answers)
    print(
        f"{name} ({rule}): {right} of {len(golds)} right ({right / len(golds):.1%}), "
        f"{answered} answered"
    )


def main(settings: Mathematics) -> None:
    encoded, scorer = prepare(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    decoders = {"cola-jax": decode_with_cola, "transformers": decode_with_transformers}
    for name, decode in decoders.items():
        file = settings.out / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(decode(settings, encoded, scorer)))
        rows[name] = json.loads(file.read_text())
    golds = [one.question.gold for one in encoded]
    texts = {name: [scorer.stop.text(row["tokens"]) for row in rows[name]] for name in rows}
    rules: list[Rule] = [scorer.rule, *(["number"] if scorer.rule == "hashes" else [])]
    with Grader() as grader:
        for name in rows:
            truncated = [row["truncated"] for row in rows[name]]
            for rule in rules:
                completions = list(zip(texts[name], truncated, strict=True))
                print_grades(name, grader, rule, completions, golds)
    same = sum(a == b for a, b in zip(*texts.values(), strict=True))
    print(f"identical texts: {same} of {len(golds)} ({same / len(golds):.1%})")
    for b, (ours, theirs) in enumerate(zip(*rows.values(), strict=True)):
        if ours["tokens"] != theirs["tokens"]:
            pairs = zip(ours["tokens"], theirs["tokens"], strict=False)
            at = next((i for i, (x, y) in enumerate(pairs) if x != y), None)
            margin = "a different length" if at is None else f"margin {ours['margin'][at]:.1e}"
            print(f"  {encoded[b].question.id}: first difference at token {at}, {margin}")


if __name__ == "__main__":
    main(tyro.cli(Mathematics))
