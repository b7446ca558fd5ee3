"""A task for the tiny checkpoint, and what interrupts a run: processes killed, and errors."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cola_jax
from cola_jax.errors import Unfinished
from cola_jax.files import matching
from cola_jax.prompts import Prompts
from cola_jax.question import Question
from cola_jax.runs.run import UNFINISHED, Run
from cola_jax.runs.schema import EVALUATIONS, read_part
from cola_jax.scoring import Encoded
from cola_jax.scoring.evaluations import Evaluations
from tests import tiny
from tests.runs import jobs
from tests.small_runs import evaluated_run, open_evaluated, open_run, run

__all__ = ["evaluated_run", "open_evaluated", "open_run", "run"]  # fixtures
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(jobs.PRELOAD)
SECONDS = 120  # after which a process hangs


@pytest.fixture(scope="session")
def checkpoint(tiny_checkpoint: Path) -> str:
    return str(tiny_checkpoint)


@pytest.fixture(scope="module")
def model(checkpoint: str) -> cola_jax.Model:
    """The model of the checkpoint, in memory."""
    return cola_jax.load(checkpoint)


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six questions of multiple choice."""
    return str(tiny.write_questions(tmp_path_factory.mktemp("task") / "task.jsonl", 6))


@pytest.fixture
def start() -> Iterator[Callable[..., BaseProcess]]:
    """Call a function of `jobs` in a process of its own."""
    started = []

    def call(function: Callable[..., None], *arguments: Any) -> BaseProcess:
        process = FORKS.Process(target=function, args=arguments)
        process.start()
        started.append(process)
        return process

    yield call
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()
        process.close()


def end(process: BaseProcess) -> int | None:
    """Wait for a process; return its exit code, a negative signal where it was killed."""
    process.join(SECONDS)
    return process.exitcode


KILLED = -signal.SIGKILL


@contextlib.contextmanager
def failing_after(waves: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the waves after so many be evaluated, but not written, which ends the run."""
    add, added = Evaluations.add, []

    def fail(self: Evaluations, *wave: Any) -> None:
        if len(added) >= waves:
            raise RuntimeError("no room")
        added.append(wave)
        add(self, *wave)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluations, "add", fail)
        with pytest.raises((RuntimeError, Unfinished), match=r"no room|lacks"):
            yield


def encode(question: Question, prompt_hash: str = "abc", tokens: int = 5) -> Encoded:
    """A question with a prompt of zeros."""
    zeros = np.zeros(tokens, np.int32)
    prompts = Prompts(ids=zeros, positions=zeros, branch=zeros)
    text = " ".join("0" * tokens)
    return Encoded(question, prompts, np.zeros(0, np.int32), prompt_hash, prompt=text)


def asking(name: str, text: str = "?") -> Encoded:
    """A question of two options, the first right, whose prompt is its text."""
    return encode(Question(name, text, ("x", "y"), 0), text)


def evaluated(run: Run) -> int:
    """Count the evaluations of finished questions that were run through the model."""
    return sum(not reused for reused in run.evaluations(["reused"])["reused"].to_pylist())


def written(run: Run) -> int:
    """Count the evaluations of unfinished questions that a run has kept."""
    files = matching(run.directory / UNFINISHED, "*.parquet")
    return sum(read_part(file, EVALUATIONS, run.layout).num_rows for file in files)
