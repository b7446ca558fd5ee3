"""lm-evaluation-harness through `cola` and through its own `hf`: `python -m experiments.harness`.

Both run the same tasks, which lie beside this file as YAML, on the same weights in float32, and
their answers to each request are compared.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
import yaml
from lm_eval import simple_evaluate
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import cola_jax.deploy.lm_eval  # registers the model

TASKS = Path(__file__).with_suffix("")
console = Console(soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class Harness:
    """Compare the scores of the model `cola`, on the identity path, with those of `hf`."""

    gguf: Path
    """GGUF file of the weights."""
    out: Path
    """Folder for them in Hugging Face layout and as a checkpoint, made where they are missing."""
    data: Path
    """Folder of the tasks' JSONL files."""
    tasks: tuple[Literal["arc_easy", "gsm8k", "gsm8k_perplexity"], ...] = (
        *("arc_easy", "gsm8k", "gsm8k_perplexity"),
    )
    """Tasks, each a YAML file in experiments/harness/."""
    limit: int = 40
    """Rows of each task, from the first."""
    max_length: int | None = None
    """Most tokens that go into the models; their context by default."""
    batch_size: int = 8
    """Batch size of `hf`."""


def make_models(gguf: Path, folder: Path) -> tuple[Path, Path]:
    """Write the weights in Hugging Face layout and convert them; return both directories."""
    hf, checkpoint = folder / "hf", folder / "cola"
    if not hf.exists():
        source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        # its tensors are dequantized, but transformers saves no model that says it is quantized
        model.hf_quantizer, model.is_quantized = None, False
        for name in ("quantization_config", "_model_name_or_path"):
            if hasattr(model.config, name):
                delattr(model.config, name)
        model.save_pretrained(hf)
        AutoTokenizer.from_pretrained(**source).save_pretrained(hf)
    if not checkpoint.exists():
        cola_jax.convert(str(hf), checkpoint)
    return hf, checkpoint


def read_task(name: str, data: Path) -> dict[str, Any]:
    """Read a task's YAML, with its files in `data`."""
    task = yaml.safe_load((TASKS / f"{name}.yaml").read_text())
    files = task["dataset_kwargs"]["data_files"]
    task["dataset_kwargs"]["data_files"] = {
        split: str(data / Path(file).name) for split, file in files.items()
    }
    return task


def evaluate(settings: Harness, model: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Run the tasks through a model of the harness."""
    if settings.max_length is not None:
        arguments = arguments | {"max_length": settings.max_length}
    run: Any = simple_evaluate  # whose decorator hides its signature
    return run(
        model=model,
        model_args=arguments | {"dtype": "float32"},
        tasks=[read_task(name, settings.data) for name in settings.tasks],
        limit=settings.limit,
        bootstrap_iters=0,
    )


def answers(results: dict[str, Any], task: str) -> list[Any]:
    """Return a model's answers to the requests of a task, in the order of its rows."""
    rows = sorted(results["samples"][task], key=lambda row: row["doc_id"])
    return [answer for row in rows for (answer,) in row["resps"]]


def differences(ours: list[Any], theirs: list[Any]) -> str:
    """Describe how two models' answers to the same requests differ."""
    count, pairs = len(theirs), list(zip(ours, theirs, strict=True))
    if isinstance(theirs[0], str):
        return f"{sum(a != b for a, b in pairs)} of {count} completions differ"
    if isinstance(theirs[0], float):
        worst = max(abs(a - b) / abs(b) for a, b in pairs)
        return f"{count} log-likelihoods, largest relative difference {worst:.1e}"
    worst = max(abs(a[0] - b[0]) for a, b in pairs)
    greedy = sum(a[1] != b[1] for a, b in pairs)
    return f"{count} log-likelihoods, largest difference {worst:.1e}; {greedy} is_greedy differ"


def show(task: str, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Print a task's scores by both models, and how their answers differ."""
    console.print(f"[bold]{task}[/bold]: {differences(answers(ours, task), answers(theirs, task))}")
    for metric, score in theirs["results"][task].items():
        if isinstance(score, float) and "stderr" not in metric:
            mine = ours["results"][task][metric]
            console.print(f"  {metric}: cola {mine:.6f}, hf {score:.6f}")


def main(settings: Harness) -> None:
    hf, checkpoint = make_models(settings.gguf, settings.out)
    ours = evaluate(settings, "cola", {"checkpoint": str(checkpoint)})
    source = {"pretrained": str(hf), "device": "cpu", "batch_size": settings.batch_size}
    theirs = evaluate(settings, "hf", source)
    for task in theirs["results"]:
        show(task, ours, theirs)


if __name__ == "__main__":
    main(tyro.cli(Harness))
