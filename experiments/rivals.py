"""`run_paths` against a careful user of torch, and against transformers, in one process.

`python -m experiments.rivals --model CHECKPOINT --task arc_easy.jsonl` evaluates the options of
questions on random paths by each program in turn, without and with shots before the questions, on
the same paths for all questions and on each question's own. The first round compiles;
the later ones are timed as well, and the fastest is shown. Wall seconds count other processes of
the machine, CPU seconds do not. All programs have to find the same log-probabilities in float32.

careful: `CarefulTorch`.
transformers: path by path, a row for each option, as lm-evaluation-harness does; on few pairs.
"""

import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

# or threads of torch that wait for others spend CPU seconds; read when torch is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import jax
import numpy as np
import torch
import tyro

import cola_jax
from cola_jax.path import random_paths
from cola_jax.prompts import Prompts
from cola_jax.report.tables import markdown_table
from cola_jax.runs.session import Session
from cola_jax.tasks.task import TaskConfig
from experiments.careful_torch import CarefulTorch, Paths
from experiments.torch_baselines import OptionRows, same_model

Logprobs = dict[tuple[int, int], np.ndarray]  # [Q] by question and path
LIMIT = 1e-2  # random paths make rounding grow
OURS = "cola-jax"


@dataclasses.dataclass(frozen=True)
class Rivals:
    """Compare the speed of programs that evaluate options on paths."""

    model: str
    """Checkpoint directory."""
    task: str
    """A JSONL file; its last rows are the shots."""
    questions: int = 24
    paths: int = 16
    pairs: int = 12
    """Questions and paths that transformers evaluates."""
    shots: tuple[int, ...] = (0, 5)
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    choices: tuple[Literal["same", "own"], ...] = ("same", "own")
    """Paths: the same for all questions, or each question's own, as in a search."""
    programs: tuple[Literal["careful", "transformers"], ...] = ("careful", "transformers")
    rounds: int = 2
    """Rounds after the first."""
    threads: int = 2
    """Threads of torch."""


class Spent(NamedTuple):
    """Cost of a call per evaluation, in seconds."""

    wall: float
    cpu: float


def main(settings: Rivals) -> None:
    torch.set_num_threads(settings.threads)
    jax.config.update("jax_enable_compilation_cache", False)
    rows: list[tuple[str, ...]] = []
    for dtype in settings.dtypes:
        model = None
        for shots in settings.shots:
            session = prepare(settings, dtype, shots)
            model = same_model(session) if model is None else model
            for choice in settings.choices:
                name = f"{dtype}, {shots} shots, {choice} paths"
                for row in compare(settings, session, model, choice):
                    rows.append((name, *row))
                    print(*rows[-1], sep=" | ", flush=True)
    head = ("", "program", "first: a second", "a CPU second", "ours", "of CPU")
    head = (*head, "later: a second", "a CPU second", "ours", "of CPU", "largest difference")
    print("\n".join(markdown_table(head, rows)))


def prepare(settings: Rivals, dtype: str, shots: int) -> Session:
    """Open a session of the first questions, with shots from the end of the file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "shots.jsonl"
        lines = Path(settings.task).read_text().splitlines()
        file.write_text("\n".join(lines[-2 * max(settings.shots) - 2 :]))
        task = TaskConfig(settings.task, limit=settings.questions, scorer="options")
        if shots:
            task = dataclasses.replace(task, shots=shots, shots_file=str(file))
        return Session.prepare(settings.model, task.prepare, dtype=dtype)


def compare(
    settings: Rivals, session: Session, model: Any, choice: str
) -> Iterator[tuple[str, ...]]:
    """Time all programs in turns; yield a row of the table for each."""
    drawn = random_paths(session.model.config.num_layers, settings.paths * settings.questions, 3)
    count = settings.paths
    own = [drawn[q * count : (q + 1) * count] for q in range(settings.questions)]
    paths = own if choice == "own" else [drawn[:count]] * settings.questions
    makers = programs_of(settings, session, model, paths)
    spent: dict[str, list[Spent]] = {name: [] for name in makers}
    programs: dict[str, Callable[[], Logprobs]] = {}
    results: dict[str, Logprobs] = {}
    jax.clear_caches()
    for _ in range(1 + settings.rounds):
        for name, make in makers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            if name not in programs:
                programs[name] = make()
            results[name] = programs[name]()
            size = len(results[name])
            spent[name].append(
                Spent((time.perf_counter() - wall) / size, (time.process_time() - cpu) / size)
            )
    print(json.dumps(spent), flush=True)
    for name, (first, *later) in spent.items():
        best = [Spent(*map(min, zip(*calls, strict=True))) for calls in ([first], later or [first])]
        ours = [spent[OURS][:1], spent[OURS][1:] or spent[OURS]]
        cells = []
        for theirs, calls in zip(best, ours, strict=True):
            mine = Spent(*map(min, zip(*calls, strict=True)))
            cells += [f"{1 / theirs.wall:.2f}", f"{1 / theirs.cpu:.2f}"]
            cells += [f"{theirs.wall / mine.wall:.2f}x", f"{theirs.cpu / mine.cpu:.2f}x"]
        worst = max(
            float(np.abs(values - results[OURS][pair]).max())
            for pair, values in results[name].items()
        )
        if session.settings["dtype"] == "float32" and not worst <= LIMIT:
            raise SystemExit(f"{name}: log-probabilities differ by {worst:.1e}, above {LIMIT:.0e}.")
        yield (name, *cells, f"{worst:.1e}")


def programs_of(
    settings: Rivals, session: Session, model: Any, paths: Paths
) -> dict[str, Callable[[], Callable[[], Logprobs]]]:
    """Return a constructor for each program, from the same weights and prompts."""
    encoded = session.asked.encode(session.model)
    dtype = getattr(torch, session.settings["dtype"])
    prompts = Prompts.stack([each.prompts for each in encoded])
    weights = session.model.load()
    every = [(q, c) for q, row in enumerate(paths) for c in range(len(row))]

    def ours() -> Logprobs:
        logprob = cola_jax.run_paths(weights, prompts, paths, progress=False).logprob
        return {(q, c): np.asarray(logprob[q, c, : len(encoded[q].option)]) for q, c in every}

    def careful() -> Callable[[], Logprobs]:
        program = CarefulTorch(model, encoded, dtype)

        def run() -> Logprobs:
            out = program(paths)
            return {(q, c): out[q][c][: len(encoded[q].option)] for q, c in every}

        return run

    def rows(all_logits: bool) -> Callable[[], Logprobs]:
        program = OptionRows(model, all_logits)
        pairs = [every[i] for i in np.random.default_rng(0).permutation(len(every))]

        def run() -> Logprobs:
            return {
                (q, c): np.asarray(program.readings(encoded[q], paths[q][c]).logprob[0])
                for q, c in pairs[: settings.pairs]
            }

        return run

    makers: dict[str, Callable[[], Callable[[], Logprobs]]] = {OURS: lambda: ours}
    if "careful" in settings.programs:
        makers["careful"] = careful
    if "transformers" in settings.programs:
        makers["transformers, all logits"] = lambda: rows(True)
        makers["transformers, logits where read"] = lambda: rows(False)
    return makers


if __name__ == "__main__":
    main(tyro.cli(Rivals, description=__doc__))
