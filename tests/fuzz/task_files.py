"""Files of questions: rows of every shape, as a task, as shots and held out, and prompts."""

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cola_jax.cli.runs import Generate
from cola_jax.tasks.task import TaskConfig
from tests import tiny
from tests.fuzz.kind import Kind
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_lines
from tests.tasks.rows import ARC, DART, GSM8K, MATH, MATH500, MMLU, PLAIN

OWN = {"question": "What is 2 + 3?", "answer": 5, "id": "own", "solution": "Count on."}
SHAPES = {
    "ARC rows": [ARC, ARC | {"id": "q2", "answerKey": "C"}],
    "MMLU rows": [MMLU, MMLU | {"question": "Which is even?", "answer": "B"}],
    "GSM8K rows": [GSM8K, GSM8K | {"question": "Bea has 9. How many?"}],
    "MATH rows": [MATH, MATH500],
    "DART rows": [DART, DART | {"query_id": "2", "query_metadata": {"level": 3}}],
    "prompt rows": [PLAIN, {"prompt": "1 + 1 =", "answer": 2, "id": 7}],
    "question rows": [OWN, OWN | {"id": "other", "answer": "no"}],
}
OTHERS = [{"prompt": "3 + 3 =", "answer": 6}, {"prompt": "4 + 4 =", "answer": 8}]
HELD_OUT = [ARC | {"id": "q3", "question": "What burns?"}, ARC | {"id": "q4", "question": "What?"}]
TEMPLATE = "Think first.\n\n{question}\n\nNow answer."
LINES = (
    "{question}",
    "{question}" * 99,
    "{",
    "{}",
    "{question",
    "\0",
    "",
    "\ud800",
    "é",
    "x" * 999,
)
NAMES = (*SHAPES, "shots", "held-out rows", "prompts", "question template")
CONTEXT, STOP = 2048, [1]


def make(folder: Path) -> None:
    """Writes rows that are sound."""
    for name, rows in SHAPES.items():
        file = folder / f"sound {name.split()[0]}.jsonl"
        file.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def kinds(folder: Path) -> dict[str, Kind]:
    """Returns the kinds of files of questions."""
    file = folder / "fuzzed.jsonl"
    read = functools.partial(prepare, folder, file)
    found = {
        name: Kind(functools.partial(mutate_rows, rows), read(lambda sound: {"task": str(file)}))
        for name, rows in SHAPES.items()
    }
    arc = functools.partial(mutate_rows, HELD_OUT)
    other = functools.partial(mutate_rows, OTHERS)
    shown = {"shots": 1, "shots_file": str(file)}
    return found | {
        "shots": Kind(other, read(lambda sound: {"task": sound("prompt"), **shown})),
        "held-out rows": Kind(
            arc, read(lambda sound: {"task": sound("ARC"), "held_out_from": str(file)})
        ),
        "prompts": Kind(other, read_prompts(file)),
        "question template": Kind(
            functools.partial(mutate_lines, TEMPLATE, LINES),
            read(lambda sound: {"task": sound("prompt"), "variants": (str(file),)}),
        ),
    }


def mutate_rows(rows: list[dict[str, Any]], seed: int) -> bytes:
    """Changes values of some rows for two seeds of three, and else bytes."""
    if seed % 3 == 0:
        whole = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        return mutate_bytes(whole, seed)
    lines = mutate_json(rows, seed)
    escaped = random.Random(seed).random() < 0.5
    texts = [json.dumps(line, ensure_ascii=escaped) + "\n" for line in lines]
    return "".join(texts).encode("utf-8", "surrogatepass")


def prepare(
    folder: Path, file: Path, settings: Callable[[Callable[[str], str]], dict[str, Any]]
) -> Callable[[bytes], object]:
    """Makes a function that prepares a task of whose files one holds what it is given."""
    tokenizer = tiny.tokenizer()
    config = settings(lambda kind: str(folder / f"sound {kind}.jsonl"))

    def read(data: bytes) -> None:
        file.write_bytes(data)
        task = TaskConfig(**config)
        task.prepare(tokenizer, context=CONTEXT, stop_tokens=lambda: STOP)

    return read


def read_prompts(file: Path) -> Callable[[bytes], object]:
    """Makes a function that encodes prompts to complete."""
    tokenizer = tiny.tokenizer()

    def read(data: bytes) -> None:
        file.write_bytes(data)
        command = Generate("model", prompts_file=file)
        command.prepare(tokenizer, context=CONTEXT, stop_tokens=lambda: STOP)

    return read
