"""Local copies of data sets in the Hub's layout, from the rows at hand.

ARC and GSM8K have their own rows. The other data sets are not on this machine: their columns hold
questions of ARC, and the trivia are our own.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TRIVIA = Path(__file__).parent / "harness" / "trivia.jsonl"
SUBJECTS = ("anatomy", "college_physics")
Row = dict[str, Any]


def read(file: Path) -> list[Row]:
    """Read a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write(folder: Path, subsets: dict[tuple[str, str], Sequence[Row]]) -> Path:
    """Write rows by (config, split), with the card that names the files."""
    lines = ["---", "configs:"]
    for config in dict.fromkeys(config for config, _ in subsets):
        lines += [f"- config_name: {config}", "  data_files:"]
        for (other, split), rows in subsets.items():
            if other == config:
                (folder / config).mkdir(parents=True, exist_ok=True)
                table = pa.Table.from_pylist(list(rows))
                pq.write_table(table, folder / config / f"{split}-00000-of-00001.parquet")
                lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return folder


def gold(row: Row) -> int:
    """Return the index of an ARC row's answer."""
    return row["choices"]["label"].index(row["answerKey"])


def as_mmlu(row: Row) -> Row:
    return {"question": row["question"], "choices": row["choices"]["text"], "answer": gold(row)}


def as_hellaswag(row: Row) -> Row:
    start, end = row["question"].rsplit(" ", 1)
    return {
        "activity_label": "Science",
        "ctx_a": start,
        "ctx_b": end,
        "endings": row["choices"]["text"],
        "label": str(gold(row)),
    }


def as_piqa(row: Row) -> Row:
    texts, place = row["choices"]["text"], len(row["question"]) % 2
    right, wrong = texts[gold(row)], texts[gold(row) - 1]
    first, second = (wrong, right) if place else (right, wrong)
    return {"goal": row["question"], "sol1": first, "sol2": second, "label": place}


def as_trivia(row: Row) -> Row:
    return {"question": row["question"], "answer": {"aliases": row["aliases"]}}


def splits(
    rows: Sequence[Row], test: str, train: str = "train", change: Callable[[Row], Row] = dict
) -> dict[str, list[Row]]:
    """Put the first half of the rows in one split and the others in another."""
    half = len(rows) // 2
    return {test: [change(row) for row in rows[:half]], train: [change(r) for r in rows[half:]]}


def make(data: Path, folder: Path) -> dict[str, Path]:
    """Write all data sets that are not there; return the directory of each."""
    arc, gsm8k = read(data / "arc_easy.jsonl"), read(data / "gsm8k.jsonl")
    four = [row for row in arc if len(row["choices"]["text"]) == 4]
    mmlu = {}
    for i, subject in enumerate(SUBJECTS):
        for split, rows in splits(four[i :: len(SUBJECTS)][:200], "test", "dev", as_mmlu).items():
            rows = rows[:5] if split == "dev" else rows
            mmlu[subject, split] = [row | {"subject": subject} for row in rows]

    def named(config: str, made: dict[str, list[Row]]) -> dict[tuple[str, str], list[Row]]:
        return {(config, split): rows for split, rows in made.items()}

    every = {
        "allenai/ai2_arc": named("ARC-Easy", splits(arc, "test")),
        "cais/mmlu": mmlu,
        "Rowan/hellaswag": named("default", splits(four, "validation", change=as_hellaswag)),
        "baber/piqa": named("default", splits(arc, "validation", change=as_piqa)),
        "openai/gsm8k": named("main", splits(gsm8k, "test")),
        "mandarjoshi/trivia_qa": named(
            "rc.nocontext", splits(read(TRIVIA), "validation", change=as_trivia)
        ),
    }
    return {
        name: folder / name if (folder / name).exists() else write(folder / name, subsets)
        for name, subsets in every.items()
    }
