"""What a long run takes: speed and memory of a search by thousands of questions, and its size.

`python -m experiments.limits --tokenizer smollm2 --out FOLDER` searches made-up questions with a
small random model, then makes the report of the run and resumes it. It resumes where it stopped.
"""

import dataclasses
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import tyro

from cola_jax.report.markdown import table

WORDS = ("sun", "moon", "water", "ice", "rock", "iron", "gas", "light", "heat", "wind", "rain")
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Measure a search over many questions."""

    tokenizer: str
    """Converted model whose tokenizer the random model has."""
    out: Path
    """Folder of the model, the questions and the run."""
    questions: int = 10_000
    """Questions."""
    simulations: int = 20
    """Simulations of a question."""
    batch_size: int | None = None
    """Questions of a batch, which is a part file; as the command has it by default."""
    every: int = 1000
    """Questions of a line of the table."""


def main(settings: Limits) -> None:
    settings.out.mkdir(parents=True, exist_ok=True)
    make_model(settings)
    task = make_task(settings)
    run = settings.out / "run"
    search = ["search", "--model", str(settings.out / "model"), "--task", str(task)]
    search += ["--simulations", str(settings.simulations), "--output", str(run)]
    if settings.batch_size is not None:
        search += ["--batch-size", str(settings.batch_size)]
    rows, begun, before, done = [], time.perf_counter(), 0, 0
    with cola(search) as process:
        while process.poll() is None:
            time.sleep(1)
            done = count(run)
            if done - before >= settings.every:
                now = time.perf_counter()
                speed = (done - before) / (now - begun)
                megabytes = resident(process.pid) / 1e6
                rows.append((f"{done:,}", f"{speed:.1f}", f"{megabytes:,.0f}"))
                print(rows[-1], file=sys.stderr, flush=True)
                begun, before = now, done
    if process.returncode:
        sys.exit(process.returncode)
    print("\n".join(table(("questions done", "questions a second", "resident MB"), rows)))
    files = [file for file in run.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"\n{len(files):,} files, {size / 1e6:,.1f} MB\n")
    rows = []
    for name, command in (("report", ["report", str(run)]), ("resume", search)):
        seconds, peak = measured(command)
        rows.append((name, f"{seconds:.1f} s", f"{peak / 1e6:,.0f}"))
    print("\n".join(table(("command", "CPU time", "peak MB"), rows)))


def make_model(settings: Limits) -> None:
    """Makes the random model, once."""
    if (settings.out / "model").exists():
        return
    from transformers import LlamaConfig, LlamaForCausalLM

    from cola_jax import convert, load_tokenizer

    tokenizer = load_tokenizer(settings.tokenizer)
    config = LlamaConfig.from_dict({"vocab_size": len(tokenizer)} | SHAPE)
    LlamaForCausalLM(config).save_pretrained(settings.out / "source")
    tokenizer.save_pretrained(settings.out / "source")
    convert(str(settings.out / "source"), settings.out / "model")


def make_task(settings: Limits) -> Path:
    """Makes the questions, once; returns their file."""
    import json

    file, chosen = settings.out / "questions.jsonl", random.Random(0)
    if not file.exists():
        rows = []
        for number in range(settings.questions):
            text = chosen.sample(WORDS, 4)
            question = f"Question {number}: which of these is {chosen.choice(WORDS)}?"
            choices = {"text": text, "label": list("ABCD")}
            rows.append({"id": f"q{number}", "question": question, "choices": choices,
                         "answerKey": chosen.choice("ABCD")})  # fmt: skip
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def cola(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Starts a command; what it prints is thrown away."""
    code = "from cola_jax.cli.main import main; main()"
    command = [sys.executable, "-c", code, *arguments, "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def measured(arguments: list[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds of CPU and its peak memory in bytes."""
    process = cola(arguments)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def count(run: Path) -> int:
    """Returns the questions that are done, from the parts' own counts."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in (run / "questions").glob("part-*"))


def resident(process: int) -> int:
    """Returns the bytes of memory that a process has at the moment."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(tyro.cli(Limits, description=__doc__))
