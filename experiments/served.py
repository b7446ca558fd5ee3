"""vLLM's server along paths: its texts, its scores in lm-evaluation-harness, and its speed.

`python -m experiments.served --help` starts vLLM's OpenAI server on this machine with the plugin,
one server a path, calls it through the client `openai`, and compares with `cola generate` and
`cola lm-eval`. It needs the extra `test`, `pip install openai "lm-eval[api]"`, and the
Python of an environment with vLLM and this package (`pip install --no-deps .` there).
"""

import asyncio
import contextlib
import csv
import dataclasses
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import openai  # pyright: ignore[reportMissingImports]
import tyro
from lm_eval import simple_evaluate
from rich.console import Console

import cola_jax
import cola_jax.deploy.lm_eval  # registers the model
from cola_jax import parse_path
from cola_jax.deploy.engine_commands import vllm_overrides
from experiments.harness import answers, differences, read_task

NAME = "path"  # of the model, for clients
BLOCK = 32  # tokens of a block of the prefix cache
LENGTH = 1024
TOKENS = 16  # of each completion of `speed`
STARTUP = 600  # seconds
console = Console(soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str
    """Its API."""
    group: int
    """The process group of all its processes."""

    def seconds(self) -> float:
        """Return the CPU time of its processes so far."""
        ticks = 0
        for file in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = file.read_text().rpartition(") ")[2].split()
                if int(fields[2]) == self.group:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def metric(self, name: str) -> int:
        """Return a counter."""
        with urllib.request.urlopen(self.url.removesuffix("/v1") + "/metrics") as page:
            lines = page.read().decode().splitlines()
        return sum(int(float(line.split()[-1])) for line in lines if line.startswith(f"{name}{{"))


@dataclasses.dataclass(frozen=True)
class Served:
    """Compare vLLM's server along paths with this package, and the speeds of paths in it."""

    model: str
    """Checkpoint, or what `cola generate` takes."""
    base: Path
    """The same model as a Hugging Face directory, which vLLM loads."""
    python: Path
    """Python of vLLM's environment."""
    data: Path
    """Folder with arc_easy.jsonl and arc_challenge.jsonl, whose questions are the prompts."""
    paths: tuple[str, ...] = ("0-5,7-8,7-9,10-29", "0-9,11-20,22,21,24-29")
    """Paths to serve."""
    checks: tuple[Literal["texts", "harness", "speed"], ...] = ("texts", "harness", "speed")
    """What to compare."""
    limit: int = 100
    """Number of prompts, and of rows of each task."""
    new_tokens: int = 8
    """Tokens of each completion of `texts`."""
    rounds: int = 24
    """Rounds of `speed`, in each of which every path decodes once."""
    out: Path | None = None
    """Folder for served-texts.csv, served-harness.csv and served-speed.csv."""

    def run(self) -> None:
        """Run the checks in the order in which they are named."""
        for check in self.checks:
            rows = getattr(self, check)()
            for row in rows:
                console.print(row)
            if self.out is not None:
                write_rows(self.out / f"served-{check}.csv", rows)

    def texts(self) -> list[dict[str, Any]]:
        """Compare completions: one by one, all at once, and at once with the prefix cache."""
        prompts = make_prompts(self.data / "arc_easy.jsonl", self.limit)
        rows = []
        for path in self.paths:
            expected = completions(self.model, path, prompts, self.new_tokens)
            single: list[str] = []
            for cached in (False, True):
                with serve(self, path, cached=cached) as server:
                    if not cached:
                        single = complete(server.url, prompts, self.new_tokens, at_once=1)
                    together = complete(server.url, prompts, self.new_tokens, at_once=len(prompts))
                    hits = server.metric("vllm:prefix_cache_hits_total")
                rows.append(
                    {
                        "path": path,
                        "prefix cache": "on" if cached else "off",
                        "tokens from it": hits,
                        "prompts": len(prompts),
                        "one by one as cola generate": equal(single, expected),
                        "at once as cola generate": equal(together, expected),
                        "at once as one by one": equal(together, single),
                    }
                )
        return rows

    def harness(self) -> list[dict[str, Any]]:
        """Compare the answers of two tasks of lm-evaluation-harness along the first path."""
        path = self.paths[0]
        tasks = [read_task("arc_easy", self.data), read_task("arc_easy", self.data)]
        for task, name in zip(tasks, ("arc_easy", "arc_challenge"), strict=True):
            task["task"] = name
            task["dataset_kwargs"]["data_files"] = {"test": str(self.data / f"{name}.jsonl")}
        settings: dict[str, Any] = {"tasks": tasks, "limit": self.limit, "bootstrap_iters": 0}
        evaluate: Any = simple_evaluate  # whose decorator hides its signature
        with serve(self, path) as server:
            client = {
                "model": NAME,
                "base_url": f"{server.url}/completions",
                "tokenizer": str(self.base),
                "tokenizer_backend": "huggingface",
                "max_length": LENGTH,
                "num_concurrent": 8,
            }
            theirs = evaluate(model="local-completions", model_args=client, **settings)
        arguments = {"checkpoint": self.model, "path": path, "dtype": "float32"}
        ours = evaluate(model="cola", model_args=arguments, **settings)
        return [
            {
                "task": task,
                "path": path,
                "rows": self.limit,
                "metric": metric,
                "cola lm-eval": ours["results"][task][f"{metric},none"],
                "local-completions": theirs["results"][task][f"{metric},none"],
                "rows equal": sum(same_rows(ours, theirs, task, metric)),
                "difference": differences(answers(ours, task), answers(theirs, task)),
            }
            for task in ("arc_easy", "arc_challenge")
            for metric in ("acc", "acc_norm")
        ]

    def speed(self) -> list[dict[str, Any]]:
        """Compare the time of decoded tokens with the length of the path, in interleaved rounds.

        All servers run at once, and one at a time has requests. Whatever else the machine does
        adds to a round, so the fastest of each path are compared; and the CPU time, of one core.
        """
        layers = num_layers(self.model)
        paths = (f"0-{layers - 1}", *self.paths)
        prompts = make_prompts(self.data / "arc_easy.jsonl", 8)
        passed: list[list[float]] = [[] for _ in paths]
        used: list[list[float]] = [[] for _ in paths]
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(serve(self, path, cached=False)) for path in paths]
            for server in servers:  # warms up
                complete(server.url, prompts, TOKENS, at_once=len(prompts), whole=True)
            for _ in range(self.rounds):
                for i, server in enumerate(servers):
                    start = time.perf_counter()
                    before = server.seconds()
                    complete(server.url, prompts, TOKENS, at_once=len(prompts), whole=True)
                    passed[i].append(time.perf_counter() - start)
                    used[i].append(server.seconds() - before)
        rows = []
        for path, mine, own in zip(paths, passed, used, strict=True):
            length = len(parse_path(path, layers))
            rows.append(
                {
                    "path": path,
                    "layers": length,
                    "length": round(length / layers, 3),
                    "CPU time of the fastest": round(min(own) / min(used[0]), 3),
                    "time of the fastest": round(min(mine) / min(passed[0]), 3),
                    "median of paired CPU times": round(paired(own, used[0]), 3),
                    "tokens/s of the fastest": round(len(prompts) * TOKENS / min(mine), 1),
                    "rounds": self.rounds,
                    "load": round(os.getloadavg()[0], 1),
                }
            )
        return rows


def paired(times: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median ratio of paired times."""
    return statistics.median(a / b for a, b in zip(times, reference, strict=True))


def num_layers(model: str) -> int:
    """Return the number of layers of a model."""
    return cola_jax.load(model, dtype="float32").config.num_layers


def make_prompts(file: Path, count: int) -> list[str]:
    """Return prompts of mixed length: each asks a question after none to two solved ones."""
    rows = [json.loads(line) for line in file.read_text().splitlines()[: count + 2]]
    solved = [f"{ask(row)} {answer(row)}\n\n" for row in rows[-2:]]
    return ["".join(solved[: i % 3]) + ask(row) for i, row in enumerate(rows[:count])]


def ask(row: dict[str, Any]) -> str:
    """Put a question of ARC."""
    return f"Question: {row['question']}\nAnswer:"


def answer(row: dict[str, Any]) -> str:
    """Return the text of the correct option."""
    return row["choices"]["text"][row["choices"]["label"].index(row["answerKey"])]


def completions(model: str, path: str, prompts: Sequence[str], new_tokens: int) -> list[str]:
    """Return what `cola generate` writes after each prompt."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        command = [sys.executable, "-m", "cola_jax", "generate", "--quiet", "--json"]
        command += ["--model", model, "--path", path, "--prompts-file", str(file)]
        command += ["--max-new-tokens", str(new_tokens), "--dtype", "float32"]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [
        row["text"] for row in sorted(json.loads(printed), key=lambda row: int(row["question"]))
    ]


@contextlib.contextmanager
def serve(settings: Served, path: str, *, cached: bool = True) -> Iterator[Server]:
    """Serve a path on 127.0.0.1 while the context is open."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = cola_jax.load(settings.model, dtype="float32").config
    overrides = vllm_overrides(config, parse_path(path, config.num_layers))
    command = [str(settings.python), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(settings.base), "--served-model-name", NAME, "--dtype", "float32"]
    command += ["--hf-overrides", json.dumps(overrides), "--enforce-eager"]
    command += ["--max-model-len", str(LENGTH), "--block-size", str(BLOCK)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += [f"--{'' if cached else 'no-'}enable-prefix-caching"]
    variables = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    variables |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            env=environment | variables,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(server, f"http://127.0.0.1:{port}/health", log)
            yield Server(f"http://127.0.0.1:{port}/v1", server.pid)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def wait_for(server: subprocess.Popen[bytes], url: str, log: Any) -> None:
    """Return when a server answers; raise with the end of its log when it ends instead."""
    deadline = time.monotonic() + STARTUP
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), urllib.request.urlopen(url):
            return
        time.sleep(0.5)
    log.seek(0)
    raise RuntimeError(f"vLLM does not serve:\n{log.read().decode()[-3000:]}")


def complete(
    url: str, prompts: Sequence[str], new_tokens: int, *, at_once: int, whole: bool = False
) -> list[str]:
    """Return greedy completions, with at most so many requests at once.

    With `whole`, completions go on after stop tokens.
    """

    async def all_texts() -> list[str]:
        turn = asyncio.Semaphore(at_once)
        client = openai.AsyncOpenAI(base_url=url, api_key="none", timeout=600, max_retries=0)

        async def text(prompt: str) -> str:
            async with turn:
                completion = await client.completions.create(
                    model=NAME,
                    prompt=prompt,
                    max_tokens=new_tokens,
                    temperature=0,
                    extra_body={"ignore_eos": whole},
                )
            return completion.choices[0].text

        async with client:
            return await asyncio.gather(*map(text, prompts))

    return asyncio.run(all_texts())


def equal(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """Return the number of equal texts."""
    return sum(a == b for a, b in zip(ours, theirs, strict=True))


def same_rows(ours: dict[str, Any], theirs: dict[str, Any], task: str, metric: str) -> list[bool]:
    """Return which rows of a task have the same metric."""
    pairs = [
        {row["doc_id"]: row[metric] for row in results["samples"][task]}
        for results in (ours, theirs)
    ]
    return [pairs[0][key] == pairs[1][key] for key in pairs[0]]


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a table."""
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    tyro.cli(Served).run()
