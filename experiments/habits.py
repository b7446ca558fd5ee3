"""Forty commands and calls as users of other tools would guess them, and how many work unchanged.

`python -m experiments.habits --model smollm2 --data FOLDER` runs each in a directory that stands in
for the Hub: a small random model with the tokenizer of `--model`, data sets of a few rows of
`--data` (arc_easy.jsonl, gsm8k.jsonl), and a run to report. A command works if it exits with 0, a
call if its assertions hold. `--package` is another checkout to try them with.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro

from cola_jax.report.markdown import table

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ON = f"--model {MODEL}"
PRELUDE = f"""
import cola_jax, jax, numpy as np
MODEL = {MODEL!r}
QUESTIONS = [cola_jax.Question(str(i), f"What is {{i}}?", ("one", "two"), 0) for i in range(3)]
"""
COMMANDS = (  # of a shell
    ("lm-eval", f"cola evaluate {ON} --tasks arc_easy --limit 4 --output o1"),
    ("lm-eval", f"cola evaluate -m {MODEL} -t arc_easy -l 4 -o o2"),
    ("lm-eval", f"cola evaluate {ON} --tasks arc_easy,gsm8k --limit 2 --output_path o3"),
    ("lm-eval", f"cola evaluate {ON} --tasks arc_easy --limit 4 --num_fewshot 2 --output o4"),
    ("lm-eval", f"cola evaluate {ON} --task ARC_Challenge --limit 0.5 --output o5"),
    ("lm-eval", f"cola evaluate {ON} --tasks arc_easy --limit 4 --batch_size auto --output o6"),
    ("lm-eval", f"cola evaluate {ON} --tasks arc_easy -l 2 --apply_chat_template --output o7"),
    ("lm-eval", f"cola evaluate {ON} --tasks arc_easy --limit 2 --seed 1234 --output o8"),
    ("lm-eval", f"cola evaluate {ON} --tasks arc_easy --limit 2 --device cpu --output o9"),
    ("lm-eval", f"cola evaluate {ON} --tasks mmlu_abstract_algebra --limit 2 --output o10"),
    ("lm-eval", f"cola evaluate {ON} --tasks hellaswag --limit 2 --output o11"),
    ("lm-eval", f"cola evaluate {ON} --tasks piqa --limit 2 --num-fewshot 1 --output o12"),
    ("lm-eval", f"cola evaluate {ON} --task own.jsonl --limit 2 --output o13"),
    ("lm-eval", "cola tasks | grep -q arc_easy"),
    ("lm-eval", "cola lm-eval --model cola --model_args pretrained=" + MODEL + ",path=0-7 "
     "--tasks arc_easy --limit 2"),
    ("lm-eval", f"cola evaluate {ON} --tasks arc_easy -l 2 -o o16 && "
     "python -c \"import json; json.load(open('o16/results.json'))['results']['arc_easy']\""),
    ("vLLM", f"cola generate {ON} --prompt Hello --max-tokens 4 --dtype auto"),
    ("vLLM", f"cola generate {ON} --prompt Hello --max-new-tokens 4 --tensor-parallel-size 1"),
    ("vLLM", f"cola search {ON} --task arc_easy -l 2 --simulations 4 --memory-budget 50% -o s1"),
    ("vLLM", "cola --version"),
    ("vLLM", "python -m cola_jax --help"),
    ("vLLM", f"printf 'model: {MODEL}\\ntask: arc_easy\\nlimit: 2\\nsimulations: 4\\n"
     "output: s2\\n' > run.yaml && cola search --config run.yaml"),
    ("HF", "cola evaluate --model local-model --task arc_easy --limit 2 --output o23"),
    ("HF", f"cola search {ON} --task arc_easy -l 2 --simulations 4 -o s3 && "
     f"cola search {ON} --task arc_easy -l 3 --simulations 6 -o s3"),
    ("HF", f"cola evaluate {ON} --task arc_easy -l 2 -o o25 --json | python -m json.tool"),
    ("mergekit", f"cola export {ON} --path 0-5,4-7 --output merged"),
    ("mergekit", f"cola evaluate {ON} --task arc_easy -l 2 --path 0-5,4-7 -o o27"),
    ("HF", "cola report run"),
)  # fmt: skip
CALLS = (  # of Python
    ("HF", "assert cola_jax.load(MODEL).config.num_layers == 8"),
    ("HF", "assert cola_jax.__version__"),
    ("HF", "assert len(repr(cola_jax.load(MODEL)).splitlines()) <= 5"),
    ("HF", """
model, tokenizer = cola_jax.load(MODEL), cola_jax.load_tokenizer(MODEL)
tokenizer.padding_side = "left"
tokenizer.pad_token = tokenizer.eos_token
both = tokenizer(["The sky", "A longer text than that"], padding=True, return_tensors="np")
one = tokenizer(["The sky"], return_tensors="np")
a = cola_jax.run_path(model, both, "0-7")[0, -1]
np.testing.assert_allclose(a, cola_jax.run_path(model, one, "0-7")[0, -1], atol=1e-4)
"""),
    ("HF", "out = cola_jax.generate(cola_jax.load(MODEL), 'The sky is', max_new_tokens=4)\n"
     "assert isinstance(out.text[0], str)"),
    ("pandas", """
model = cola_jax.load(MODEL)
frame = cola_jax.evaluate(model, QUESTIONS, ["0-7", "0-3,5-7"], scorer="options").to_pandas()
assert len(frame) == 6 and {"question", "path", "correct"} <= {*frame.columns}
"""),
    ("pandas", """
evaluate = cola_jax.evaluator(cola_jax.load(MODEL), QUESTIONS, scorer="options")
frame = cola_jax.search(evaluate, QUESTIONS, simulations=8).to_pandas()
assert len(frame) == 3
"""),
    ("pandas", "import pandas as pd\n"
     "assert len(pd.read_parquet('run/evaluations')) and len(pd.read_parquet('run/questions'))"),
    ("pandas", "import datasets\n"
     "for name in ('evaluations', 'questions'):\n"
     "    rows = datasets.load_dataset('parquet', data_files=f'run/{name}/*.parquet')\n"
     "    assert len(rows['train'])"),
    ("TransformerLens", """
logits, states = cola_jax.run_path(cola_jax.load(MODEL), "The sky is", "0-7", return_states=True)
assert states.shape[0] == 9 and states.shape[-1] == 64
"""),
    ("TransformerLens", """
loss = lambda model: cola_jax.run_path(model, np.array([[1, 2, 3]]), range(8)).mean()
assert float(abs(jax.grad(loss)(cola_jax.load(MODEL)).embedding).sum()) > 0
"""),
    ("TransformerLens", """
readings = cola_jax.run_paths(cola_jax.load(MODEL), ["The sky is"], ["0-7", [0, 1, 3]])
assert readings.token.shape[:2] == (1, 2)
"""),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Habits:
    """Try commands and calls as users of other tools would write them."""

    model: str
    """Model whose tokenizer the small model has."""
    data: Path
    """Folder with arc_easy.jsonl and gsm8k.jsonl."""
    package: Path = Path(__file__).parent.parent
    """Checkout of cola-jax to try them with."""
    only: tuple[int, ...] = ()
    """Numbers of those to try; all by default."""


def main(settings: Habits) -> None:
    every = [*COMMANDS, *((tool, f"python: {code.strip()}") for tool, code in CALLS)]
    rows = []
    with tempfile.TemporaryDirectory(prefix="cola-habits-") as folder:
        environment = make_environment(settings, Path(folder))
        make_hub(settings, Path(folder), environment)
        for number, (tool, text) in enumerate(every, start=1):
            if settings.only and number not in settings.only:
                continue
            error = attempt(text, Path(folder), environment)
            print(f"{number:2} {error or 'works'}", file=sys.stderr, flush=True)
            rows.append((str(number), tool, f"`{text}`".replace("\n", "; "), error or "works"))
    print("\n".join(table(("", "user of", "command or call", "outcome"), rows)))
    print(f"\n{sum(row[-1] == 'works' for row in rows)} of {len(rows)} work.")


def make_environment(settings: Habits, folder: Path) -> dict[str, str]:
    """Returns the environment of the commands: without a network, with a cache of their own."""
    (folder / "bin").mkdir()
    cola = folder / "bin" / "cola"
    cola.write_text(f"#!{sys.executable}\nfrom cola_jax.cli.main import main\nmain()\n")
    cola.chmod(0o755)
    return os.environ | {
        "PATH": f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(settings.package),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HOME": str(folder / "cache" / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_TRUST_REMOTE_CODE": "0",
    }


def make_hub(settings: Habits, folder: Path, environment: dict[str, str]) -> None:
    """Makes directories that libraries of Hugging Face take for the Hub's repositories."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from cola_jax import load_tokenizer

    tokenizer = load_tokenizer(settings.model)
    config = LlamaConfig.from_dict(
        {"vocab_size": len(tokenizer), "tie_word_embeddings": True} | SHAPE
    )
    for name in (MODEL, "local-model"):
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    arc = read_rows(settings.data / "arc_easy.jsonl", 12)
    gsm = read_rows(settings.data / "gsm8k.jsonl", 12)
    mmlu = [
        {"question": row["question"], "subject": "abstract_algebra", "answer": 0,
         "choices": row["choices"]["text"][:4]}
        for row in arc
    ]  # fmt: skip
    hella = [
        {"ind": i, "activity_label": "Cooking", "ctx_a": row["question"], "ctx_b": "he",
         "ctx": row["question"], "endings": row["choices"]["text"][:4], "source_id": "a",
         "split": "val", "split_type": "indomain", "label": "1"}
        for i, row in enumerate(arc)
    ]  # fmt: skip
    piqa = [
        {"goal": row["question"], "sol1": row["choices"]["text"][0],
         "sol2": row["choices"]["text"][1], "label": 0}
        for row in arc
    ]  # fmt: skip
    for config in ("ARC-Easy", "ARC-Challenge"):
        write_data(folder / "allenai/ai2_arc", config, arc, ("train", "validation", "test"))
    for repository, config, rows, splits in (
        ("openai/gsm8k", "main", gsm, ("train", "test")),
        ("cais/mmlu", "all", mmlu, ("dev", "validation", "test")),
        ("cais/mmlu", "abstract_algebra", mmlu, ("dev", "validation", "test")),
        ("Rowan/hellaswag", "default", hella, ("train", "validation", "test")),
        ("baber/piqa", "default", piqa, ("train", "validation", "test")),
    ):
        write_data(folder / repository, config, rows, splits)
    own = [{"prompt": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(4)]
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    (folder / "arc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in arc))
    command = f"cola convert {MODEL} made && cola search --model made --task {folder}/arc.jsonl"
    command += " --limit 2 --simulations 4 --out run"
    subprocess.run(
        command, shell=True, cwd=folder, env=environment, check=True, capture_output=True
    )


def read_rows(file: Path, count: int) -> list[dict]:
    """Reads the first rows of a JSONL file."""
    with file.open() as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def write_data(folder: Path, config: str, rows: list[dict], splits: tuple[str, ...]) -> None:
    """Writes splits as the Hub keeps them, and names them in the data set's card."""
    import datasets
    import yaml

    (folder / config).mkdir(parents=True, exist_ok=True)
    card = folder / "README.md"
    known = yaml.safe_load(card.read_text().split("---")[1]) if card.exists() else {"configs": []}
    files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
    known["configs"].append({"config_name": config, "data_files": files})
    card.write_text(f"---\n{yaml.safe_dump(known)}---\n")
    for number, split in enumerate(splits):
        some = [
            row | ({"id": f"{split}-{row['id']}"} if "id" in row else {})
            | ({"question": f"{row['question']} ({number})"} if "question" in row else {})
            for row in rows
        ]  # fmt: skip
        made = datasets.Dataset.from_list(some)
        made.to_parquet(str(folder / config / f"{split}-00000-of-00001.parquet"))


def attempt(text: str, folder: Path, environment: dict[str, str]) -> str | None:
    """Runs a command or a call; returns the last line of its error, None if it works."""
    if text.startswith("python: "):
        command = [sys.executable, "-c", PRELUDE + text.removeprefix("python: ")]
    else:
        command = ["bash", "-o", "pipefail", "-c", text]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
        )
    except subprocess.TimeoutExpired:
        return "takes more than 600 s"
    if done.returncode == 0:
        return None
    lines = [line.strip("│╭╮╰╯─ ") for line in (done.stderr + done.stdout).splitlines()]
    lines = [line for line in lines if line]
    named = [line for line in lines if line.startswith(("error", "Unrecognized", "AssertionError"))]
    return (named or lines or ["?"])[-1][:100].replace("|", "/")


if __name__ == "__main__":
    main(tyro.cli(Habits, description=__doc__))
