"""Scores of tasks by `cola` and by lm-evaluation-harness: `python -m experiments.harness_tasks`.

The harness runs its own model `hf` on its own task; ours runs the task of the same name. Both have
the same weights in float32 and the same local copies of the data sets, in the Hub's layout: ARC and
GSM8K have their own rows, the columns of the others hold questions of ARC, and the trivia are ours.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from rich.console import Console

import cola_jax
from cola_jax.checkpoint import load_tokenizer, stop_tokens
from cola_jax.tasks import TaskConfig
from experiments.harness import make_models

console = Console(soft_wrap=True)
TRIVIA = Path(__file__).parent / "harness" / "trivia.jsonl"
SUBJECTS = ("anatomy", "college_physics")
Row = dict[str, Any]


class Task(NamedTuple):
    """A task by both names, and the scorers of ours for the harness's metrics."""

    name: str
    ours: str
    hub: str
    metrics: dict[str, str | None]
    rule: str | None = None


CHOICE: dict[str, str | None] = {"acc": "options", "acc_norm": "options-norm"}
EXACT: dict[str, str | None] = {"exact_match": None}
TASKS = (
    Task("arc_easy", "arc_easy", "allenai/ai2_arc", CHOICE),
    Task("mmlu_anatomy", "mmlu_anatomy", "cais/mmlu", {"acc": None}),
    Task("mmlu_college_physics", "mmlu_college_physics", "cais/mmlu", {"acc": None}),
    Task("hellaswag", "hellaswag", "Rowan/hellaswag", CHOICE),
    Task("piqa", "piqa", "baber/piqa", CHOICE),
    Task("triviaqa", "triviaqa", "mandarjoshi/trivia_qa", EXACT),
    Task("gsm8k", "lm_eval:gsm8k", "openai/gsm8k", EXACT, "strict-match"),
    Task("gsm8k", "lm_eval:gsm8k", "openai/gsm8k", EXACT, "flexible-extract"),
)


@dataclasses.dataclass(frozen=True)
class HarnessTasks:
    """Compare the scores of tasks, row by row."""

    gguf: Path
    """GGUF file of the weights."""
    out: Path
    """Folder for the models and the data sets, made where they are missing."""
    data: Path
    """Folder of arc_easy.jsonl and gsm8k.jsonl."""
    shots: tuple[int, ...] = (0, 5)
    """Numbers of shots."""
    limit: int = 40
    """Rows of each task, from the first."""
    decoded: int = 20
    """Rows of gsm8k, whose answers are long."""
    batch_size: int = 8
    """Batch size of `hf`."""


def theirs(model: HFLM, task: Task, hub: Path, shots: int, limit: int) -> list[dict[str, Any]]:
    """Return the harness's samples of a task, in order."""
    run: Any = simple_evaluate  # whose decorator hides its signature
    spec = {"group": "local", "task": [{"task": task.name, "dataset_path": str(hub)}]}
    results = run(model=model, tasks=[spec], num_fewshot=shots, limit=limit, bootstrap_iters=0)
    (samples,) = results["samples"].values()
    samples = [sample for sample in samples if task.rule in (None, sample["filter"])]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def ours(
    model: Any, task: Task, scorer: str | None, hub: Path, shots: int, limit: int
) -> tuple[list[Any], Any]:
    """Return our encoded questions of a task, and their verdicts on the identity path."""
    config: Any = {"scorer": scorer, "hub": str(hub), "shots": shots, "limit": limit}
    prepared = TaskConfig(task.ours, rule=task.rule, **config).prepare(
        load_tokenizer(model.checkpoint),
        context=model.config.context,
        stop_tokens=lambda: stop_tokens(model.checkpoint),
    )
    encoded = prepared.encoder(prepared.questions, model.checkpoint)
    evaluation = cola_jax.evaluate(model, prepared.questions, scorer=prepared.scorer)
    return encoded, evaluation.verdicts.take((slice(None), 0))


def compare(
    samples: list[dict[str, Any]], metric: str, encoded: list[Any], verdicts: Any
) -> Iterator[str]:
    """Yield the rows of the table for a task: a metric, scores, and equal rows."""
    own = np.array([sample[metric] for sample in samples], bool)
    equal = verdicts.verdict == own
    yield f"{own.mean():.3f}, {verdicts.verdict.mean():.3f}"
    yield f"{equal.sum()} of {len(own)}"
    if verdicts.completion[0] is not None:
        texts = [completion.text for completion in verdicts.completion]
        same = [text == sample["resps"][0][0] for text, sample in zip(texts, samples, strict=True)]
        yield f"{sum(same)} of {len(same)} completions the same"
        return
    worst, ties = 0.0, []
    for i, sample in enumerate(samples):
        count = len(encoded[i].question.options)
        likely = np.array([response[0][0] for response in sample["resps"]])
        norms = np.array([len(option) for option in encoded[i].question.options])
        scale = norms if metric == "acc_norm" else 1
        worst = max(worst, np.abs(verdicts.scores[i, :count] * scale - likely).max())
        second, first = np.sort(likely / scale)[-2:]
        if not equal[i]:
            ties.append(f"{sample['doc_id']}: {first - second:.1e}")
    yield f"log-likelihoods within {worst:.1e}"
    if ties:
        yield f"on rows that differ, `hf`'s best two are apart by {', '.join(ties)}"


def read_rows(file: Path) -> list[Row]:
    """Read a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_data_set(folder: Path, subsets: dict[tuple[str, str], Sequence[Row]]) -> Path:
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


def make_data_sets(data: Path, folder: Path) -> dict[str, Path]:
    """Write all data sets that are not there; return the directory of each."""
    arc, gsm8k = read_rows(data / "arc_easy.jsonl"), read_rows(data / "gsm8k.jsonl")
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
            "rc.nocontext", splits(read_rows(TRIVIA), "validation", change=as_trivia)
        ),
    }
    return {
        name: folder / name if (folder / name).exists() else write_data_set(folder / name, subsets)
        for name, subsets in every.items()
    }


def main(settings: HarnessTasks) -> None:
    directory, checkpoint = make_models(settings.gguf, settings.out)
    hubs = make_data_sets(settings.data, settings.out / "hub")
    model = cola_jax.load(str(checkpoint), dtype="float32")
    make: Any = HFLM  # whose decorator hides its signature
    hf = make(
        pretrained=str(directory),
        device="cpu",
        dtype="float32",
        batch_size=settings.batch_size,
    )
    console.print("| task | shots | metric | `hf`, ours | rows equal | |")
    console.print("|---|---|---|---|---|---|")
    for task in TASKS:
        limit = settings.decoded if task.name == "gsm8k" else settings.limit
        for shots in settings.shots:
            start, hub = time.perf_counter(), hubs[task.hub]
            samples = theirs(hf, task, hub, shots, limit)
            for metric, scorer in task.metrics.items():
                answers = ours(model, task, scorer, hub, shots, limit)
                score, equal, *rest = compare(samples, metric, *answers)
                name = f"{task.name}{f', {task.rule}' if task.rule else ''}"
                row = (name, shots, metric, score, equal, "; ".join(rest))
                console.print(f"| {' | '.join(map(str, row))} |")
            Console(stderr=True).print(f"{task.name} {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main(tyro.cli(HarnessTasks))
