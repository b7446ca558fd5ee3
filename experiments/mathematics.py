"""Mathematics beside transformers' own generation: `python -m experiments.mathematics --help`.

Decodes the same prompts with `cola_jax.generate` along the identity path and with transformers'
`generate`, on the weights of the same GGUF file in float32; grades both and compares the texts.
Each part is kept in the folder and not made again.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from transformers import AutoModelForCausalLM

import cola_jax
from cola_jax.checkpoint import stop_tokens
from cola_jax.path import identity
from cola_jax.prompts import Prompts
from cola_jax.tasks import Encoded, Grade, Grader, find_answer
from cola_jax.tasks.task import Asking


@dataclasses.dataclass(frozen=True)
class Mathematics:
    """Compares decoded texts and their grades with transformers'."""

    gguf: Path
    """The GGUF file that the checkpoint was converted from."""
    model: str
    """The checkpoint that `cola convert` made of it."""
    task: str
    """A JSONL file of GSM8K's or MATH's fields."""
    out: Path
    """A folder for the texts."""
    format: str = "direct"
    shots: int = 0
    shots_file: str | None = None
    limit: int | None = None
    max_new_tokens: int | None = None
    batch: int = 16
    """Rows that transformers decodes together, padded on the left."""


def questions_of(settings: Mathematics) -> list[Encoded]:
    """Encodes the questions."""
    asking = Asking(
        settings.task,
        limit=settings.limit,
        scorer="generate",
        format=settings.format,
        shots=settings.shots,
        shots_file=settings.shots_file,
        max_new_tokens=settings.max_new_tokens,
    )
    tokenizer = cola_jax.load_tokenizer(settings.model)
    ends = stop_tokens(settings.model)
    return asking.ask(tokenizer, context=1 << 20, stop_tokens=lambda: ends)[0]


def ours(settings: Mathematics, questions: list[Encoded]) -> list[dict]:
    """Decodes with this library; keeps the margins for what differs."""
    model = cola_jax.load(settings.model, dtype="float32")
    reply = questions[0].reply
    out = cola_jax.generate(
        model,
        Prompts.stack([q.prompts for q in questions]),
        [[identity(model.config.num_layers)]] * len(questions),
        max_new_tokens=reply.max_new_tokens,
        stop=reply.stop,
    )
    rows = []
    for b in range(len(questions)):
        count = int(out.length[b, 0])
        margin = (out.logprob - out.rival)[b, 0, :count]
        tokens = out.tokens[b, 0, :count].tolist()
        rows.append(
            {"tokens": tokens, "margin": margin.tolist(), "cut": out.finish[b, 0] == "length"}
        )
    return rows


def theirs(settings: Mathematics, questions: list[Encoded]) -> list[dict]:
    """Decodes with transformers, rows of like lengths together."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        settings.gguf.parent, gguf_file=settings.gguf.name, dtype=torch.float32
    ).eval()
    reply = questions[0].reply
    ids = [np.asarray(q.prompts.ids) for q in questions]
    order = sorted(range(len(ids)), key=lambda b: len(ids[b]))
    found: dict[int, dict] = {}
    for start in range(0, len(order), settings.batch):
        some = order[start : start + settings.batch]
        width = max(len(ids[b]) for b in some)
        batch = torch.zeros((len(some), width), dtype=torch.long)
        mask = torch.zeros_like(batch)
        for i, b in enumerate(some):
            batch[i, width - len(ids[b]) :] = torch.from_numpy(ids[b].astype(np.int64))
            mask[i, width - len(ids[b]) :] = 1
        stops = {"stop_strings": list(reply.stop.strings), "tokenizer": reply.stop.tokenizer}
        with torch.inference_mode():
            out = model.generate(
                batch,
                attention_mask=mask,
                max_new_tokens=reply.max_new_tokens,
                do_sample=False,
                eos_token_id=list(reply.stop.tokens),
                pad_token_id=0,
                **(stops if reply.stop.strings else {}),
            )
        for i, b in enumerate(some):
            tokens = out[i, width:].tolist()
            reached = [reply.stop.reached(tokens[: n + 1]) for n in range(len(tokens))]
            count = reached.index(True) + 1 if any(reached) else len(tokens)
            found[b] = {"tokens": tokens[:count], "cut": not any(reached)}
    return [found[b] for b in range(len(ids))]


def main(settings: Mathematics) -> None:
    questions = questions_of(settings)
    settings.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name, decode in (("cola-jax", ours), ("transformers", theirs)):
        file = settings.out / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(decode(settings, questions)))
        rows[name] = json.loads(file.read_text())
    reply, golds = questions[0].reply, [q.question.gold for q in questions]
    texts = {name: [reply.stop.text(row["tokens"]) for row in rows[name]] for name in rows}
    rules = [reply.rule, *(["number"] if reply.rule == "hashes" else [])]
    with Grader() as grader:
        for name in rows:
            for rule in rules:
                found = [
                    find_answer(text, rule, row["cut"])
                    for text, row in zip(texts[name], rows[name], strict=True)
                ]
                pairs = [
                    (answer.text or "" if answer.complete else "", gold)
                    for answer, gold in zip(found, golds, strict=True)
                ]
                right = sum(grade is Grade.RIGHT for grade in grader.grade(pairs))
                answered = sum(answer.text is not None and answer.complete for answer in found)
                print(
                    f"{name} ({rule}): {right} of {len(golds)} right ({right / len(golds):.1%}), "
                    f"{answered} answered"
                )
    same = sum(a == b for a, b in zip(*texts.values(), strict=True))
    print(f"identical texts: {same} of {len(golds)} ({same / len(golds):.1%})")
    for b, (mine, other) in enumerate(zip(*rows.values(), strict=True)):
        if mine["tokens"] != other["tokens"]:
            pairs = zip(mine["tokens"], other["tokens"], strict=False)
            at = next((i for i, (x, y) in enumerate(pairs) if x != y), None)
            margin = "a different length" if at is None else f"margin {mine['margin'][at]:.1e}"
            print(f"  {questions[b].question.id}: first difference at token {at}, {margin}")


if __name__ == "__main__":
    main(tyro.cli(Mathematics))
