"""What tests run in processes of their own, forked from one that has imported everything.

Importing JAX takes seconds, and this module imports no more than a session does.
"""

import itertools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from cola_jax.engine.devices import Devices
from cola_jax.engine.engine import Engine
from cola_jax.engine.hosts import Hosts
from cola_jax.engine.local import LocalEngine
from cola_jax.metrics import Metrics
from cola_jax.runs import run as run_module
from cola_jax.runs import writes
from cola_jax.runs.run import TABLES, Run
from cola_jax.runs.session import Session
from cola_jax.strategies.rules import Settings
from cola_jax.tasks.task import TaskConfig
from tests import environment

# the rest is imported when it is first used
PRELOAD = [
    __name__,
    "cola_jax.tasks.registry",
    "cola_jax.tasks.formats",
    "transformers.models.auto.tokenization_auto",
]


Work = Settings | Sequence[tuple[int, ...]]  # a search, or paths that are evaluated


def fill(session: Session, out: str, work: Work, metrics: Metrics | None = None) -> Run:
    """Fill a run directory by a search, or with the evaluations of paths."""
    if isinstance(work, Settings):
        return session.search(out, work, metrics)
    return session.evaluate(out, work, metrics)


def killed(
    model: str, prepare: Callable[..., Any], engine: Engine, out: str, work: Work, *files: Any
) -> None:
    """Fill a run directory, and kill this process when it has written some files of it.

    Part files come in pairs, so an odd number leaves evaluations without their questions.
    """
    environment.share_programs()
    kill_after(*files)
    fill(Session.prepare(model, prepare, engine), out, work)


def write_parts(
    variables: dict[str, str], out: str, settings: dict[str, Any], parts: Sequence[Any]
) -> None:
    """Write parts of a run, with environment variables that a forked process does not inherit."""
    os.environ |= variables
    with Run(out).open(settings, {"device": "cpu"}) as run:
        for part in parts:
            run.write(part)


def kill_after(files: int, kinds: Sequence[str] = TABLES) -> None:
    """Kill this process when it has written some files of a run, and half of one more."""
    count, write = itertools.count(1), run_module.write_whole

    def write_or_die(file: Any, content: bytes) -> None:
        if file.parent.name in kinds and next(count) > files:
            file.parent.mkdir(exist_ok=True)
            (file.parent / f".{file.name}.partial").write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(file, content)

    run_module.write_whole = write_or_die
    writes.THREADS = 1  # or parts are written in another order


def host(
    model: str, task: str, hosts: Hosts, out: str, work: Work, errors: str, files: int | None
) -> None:
    """Fill a run directory as one of several hosts of two devices; errors go to a file."""
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    environment.share_programs()
    jax.config.update("jax_num_cpu_devices", 2)
    if files is not None:
        kill_after(files)
    try:
        engine = LocalEngine(Devices(tensor=2), batch_size=1, share=hosts.join())
        fill(Session.prepare(model, TaskConfig(task).prepare, engine), out, work)
    except ValueError as error:
        sys.exit(f"error: {error}")
